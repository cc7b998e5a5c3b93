// What is on the screen: an image, its objects, what is known of one of them.

import * as api from "./api.js";
import { Table, histogram, measure } from "./charts.js";
import { CLASS_COLOURS } from "./layers.js";
import { $, fillList, say } from "./messages.js";
import { Units, number, rounded } from "./units.js";
import { Viewer } from "./viewer.js";

const AXES = { Z: "Plane (Z)", T: "Point in time (T)", C: "Channel (C)" };
const LATE_MS = 700; // from here on it is said that something is done
const BAR = 140; // px that the scale bar has at most
const SAME = 3; // px that an object's middle moves when settings change

export class Screen {
  // told: {images(), settings(), model()}
  constructor(told) {
    this.told = told;
    this.selected = 0;
    this.shown = null; // {item, id, found, units}
    this.wish = null; // of a refresh that runs: the item to show
    this.viewer = new Viewer($("canvas"), {
      hover: (id, x, y) => this.tip(id || this.selected, id ? { x, y } : null),
      select: (id) => this.select(id, false),
      zoom: (scale) => {
        $("scale").textContent = `${Math.round(scale * 100)}%`;
        this.drawBar(scale);
        if (!this.viewer?.hovered) this.tip(this.selected);
      },
    });
    this.table = new Table($("objects"), $("more"), {
      select: (id) => this.select(id, true),
    });
  }

  object(id) {
    return this.shown?.found.objects[id - 1];
  }

  select(id, reveal) {
    const object = this.object(id);
    this.selected = object ? id : 0;
    this.viewer.select(this.selected);
    this.table.select(this.selected);
    if (object && reveal) this.viewer.reveal(object);
    this.tip(this.selected);
    this.drawHistogram();
    if (object) {
      const facts = this.facts(object).map((pair) => pair.join(" "));
      say(`Object ${id}: ${facts.join(", ")}`);
    }
  }

  // The next object, or the one before.
  step(by) {
    const n = this.shown?.found.objects.length;
    if (!n) return;
    const first = by > 0 ? 1 : n;
    const next = (this.selected - 1 + by + n) % n + 1;
    this.select(this.selected ? next : first, true);
  }

  facts(object) {
    const { units } = this.shown;
    const place = `${number(object.row)}, ${number(object.col)}`;
    return [
      ...(this.told.model().classes.length > 2
        ? [["Class", object.class]] : []),
      ["Area", `${units.area(object.area_px)} ${units.areaUnit}`],
      ["Diameter", `${units.length(object.diameter_px)} ${units.lengthUnit}`],
      ["Mean intensity", measure(object.mean_intensity)],
      ["Circularity", number(object.circularity, 2)],
      ["Solidity", number(object.solidity, 2)],
      ["Probability", object.probability == null ? "–"
        : `${number(100 * object.probability)}%`],
      ["Row, column", units.known ? `${place} px` : place],
    ];
  }

  // The measurements of an object: at the mouse, or beside the object.
  tip(id, at = null) {
    const box = $("tip");
    const object = this.object(id);
    box.hidden = !object;
    if (!object) return;
    const title = document.createElement("b");
    const list = document.createElement("dl");
    title.textContent = `Object ${object.label}`;
    fillList(list, this.facts(object));
    box.replaceChildren(title, list);
    const { x, y } = at ?? this.viewer.place(object);
    const { clientWidth: w, clientHeight: h } = $("canvas");
    const [gap, width, height] = [16, box.offsetWidth, box.offsetHeight];
    const left = x + gap + width < w ? x + gap : x - gap - width;
    const top = y + gap + height < h ? y + gap : y - gap - height;
    box.style.left = `${Math.max(4, Math.min(left, w - width - 4))}px`;
    box.style.top = `${Math.max(4, Math.min(top, h - height - 4))}px`;
  }

  // Shows an item of the list, whatever its state; null = none is open.
  present(item) {
    const running = item && ["waiting", "running"].includes(item.state);
    const { ready } = this.told.images();
    $("welcome").hidden = Boolean(item);
    $("planes").hidden = item?.state !== "stack";
    $("refused").hidden = item?.state !== "refused";
    $("view").hidden = !item || ["stack", "refused"].includes(item.state);
    $("download").disabled = !ready.length;
    this.wait(running ? `Finding objects in ${item.name}…` : "");
    if (item?.state === "stack") askPlane(item);
    const again = running && item === this.shown?.item;
    if (this.shown && item !== this.shown.item && !again) this.clear();
    $("refused").querySelector("p").textContent = item?.problem ?? "";
    if (item?.state === "stack") say(item.problem);
    else if (running) say(`Finding objects in ${item.name}…`);
    else if (item?.state === "refused") say("");
    if (item?.found) this.refresh();
  }

  clear() {
    this.shown = null;
    this.selected = 0;
    this.viewer.selected = 0;
    this.viewer.setPicture(null, 0, 0);
    this.tip(0);
    $("panel").hidden = true;
    say("");
  }

  wait(text) {
    $("wait").hidden = !text;
    $("wait").lastElementChild.textContent = text;
  }

  // The newest settings win: while a request runs, the last wish is kept.
  async refresh() {
    const item = this.told.images().current;
    if (!item?.id) return;
    const runs = this.wish;
    this.wish = { item };
    while (!runs && this.wish) {
      const { wish } = this;
      await this.update(wish.item);
      if (this.wish === wish) this.wish = null;
    }
  }

