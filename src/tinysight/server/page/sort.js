// Sort: the pictures of a folder in groups, labeled many at once by one key. Every change can be undone.

import { create, isolated, isUndo, percent, shown } from "./answers.js";
import { call } from "./server.js";

const MODELS = { given: "given", taught: "taught here" };
const KEYS = [..."1234567890abcdefghijklmnopqrstuvwxyz"];
const EVERY = 400; // milliseconds between looks at a folder that is being read
const AGAIN = 3000; // after no answer
const PAUSE = 1200; // milliseconds without a label before a model is judged
const LOOK = 300; // milliseconds in which nobody has seen which group came
const CHOICE = 300; // milliseconds that a choice stands before it is taken
const MAX_SHOWN = 120; // pictures of a class
const element = (id) => document.getElementById(id);
const post = (path, content) => call(`api/sort/${path}`, { method: "POST", body: JSON.stringify(content ?? {}) });

let state = { classes: [] };
let made = []; // classes without a picture yet
let groups = [];
let listed = []; // groups as they are shown: these, or the class's pictures
const leaving = new Set(); // pictures whose new label is on its way to the server
let held = new Map(); // keys by class, as they were shown last
let showing = ""; // the class whose pictures are shown
let anchor = null; // where a range begins
let undone = []; // what Ctrl+Z takes back, the latest last
let arranging = null; // a request under way
let line = Promise.resolve(); // changes of labels, one after the other
let refreshing = 0; // the number of the latest
let visible = false;
let turn = 0; // of looks at the folder: only the latest goes on
let busy = 0; // acts under way
let unseen = 0; // groups that came by themselves, until they can have been seen
let stale = false; // labels came since
let timer = 0;
let choosing = 0; // the timer of a choice of what proposes classes
let judging = 0; // the timer of a judgment, which waits for a pause
let hooks = { offerUndo() {}, onLearned() {}, onAsked() {} };

export function setUpSort(given) {
  hooks = given;
  element("sort-groups").addEventListener("keydown", onKey);
  element("sort-groups").addEventListener("click", onClick);
  element("sort-groups").addEventListener("focusin", ({ target }) => target.role === "option" && stand(target));
  element("sort").addEventListener("keydown", (event) => {
    if (isUndo(event) && !(event.target.tagName === "INPUT" && event.target.value)) {
      event.preventDefault();
      undo();
    }
  });
  element("sort-name").addEventListener("submit", (event) => {
    event.preventDefault();
    named(element("sort-class").value.trim().normalize("NFC"));
  });
  element("sort-undo").addEventListener("click", undo);
  element("sort-learn").addEventListener("click", learn);
  element("sort-ask").addEventListener("click", ask);
  element("sort-model").addEventListener("change", ({ target: { value } }) => {
    clearTimeout(choosing); // an arrow key passes by others
    choosing = setTimeout(() => {
      const before = state.proposing ?? "";
      if (value === before) return;
      const words = value ? "The model proposes classes" : "Classes are proposed by the labels here";
      propose(value, () => undoable(words, () => propose(before)));
    }, CHOICE);
  });
  element("sort-folders").addEventListener("click", async () => {
    if (await leaveFolders("folders")) undoable("Pictures in class folders are sorted, too", () => leaveFolders("folders?are_classes"));
  });
}

// What can be taken back; `back` returns whether it was.
function undoable(words, back) {
  undone.push({ words, back });
  update();
  hooks.offerUndo(words, undo);
}

async function leaveFolders(path) {
  fail("");
  if (!(await attempt(() => post(path)))) return false;
  await refresh();
  arrange();
  return true;
}

async function propose(name, done = () => {}) {
  fail("");
  const found = await attempt(() => post(`propose${name ? `?model=${name}` : ""}`));
  remember(found ? name : state.proposing ?? "");
  if (!found) {
    update(); // the choice is as before
    return false;
  }
  done();
  showing = "";
  await look();
  return true;
}

// The model given is asked again after the server was started again.
const PLACE = "tinysight-propose";
const remember = (name) => localStorage.setItem(PLACE, name === "given" ? `${name} ${state.folder}` : "");
const isRemembered = () => !state.proposing && state.models.given && localStorage.getItem(PLACE) === `given ${state.folder}`;

// A class that was typed: of the chosen pictures; with none chosen it is new, and gets a key.
function named(name) {
  if (!name) return;
  element("sort-class").value = "";
  fail("");
  const pictures = marked();
  if (pictures.length) {
    label(pictures, name).then((done) => {
      if (done) return current()?.focus();
      element("sort-class").value = name; // refused: to be corrected
      element("sort-class").focus();
    });
  } else if (!names().includes(name)) {
    made.push(name);
    update();
    current()?.focus();
    hooks.offerUndo(`Class ${shown(name)} made`, () => {
      made = made.filter((other) => other !== name);
      update();
    });
  }
}

