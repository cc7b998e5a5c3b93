// The page: what is opened is segmented, shown, measured and downloaded.

import * as api from "./api.js";
import { Table, histogram, measure, number } from "./charts.js";
import { Downloads } from "./downloads.js";
import { Images } from "./images.js";
import { CLASS_COLOURS } from "./layers.js";
import { Settings } from "./settings.js";
import { Viewer } from "./viewer.js";

const AXES = { Z: "Plane (Z)", T: "Point in time (T)" };
const N_PROBLEMS = 4; // shown at a time
const PAUSE_MS = 300; // until the other images are counted again
const $ = (id) => document.getElementById(id);

let about;
let model;
let downloads;
let selected = 0;
let shown = null; // {item, found, labels} on the screen
let wanted = null; // a refresh that waits for the one that runs
let counting = 0;

function problem(sentence) {
  const box = document.createElement("div");
  const text = document.createElement("span");
  const close = document.createElement("button");
  text.textContent = sentence;
  close.className = "close";
  close.type = "button";
  close.textContent = "×";
  close.ariaLabel = "Close this message";
  close.addEventListener("click", () => box.remove());
  box.append(text, close);
  const all = $("problems");
  for (const old of [...all.children]) {
    if (old.firstChild.textContent === sentence) old.remove();
  }
  all.append(box);
  while (all.children.length > N_PROBLEMS) all.firstChild.remove();
}

function say(text) {
  $("status").textContent = text;
}

const viewer = new Viewer($("canvas"), {
  hover: (id, x, y) => tip(id || selected, id ? { x, y } : null),
  select: (id) => select(id, false),
  zoom: (scale) => { $("scale").textContent = `${Math.round(scale * 100)}%`; },
});

const table = new Table($("objects"), $("more"), {
  select: (id) => select(id, true),
});

const settings = new Settings({
  change: (final) => {
    for (const item of images.items) images.show(item, false);
    refresh();
    if (final) recount();
  },
});

const images = new Images($("images"), {
  pick: (item) => present(item),
  change: (item) => { if (item === images.current) present(item); },
  problem,
  settings: () => settings.changed,
  model: () => model.name,
});

const objectOf = (id) => shown?.found?.objects[id - 1];

function select(id, reveal) {
  selected = objectOf(id) ? id : 0;
  viewer.select(selected);
  table.select(selected);
  const object = objectOf(selected);
  if (object && reveal) viewer.reveal(object);
  tip(selected);
  drawHistogram();
  if (object) say(`Object ${object.label}: ${facts(object).map((pair) => pair.join(" ")).join(", ")}`);
}

function facts(object) {
  return [
    ...(model.classes.length > 2 ? [["Class", object.class]] : []),
    ["Area", `${number(object.area_px)} px`],
    ["Mean intensity", measure(object.mean_intensity)],
    ["Eccentricity", number(object.eccentricity, 2)],
    ["Solidity", number(object.solidity, 2)],
    ["Probability", object.probability == null ? "–"
      : `${number(100 * object.probability)}%`],
    ["Row, column", `${number(object.row)}, ${number(object.col)}`],
  ];
}

// The measurements of an object: at the mouse, or beside the object.
function tip(id, at = null) {
  const box = $("tip");
  const object = objectOf(id);
  box.hidden = !object;
  if (!object) return;
  const title = document.createElement("b");
  const list = document.createElement("dl");
  title.textContent = `Object ${object.label}`;
  fillList(list, facts(object));
  box.replaceChildren(title, list);
  const { x, y } = at ?? viewer.place(object);
  const { clientWidth: w, clientHeight: h } = $("view");
  const [gap, width, height] = [16, box.offsetWidth, box.offsetHeight];
  const left = x + gap + width < w ? x + gap : x - gap - width;
  const top = y + gap + height < h ? y + gap : y - gap - height;
  box.style.left = `${Math.max(4, Math.min(left, w - width - 4))}px`;
  box.style.top = `${Math.max(4, Math.min(top, h - height - 4))}px`;
}

