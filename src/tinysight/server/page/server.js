// Ask the server: a few pictures at a time, and again where it is busy.

const AT_ONCE = 4;
const PAUSE = 500; // milliseconds before a busy server is asked again

// Return the JSON of an answer. A value `error` is what went wrong, in words, and is thrown.
export async function call(path, options = {}) {
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      throw new Error("The server does not answer: it was stopped, or a file has moved.");
    }
    if (answer.status === 503) {
      await new Promise((done) => setTimeout(done, PAUSE * (1 + Math.random())));
      continue;
    }
    const content = await answer.json().catch(() => ({ error: `error ${answer.status}` }));
    if (content.error) throw new Error(content.error);
    return content;
  }
}

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