export async function showSort(on) {
  clearTimeout(timer);
  visible = on;
  turn += 1;
  if (!visible) return;
  for (const option of marked()) mark(option, false); // what was chosen may have a label by now
  await look("?look");
}

async function look(query = "") {
  clearTimeout(timer);
  if (!visible) return; // it is looked at when the view is opened again
  turn += 1;
  const own = turn;
  try {
    const found = await call(`api/sort${query}`);
    if (own !== turn) return;
    state = found;
  } catch (error) {
    if (own !== turn) return;
    say("");
    fail(`${error.message} It is asked again every few seconds.`);
    timer = setTimeout(look, AGAIN, query);
    return;
  }
  fail("");
  const { looking, done, total } = state;
  element("sort-progress").hidden = !looking;
  element("sort-work").hidden = looking || !state.pictures;
  element("sort-empty").hidden = looking || state.pictures > 0;
  if (looking) {
    element("sort-progress").value = total ? done / total : 0;
    say(total ? `Looking at the pictures: ${done} of ${total}` : "Looking at the folder…");
    state.classes = [];
    timer = setTimeout(look, EVERY);
    return;
  }
  if (isRemembered() && (await propose("given"))) return;
  update();
  await arrange();
}

async function refresh() {
  refreshing += 1;
  const own = refreshing;
  const found = await attempt(() => call("api/sort"));
  if (!found || own !== refreshing) return; // a later one knows more
  if (found.looking) { // the server was started again
    await look();
    return;
  }
  state = found;
  update();
}

const names = () => [...new Set([...state.classes.map(({ name }) => name), ...made])];

// Classes that are shown: all, or of many those that have a picture.
function buttons() {
  if (names().length <= KEYS.length) return names();
  const counts = new Map(state.classes.map(({ name, count }) => [name, count]));
  return names().filter((name) => counts.get(name) || made.includes(name));
}

// A class of one letter or digit has that key, the others the next that is free; a class keeps its
// key while it is shown, whatever classes come.
function keys() {
  const present = buttons();
  const own = new Map();
  for (const name of present) if (KEYS.includes(name.toLowerCase()) && ![...own.values()].includes(name.toLowerCase())) own.set(name, name.toLowerCase());
  const taken = new Set(own.values());
  for (const name of present) {
    const before = held.get(name);
    if (own.has(name) || !before || taken.has(before)) continue;
    own.set(name, before);
    taken.add(before);
  }
  const free = KEYS.filter((key) => !taken.has(key));
  for (const name of present) if (!own.has(name) && free.length) own.set(name, free.shift());
  held = own;
  return own;
}

function update() {
  if (state.looking) return;
  const { in_folders: inFolders, num_failed: failed, folder, commands } = state;
  const unread = failed ? ` ${failed} not read, such as ${shown(state.failed[0])}.` : "";
  say(progress() + unread);
  if (!state.labeled) note("");
  element("sort-folders").hidden = !inFolders;
  element("sort-folders").textContent = `Sort the ${inFolders} in class folders, too`;
  element("sort-ask").hidden = element("sort-work").hidden;
  element("sort-learn").disabled = state.classes.filter(({ count }) => count > 0).length < 2;
  element("sort-undo").disabled = !undone.length;
  element("sort-empty").firstChild.textContent = `There are no pictures in ${shown(folder)}. Give the folder to sort by: `;
  element("sort-commands").replaceChildren(`Labels are kept in ${shown(folder)}/corrections.jsonl; no picture is changed. The same by command: `,
    create("code", { textContent: commands.join(" && ") }));
  const own = keys();
  const counts = new Map(state.classes.map(({ name, count }) => [name, count]));
  const focused = document.activeElement?.dataset?.class;
  element("sort-classes").replaceChildren(...buttons().map((name) => {
    const key = own.get(name);
    const button = create("button", { type: "button", title: `Label the chosen pictures ${shown(name)}; with none chosen, show its pictures` },
      ...(key ? [create("kbd", { textContent: key })] : []), isolated(name), create("span", { className: "quiet", textContent: counts.get(name) ?? 0 }));
    button.dataset.class = name;
    button.setAttribute("aria-pressed", String(name === showing));
    button.addEventListener("click", ({ detail }) => {
      if (detail > 1) return; // the second of a double click
      if (marked().length) label(marked(), name);
      else show(name);
    });
    return create("li", {}, button);
  }));
  for (const button of element("sort-classes").querySelectorAll("button")) if (button.dataset.class === focused) button.focus();
  const models = Object.entries(state.models ?? {}).map(([name, classes]) => new Option(`model ${MODELS[name]}: ${some(classes)}`, name));
  element("sort-model").replaceChildren(new Option("what is labeled here", ""), ...models);
  element("sort-model").value = state.proposing ?? "";
  element("sort-which").hidden = !models.length;
  element("sort-known").replaceChildren(...names().map((name) => new Option(shown(name), name)));
}

