// The page: pictures come in, each is asked about, the answers are arranged.

import { arranged, fillTable, label, makeCard, shown } from "./answers.js";
import { setUpBoxes } from "./boxes.js";
import { setUpCorrecting } from "./correct.js";
import { showRuns } from "./runs.js";
import { takePictures } from "./intake.js";
import { cocoOf, csvOf, save } from "../web/saving.js";
import { ask, getModels, isThere, Queue } from "./server.js";
import { drawn, SHAPES } from "./shapes.js";
import { setUpSort, showSort } from "./sort.js";
import { setUpTeach, showTeach, teachPictures } from "./teach.js";

const element = (id) => document.getElementById(id);
const UNDO_TIME = 8000; // milliseconds
const AGAIN = 3000; // milliseconds before a server that did not answer is asked again
const TRIES = 3; // of a picture that it does not answer, though it answers others

history.replaceState(null, "", location.pathname + location.hash); // the key has become a cookie
let models = {};
let chosen = "given"; // of the models
let model = null;
let items = [];
let isLost = false; // the connection

const queue = new Queue(async (item) => {
  delete item.error;
  if (models[item.model]) Object.assign(item, known(models[item.model])); // it may have been taught again
  try {
    item.answer = await answered(item);
  } catch (error) {
    if (error.lost && !items.includes(item)) return; // it is asked about when it is back
    item.error = error.message;
  }
  item.view.refresh();
  scheduleArranging();
});

// Ask about an item; where the connection is lost, again after a pause, while the item is listed.
async function answered(item) {
  let broken = 0;
  for (;;) {
    try {
      const answer = await ask(item.blob, item.model);
      isLost = false;
      return answer;
    } catch (error) {
      isLost = Boolean(error.lost) && !(await isThere());
      if (!error.lost) throw error;
      if (!isLost) broken += 1;
      if (broken === TRIES) throw new Error("The connection broke off each time that it was sent; a picture may have 20 MB.");
      scheduleArranging();
      await new Promise((done) => setTimeout(done, AGAIN));
      if (!items.includes(item)) throw error;
    }
  }
}

// What an item has of the model that answers it.
const known = (of) => ({ of, classes: of.classes, labeled: of.classifies || of.box_classes, nearest: of.nearest });

function add(pictures) {
  if (!pictures.length || !model) return;
  const added = pictures.map(({ name, blob }) => ({ name, blob, model: chosen, ...known(model), url: URL.createObjectURL(blob) }));
  for (const item of added) item.view = makeCard(item);
  items.push(...added);
  queue.add(added);
  arrange();
}

let scheduled = false;
function scheduleArranging() {
  if (scheduled) return;
  scheduled = true;
  setTimeout(() => {
    scheduled = false;
    arrange();
  }, 100);
}

function arrange() {
  element("results").hidden = !items.length;
  element("ask-examples").hidden = items.length > 0;
  offerClasses();
  const kept = arranged(items, { order: element("order").value, filter: element("filter").value });
  const asTable = element("view").value === "table";
  element("cards").hidden = asTable;
  element("table-region").hidden = !asTable;
  element("nothing").hidden = kept.length > 0 || !items.length;
  if (asTable) fillTable(element("table"), kept, finding(items).length > 0);
  else place(element("cards"), kept.map((item) => item.view.card));
  element("coco").hidden = !finding(items).length;
  const done = items.filter((item) => item.answer || item.error).length;
  const failed = items.filter((item) => item.error).length;
  const pictures = `${items.length} ${items.length === 1 ? "picture" : "pictures"}`;
  const progress = done < items.length ? `${done} of ${pictures} answered` : `${pictures} answered`;
  const lost = isLost && done < items.length ? "; the server does not answer, and is asked again every few seconds" : "";
  element("status").textContent = progress + (failed ? `, ${failed} not read` : "") + lost;
}

const finding = (some) => some.filter(({ of }) => of.finds);

// Move as few elements as possible: an element that is moved loses the focus.
function place(parent, children) {
  children.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  while (parent.children.length > children.length) parent.lastChild.remove();
}

function offerClasses() {
  const select = element("filter");
  const counts = new Map();
  for (const item of items) if (label(item)) counts.set(label(item), (counts.get(label(item)) ?? 0) + 1);
  const options = [["", `all (${items.length})`]];
  for (const name of [...counts.keys()].sort()) options.push([name, `${shown(name)} (${counts.get(name)})`]);
  const chosen = counts.has(select.value) ? select.value : "";
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  select.value = chosen;
}

