// The page: what is opened is segmented, shown, measured and downloaded.

import * as api from "./api.js";
import { Downloads } from "./downloads.js";
import { Images } from "./images.js";
import { $, problem, say } from "./messages.js";
import { Screen } from "./screen.js";
import { Settings } from "./settings.js";
import { number } from "./units.js";

const PAUSE_MS = 300; // until the other images are counted again

let about;
let model;
let downloads;
let counting = 0;

const settings = new Settings({
  change: (final) => {
    for (const item of images.items) images.show(item, false);
    screen.refresh();
    if (final) recount();
  },
  resize: () => {
    // the network of such a model sees images by their size
    if (model.pixel_size) images.again((item) => !knowsItsSize(item));
  },
});

const knowsItsSize = ({ found }) =>
  found?.pixel_size && !found.pixel_size_given;

const images = new Images($("images"), {
  pick: (item) => screen.present(item),
  change: (item) => {
    $("download").disabled = !images.ready.length;
    if (item === images.current) screen.present(item);
  },
  problem,
  settings: () => settings.changed,
  model: () => model.name,
});

const screen = new Screen({
  images: () => images,
  settings: () => settings.changed,
  model: () => model,
  reach: (areas, size) => settings.reach(areas, size),
});

// The counts of the images that are not on the screen, one by one.
async function recount() {
  const turn = ++counting;
  await new Promise((done) => setTimeout(done, PAUSE_MS));
  for (const item of images.items) {
    if (turn !== counting) return;
    if (item !== images.current && item.found) await images.renew(item);
  }
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
      screen.viewer.show(button.dataset.layer, on);
    });
  }
  for (const button of document.querySelectorAll("[data-zoom]")) {
    const key = { in: "+", out: "-", fit: "0" }[button.dataset.zoom];
    button.addEventListener("click", () => screen.viewer.key(key));
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
    n: () => screen.step(1),
    p: () => screen.step(-1),
    Escape: () => screen.select(0, false),
  }[name.length === 1 ? name.toLowerCase() : name];
  if (at) at();
  else if (layer) layer.click();
  else if (!name.startsWith("Arrow") || target === $("canvas")) {
    return screen.viewer.key(name);
  } else return false;
  return true;
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
    screen.clear();
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
