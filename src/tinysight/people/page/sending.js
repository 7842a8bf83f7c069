// Answers wait in this browser until the server says that each is kept.

const PAUSE = 1000; // milliseconds before the server is asked again

export async function call(path, options = {}) {
  const answer = await fetch(path, options);
  const content = await answer.json().catch(() => ({ error: `error ${answer.status}` }));
  if (content.error) throw Object.assign(new Error(content.error), { status: answer.status });
  return content;
}

export class Outbox {
  #sending = false;

  constructor(code, changed) {
    this.code = code;
    this.store = `tinysight-outbox-${code}`;
    this.changed = changed;
  }

  get waiting() {
    return JSON.parse(localStorage.getItem(this.store) ?? "{}");
  }

  #write(change) {
    const waiting = this.waiting; // read again: another tab may have written
    change(waiting);
    localStorage.setItem(this.store, JSON.stringify(waiting));
  }

  add(key, answer) {
    this.#write((waiting) => { waiting[key] ??= answer; });
    this.send();
  }

  async send() {
    if (this.#sending) return;
    this.#sending = true;
    for (let next; (next = Object.entries(this.waiting)[0]); ) {
      try {
        const options = { method: "POST", body: JSON.stringify(next[1]) };
        await call(`api/people/${this.code}/${next[0]}`, options);
        this.#write((waiting) => { delete waiting[next[0]]; });
        this.changed("");
      } catch (error) {
        if (error.status === 400) { // deleted in the meantime: nothing to keep it for
          this.#write((waiting) => { delete waiting[next[0]]; });
          this.changed(error.message);
          continue;
        }
        const text = error.status === 403 ? "The quiz has a new link: open it, too." : "The server does not answer.";
        this.changed(`${text} Go on: your answers wait here and are sent later.`);
        await new Promise((done) => setTimeout(done, PAUSE));
      }
    }
    this.#sending = false;
    this.changed(null);
  }

  async empty() {
    while (Object.keys(this.waiting).length) {
      this.send();
      await new Promise((done) => setTimeout(done, 50));
    }
  }
}