let undoTimer = 0;
let forgetLast = () => {};
// Show what was done with a button that undoes it; `forget` is called once it cannot be undone.
function offerUndo(done, undo, forget = () => {}) {
  const end = () => {
    clearTimeout(undoTimer);
    element("undo").hidden = true;
    forgetLast = () => {};
  };
  forgetLast(); // this offer takes the place of the one before
  end();
  forgetLast = forget;
  element("undo-text").textContent = `${done}.`;
  element("undo").hidden = false;
  undoTimer = setTimeout(() => {
    end();
    forget();
  }, UNDO_TIME);
  element("undo-button").onclick = () => {
    end();
    undo();
  };
}

function clear() {
  const removed = items;
  items = [];
  queue.clear();
  element("saved").textContent = "";
  arrange();
  const count = removed.length === 1 ? "1 picture" : `${removed.length} pictures`;
  const undo = () => {
    items = [...removed, ...items];
    queue.add(removed.filter((item) => !item.answer && !item.error));
    arrange();
    element("clear").focus();
  };
  const forget = () => {
    for (const item of removed) if (!items.includes(item)) URL.revokeObjectURL(item.url);
  };
  offerUndo(`${count} cleared`, undo, forget);
  element("undo-button").focus();
}

for (const id of ["filter", "order", "view"]) element(id).addEventListener("change", arrange);
element("clear").addEventListener("click", clear);
const saved = (name, option, written) => {
  const left = written.filter((item) => !item.answer && !item.error).length;
  const part = left ? `, without ${left} of ${written.length} pictures that are not answered yet` : "";
  const others = items.length - written.length;
  const without = others ? `, without ${others} whose model finds no boxes` : "";
  const commands = [...new Set(written.map(({ of }) => `${of.command} FOLDER ${option} ${name}`))];
  element("saved").textContent = `${name} is saved${part}${without}. The same by command: ${commands.join("; of the other model: ")}`;
};
element("csv").addEventListener("click", () => {
  save(csvOf(items, model), "answers.csv", "text/csv");
  saved("answers.csv", "--csv", items);
});
element("coco").addEventListener("click", () => {
  save(cocoOf(items, model), "boxes.json", "application/json");
  saved("boxes.json", "--boxes-out", finding(items));
});
element("ask-examples").addEventListener("click", async () => {
  add((await Promise.all(Object.keys(SHAPES).map((name) => drawn(name, 1)))).flat());
});
element("models").addEventListener("change", chooseModel);
element("try").addEventListener("click", () => {
  element("models").value = "taught";
  chooseModel();
  location.hash = "#ask";
  element("choose").focus();
});
setUpTeach({ offerUndo, onLearned: loadModels });
setUpBoxes({ offerUndo });
setUpCorrecting({
  offerUndo,
  learnedAgain: async (asked) => {
    await loadModels();
    queue.add(asked);
  },
});
setUpSort({
  offerUndo,
  onLearned: loadModels,
  onAsked: (pictures) => {
    location.hash = "#ask";
    add(pictures);
  },
});
takePictures((pictures, target) => {
  if (location.hash === "#teach") {
    teachPictures(pictures, target);
  } else {
    if (["#runs", "#sort"].includes(location.hash)) location.hash = "#ask";
    add(pictures);
  }
});

const VIEWS = ["ask", "teach", "sort", "runs"];
function showView() {
  const name = VIEWS.find((each) => location.hash === `#${each}`) ?? "ask";
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  showTeach(name === "teach");
  showSort(name === "sort");
  showRuns(name === "runs");
}
window.addEventListener("hashchange", showView);
showView();

// A change of model applies to the pictures that come next.
function chooseModel() {
  chosen = element("models").value;
  model = models[chosen];
  element("model").textContent = model.description;
}

async function loadModels() {
  try {
    models = await getModels();
    const names = { given: "given", taught: "taught here" };
    element("models").replaceChildren(...Object.keys(models).map((name) => new Option(names[name], name)));
    element("models").value = chosen;
    element("which").hidden = Object.keys(models).length < 2;
    element("model").classList.remove("error");
    chooseModel();
  } catch (error) {
    element("model").textContent = error.message;
    element("model").classList.add("error");
  }
}
await loadModels();
