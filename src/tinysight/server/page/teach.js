// Teach: classes of one's own, filled by hand, learned in seconds. Every change can be undone.

import { percent, shown } from "./answers.js";
import { named } from "./intake.js";
import { chart } from "./runs.js";
import { call, Queue } from "./server.js";
import { drawn, SHAPES } from "./shapes.js";

const SHOWN = 24; // pictures of a class at first
const MAX_FAILED = 5; // pictures that are named where they cannot be added
const element = (id) => document.getElementById(id);
const path = (...parts) => ["api/project", ...parts.map(encodeURIComponent)].join("/");

let project = { classes: [], learned: null };
let current = ""; // the class that pasted pictures and the camera's go to
let opened = new Set(); // classes of which all pictures are shown
let hooks = { offerUndo() {}, onLearned() {} };

export function setUpTeach(given) {
  hooks = given;
  element("new-class").addEventListener("submit", (event) => {
    event.preventDefault();
    createClass(element("new-name").value.trim());
  });
  element("learn").addEventListener("click", learn);
  element("examples").addEventListener("click", drawExamples);
}

export async function showTeach(visible) {
  if (visible) await refresh();
}

// Pictures for the class that is at an element of the page, else the current one.
export async function teachPictures(pictures, target) {
  const name = target?.closest?.(".class")?.dataset.name ?? (current || project.classes[0]?.name);
  if (!name) {
    say("Make a class first: pictures need a name.", true);
    element("new-name").focus();
    return;
  }
  await addPictures(name, pictures);
}

async function addPictures(name, pictures) {
  const known = new Set(project.classes.find((each) => each.name === name)?.files); // before they come
  const added = [];
  const failed = [];
  let left = pictures.length;
  await new Promise((done) => {
    const queue = new Queue(async ({ name: file, blob }) => {
      try {
        added.push((await call(path(name), { method: "POST", body: blob })).file);
      } catch (error) {
        failed.push(`${shown(file)}: ${error.message}`);
      }
      left -= 1;
      say(`${pictures.length - left} of ${pictures.length} looked at for ${shown(name)}`);
      if (!left) done();
    });
    if (left) queue.add(pictures);
    else done();
  });
  const fresh = [...new Set(added)].filter((file) => !known.has(file));
  await refresh();
  const count = `${fresh.length} ${fresh.length === 1 ? "picture" : "pictures"} added to ${shown(name)}`;
  const again = added.length - fresh.length;
  const there = again ? `, ${again} ${again === 1 ? "was" : "were"} there already` : "";
  const more = failed.length > MAX_FAILED ? `; and ${failed.length - MAX_FAILED} more` : "";
  const reasons = failed.slice(0, MAX_FAILED).join("; ") + more;
  say(count + there + (failed.length ? `. ${failed.length} not: ${reasons}` : ""), failed.length > 0);
  if (fresh.length) {
    offerUndo(count, () => all(fresh.map((file) => () => call(path(name, file), { method: "DELETE" }))));
  }
}

async function createClass(name) {
  const wrong = refusal(name);
  if (wrong) {
    say(wrong, true);
    element("new-name").focus();
    return;
  }
  await act(() => call(path(name), { method: "PUT" }), `${shown(name)} made`, () =>
    call(path(name), { method: "DELETE" }));
  if (!project.classes.some((each) => each.name === name)) return;
  element("new-name").value = "";
  current = name;
  element("new-name").focus();
}

// Why a name cannot be asked about at all, as it would be another address of the server.
function refusal(name) {
  if (!name) return "Type the class's name first.";
  if (project.classes.some((each) => each.name === name)) return `${shown(name)} is there already.`;
  if (/^[.]+$|[/\\]/.test(name)) return "a class's name has none of / \\ : * ? \" < > | in it, and no dot or space at its ends";
  return "";
}

// Do a change, show what there is then, and offer to undo it.
async function act(change, done, undo) {
  try {
    await change();
    await refresh();
    say(done);
    if (undo) offerUndo(done, undo);
  } catch (error) {
    await refresh();
    say(error.message, true);
  }
}

const offerUndo = (done, undo) => hooks.offerUndo(done, () => act(undo, `Undone: ${done}`));

async function all(changes) {
  for (const change of changes) await change();
}

async function refresh() {
  try {
    project = await call("api/project");
  } catch (error) {
    say(error.message, true);
    return;
  }
  if (!project.classes.some(({ name }) => name === current)) current = ""; // it is gone
  const enough = project.classes.filter((each) => each.files.length).length >= 2;
  element("learn").disabled = !enough;
  element("teach-empty").hidden = project.classes.some((each) => each.files.length);
  element("teach-folder").textContent = `Kept in ${project.folder}. The same by command: ${project.command}`;
  showLearned();
  const focused = [document.activeElement?.dataset?.key, window.scrollY];
  element("classes").replaceChildren(...project.classes.map(classPanel));
  const again = [...document.querySelectorAll("#classes [data-key]")].find((each) => each.dataset.key === focused[0]);
  again?.focus({ preventScroll: true });
  window.scrollTo(0, focused[1]);
}

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function button(key, textContent, onClick, label = "") {
  const made = make("button", { type: "button", textContent });
  made.dataset.key = key;
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", onClick);
  return made;
}

