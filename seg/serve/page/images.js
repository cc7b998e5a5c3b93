// The opened images: their files, what the server has found in them, the list.

import * as api from "./api.js";
import { number } from "./units.js";

const N_AT_A_TIME = 2; // uploads; the server refuses more than a few
const THUMB = 96; // px
const STARTS = ["89504e47", "ffd8ff", "424d", "49492a00", "4d4d002a",
  "49492b00", "4d4d002b", "52494646"]; // of PNG, JPEG, BMP, TIFF and WebP

// What the server would say of a file, without sending it; null = nothing.
export async function refusal(file, limits) {
  if (!file.size) return `${file.name} is empty; copy it again.`;
  if (file.size > limits.max_bytes) {
    return `${file.name} has ${number(file.size / 1e6)} MB; at most ${
      number(limits.max_bytes / 1e6)} MB are taken here. Save it compressed, `
      + "cut it, or use `seg predict`, which takes files of any size.";
  }
  const bytes = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  const start = [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
  if (STARTS.some((magic) => start.startsWith(magic))) return null;
  return `${file.name} is not an image that can be opened here: inside it is `
    + "neither PNG, JPEG, TIFF, WebP nor BMP, whatever its name says. Save "
    + "it as TIFF or PNG in the program that made it.";
}

export class Images {
  // told: {pick(item), change(item), problem(sentence), settings(), model()}
  constructor(nav, told) {
    this.nav = nav;
    this.list = nav.querySelector("ul");
    this.told = told;
    this.items = [];
    this.n_running = 0;
  }

  get ready() {
    return this.items.filter((item) => item.found);
  }

  async add(files, limits) {
    let first = null; // of these, which is shown at once
    for (const file of files) {
      const reason = await refusal(file, limits).catch(() => (
        `${file.name} cannot be read; is it a folder, or open elsewhere?`));
      if (reason) this.told.problem(reason);
      else {
        const item = this.insert({ file, name: file.name, select: "" });
        if (!first) this.pick(item);
        first ||= item;
      }
      this.next();
    }
  }

  insert(item) {
    Object.assign(item, { state: "waiting", id: "", found: null, of: "" });
    this.items.push(item);
    this.drawItem(item);
    this.nav.hidden = false;
    return item;
  }

  pick(item) {
    this.current = item;
    for (const each of this.items) {
      each.row.firstChild.ariaCurrent = String(each === item);
    }
    item?.row.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.told.pick(item);
  }

  go(by) {
    const i = this.items.indexOf(this.current) + by;
    if (this.items[i]) this.pick(this.items[i]);
  }

  remove(item) {
    const i = this.items.indexOf(item);
    this.items.splice(i, 1);
    item.row.remove();
    item.removed = true;
    if (item.id) api.forget(item.id);
    this.nav.hidden = !this.items.length;
    if (item !== this.current) return;
    this.pick(this.items[Math.min(i, this.items.length - 1)] ?? null);
    (this.current?.row.firstChild ?? document.getElementById("open")).focus();
  }

  // All again, as another model sees them, or those that are wanted; the one
  // on the screen first.
  again(wanted = () => true) {
    for (const item of this.items) {
      if (item.state !== "refused" && wanted(item)) this.restart(item);
    }
    this.next();
  }

  restart(item) {
    if (item.id) api.forget(item.id);
    Object.assign(item, {
      state: "waiting", id: "", found: null, problem: "",
    });
    item.turn = {}; // what still runs for it is of no use
    this.show(item);
  }

  next() {
    const waiting = this.items.filter((item) => item.state === "waiting");
    const item = waiting.includes(this.current) ? this.current : waiting[0];
    if (!item || this.n_running >= N_AT_A_TIME) return;
    this.n_running += 1;
    item.state = "running";
    this.show(item);
    this.segment(item).finally(() => {
      this.n_running -= 1;
      this.next();
    });
    this.next();
  }

  async segment(item) {
    const turn = item.turn = {};
    const settings = { ...this.told.settings() };
    try {
      const found = await api.upload(
        item.file, item.name, this.told.model(), item.select, settings);
      if (item.removed || item.turn !== turn) return api.forget(found.id);
      Object.assign(item, { id: found.id, found, of: JSON.stringify(settings) });
      item.state = "done";
      this.show(item);
      item.thumb ||= URL.createObjectURL(await api.picture(found.id, THUMB));
    } catch (problem) {
      if (item.removed || item.turn !== turn) return null;
      if (!item.found) {
        item.state = problem.choose ? "stack" : "refused";
        item.problem = problem.message;
        item.axes = problem.choose;
        if (!problem.choose) this.refuse(item);
      }
    }
    return this.show(item, item.state !== "done");
  }

  // Says why an image cannot be opened, and shows another one.
  refuse(item) {
    this.told.problem(item.problem);
    const others = this.items.filter(({ state }) => state !== "refused");
    if (item === this.current && others.length) this.pick(others[0]);
  }

  // What was found by the settings of now; the image is sent again where the
  // server has it no more. Null where that waits, or failed.
  async renew(item) {
    const settings = this.told.settings();
    const of = JSON.stringify(settings);
    if (item.of === of || !item.id) return item.found;
    const { id } = item;
    try {
      const found = await api.found(id, settings);
      if (item.id !== id) return null;
      Object.assign(item, { found, of });
      this.show(item);
      return found;
    } catch (problem) {
      this.lost(item, problem);
      return null;
    }
  }

  lost(item, problem) {
    if (item.removed) return;
    if (problem.status === 404) {
      this.restart(item);
      this.next();
    } else {
      this.told.problem(problem.message);
    }
  }

  drawItem(item) {
    item.row = document.createElement("li");
    const pick = document.createElement("button");
    pick.type = "button";
    pick.className = "pick";
    pick.title = item.name;
    const thumb = document.createElement("img");
    thumb.className = "thumb";
    thumb.alt = "";
    thumb.hidden = true;
    const blank = document.createElement("span");
    blank.className = "thumb";
    const [name, state] = ["name", "state"].map((kind) => {
      const span = document.createElement("span");
      span.className = kind;
      return span;
    });
    name.textContent = item.name;
    pick.append(thumb, blank, name, state);
    pick.addEventListener("click", () => this.pick(item));
    const close = document.createElement("button");
    close.type = "button";
    close.className = "close";
    close.textContent = "×";
    close.ariaLabel = `Close ${item.name}`;
    close.addEventListener("click", () => this.remove(item));
    item.row.append(pick, close);
    this.list.append(item.row);
    this.show(item, false);
  }

  show(item, tell = true) {
    const [thumb, blank, , state] = item.row.firstChild.children;
    state.textContent = {
      waiting: "waiting",
      running: "finding objects…",
      stack: "choose a plane",
      refused: "not opened",
      done: item.found && (item.found.count === 1 ? "1 object"
        : `${number(item.found.count)} objects`),
    }[item.state];
    item.row.classList.toggle("bad", item.state === "refused");
    const old = item.of !== JSON.stringify(this.told.settings());
    item.row.classList.toggle("old", item.state === "done" && old);
    if (item.thumb && thumb.hidden) {
      thumb.src = item.thumb;
      [thumb.hidden, blank.hidden] = [false, true];
    }
    if (tell) this.told.change(item);
  }
}