function some(classes) {
  const first = classes.slice(0, 3).map((name) => shown(name).slice(0, 20)).join(", ");
  return classes.length > 3 ? `${first} and ${classes.length - 3} more` : first;
}

function progress() {
  const { pictures, labeled } = state;
  return `${labeled} of ${pictures} pictures labeled.${pictures && labeled === pictures ? " All are labeled." : ""}`;
}

// Say that the groups are busy until `act` is done, and what it calls.
async function busily(act) {
  busy += 1;
  element("sort-groups").setAttribute("aria-busy", "true");
  try {
    return await act();
  } finally {
    busy -= 1;
    if (!busy) element("sort-groups").removeAttribute("aria-busy");
  }
}

// Ask for groups, unless they are being asked for: then once more after that.
async function arrange() {
  stale = true;
  if (arranging || state.looking) return arranging;
  arranging = busily(async () => {
    while (stale) {
      stale = false;
      const found = await attempt(() => post("groups"));
      if (!found) break;
      groups = found.groups;
    }
    arranging = null;
    if (!showing && !marked().length) await drawAnew();
    clearTimeout(judging);
    judging = setTimeout(judge, PAUSE);
  });
  return arranging;
}

// A key or click is for the groups that were seen before it, so that those that have just come take none.
async function drawAnew() {
  const before = listed;
  draw();
  if (!before.length || JSON.stringify(before) === JSON.stringify(listed)) return;
  unseen += 1;
  await new Promise((resolve) => setTimeout(resolve, LOOK));
  unseen -= 1;
}

const isUnseen = () => unseen > 0 && (say("These groups have just come: look at them first."), true);

async function judge() {
  if (!state.labeled) return note("");
  const found = await attempt(() => post("judge"));
  if (!found || arranging) return;
  if (found.error_rate === undefined) return note("Label pictures of two classes, and how good a model they make is shown.");
  note(`A model of these labels is right for ${percent(1 - found.error_rate)} of labeled pictures that it had not seen (probably ${percent(1 - found.high)} to ${percent(1 - found.low)}).`);
}

async function show(name) {
  showing = showing === name ? "" : name;
  update();
  if (!showing) {
    draw();
    return;
  }
  const found = await attempt(() => call(`api/sort/class/${encodeURIComponent(name)}`));
  if (found && showing === name) draw([{ class: name, pictures: found.pictures.slice(0, MAX_SHOWN), total: found.pictures.length }]);
}

function draw(drawn = groups) {
  const inside = element("sort-groups").contains(document.activeElement);
  listed = drawn;
  element("sort-groups").replaceChildren(...without(listed, leaving).map(section));
  anchor = null;
  const first = options()[0];
  if (!first) return;
  first.tabIndex = 0;
  if (inside || document.activeElement === document.body) first.focus({ preventScroll: !inside });
}

const without = (all, gone) => all.map((group) => ({ ...group, pictures: group.pictures.filter(({ id }) => !gone.has(id)) })).filter(({ pictures }) => pictures.length);

function section({ class: name, pictures, total }, index) {
  const count = total ?? pictures.length;
  const what = showing ? "Labeled " : name === null ? "Alike, of no class yet" : "Probably ";
  const title = create("h2", { id: `sort-group-${index}` }, what, ...(name === null ? [] : [isolated(name)]));
  const all = create("button", { type: "button", textContent: "Choose all" });
  all.dataset.act = "all";
  const head = create("div", { className: "row" }, title, create("span", { className: "quiet", textContent: count }), all);
  if (name !== null && !showing) {
    const accept = create("button", { type: "button" }, "All are ", isolated(name), " ", create("kbd", { textContent: "Enter" }));
    accept.dataset.act = "accept";
    head.append(accept);
  }
  const list = create("div", { className: "sheet", role: "listbox" });
  list.setAttribute("aria-multiselectable", "true");
  list.setAttribute("aria-labelledby", title.id);
  list.append(...pictures.map(({ id, name: file }) => {
    const option = create("div", { role: "option", tabIndex: -1, title: shown(file) }, create("img", { src: `api/sort/picture/${id}`, alt: shown(file), loading: "lazy", draggable: false }));
    option.dataset.id = id;
    option.setAttribute("aria-selected", "false");
    return option;
  }));
  const panel = create("section", { className: "panel group" }, head, list);
  if (name !== null) panel.dataset.class = name;
  return panel;
}