  async update(item) {
    const { id } = item;
    const images = this.told.images();
    const late = setTimeout(
      () => this.wait("Finding the objects again…"), LATE_MS);
    $("panel").classList.add("busy");
    try {
      const [found, labels, picture] = await Promise.all([
        images.renew(item),
        api.labels(id, this.told.settings()),
        this.shown?.id === id ? null
          : api.picture(id).then((file) => createImageBitmap(file)),
      ]);
      if (!found || item !== images.current || item.id !== id) return;
      if (picture) {
        this.viewer.setPicture(picture, found.view_width, found.view_height);
        this.selected = 0;
      }
      this.display(item, found, labels);
    } catch (problem) {
      images.lost(item, problem);
    } finally {
      clearTimeout(late);
      $("panel").classList.remove("busy");
      if (images.current?.state === "done") this.wait("");
    }
  }

  display(item, found, labels) {
    const model = this.told.model();
    // the object that was selected may have another number by now
    const old = this.object(this.selected);
    const same = old && found.objects.find((object) => (
      Math.hypot(object.row - old.row, object.col - old.col) < SAME));
    const units = new Units(found.pixel_size, found.median_area_px);
    this.shown = { item, id: item.id, found, units };
    this.selected = same?.label ?? 0;
    this.viewer.selected = this.selected;
    this.viewer.setFound({
      labels,
      width: found.view_width,
      height: found.view_height,
      step: found.step,
      objects: found.objects,
      classes: model.classes,
    });
    const areas = found.objects.map((object) => object.area_px);
    this.told.reach(areas, found.pixel_size);
    $("panel").hidden = false;
    $("result-title").textContent = item.name;
    this.drawNumbers(found, units, model.classes.slice(1));
    this.table.selected = this.selected;
    this.table.set(found.objects, model.classes, units);
    this.drawHistogram();
    this.tip(this.selected);
    const n = found.count === 1 ? "1 object" : `${number(found.count)} objects`;
    $("canvas").ariaLabel = `${item.name}, ${n}`;
    say(`${n} in ${item.name}.`);
  }

  drawNumbers(found, units, kinds) {
    const list = $("numbers");
    const [row, column] = found.pixel_size ?? [];
    const ofFile = units.known && !found.pixel_size_given;
    $("pixel-size").hidden = ofFile;
    fillList(list, [
      ["Median area", found.count
        ? `${units.area(found.median_area_px)} ${units.areaUnit}` : "–"],
      ["Covered by objects", `${number(100 * found.covered, 1)}%`],
      ["Image", `${number(found.width)} × ${number(found.height)} px`],
      ...(units.known ? [["Field of view",
        `${rounded(found.width * column, 3)} × ${
          rounded(found.height * row, 3)} µm`]] : []),
      ...(ofFile ? [["Pixel size", `${units.sides} µm`]] : []),
      ...(found.step > 1 ? [["Shown reduced", `1 : ${found.step}`]] : []),
    ]);
    const big = document.createElement("dd");
    const unit = document.createElement("small");
    big.className = "big";
    big.textContent = `${number(found.count)} `;
    unit.textContent = found.count === 1 ? "object" : "objects";
    big.append(unit);
    list.prepend(big);
    $("classes").replaceChildren(
      ...(kinds.length < 2 ? [] : kinds).map((kind, i) => {
        const item = document.createElement("li");
        const count = document.createElement("b");
        const [r, g, b] = CLASS_COLOURS[i % CLASS_COLOURS.length];
        item.innerHTML = '<svg viewBox="0 0 10 10" aria-hidden="true">'
          + '<rect width="10" height="10" rx="2"/></svg>';
        item.querySelector("rect").setAttribute("fill", `rgb(${r} ${g} ${b})`);
        count.textContent = number(
          found.objects.filter((object) => object.class === kind).length);
        item.append(kind, count);
        return item;
      }));
  }

  // scale: px of the screen for one of the image
  drawBar(scale) {
    const box = $("bar");
    const bar = this.shown?.units.bar(
      scale, Math.min(BAR, $("canvas").clientWidth / 3));
    box.hidden = !bar;
    if (!bar) return;
    box.style.width = `${bar.px}px`;
    box.textContent = bar.text;
    box.ariaLabel = `Scale bar, ${bar.text}`;
  }

  drawHistogram() {
    if (!this.shown) return;
    const { units } = this.shown;
    const least = this.shown.found.settings.min_area;
    $("areas-title").textContent = `Areas (${units.areaUnit})`;
    histogram($("histogram"), this.shown.found.objects, units,
      this.object(this.selected)?.area_px, least.length === 1 ? least[0] : 0);
  }
}

function askPlane(item) {
  const form = $("planes");
  form.querySelector("p").textContent =
    Object.keys(item.axes).join() === "C"
      ? `${item.name} has several channels; one at a time is segmented.`
      : `${item.name} is a stack; one plane at a time is segmented.`;
  form.querySelector(".axes").replaceChildren(
    ...Object.entries(item.axes).map(([axis, n]) => {
      const label = document.createElement("label");
      const input = document.createElement("input");
      Object.assign(input, {
        type: "number", min: 1, max: n, value: Math.ceil(n / 2),
        required: true, name: axis,
      });
      label.append(`${AXES[axis] ?? `Page (${axis})`} `, input, ` of ${n}`);
      return label;
    }));
}
