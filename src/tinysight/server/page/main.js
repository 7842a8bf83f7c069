// The page: pictures come in, each is asked about, the answers are arranged.

import { arranged, fillTable, label, makeCard, shown } from "./answers.js";
import { setUpBoxes } from "./boxes.js";
import { setUpCorrecting } from "./correct.js";
import { showRuns } from "./runs.js";
import { takePictures } from "./intake.js";
import { cocoOf, csvOf, save } from "../web/saving.js";
import { ask, getModels, Queue } from "./server.js";
import { drawn, SHAPES } from "./shapes.js";
import { setUpSort, showSort } from "./sort.js";
import { refresh, setUpTeach, showTeach, teachPictures } from "./teach.js";

const element = (id) => document.getElementById(id);
const UNDO_TIME = 8000; // milliseconds

history.replaceState(null, "", location.pathname + location.hash); // the key has become a cookie
let models = {};
let chosen = "given"; // of the models
let model = null;
let items = [];

const queue = new Queue(async (item) => {
  try {
    item.answer = await ask(item.blob, item.model);
  } catch (error) {
    item.error = error.message;
  }
  item.view.refresh();
  scheduleArranging();
});

function add(pictures) {
  if (!pictures.length || !model) return;
  const added = pictures.map(({ name, blob }) => ({ name, blob, model: chosen, classes: model.classes, labeled: model.classifies || model.box_classes, nearest: model.nearest, url: URL.createObjectURL(blob) }));
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
  if (asTable) fillTable(element("table"), kept, model.finds);
  else place(element("cards"), kept.map((item) => item.view.card));
  const done = items.filter((item) => item.answer || item.error).length;
  const failed = items.filter((item) => item.error).length;
  const pictures = `${items.length} ${items.length === 1 ? "picture" : "pictures"}`;
  const progress = done < items.length ? `${done} of ${pictures} answered` : `${pictures} answered`;
  element("status").textContent = progress + (failed ? `, ${failed} not read` : "");
}

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
// Show what was done with a button that undoes it; `forget` is called once it cannot be undone.
function offerUndo(done, undo, forget = () => {}) {
  element("undo-text").textContent = `${done}.`;
  element("undo").hidden = false;
  clearTimeout(undoTimer);
  undoTimer = setTimeout(() => {
    element("undo").hidden = true;
    forget();
  }, UNDO_TIME);
  element("undo-button").onclick = () => {
    clearTimeout(undoTimer);
    element("undo").hidden = true;
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
const saved = (name, option) => {
  const left = items.filter((item) => !item.answer && !item.error).length;
  const part = left ? `, without ${left} of ${items.length} pictures that are not answered yet` : "";
  element("saved").textContent = `${name} is saved${part}. The same by command: ${model.command} FOLDER ${option} ${name}`;
};
element("csv").addEventListener("click", () => {
  save(csvOf(items, model), "answers.csv", "text/csv");
  saved("answers.csv", "--csv");
});
element("coco").addEventListener("click", () => {
  save(cocoOf(items, model), "boxes.json", "application/json");
  saved("boxes.json", "--boxes-out");
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
setUpTeach({
  offerUndo: (done, undo) => offerUndo(done, async () => {
    await undo();
    await refresh();
  }),
  onLearned: loadModels,
});
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
  element("coco").hidden = !model.finds;
}

async function loadModels() {
  try {
    models = await getModels();
    const names = { given: "given", taught: "taught here" };
    element("models").replaceChildren(...Object.keys(models).map((name) => new Option(names[name], name)));
    element("models").value = chosen;
    element("which").hidden = Object.keys(models).length < 2;
    chooseModel();
  } catch (error) {
    element("model").textContent = error.message;
    element("model").classList.add("error");
  }
}
await loadModels();