function classPanel({ name, files }) {
  const input = make("input", { type: "file", multiple: true, hidden: true, accept: "image/*,.heic,.heif,.avif,.tif,.tiff" });
  input.addEventListener("change", () => addPictures(name, named([...input.files])));
  const count = files.length === 1 ? "1 picture" : `${files.length} pictures`;
  const title = make("h2", {}, make("bdi", { className: "name", textContent: shown(name), title: name }));
  const head = make("div", { className: "row" }, title, make("span", { className: "quiet", textContent: count }));
  const choose = button(`add ${name}`, "Add pictures", () => input.click(), `Add pictures to ${name}`);
  const camera = button(`camera ${name}`, "Camera", () => {
    current = name;
    element("open-camera").click();
  }, `Camera for ${name}`);
  const tools = make("div", { className: "row" }, choose, camera, renameButton(name));
  if (!files.length) {
    tools.append(button(`delete ${name}`, "Remove", () =>
      act(() => call(path(name), { method: "DELETE" }), `${shown(name)} removed`, () => call(path(name), { method: "PUT" })), `Remove ${name}`));
  }
  const list = make("ul", { className: "thumbs" });
  const visible = opened.has(name) ? files : files.slice(0, SHOWN);
  list.append(...visible.map((file, index) => thumb(name, file, index)));
  const panel = make("section", { className: "panel class" }, head, tools, input, list);
  if (visible.length < files.length) {
    panel.append(button(`all ${name}`, `Show all ${files.length}`, () => {
      opened.add(name);
      refresh();
    }));
  }
  panel.dataset.name = name;
  panel.setAttribute("aria-label", name);
  panel.addEventListener("focusin", () => (current = name));
  panel.addEventListener("pointerenter", () => (current = name));
  return panel;
}

function renameButton(name) {
  return button(`rename ${name}`, "Rename", () => {
    const wanted = prompt("New name of the class", name)?.trim();
    if (!wanted || wanted === name) return;
    const wrong = refusal(wanted);
    if (wrong) {
      say(wrong, true);
      return;
    }
    const rename = async (from, to) => {
      await call(`${path(to)}?from=${encodeURIComponent(from)}`, { method: "PUT" });
      if (current === from) current = to;
      if (opened.delete(from)) opened.add(to);
    };
    act(() => rename(name, wanted), `${shown(name)} is ${shown(wanted)} now`, () => rename(wanted, name));
  }, `Rename ${name}`);
}

function thumb(name, file, index) {
  const image = make("img", { src: path(name, file), alt: `picture ${index + 1} of ${shown(name)}`, loading: "lazy", draggable: false });
  const remove = button(`${name}/${file}`, "×", () =>
    act(() => call(path(name, file), { method: "DELETE" }), `a picture taken out of ${shown(name)}`, () =>
      call(path(name, file), { method: "PUT" })), `Take picture ${index + 1} out of ${name}`);
  return make("li", {}, image, remove);
}

async function learn() {
  element("learn").disabled = true;
  say("Learning…");
  const begun = performance.now();
  try {
    const learned = await call("api/learn", { method: "POST" });
    const seconds = ((performance.now() - begun) / 1000).toFixed(1);
    await refresh();
    say(`Learned from ${learned.num_images} pictures in ${seconds} s`);
    hooks.onLearned();
  } catch (error) {
    await refresh();
    say(error.message, true);
  }
}

function showLearned() {
  const found = project.learned;
  element("learned").hidden = !found;
  element("try").hidden = !found;
  if (!found) return;
  const lines = [];
  if (found.error_rate === undefined) {
    lines.push(make("p", { textContent: "How good it is cannot be measured yet: give each class a second picture." }));
  } else {
    const right = `${percent(1 - found.error_rate)} right on pictures that it had not seen`;
    lines.push(make("p", {}, make("strong", { textContent: right }), ` (probably between ${percent(1 - found.high)} and ${percent(1 - found.low)})`));
  }
  if (found.forecast) {
    const { more, low, high } = found.forecast;
    lines.push(make("p", { className: "quiet", textContent: `With ${more} more in each class expect ${percent(1 - high)} to ${percent(1 - low)} right.` }));
  }
  if (found.curve.length > 1) {
    const curve = { name: "error on pictures that it had not seen", points: found.curve, unit: "pictures of a class" };
    lines.push(make("div", { className: "charts" }, chart(curve)));
  }
  if (found.confusions?.length) {
    lines.push(make("p", { className: "quiet", textContent: "Mistaken most often:" }), make("ul", { className: "mistakes" }, ...found.confusions.map(confusion)));
  }
  element("learned").replaceChildren(...lines);
}

// A pair of classes, with pictures of the first that were taken for the second.
function confusion([label, answer, count, files]) {
  const images = files.map((file) => {
    const image = make("img", { src: path(label, file), alt: "", draggable: false });
    image.addEventListener("error", () => image.remove()); // taken out since
    return image;
  });
  return make("li", {}, ...images, make("span", { textContent: `${shown(label)} taken for ${shown(answer)} (${count})` }));
}

// Three classes of drawn shapes, so that the page can be tried without any picture at hand.
async function drawExamples() {
  element("examples").disabled = true;
  for (const name of Object.keys(SHAPES)) {
    await act(() => call(path(name), { method: "PUT" }), `${name} made`);
    await addPictures(name, await drawn(name, 12));
  }
  element("examples").disabled = false;
}

function say(text, wrong = false) {
  element("teach-status").textContent = text;
  element("teach-status").classList.toggle("error", wrong);
}