const options = (root = element("sort-groups")) => [...root.querySelectorAll("[role=option]")];
const marked = () => options().filter((option) => option.getAttribute("aria-selected") === "true");
const current = () => element("sort-groups").querySelector("[role=option][tabindex='0']");
// What a key labels: the chosen pictures, else the one that has the focus.
const chosen = () => (marked().length ? marked() : [current()].filter(Boolean));
const mark = (option, on) => option.setAttribute("aria-selected", String(on));

function stand(option) {
  const before = current();
  if (before) before.tabIndex = -1;
  option.tabIndex = 0;
}

function range(from, to) {
  const all = options();
  const [first, last] = [all.indexOf(from), all.indexOf(to)].sort((a, b) => a - b);
  all.forEach((option, place) => mark(option, place >= first && place <= last));
}

function onClick(event) {
  const act = event.target.closest("[data-act]")?.dataset.act;
  const group = event.target.closest(".group");
  if (act === "all") {
    for (const option of options()) mark(option, group.contains(option));
    options(group)[0].focus();
  }
  if (act === "accept" && event.detail <= 1 && !isUnseen()) label(options(group), group.dataset.class); // no second of a double click
  const option = event.target.closest("[role=option]");
  if (!option) return;
  if (event.shiftKey && anchor?.isConnected) range(anchor, option);
  else if (event.ctrlKey || event.metaKey) mark(option, option.getAttribute("aria-selected") !== "true");
  else {
    const alone = marked().length === 1 && marked()[0] === option;
    for (const other of marked()) mark(other, false);
    mark(option, !alone);
  }
  if (!event.shiftKey || !anchor?.isConnected) anchor = option;
  option.focus();
}

const STEPS = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

function onKey(event) {
  const option = event.target.closest("[role=option]");
  if (!option || event.isComposing) return;
  const labelOnce = (pictures, name) => event.repeat || isUnseen() || label(pictures, name); // a held key is one
  const control = event.ctrlKey || event.metaKey;
  const group = option.closest(".group");
  const own = [...keys()].find(([, key]) => key === event.key.toLowerCase());
  if (event.key in STEPS || event.key === "ArrowUp" || event.key === "ArrowDown") {
    const target = next(option, event.key);
    if (event.shiftKey) {
      if (!anchor?.isConnected || !marked().length) anchor = option;
      range(anchor, target);
    } else if (!control) {
      for (const other of marked()) mark(other, false);
    }
    target.focus();
    if (!event.shiftKey) anchor = target;
  } else if (control && event.key.toLowerCase() === "a") {
    for (const other of options()) mark(other, group.contains(other));
  } else if (event.key === " ") {
    mark(option, option.getAttribute("aria-selected") !== "true");
    anchor = option;
  } else if (event.key === "Escape") {
    for (const other of marked()) mark(other, false);
  } else if (event.key === "Enter" && group.dataset.class !== undefined && !showing) {
    labelOnce(marked().length ? marked() : options(group), group.dataset.class);
  } else if (event.key === "Delete" && showing) {
    labelOnce(chosen(), null);
  } else if (event.key === "/") {
    if (!marked().length) mark(option, true);
    element("sort-class").focus();
  } else if (own && !control && !event.altKey) {
    labelOnce(chosen(), own[0]);
  } else {
    return;
  }
  event.preventDefault();
}

// Where an arrow key leads: one picture on, or to the nearest in the row above or below.
function next(option, key) {
  const all = options();
  const at = all.indexOf(option);
  if (key in STEPS) return all[Math.max(0, Math.min(all.length - 1, at + STEPS[key]))];
  const here = option.getBoundingClientRect();
  const down = key === "ArrowDown";
  const others = all.filter((other) => (down ? other.getBoundingClientRect().top > here.top + 1 : other.getBoundingClientRect().top < here.top - 1));
  const rows = others.map((other) => other.getBoundingClientRect().top);
  const row = down ? Math.min(...rows) : Math.max(...rows);
  const near = (other) => Math.abs(other.getBoundingClientRect().left - here.left);
  return others.filter((other) => Math.abs(other.getBoundingClientRect().top - row) < 2).sort((a, b) => near(a) - near(b))[0] ?? option;
}

// Label pictures, or with null no more; return whether that was done.
const label = (pictures, name) => busily(() => labelNow(pictures, name));

