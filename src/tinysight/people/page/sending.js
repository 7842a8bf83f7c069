// Answers wait in this browser until the server says that each is kept.

const PAUSE = 1000; // milliseconds before the server is asked again
export const GONE = "There is no game of this code any more: its answers were deleted.";
const REASONS = { // by the status; 0: no answer
  0: "The server does not answer.",
  403: "The quiz has a new link: open it, too.",
  404: GONE,
  503: "The quiz cannot keep answers at the moment.",
};

const ELSEWHERE = "An image was answered in another window before: that answer counts.";

export const pause = () => new Promise((done) => setTimeout(done, PAUSE));

export function failure(status, reason) {
  const text = reason ? `${reason[0].toUpperCase()}${reason.slice(1)}.` : REASONS[status] ?? "The server cannot do this. Load the page again.";
  return Object.assign(new Error(text), { status, again: status === 0 || status === 503 });
}

// Ask the server. What is thrown has words for a person: the server's own only where it refuses.
export async function call(path, options = {}, form = "json") {
  const answer = await fetch(path, options).catch(() => null);
  const content = await answer?.[answer.ok ? form : "json"]().catch(() => null);
  if (answer?.ok && content) return content;
  const status = answer && !answer.ok ? answer.status : 0;
  throw failure(status, status === 400 && content?.error);
}

const waitingName = (code) => `tinysight-outbox-${code}`;
const draftName = (code) => `tinysight-draft-${code}`;

// The guesses of a person's image that has room for more; they wait here to be sent as one answer.
export const draft = (code) => JSON.parse(localStorage.getItem(draftName(code)) ?? "{}");
export const keepDraft = (code, guessed) => localStorage.setItem(draftName(code), JSON.stringify(guessed));
export const hasDraft = (code) => localStorage.getItem(draftName(code)) !== null; // since practice is over

// Forget all that waits of a person.
export function forget(code) {
  localStorage.removeItem(waitingName(code));
  localStorage.removeItem(draftName(code));
}

export class Outbox {
  #sending = false;

  // `changed` gets what to say of what waits, when it begins and ends; `refused` gets the key
  // of an answer that is not kept, and what to say if another is.
  constructor(code, changed, refused) {
    this.code = code;
    this.store = waitingName(code);
    this.changed = changed;
    this.refused = refused;
  }

  get waiting() {
    return JSON.parse(localStorage.getItem(this.store) ?? "{}");
  }

  #write(change) {
    const waiting = this.waiting; // read again: another tab may have written
    change(waiting);
    if (Object.keys(waiting).length) localStorage.setItem(this.store, JSON.stringify(waiting));
    else localStorage.removeItem(this.store); // nobody after finds the code
  }

  add(key, answer) {
    this.#write((waiting) => { waiting[key] ??= answer; });
    this.send();
  }

  async send() {
    if (this.#sending) return;
    this.#sending = true;
    let failing = false;
    for (let next; (next = Object.entries(this.waiting)[0]); ) {
      try {
        const options = { method: "POST", body: JSON.stringify(next[1]) };
        const kept = await call(`api/people/${this.code}/${next[0]}`, options);
        this.#write((waiting) => { delete waiting[next[0]]; });
        if (failing) this.changed("");
        failing = false;
        if (kept.response !== next[1].response) this.refused(next[0], ELSEWHERE);
      } catch (error) {
        if (error.status === 400) { // as where the game was deleted in the meantime
          this.#write((waiting) => { delete waiting[next[0]]; });
          this.refused(next[0], "");
          continue;
        }
        if (!failing) this.changed(`${error.message} Nothing is lost: your answers wait here and are sent later.`);
        failing = true;
        await pause();
      }
    }
    this.#sending = false;
  }

  async empty() {
    while (Object.keys(this.waiting).length) {
      this.send();
      await new Promise((done) => setTimeout(done, 50));
    }
  }
}
