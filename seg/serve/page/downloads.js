// The dialog of files to download, of one image or of all.

import * as api from "./api.js";

const EVERYTHING = ["csv", "labels", "overlay"];

export class Downloads {
  // told: {images(all) -> items with results, settings(), problem(), say()}
  constructor(formats, told) {
    this.told = told;
    this.dialog = document.getElementById("downloads");
    const list = document.getElementById("formats");
    for (const { name, title, description } of formats) {
      const item = document.createElement("li");
      const button = document.createElement("button");
      const note = document.createElement("small");
      button.type = "button";
      button.textContent = title;
      button.dataset.format = name;
      note.textContent = description;
      button.append(note);
      button.addEventListener("click", () => this.get([name]));
      item.append(button);
      list.append(item);
    }
    document.getElementById("everything").addEventListener(
      "click", () => this.get(EVERYTHING));
  }

  open() {
    const n = this.told.images(true).length;
    if (!n) return;
    const scope = document.getElementById("scope");
    scope.hidden = n < 2;
    scope.querySelector("[value=all] + span").textContent = `All ${n} images`;
    const [one, all] = scope.querySelectorAll("input");
    one.disabled = !this.told.images(false).length;
    if (n < 2) one.checked = true;
    if (one.disabled) all.checked = true;
    this.dialog.showModal();
  }

  async get(formats) {
    const all = document.querySelector("#scope [value=all]").checked;
    const items = this.told.images(all);
    this.dialog.close();
    if (!items.length) return;
    this.told.say("Preparing the download…");
    try {
      const ids = items.map((item) => item.id);
      const { name, content } = await api.file(
        ids, formats, this.told.settings());
      const link = document.createElement("a");
      link.href = URL.createObjectURL(content);
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      this.told.say(`Downloaded ${name}.`);
    } catch (problem) {
      this.told.say("");
      const gone = problem.status === 404 && items.length > 1;
      this.told.problem(gone
        ? "The server does not hold all of these images any more, as its "
          + "memory is bounded. Download them in smaller groups, or use "
          + "`seg predict` for folders."
        : problem.message);
    }
  }
}