async function labelNow(pictures, name) {
  fail("");
  const ids = pictures.map((option) => option.dataset.id);
  const inClass = Boolean(showing);
  const putBack = take(ids); // before the answer, as the next key may come sooner
  const found = await inTurn(async () => {
    const answer = await attempt(() => post("labels", { labels: Object.fromEntries(ids.map((id) => [id, name])) }));
    for (const id of ids) leaving.delete(id);
    if (!answer) {
      putBack();
      return null;
    }
    [groups, listed] = [groups, listed].map((all) => without(all, new Set(ids)));
    const words = `${ids.length === 1 ? "1 picture" : `${ids.length} pictures`} labeled ${name === null ? "no more" : shown(name)}`;
    if (Object.values(answer.old).some((old) => old !== name)) undoable(words, () => attempt(() => post("labels", { labels: answer.old })));
    return { ...answer, words };
  });
  if (!found) {
    await refresh();
    return false;
  }
  const others = inClass ? 0 : Object.values(found.old).filter((old) => old !== null && old !== name).length;
  if (showing && !listed.length) showing = "";
  const again = ids.length > 1 || name === null || arranging || !options().length ? arrange() : null;
  await refresh();
  const warning = others ? ` ${others} had another label since these groups were made; Undo gives it back.` : "";
  say(`${found.words}.${warning} ${progress()}`);
  await again;
  return true;
}

// Do a change of labels after those that were begun before.
function inTurn(act) {
  const done = line.then(act);
  line = done.catch(() => {});
  return done;
}

// Take pictures out of what is shown, and move the focus to the next one; return what puts them back.
function take(ids) {
  const before = marked().map((option) => option.dataset.id);
  const place = current()?.dataset.id;
  const all = options();
  const inside = isInside();
  for (const id of ids) leaving.add(id);
  const stays = (option) => !leaving.has(option.dataset.id);
  const first = all.findIndex((option) => !stays(option));
  const later = all.slice(Math.max(0, first)).find(stays) ?? all.find(stays);
  for (const option of all) if (!stays(option)) option.remove();
  for (const group of [...element("sort-groups").children]) if (!options(group).length) group.remove();
  anchor = null;
  if (later) {
    stand(later);
    if (inside) later.focus();
  }
  return () => {
    const chosenSince = marked().map((option) => option.dataset.id);
    const since = isInside();
    draw(listed);
    const again = new Set(chosenSince.length ? chosenSince : before);
    for (const option of options()) mark(option, again.has(option.dataset.id));
    const target = options().find((option) => option.dataset.id === place);
    if (!target) return;
    stand(target);
    if (since) target.focus();
  };
}

const isInside = () => element("sort-groups").contains(document.activeElement) || document.activeElement === document.body;

const undo = () => busily(undoNow);

async function undoNow() {
  const last = await inTurn(async () => {
    const latest = undone.pop();
    if (!latest) return null;
    fail("");
    if (await latest.back()) return latest;
    undone.push(latest);
    return null;
  });
  if (!last) return;
  element("undo").hidden = true; // what it offers is done
  showing = "";
  for (const option of marked()) mark(option, false);
  const again = arrange();
  await refresh();
  say(`Undone: ${last.words}. ${progress()}`);
  await again;
}

// Take the chosen pictures to Ask.
async function ask() {
  fail("");
  if (!chosen().length) return fail("Choose pictures first.");
  const pictures = await attempt(() => Promise.all(chosen().map(async (option) => {
    const found = await fetch(`api/sort/file/${option.dataset.id}`);
    if (!found.ok) throw new Error(`${option.title} could not be read; open this view again.`);
    return { name: option.title, blob: await found.blob() };
  })));
  if (pictures) hooks.onAsked(pictures);
}

async function learn() {
  fail("");
  element("sort-learn").disabled = true;
  say("Learning…");
  const learned = await attempt(() => post("learn"));
  await refresh();
  if (!learned) return;
  const right = learned.error_rate === undefined ? "" : `: ${percent(1 - learned.error_rate)} right on pictures that it had not seen`;
  const back = learned.num_kept_back ? ` (${learned.num_kept_back} are kept back as val, to measure it)` : "";
  say(`Learned from ${learned.num_images} pictures${back}${right}. It can be chosen in Ask now.`);
  hooks.onLearned();
}

async function attempt(act) {
  try {
    return await act();
  } catch (error) {
    fail(error.message);
    return null;
  }
}

const fail = (text) => (element("sort-error").textContent = text);
const say = (text) => (element("sort-status").textContent = text);
const note = (text) => (element("sort-judged").textContent = text);
