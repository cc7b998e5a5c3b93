// The controls of what follows the network; they stand for all images.

import { round } from "./units.js";

const SEPARATE = {
  components: "leave together",
  watershed: "cut by their shape",
  learned: "cut as the model has learned",
};
const GIVEN = 6; // digits of an area that was typed
const LARGEST = 1000; // micrometres a px that the server takes
const NOTCHES = 200; // of the slider for areas, which grows by squares

export class Settings {
  // told: {change(final), resize()}; final = the hand has left the control
  constructor(told) {
    this.told = told;
    this.sliders = document.getElementById("sliders");
    this.checks = ["drop_border", "fill_holes"].map(
      (name) => document.getElementById(name));
    this.separate = document.getElementById("separate");
    this.reset = document.getElementById("reset");
    this.size = document.querySelector("#pixel-size input");
    this.pixelSize = 0; // micrometres, of files that do not say; 0 = not known
    this.um2 = 0; // of a px of the image on the screen; 0 = not known
    for (const check of this.checks) {
      check.addEventListener("change", () => {
        this.set(check.id, check.checked, true);
      });
    }
    this.separate.addEventListener("change", () => {
      this.set("separate", this.separate.value, true);
    });
    this.size.addEventListener("change", () => this.takeSize());
    this.reset.addEventListener("click", () => {
      this.use(this.model);
      this.told.change(true);
    });
  }

  // A model's own settings, as /api/about has them.
  use(model) {
    this.model = model;
    this.largest = 0;
    this.values = structuredClone(model.settings);
    this.separate.replaceChildren(...model.separations.map(
      (name) => new Option(SEPARATE[name], name)));
    this.separate.value = this.values.separate;
    for (const check of this.checks) check.checked = this.values[check.id];
    this.draw();
  }

  // What differs from the model's.
  get knobs() {
    return Object.fromEntries(Object.entries(this.values).filter(
      ([name, value]) => String(value) !== String(this.model.settings[name])));
  }

  // What differs from the model's and the files', for a request.
  get changed() {
    const size = this.pixelSize ? { pixel_size: this.pixelSize } : {};
    return { ...this.knobs, ...size };
  }

  set(name, value, final) {
    this.values[name] = value;
    this.reset.disabled = !Object.keys(this.knobs).length;
    this.told.change(final);
  }

  takeSize() {
    const text = this.size.value.trim().replace(",", ".");
    const size = Number(text);
    const good = !text || (size > 0 && size <= LARGEST);
    this.size.ariaInvalid = String(!good);
    document.getElementById("pixel-size-wrong").textContent = good ? ""
      : `Give a number above 0 and up to ${LARGEST}, as 0.325, or nothing.`;
    if (!good || size === this.pixelSize) return;
    this.pixelSize = size;
    this.told.resize();
    this.told.change(true);
  }

  // The area sliders reach as far as the objects are large, px, and speak as
  // the numbers do. size: of a pixel, [row, column], micrometres, or null
  reach(areas, size) {
    const um2 = size ? size[0] * size[1] : 0;
    const most = areas.length ? Math.max(...areas) : 0;
    const is = um2 === this.um2;
    this.um2 = um2;
    const least = this.values.min_area.map((_, i) => this.least(i) / (um2 || 1));
    const largest = round(Math.max(100, most, ...least));
    if (is && largest <= this.largest) return;
    this.largest = Math.max(largest, this.largest);
    for (const set of this.areaSliders) set();
  }

  // The least area of a class, in the unit that is shown. Until it is given in
  // square micrometres, those in pixels count for all images.
  least(i) {
    const { min_area: px, min_area_um2: um2 } = this.values;
    return this.um2 ? um2?.[i] ?? px[i] * this.um2 : px[i];
  }

  draw() {
    this.reset.disabled = !Object.keys(this.knobs).length;
    this.sliders.replaceChildren();
    this.areaSliders = [];
    if (this.model.has_threshold) {
      this.drawShare("threshold", "Threshold (how sure a pixel must be)", 0.01);
    }
    const { min_area: areas } = this.values;
    areas.forEach((_, i) => this.drawArea(i, areas.length > 1
      ? `Smallest area, ${this.model.classes[i + 1]}` : "Smallest area"));
    this.drawShare("min_probability", "How sure an object must be", 0);
  }

  control(title, range, number) {
    const label = document.createElement("label");
    const name = document.createElement("span");
    const [slider, field] = [range, number].map((attributes, i) => {
      const input = document.createElement("input");
      return Object.assign(
        input, { type: i ? "number" : "range", ...attributes });
    });
    const entitle = (text) => {
      name.textContent = slider.ariaLabel = text;
      field.ariaLabel = `${text}, as a number`;
    };
    entitle(title);
    label.append(name, slider, field);
    this.sliders.append(label);
    return [slider, field, entitle];
  }

  drawShare(name, title, min) {
    const scale = { min, max: 0.99, step: 0.01 };
    const [slider, field] = this.control(title, { ...scale, id: name }, scale);
    slider.value = field.value = this.values[name];
    const take = (from, final) => {
      const value = Math.min(scale.max, Math.max(min, Number(from.value)));
      if (!from.value || Number.isNaN(value)) return;
      slider.value = value;
      if (from !== field || final) field.value = value;
      this.set(name, value, final);
    };
    this.listen(slider, field, take);
  }

  drawArea(i, title) {
    const [slider, field, entitle] = this.control(
      title, { min: 0, max: NOTCHES, step: 1, id: `min_area_${i}` }, { min: 0 });
    const showSlider = () => {
      const px = this.least(i) / (this.um2 || 1);
      slider.value = NOTCHES * Math.sqrt(px / (this.largest || 1));
    };
    const tell = () => slider.setAttribute("aria-valuetext",
      `${this.tell(i)} ${this.um2 ? "µm²" : "pixels"}`);
    const show = () => {
      entitle(`${title} (${this.um2 ? "µm²" : "px"})`);
      field.step = this.um2 ? "any" : 1;
      field.value = this.tell(i);
      showSlider();
      tell();
    };
    const take = (from, final) => {
      const area = from === slider
        ? (slider.value / NOTCHES) ** 2 * this.largest * (this.um2 || 1)
        : Math.max(0, Number(field.value));
      if (!from.value || Number.isNaN(area)) return;
      const values = this.values.min_area.map((_, j) => this.least(j));
      const digits = from === slider ? 3 : GIVEN;
      values[i] = this.um2 ? Number(area.toPrecision(digits)) : Math.round(area);
      this.set(this.um2 ? "min_area_um2" : "min_area", values, final);
      if (from === slider) field.value = values[i];
      else showSlider();
      tell();
    };
    this.areaSliders.push(show);
    show();
    this.listen(slider, field, take);
  }

  // As it was given, or as pixels make it.
  tell(i) {
    const digits = this.values.min_area_um2 ? GIVEN : 3;
    const area = this.least(i);
    return this.um2 ? Number(area.toPrecision(digits)) : area;
  }

  listen(slider, field, take) {
    for (const input of [slider, field]) {
      input.addEventListener("input", () => take(input, false));
      input.addEventListener("change", () => take(input, true));
    }
  }
}
