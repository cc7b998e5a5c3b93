// The panel's histogram and table.

import { behind, number, round } from "./units.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, FOOT, SIDE] = [330, 120, 18, 26];
const N_ROWS = 300; // in the table at a time

// Of an intensity: as many digits as say something.
export const measure = (value) =>
  number(value, value != null && Math.abs(value) < 100 ? 2 : 0);

function node(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, value);
  }
  made.textContent = text;
  return made;
}

// Bins of areas, px, {from, to, n}; the last one takes all that is larger.
export function bins(areas) {
  if (!areas.length) return [];
  const sorted = [...areas].sort((a, b) => a - b);
  const at = (share) => sorted[Math.ceil(share * (sorted.length - 1))];
  const end = Math.min(sorted.at(-1), 2 * at(0.95));
  const step = round(end / 24);
  const count = Math.max(1, Math.ceil((end + 1) / step));
  const found = Array.from({ length: count }, (_, i) => (
    { from: i * step, to: (i + 1) * step, n: 0 }));
  for (const area of areas) {
    found[Math.min(count - 1, Math.floor(area / step))].n += 1;
  }
  if (sorted.at(-1) >= found.at(-1).to) found.at(-1).to = Infinity;
  return found;
}

// marked: an area whose bin is shown; least: the least area that is kept; px
export function histogram(box, objects, units, marked, least) {
  const found = bins(objects.map((object) => object.area_px));
  box.replaceChildren();
  if (!found.length) {
    box.textContent = "No objects, no areas.";
    return;
  }
  const most = Math.max(...found.map((bin) => bin.n));
  const end = found.at(-1).from + found[0].to;
  const x = (area) => SIDE + area / end * (WIDTH - SIDE);
  const y = (n) => (HEIGHT - FOOT) * (1 - n / most) + 4;
  const svg = node("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT + 6}`,
    role: "img",
    "aria-label": `Histogram of ${objects.length} areas: most are around ${
      units.area(found.find((bin) => bin.n === most).from)} ${
      units.known ? units.areaUnit : "pixels"}`,
  });
  for (const bin of found) {
    const right = Math.min(bin.to, end);
    const on = marked >= bin.from && marked < bin.to;
    const bar = node("rect", {
      class: on ? "bar on" : "bar",
      x: x(bin.from) + 0.5,
      y: y(bin.n),
      width: Math.max(1, x(right) - x(bin.from) - 1),
      height: y(0) - y(bin.n),
    });
    const from = units.area(bin.from);
    const what = bin.to === Infinity ? `${from} ${units.areaUnit} and more`
      : `${from} to ${units.area(bin.to)} ${units.areaUnit}`;
    bar.append(node("title", {}, `${what}: ${bin.n}`));
    svg.append(bar);
  }
  svg.append(node("line", { x1: SIDE, x2: WIDTH, y1: y(0), y2: y(0) }));
  if (least > 0 && least < end) {
    svg.append(node("line", {
      class: "least", x1: x(least), x2: x(least), y1: 0, y2: y(0),
    }));
  }
  const tick = round(end * units.ofPixel / 5, units.known ? 0 : 1);
  for (let i = 0; i * tick / units.ofPixel <= end; i++) {
    const at = x(i * tick / units.ofPixel);
    const anchor = at > WIDTH - 15 ? "end" : i ? "middle" : "start";
    svg.append(node("text", {
      x: at, y: HEIGHT + 4, "text-anchor": anchor,
    }, i ? number(i * tick, behind(tick, 1)) : 0));
  }
  svg.append(node("text", { x: SIDE - 4, y: 12, "text-anchor": "end" }, most));
  svg.append(node("text", { x: SIDE - 4, y: y(0), "text-anchor": "end" }, 0));
  box.append(svg);
}

// Names in the table, titles, how values are told, which unit they have.
const COLUMNS = [
  ["label", "No.", (value) => value],
  ["class", "Class", (value) => value],
  ["area_px", "Area", (value, units) => units.area(value), "areaUnit"],
  ["diameter_px", "Diam.", (value, units) => units.length(value), "lengthUnit"],
  ["mean_intensity", "Intensity", measure],
  ["circularity", "Circular.", (value) => number(value, 2)],
  ["probability", "Prob.", (value) => number(value, 2)],
];

