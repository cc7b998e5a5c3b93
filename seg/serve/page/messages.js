// What the page says: problems in a banner, all else in the line below.

const N_PROBLEMS = 4; // shown at a time

export const $ = (id) => document.getElementById(id);

export function problem(sentence) {
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

export function say(text) {
  $("status").textContent = text;
}

// Pairs of a name and its value into a list of terms.
export function fillList(list, pairs) {
  list.replaceChildren(...pairs.flatMap(([name, value]) => {
    const [term, text] = ["dt", "dd"].map((kind) => document.createElement(kind));
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
}
