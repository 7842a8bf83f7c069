// Ask the server: a few pictures at a time, and again where it is busy.

const AT_ONCE = 4;
const PAUSE = 500; // milliseconds before a busy server is asked again
const REFUSED = "The server does not know this page: open the link that it printed again.";

// Return the JSON of an answer. A value `error` is what went wrong, in words, and is thrown; where
// no answer came, the error is marked as `lost`.
export async function call(path, options = {}) {
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      if (!(await isReadable(options.body))) throw new Error("The file cannot be read any more: it was moved or changed.");
      throw Object.assign(new Error("The server does not answer: was it stopped?"), { lost: true });
    }
    if (answer.status === 503) {
      await new Promise((done) => setTimeout(done, PAUSE * (1 + Math.random())));
      continue;
    }
    const content = await answer.json().catch(() => ({ error: answer.status === 403 ? REFUSED : `error ${answer.status}` }));
    if (content.error) throw new Error(content.error);
    return content;
  }
}

const isReadable = (body) => !(body instanceof Blob) || body.slice(0, 1).arrayBuffer().then(() => true, () => false);

// Whether the server answers at all.
export const isThere = () => fetch("healthz").then(({ ok }) => ok, () => false);

export const getModels = () => call("api/models");

export const ask = (blob, model) => call(`api/predict?model=${model}`, { method: "POST", body: blob });

// Work through a list that may grow in the meantime, AT_ONCE items at a time.
export class Queue {
  #waiting = [];
  #running = 0;

  constructor(work) {
    this.work = work;
  }

  add(items) {
    this.#waiting.push(...items);
    while (this.#running < AT_ONCE && this.#waiting.length) this.#run();
  }

  clear() {
    this.#waiting = [];
  }

  async #run() {
    this.#running += 1;
    while (this.#waiting.length) await this.work(this.#waiting.shift());
    this.#running -= 1;
  }
}
