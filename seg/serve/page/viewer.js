// The image with its layers on a canvas: zoom, pan, what lies under the mouse.

import * as layers from "./layers.js";

const LARGEST = 40; // screen px of an image px
const SHARP = 2; // from here on outlines are lines, not pixels
const STEP = 1.35; // of a zoom by key or button
const RIM = 30; // screen px; an object nearer to the border may stay
const CLICK = 5; // px that a hand may shake

export class Viewer {
  // told: {hover(id, x, y), select(id), zoom(scale)}
  constructor(canvas, told) {
    this.canvas = canvas;
    this.told = told;
    this.shown = { image: true, fill: true, outline: true };
    this.picture = null;
    this.found = null;
    this.hovered = 0;
    this.selected = 0;
    this.pointers = new Map();
    this.fitted = true;
    [this.scale, this.left, this.top] = [1, 0, 0]; // screen = view * scale + left
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.listen();
  }

  // picture: an ImageBitmap of width x height, or null for none yet
  setPicture(picture, width, height) {
    const same = this.width === width && this.height === height;
    this.picture = picture;
    [this.width, this.height] = [width, height];
    this.setFound(null);
    if (!same || this.fitted) this.fit();
  }

  // found: {labels, width, height, step, objects, classes} or null
  setFound(found) {
    this.found = found;
    this.hovered = 0;
    this.raster = {};
    this.colours = found && layers.palette(found.objects, found.classes);
    this.draw();
  }

  show(layer, on) {
    this.shown[layer] = on;
    this.draw();
  }