// The table of objects: sorted by a click, one row in the order of the tab
// key, from which the arrows go on.
export class Table {
  // told: {select(id)}
  constructor(table, more, told) {
    Object.assign(this, { table, more, told });
    [this.by, this.down, this.objects, this.selected] = ["label", false, [], 0];
    table.addEventListener("click", (event) => this.click(event));
    table.addEventListener("keydown", (event) => this.key(event));
  }

  set(objects, classes, units) {
    Object.assign(this, { objects, units });
    this.columns = COLUMNS.filter(
      ([name]) => name !== "class" || classes.length > 2);
    this.draw();
  }

  sorted() {
    const { by, down } = this;
    const order = down ? -1 : 1;
    return [...this.objects].sort((a, b) => order
      * (typeof a[by] === "string" ? a[by].localeCompare(b[by])
        : (a[by] ?? -1) - (b[by] ?? -1)));
  }

  draw() {
    const head = document.createElement("tr");
    for (const [name, title, , unit] of this.columns) {
      const cell = document.createElement("th");
      const button = document.createElement("button");
      const sign = name === this.by ? (this.down ? " ▾" : " ▴") : "";
      button.type = "button";
      button.textContent = title + sign;
      button.dataset.by = name;
      cell.scope = "col";
      cell.classList.toggle("text", name === "class");
      if (sign) cell.ariaSort = this.down ? "descending" : "ascending";
      if (unit && this.units.known) {
        const small = document.createElement("small");
        small.textContent = this.units[unit];
        button.append(" ", small);
      }
      cell.append(button);
      head.append(cell);
    }
    const thead = document.createElement("thead");
    const tbody = document.createElement("tbody");
    thead.append(head);
    const rows = this.sorted();
    tbody.append(...rows.slice(0, N_ROWS).map((object) => this.row(object)));
    const again = document.activeElement?.dataset.by;
    this.table.replaceChildren(thead, tbody);
    if (again) this.table.querySelector(`[data-by=${again}]`)?.focus();
    this.more.textContent = rows.length > N_ROWS
      ? `The first ${N_ROWS} of ${number(rows.length)}; all are in the `
        + "table that you can download." : "";
    this.select(this.selected);
  }

  row(object) {
    const row = document.createElement("tr");
    row.dataset.id = object.label;
    for (const [name, , text] of this.columns) {
      const cell = row.insertCell();
      cell.textContent = text(object[name], this.units);
      cell.classList.toggle("text", name === "class");
    }
    return row;
  }

  select(id) {
    this.selected = id;
    const rows = [...this.table.tBodies[0]?.rows ?? []];
    const chosen = rows.find((row) => Number(row.dataset.id) === id);
    for (const row of rows) {
      row.ariaSelected = String(row === chosen);
      row.tabIndex = row === (chosen ?? rows[0]) ? 0 : -1;
    }
    if (!chosen) return;
    const room = this.table.parentElement; // not the page around it
    const head = this.table.tHead.offsetHeight;
    const top = chosen.offsetTop - head;
    if (top < room.scrollTop) room.scrollTop = top;
    const bottom = chosen.offsetTop + chosen.offsetHeight;
    if (bottom > room.scrollTop + room.clientHeight) {
      room.scrollTop = bottom - room.clientHeight;
    }
  }

  click(event) {
    const { by } = event.target.closest("button")?.dataset ?? {};
    const row = event.target.closest("tbody tr");
    if (by) {
      this.down = by === this.by ? !this.down : by !== "label" && by !== "class";
      this.by = by;
      this.draw();
    } else if (row) {
      this.told.select(Number(row.dataset.id));
    }
  }

  key(event) {
    const row = event.target.closest("tbody tr");
    if (!row) return;
    const to = {
      ArrowDown: row.nextElementSibling,
      ArrowUp: row.previousElementSibling,
      Enter: row,
      " ": row,
    }[event.key];
    if (!to) return;
    event.preventDefault();
    this.told.select(Number(to.dataset.id));
    to.focus();
  }
}