function fillList(list, pairs) {
  list.replaceChildren(...pairs.flatMap(([name, value]) => {
    const [term, text] = ["dt", "dd"].map((kind) => document.createElement(kind));
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
}

// Shows an item of the list, whatever its state.
function present(item) {
  const running = item && ["waiting", "running"].includes(item.state);
  $("welcome").hidden = Boolean(item);
  $("planes").hidden = item?.state !== "stack";
  $("view").hidden = !item || item.state === "stack";
  $("panel").hidden = !images.ready.length && !shown;
  $("download").disabled = !images.ready.length;
  $("wait").hidden = !running;
  if (running) $("wait").lastChild.textContent = `Finding objects in ${item.name}…`;
  if (item?.state === "stack") askPlane(item);
  if (item !== shown?.item || !item?.found) {
    if (shown && (item !== shown.item || !running)) clear();
    if (item?.state === "refused") say(item.problem);
    else if (running) say(`Finding objects in ${item.name}…`);
  }
  if (item?.found) refresh();
}

function clear() {
  shown = null;
  selected = 0;
  viewer.setPicture(null, 0, 0);
  tip(0);
  $("panel").hidden = true;
}

// The newest settings win: while a request runs, only the last wish is kept.
async function refresh() {
  const item = images.current;
  if (!item?.id) return;
  if (wanted) {
    wanted = { item };
    return;
  }
  for (wanted = { item }; wanted;) {
    const wish = wanted;
    await update(wish.item);
    if (wanted === wish) wanted = null;
  }
}

async function update(item) {
  const { id } = item;
  const chosen = settings.changed;
  $("panel").classList.add("busy");
  const late = setTimeout(() => {
    $("wait").hidden = false;
    $("wait").lastChild.textContent = "Finding the objects again…";
  }, 700);
  try {
    const picture = shown?.id === id ? null
      : api.picture(id).then(createImageBitmap);
    const [found, labels, bitmap] = await Promise.all([
      images.renew(item), api.labels(id, chosen), picture]);
    if (!found || item !== images.current || item.id !== id) return;
    if (JSON.stringify(chosen) !== JSON.stringify(settings.changed)) {
      if (!wanted || wanted.item === item) wanted = { item };
    }
    if (bitmap) {
      viewer.setPicture(bitmap, found.view_width, found.view_height);
      selected = 0;
    }
    display(item, found, labels);
  } catch (error) {
    images.lost(item, error);
  } finally {
    clearTimeout(late);
    $("panel").classList.remove("busy");
    if (images.current?.found) $("wait").hidden = true;
  }
}

function display(item, found, labels) {
  // the object that was selected may have another number by now
  const old = objectOf(selected);
  shown = { item, id: item.id, found, labels };
  viewer.setFound({
    labels,
    width: found.view_width,
    height: found.view_height,
    step: found.step,
    objects: found.objects,
    classes: model.classes,
  });
  const { row, col } = old ?? {};
  const at = old && found.objects.find((object) => (
    Math.hypot(object.row - row, object.col - col) < 3));
  selected = at?.label ?? 0;
  viewer.select(selected);
  tip(selected);
  settings.reach(found.objects.map((object) => object.area_px));
  $("panel").hidden = false;
  $("result-title").textContent = item.name;
  drawNumbers(found);
  table.selected = selected;
  table.set(found.objects, model.classes);
  drawHistogram();
  const n = found.count === 1 ? "1 object" : `${number(found.count)} objects`;
  $("canvas").ariaLabel = `${item.name}, ${n}`;
  say(`${n} in ${item.name}.`);
}

function drawNumbers(found) {
  const list = $("numbers");
  fillList(list, [
    ["Median area", found.count ? `${number(found.median_area_px)} px` : "–"],
    ["Covered by objects", `${number(100 * found.covered, 1)}%`],
    ["Image", `${number(found.width)} × ${number(found.height)} px`
      + (found.step > 1 ? `, shown at 1:${found.step}` : "")],
  ]);
  const big = document.createElement("dd");
  const unit = document.createElement("small");
  big.className = "big";
  big.textContent = `${number(found.count)} `;
  unit.textContent = found.count === 1 ? "object" : "objects";
  big.append(unit);
  list.prepend(big);
  const kinds = model.classes.slice(1);
  $("classes").replaceChildren(...(kinds.length < 2 ? [] : kinds).map(
    (kind, i) => {
      const item = document.createElement("li");
      const [r, g, b] = CLASS_COLOURS[i % CLASS_COLOURS.length];
      item.innerHTML = '<svg viewBox="0 0 10 10" aria-hidden="true">'
        + '<rect width="10" height="10" rx="2"/></svg>';
      item.querySelector("rect").setAttribute("fill", `rgb(${r} ${g} ${b})`);
      const count = document.createElement("b");
      count.textContent = number(
        found.objects.filter((object) => object.class === kind).length);
      item.append(kind, count);
      return item;
    }));
}

function drawHistogram() {
  if (!shown) return;
  const least = settings.values.min_area;
  histogram($("histogram"), shown.found.objects, objectOf(selected)?.area_px,
    least.length === 1 ? least[0] : 0);
}

// The counts of the images that are not on the screen, one by one.
async function recount() {
  const turn = ++counting;
  await new Promise((done) => setTimeout(done, PAUSE_MS));
  for (const item of images.items) {
    if (turn !== counting) return;
    if (item !== images.current && item.found) await images.renew(item);
  }
}

function askPlane(item) {
  const form = $("planes");
  form.querySelector("p").textContent =
    `${item.name} is a stack; one plane at a time is segmented.`;
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

$("planes").addEventListener("submit", (event) => {
  event.preventDefault();
  const item = images.current;
  const chosen = [...new FormData(event.target)];
  item.select = chosen.map(([axis, n]) => `${axis}=${n - 1}`).join(",");
  item.name = `${item.file.name} ${chosen.map((pair) => pair.join("")).join(" ")}`;
  item.row.querySelector(".name").textContent = item.name;
  images.restart(item);
  images.next();
  $("canvas").focus();
});

function openFiles(files) {
  if (files.length) images.add([...files], about);
}

async function openExample() {
  try {
    const content = await api.example();
    openFiles([new File([content], "example.png", { type: "image/png" })]);
  } catch (error) {
    problem(error.message);
  }
}

function drawButtons() {
  for (const button of document.querySelectorAll("[data-layer]")) {
    button.addEventListener("click", () => {
      const on = button.ariaPressed !== "true";
      button.ariaPressed = String(on);
      viewer.show(button.dataset.layer, on);
    });
  }
  for (const button of document.querySelectorAll("[data-zoom]")) {
    const key = { in: "+", out: "-", fit: "0" }[button.dataset.zoom];
    button.addEventListener("click", () => viewer.key(key));
  }
  for (const id of ["open", "choose"]) {
    $(id).addEventListener("click", () => $("files").click());
  }
  $("files").addEventListener("change", (event) => {
    openFiles(event.target.files);
    event.target.value = ""; // the same file may come again
  });
  $("example").addEventListener("click", openExample);
  $("download").addEventListener("click", () => downloads?.open());
  $("help").addEventListener("click", () => $("about").showModal());
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      const close = event.target.closest(".close");
      if (close || event.target === dialog) dialog.close();
    });
  }
}

function listenToKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.target.matches("input, select, textarea")) return;
    if (key(event.key, event.target)) event.preventDefault();
  });
}

