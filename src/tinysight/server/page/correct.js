// Correct an answer: by a click on another one, or by a name that is typed. Every correction can be undone.

import { create, isolated, shown } from "./answers.js";
import { call } from "./server.js";

let hooks = { offerUndo() {}, learnedAgain() {} };

export function setUpCorrecting(given) {
  hooks = given;
}

const post = (item, old, wanted) => {
  const query = new URLSearchParams({ name: item.name, old, ...(wanted === null ? {} : { new: wanted }) });
  return call(`api/corrections?${query}`, { method: "POST", body: item.blob });
};

// A button of an answer, and what it opens.
export function correcting(item) {
  if (!item.answer.top.length) return [];
  const status = create("p", { role: "status", className: "quiet" });
  const form = create("form", { className: "correct", hidden: true });
  const button = create("button", { type: "button", textContent: "Correct" });
  button.setAttribute("aria-expanded", "false");
  const open = (wanted) => {
    form.hidden = !wanted;
    button.setAttribute("aria-expanded", String(wanted));
    (wanted ? form.querySelector("input") : button).focus();
  };
  button.addEventListener("click", () => {
    if (!form.children.length) fill(form, item, keep);
    open(form.hidden);
  });
  form.addEventListener("keydown", (event) => event.key === "Escape" && !event.isComposing && open(false));

  async function keep(name) {
    if (!name) return;
    const old = item.corrected ?? item.answer.top[0].class;
    const before = item.corrected;
    const change = async (from, to) => {
      say("");
      try {
        await post(item, from, to);
        item.corrected = to ?? undefined;
        if (to === null) say("The correction is taken back.");
        else show(name);
      } catch (error) {
        say(error.message, true);
      }
    };
    await change(old, name);
    if (item.corrected !== name) return;
    open(false);
    hooks.offerUndo(`Corrected to ${shown(name)}`, () => change(name, before ?? null));
  }

  async function show(name) {
    if (item.learned) {
      const undo = create("button", { type: "button", textContent: "Undo" });
      undo.addEventListener("click", item.learned.undo);
      status.replaceChildren("Learned as: ", isolated(item.learned.name), " ", undo);
      return;
    }
    status.replaceChildren("Corrected: ", isolated(item.corrected));
    if (item.model !== "taught" || !(await call("api/project")).learned) return; // sorted ones have no class folders
    const learn = create("button", { type: "button", textContent: "Learn with it" });
    learn.addEventListener("click", () => learnWith(name));
    status.append(" ", learn);
  }

  // The picture becomes one of the class in the project, and the classes are learned again.
  async function learnWith(name) {
    const path = `api/project/${encodeURIComponent(name)}`;
    const relearn = async (change) => {
      say("Learning…");
      try {
        const done = await change();
        await call("api/learn", { method: "POST" });
        return done;
      } catch (error) {
        item.failure = error.message; // the card may have been drawn again since
        item.view.refresh();
        return null;
      }
    };
    const added = await relearn(async () => {
      await call(path, { method: "PUT" });
      return call(path, { method: "POST", body: item.blob });
    });
    if (!added) return;
    const file = `${path}/${encodeURIComponent(added.file)}`;
    const undo = async () => {
      if (!(await relearn(() => call(file, { method: "DELETE" })))) return;
      delete item.learned;
      hooks.learnedAgain([item]);
    };
    item.learned = { name, undo };
    hooks.learnedAgain([item]);
    hooks.offerUndo(`A picture of ${shown(name)} learned`, undo);
  }

  function say(text, wrong = false) {
    status.textContent = text;
    status.classList.toggle("error", wrong);
  }

  if (item.failure) say(item.failure, true);
  else if (item.corrected) show(item.corrected);
  delete item.failure;
  return [button, form, status];
}

function fill(form, item, keep) {
  const others = item.answer.top.slice(item.answer.none ? 0 : 1, 4).map(({ class: name }) => {
    const button = create("button", { type: "button" }, isolated(name));
    button.addEventListener("click", () => keep(name));
    return button;
  });
  const input = create("input", { maxLength: 80, autocomplete: "off", placeholder: "type a class" });
  input.setAttribute("aria-label", "The right class");
  input.setAttribute("list", known(item));
  form.append(create("div", { className: "row" }, ...others), create("div", { className: "row" }, input, create("button", { textContent: "Keep" })));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    keep(input.value.trim());
  });
}

// One list of class names for all answers of a model.
function known({ model, classes }) {
  const id = `classes-${model}`;
  document.getElementById(id)?.remove();
  document.body.append(create("datalist", { id }, ...classes.map((name) => new Option(shown(name), name))));
  return id;
}
