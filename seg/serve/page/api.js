// The server's API. Whatever fails is a Problem with a sentence for people.

export class Problem extends Error {
  constructor(sentence, status = 0, choose = null) {
    super(sentence);
    this.status = status;
    this.choose = choose; // of a stack: {axis: how many}
  }
}

const N_TRIES = 30; // of a server that is busy

async function ask(path, options = {}) {
  for (let i = 1; ; i++) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(
        "The seg server does not answer. Is it still running in its terminal?");
    }
    if (answer.ok) return answer;
    if (answer.status === 429 && i < N_TRIES) {
      const wait = Number(answer.headers.get("Retry-After")) || 2;
      await new Promise((done) => setTimeout(done, wait * 1000));
      continue;
    }
    const told = await answer.json().catch(() => ({}));
    throw new Problem(
      told.error || `The server answered with an error (${answer.status}).`,
      answer.status, told.choose);
  }
}

function query(settings, more = {}) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...settings, ...more })) {
    for (const one of [value].flat()) found.append(name, one);
  }
  return found;
}

export const about = async () => (await ask("api/about")).json();

export const example = async () => (await ask("api/example.png")).blob();

export async function upload(file, name, model, select, settings) {
  const more = { name, model, select };
  const path = `api/images?${query(settings, more)}`;
  const type = "application/octet-stream";
  const headers = { "Content-Type": type };
  return (await ask(path, { method: "POST", body: file, headers })).json();
}

export async function found(id, settings) {
  return (await ask(`api/images/${id}?${query(settings)}`)).json();
}

export async function labels(id, settings) {
  const answer = await ask(`api/images/${id}/labels?${query(settings)}`);
  return new Uint32Array(await answer.arrayBuffer());
}

export async function picture(id, side = 0) {
  const answer = await ask(`api/images/${id}/image.png?side=${side}`);
  return answer.blob();
}

export async function file(ids, formats, settings) {
  const single = ids.length === 1 && formats.length === 1;
  const answer = await ask(single
    ? `api/images/${ids[0]}/files/${formats[0]}?${query(settings)}`
    : `api/files?${query(settings, { id: ids, format: formats })}`);
  const told = answer.headers.get("Content-Disposition") || "";
  const name = /filename\*=UTF-8''(.+)$/.exec(told);
  return {
    name: name ? decodeURIComponent(name[1]) : "results",
    content: await answer.blob(),
  };
}

// While the page goes too: keepalive lets the request outlive it.
export function forget(id) {
  fetch(`api/images/${id}`, { method: "DELETE", keepalive: true })
    .catch(() => {});
}