// Whether a key does something here.
function key(name, target) {
  const layer = document.querySelectorAll("[data-layer]")[Number(name) - 1];
  const at = {
    o: () => $("files").click(),
    d: () => downloads?.open(),
    "?": () => $("about").showModal(),
    PageUp: () => images.go(-1),
    PageDown: () => images.go(1),
    n: () => step(1),
    p: () => step(-1),
    Escape: () => select(0, false),
  }[name.length === 1 ? name.toLowerCase() : name];
  if (at) at();
  else if (layer) layer.click();
  else if (!name.startsWith("Arrow") || target === $("canvas")) {
    return viewer.key(name);
  } else return false;
  return true;
}

function step(by) {
  const n = shown?.found.objects.length;
  if (n) select(selected ? (selected - 1 + by + n) % n + 1 : by > 0 ? 1 : n, true);
}

function listenToDrops() {
  let depth = 0; // of elements that the file was dragged into
  const mark = (by) => {
    depth = by ? depth + by : 0;
    document.body.classList.toggle("dropping", depth > 0);
  };
  document.addEventListener("dragenter", () => mark(1));
  document.addEventListener("dragleave", () => mark(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    mark(0);
    openFiles(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    openFiles(event.clipboardData?.files ?? []);
  });
}

function useModel(name) {
  model = about.models.find((each) => each.name === name);
  settings.use(model);
}

async function start() {
  drawButtons();
  listenToKeys();
  listenToDrops();
  try {
    about = await api.about();
  } catch (error) {
    problem(error.message);
    return;
  }
  $("model").replaceChildren(
    ...about.models.map(({ name }) => new Option(name, name)));
  useModel(about.models[0].name);
  $("model").addEventListener("change", () => {
    useModel($("model").value);
    clear();
    images.again();
  });
  $("limits").textContent = `PNG, JPEG, TIFF or BMP, up to ${
    number(about.max_bytes / 1e6)} MB and ${
    number(about.max_pixels / 1e6)} megapixels each. Images go to this seg `
    + "server only, and are forgotten when it ends.";
  downloads = new Downloads(about.formats, {
    images: (all) => (all ? images.ready
      : images.ready.filter((item) => item === images.current)),
    settings: () => settings.changed,
    problem,
    say,
  });
  addEventListener("pagehide", () => {
    for (const item of images.items) if (item.id) api.forget(item.id);
  });
}

start();
