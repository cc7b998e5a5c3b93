// Labels to pixels and lines: the fill, the outlines, the colours.

// Of the classes 1, 2, ...; as in the overlays that are downloaded.
export const CLASS_COLOURS = [
  [255, 225, 25], [0, 220, 255], [255, 80, 200], [120, 255, 60],
  [255, 140, 0], [150, 130, 255], [255, 255, 255], [255, 60, 60],
];
const FILL = 90; // opacity of 255

// [r, g, b] by id, neighbours far apart: hues by the golden ratio, from
// magenta by red and green to azure; blue is lost on black and in stains.
export function objectColour(id) {
  const hue = (((id * 0.618033988749895) % 1) * 260 - 60) / 360;
  return [0, 2 / 3, 1 / 3].map((offset) => {
    const h = hue + offset;
    const wheel = Math.abs((h - Math.floor(h)) * 6 - 3) - 1;
    return Math.round(255 * (1 - 0.8 * (1 - Math.min(1, Math.max(0, wheel)))));
  });
}

// The colours of all ids as one word each, as ImageData has them.
export function palette(objects, classes) {
  const words = new Uint32Array(objects.length + 1);
  for (const { label, class: kind } of objects) {
    const [r, g, b] = classes.length > 2
      ? CLASS_COLOURS[(classes.indexOf(kind) - 1) % CLASS_COLOURS.length]
      : objectColour(label);
    words[label] = (b << 16) | (g << 8) | r;
  }
  return words;
}

function canvasOf(width, height, words) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const bytes = new Uint8ClampedArray(words.buffer);
  canvas.getContext("2d").putImageData(
    new ImageData(bytes, width, height), 0, 0);
  return canvas;
}

export function fill({ labels, width, height }, colours) {
  const words = new Uint32Array(labels.length);
  for (let i = 0; i < labels.length; i++) {
    const id = labels[i];
    if (id) words[i] = ((FILL << 24) | colours[id]) >>> 0;
  }
  return canvasOf(width, height, words);
}

// Pixels of objects that are nearer than `thick` to another object or the
// background; the border of the image is no outline.
export function outlines({ labels, width, height }, colours, thick) {
  const words = new Uint32Array(labels.length);
  for (let row = 0, i = 0; row < height; row++) {
    for (let col = 0; col < width; col++, i++) {
      const id = labels[i];
      if (!id) continue;
      for (let d = 1; d <= thick; d++) {
        if ((col >= d && labels[i - d] !== id)
          || (col + d < width && labels[i + d] !== id)
          || (row >= d && labels[i - d * width] !== id)
          || (row + d < height && labels[i + d * width] !== id)) {
          words[i] = ((255 << 24) | colours[id]) >>> 0;
          break;
        }
      }
    }
  }
  return canvasOf(width, height, words);
}

// The sides of pixels at the border of objects in a box, a Path2D for each
// id; of `only` that one's.
export function edges({ labels, width, height }, box, only = 0) {
  const paths = new Map();
  const path = (id) => {
    if (!paths.has(id)) paths.set(id, new Path2D());
    return paths.get(id);
  };
  const side = (id, x0, y0, x1, y1) => {
    if (!id || (only && id !== only)) return;
    path(id).moveTo(x0, y0);
    path(id).lineTo(x1, y1);
  };
  const [left, top] = [Math.max(0, box.left), Math.max(0, box.top)];
  const right = Math.min(width, box.right);
  const bottom = Math.min(height, box.bottom);
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      const i = y * width + x;
      const id = labels[i];
      const beside = x + 1 < width ? labels[i + 1] : id;
      const below = y + 1 < height ? labels[i + width] : id;
      if (beside !== id) {
        side(id, x + 1, y, x + 1, y + 1);
        side(beside, x + 1, y, x + 1, y + 1);
      }
      if (below !== id) {
        side(id, x, y + 1, x + 1, y + 1);
        side(below, x, y + 1, x + 1, y + 1);
      }
    }
  }
  return paths;
}
