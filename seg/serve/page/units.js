// Sizes for people: in µm where the size of a pixel is known, else in px.

// The first round number from x on, and from a power of ten that is `least`: 1,
// 2 or 5 times a power of ten.
export function round(x, least = 1) {
  const power = 10 ** Math.floor(Math.log10(Math.max(x, least)));
  return [1, 2, 5, 10].find((n) => n * power >= x) * power;
}

export const number = (value, digits = 0) => (value == null ? "–"
  : value.toLocaleString("en", {
    minimumFractionDigits: digits, maximumFractionDigits: digits,
  }));

// Digits behind the point, for n of x that say something.
export const behind = (x, n) =>
  Math.min(6, Math.max(0, n - 1 - Math.floor(Math.log10(x || 1))));

// A number with as many digits as n of them say something.
export const rounded = (x, n) => number(x, behind(x, n));

export class Units {
  // size: of a pixel, [row, column], micrometres; null = not known.
  // typical: an area, px, that is told with three digits, and others alike.
  constructor(size, typical) {
    const [row, column] = size ?? [1, 1];
    // else a length would depend on its direction
    const square = Math.abs(row / column - 1) < 1e-3;
    this.known = Boolean(size);
    this.ofPixel = row * column;
    this.side = square ? column : 1;
    this.sides = [...new Set([column, row].map((side) => (
      side.toLocaleString("en", { maximumSignificantDigits: 4 }))))].join(" × ");
    this.areaUnit = size ? "µm²" : "px";
    this.lengthUnit = size && square ? "µm" : "px";
    this.areaDigits = size ? behind(typical * this.ofPixel, 3) : 0;
    this.lengthDigits = this.lengthUnit === "px" ? 1
      : behind(Math.sqrt(typical) * this.side, 3);
  }

  // Of px, without the unit.
  area(px) {
    return number(px == null ? px : px * this.ofPixel, this.areaDigits);
  }

  length(px) {
    return number(px == null ? px : px * this.side, this.lengthDigits);
  }

  // The longest round length that fits: {text, px of the screen}, or null.
  // scale: px of the screen for one of the image; room: px of the screen.
  bar(scale, room) {
    if (this.lengthUnit === "px" || !(scale > 0)) return null;
    const most = room / scale * this.side;
    const power = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].find((n) => n * power <= most) * power;
    return {
      text: `${rounded(length, 1)} µm`,
      px: length / this.side * scale,
    };
  }
}
