// The controls of what follows the network; they stand for all images.

import { round } from "./charts.js";

const SEPARATE = {
  components: "leave together",
  watershed: "cut by their shape",
  learned: "cut as the model has learned",
};
const NOTCHES = 200; // of the slider for areas, which grows by squares

export class Settings {
  // told: {change(final)}; final = the hand has left the control
  constructor(told) {
    this.told = told;
    this.sliders = document.getElementById("sliders");
    this.checks = ["drop_border", "fill_holes"].map(
      (name) => document.getElementById(name));
    this.separate = document.getElementById("separate");
    this.reset = document.getElementById("reset");
    for (const check of this.checks) {
      check.addEventListener("change", () => {
        this.set(check.id, check.checked, true);
      });
    }
    this.separate.addEventListener("change", () => {
      this.set("separate", this.separate.value, true);
    });
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

  // What differs from the model's, for a request.
  get changed() {
    return Object.fromEntries(Object.entries(this.values).filter(
      ([name, value]) => String(value) !== String(this.model.settings[name])));
  }

  set(name, value, final) {
    this.values[name] = value;
    this.reset.disabled = !Object.keys(this.changed).length;
    this.told.change(final);
  }

  // The area sliders reach as far as the objects are large.
  reach(areas) {
    const most = areas.length ? Math.max(...areas) : 0;
    const largest = round(Math.max(100, most, ...this.values.min_area));
    if (largest <= this.largest) return;
    this.largest = largest;
    for (const set of this.areaSliders) set();
  }

  draw() {
    this.reset.disabled = !Object.keys(this.changed).length;
    this.sliders.replaceChildren();
    this.areaSliders = [];
    if (this.model.has_threshold) this.drawThreshold();
    const { min_area: areas } = this.values;
    areas.forEach((_, i) => this.drawArea(i, areas.length > 1
      ? `Smallest area, ${this.model.classes[i + 1]} (px)`
      : "Smallest area (px)"));
  }

  control(title, range, number) {
    const label = document.createElement("label");
    const name = document.createElement("span");
    const [slider, field] = [range, number].map((attributes, i) => {
      const input = document.createElement("input");
      Object.assign(input, { type: i ? "number" : "range", ...attributes });
      input.ariaLabel = i ? `${title}, as a number` : title;
      return input;
    });
    name.textContent = title;
    label.append(name, slider, field);
    this.sliders.append(label);
    return [slider, field];
  }

  drawThreshold() {
    const scale = { min: 0.01, max: 0.99, step: 0.01 };
    const [slider, field] = this.control(
      "Threshold (how sure a pixel must be)",
      { ...scale, id: "threshold" }, scale);
    slider.value = field.value = this.values.threshold;
    const take = (from, final) => {
      const value = Math.min(0.99, Math.max(0.01, Number(from.value)));
      if (!from.value || Number.isNaN(value)) return;
      slider.value = value;
      if (from !== field || final) field.value = value;
      this.set("threshold", value, final);
    };
    this.listen(slider, field, take);
  }

  drawArea(i, title) {
    const [slider, field] = this.control(
      title, { min: 0, max: NOTCHES, step: 1, id: `min_area_${i}` },
      { min: 0, step: 1 });
    const show = () => {
      const area = this.values.min_area[i];
      slider.value = NOTCHES * Math.sqrt(area / (this.largest || 1));
      slider.setAttribute("aria-valuetext", `${area} pixels`);
      field.value = area;
    };
    const take = (from, final) => {
      const area = from === slider
        ? Math.round((slider.value / NOTCHES) ** 2 * this.largest)
        : Math.max(0, Math.round(Number(field.value)));
      if (!from.value || Number.isNaN(area)) return;
      const values = [...this.values.min_area];
      values[i] = area;
      this.set("min_area", values, final);
      if (from === slider) field.value = area;
      else slider.value = NOTCHES * Math.sqrt(area / this.largest);
      slider.setAttribute("aria-valuetext", `${area} pixels`);
    };
    this.areaSliders.push(show);
    show();
    this.listen(slider, field, take);
  }

  listen(slider, field, take) {
    for (const input of [slider, field]) {
      input.addEventListener("input", () => take(input, false));
      input.addEventListener("change", () => take(input, true));
    }
  }
}