  select(id) {
    this.selected = id;
    this.draw();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: w, clientHeight: h } = this.canvas;
    if (!w || !h) return;
    [this.canvas.width, this.canvas.height] = [w * ratio, h * ratio];
    if (this.fitted) this.fit(); else this.draw();
  }

  fitScale() {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return Math.min(w / this.width, h / this.height) || 1;
  }

  fit() {
    if (!this.width) return;
    this.fitted = true;
    const { clientWidth: w, clientHeight: h } = this.canvas;
    this.scale = Math.min(this.fitScale(), LARGEST);
    this.left = (w - this.width * this.scale) / 2;
    this.top = (h - this.height * this.scale) / 2;
    this.draw();
  }

  // Around a place on the screen; without one, the middle.
  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const least = Math.min(this.fitScale(), 1);
    const scale = Math.min(LARGEST, Math.max(least, this.scale * factor));
    const by = scale / this.scale;
    this.left = x - (x - this.left) * by;
    this.top = y - (y - this.top) * by;
    this.scale = scale;
    this.fitted = false;
    this.keepInside();
    this.draw();
  }

  pan(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.fitted = false;
    this.keepInside();
    this.draw();
  }

  // The image's middle half stays on the screen.
  keepInside() {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    const within = (at, size, room) => Math.min(
      room - Math.min(room, size) / 4,
      Math.max(Math.min(room, size) / 4 - size, at));
    this.left = within(this.left, this.width * this.scale, w);
    this.top = within(this.top, this.height * this.scale, h);
  }

  // Moves an object into sight, if it is not.
  reveal(object) {
    const { x, y } = this.place(object);
    const { clientWidth: w, clientHeight: h } = this.canvas;
    const into = (at, room) => Math.min(room - RIM, Math.max(RIM, at)) - at;
    const [dx, dy] = [into(x, w), into(y, h)];
    if (dx < -RIM || dx > RIM || dy < -RIM || dy > RIM) {
      this.pan(dx && w / 2 - x, dy && h / 2 - y);
    }
  }

  // Of an object's middle on the screen, px.
  place(object) {
    const to = this.scale / this.found.step;
    return {
      x: this.left + (object.bbox_col0 + object.bbox_col1) / 2 * to,
      y: this.top + (object.bbox_row0 + object.bbox_row1) / 2 * to,
    };
  }

  idAt(x, y) {
    if (!this.found) return 0;
    const col = Math.floor((x - this.left) / this.scale);
    const row = Math.floor((y - this.top) / this.scale);
    const { width, height, labels } = this.found;
    if (col < 0 || row < 0 || col >= width || row >= height) return 0;
    return labels[row * width + col];
  }

  draw() {
    if (this.drawing) return;
    this.drawing = requestAnimationFrame(() => {
      this.drawing = 0;
      this.paint();
    });
  }

  paint() {
    const ratio = window.devicePixelRatio || 1;
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.told.zoom(this.scale / (this.found?.step || 1));
    if (!this.width) return;
    const scale = this.scale * ratio;
    context.setTransform(scale, 0, 0, scale, this.left * ratio, this.top * ratio);
    context.imageSmoothingEnabled = this.scale < SHARP;
    context.imageSmoothingQuality = "high";
    if (this.shown.image && this.picture) {
      context.drawImage(this.picture, 0, 0, this.width, this.height);
    }
    if (!this.found) return;
    if (this.shown.fill) {
      this.raster.fill ||= layers.fill(this.found, this.colours);
      context.drawImage(this.raster.fill, 0, 0);
    }
    if (this.shown.outline) this.paintOutlines(context);
    for (const id of new Set([this.selected, this.hovered])) {
      if (id) this.paintMark(context, id);
    }
  }

  paintOutlines(context) {
    if (this.scale < SHARP) {
      // thick enough to be seen when several pixels share one of the screen
      const thick = Math.min(4, Math.max(1, Math.round(1.2 / this.scale)));
      if (this.raster.thick !== thick) {
        this.raster.outline = layers.outlines(this.found, this.colours, thick);
        this.raster.thick = thick;
      }
      context.drawImage(this.raster.outline, 0, 0);
      return;
    }
    const { clientWidth: w, clientHeight: h } = this.canvas;
    const box = {
      left: Math.floor(-this.left / this.scale) - 1,
      top: Math.floor(-this.top / this.scale) - 1,
      right: Math.ceil((w - this.left) / this.scale) + 1,
      bottom: Math.ceil((h - this.top) / this.scale) + 1,
    };
    context.lineWidth = 2 / this.scale;
    context.lineCap = "round";
    for (const [id, path] of layers.edges(this.found, box)) {
      const word = this.colours[id];
      context.strokeStyle =
        `rgb(${word & 255} ${(word >> 8) & 255} ${(word >> 16) & 255})`;
      context.stroke(path);
    }
  }

  paintMark(context, id) {
    const object = this.found.objects[id - 1];
    if (!object) return;
    const { step } = this.found;
    const box = {
      left: Math.floor(object.bbox_col0 / step) - 1,
      top: Math.floor(object.bbox_row0 / step) - 1,
      right: Math.ceil(object.bbox_col1 / step) + 1,
      bottom: Math.ceil(object.bbox_row1 / step) + 1,
    };
    const path = layers.edges(this.found, box, id).get(id);
    if (!path) return;
    context.lineCap = "round";
    for (const [width, colour] of [[5, "#000"], [2.5, "#fff"]]) {
      context.lineWidth = width / this.scale;
      context.strokeStyle = colour;
      context.stroke(path);
    }
  }

  hover(x, y) {
    const id = this.idAt(x, y);
    if (id !== this.hovered) {
      this.hovered = id;
      this.draw();
    }
    this.canvas.classList.toggle("over", id > 0);
    this.told.hover(id, x, y);
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      // a notch is 100 or 3 lines; a finger's moves are small
      const by = event.deltaY * (event.deltaMode ? 33 : 1);
      this.zoom(Math.exp(-by / 350), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      const { offsetX: x, offsetY: y } = event;
      this.pointers.set(event.pointerId, { x, y });
      this.moved = this.pointers.size > 1 ? CLICK + 1 : 0;
    });
    canvas.addEventListener("pointermove", (event) => this.move(event));
    const up = (event) => {
      if (!this.pointers.delete(event.pointerId)) return;
      canvas.classList.remove("dragging");
      if (this.moved <= CLICK && event.type === "pointerup") {
        this.told.select(this.idAt(event.offsetX, event.offsetY));
      }
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", () => this.hover(-1e9, 0));
    canvas.addEventListener("dblclick", (event) => {
      this.zoom(STEP * STEP, event.offsetX, event.offsetY);
    });
  }

  move(event) {
    const { offsetX: x, offsetY: y } = event;
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") this.hover(x, y);
      return;
    }
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId);
    this.pointers.set(event.pointerId, { x, y });
    this.moved += Math.abs(x - before.x) + Math.abs(y - before.y);
    if (this.moved <= CLICK) return;
    this.canvas.classList.add("dragging");
    if (others.length) { // two fingers: zoom around their middle, and pan
      const other = others[0][1];
      const apart = (p) => Math.hypot(p.x - other.x, p.y - other.y) || 1;
      this.zoom(apart({ x, y }) / apart(before),
        (x + other.x) / 2, (y + other.y) / 2);
      this.pan((x - before.x) / 2, (y - before.y) / 2);
    } else {
      this.pan(x - before.x, y - before.y);
    }
  }

  // Whether a key was for the canvas.
  key(name) {
    const far = 60;
    const moves = {
      ArrowLeft: [far, 0], ArrowRight: [-far, 0],
      ArrowUp: [0, far], ArrowDown: [0, -far],
    };
    if (name in moves) this.pan(...moves[name]);
    else if (name === "+" || name === "=") this.zoom(STEP);
    else if (name === "-") this.zoom(1 / STEP);
    else if (name === "0") this.fit();
    else return false;
    return true;
  }
}
