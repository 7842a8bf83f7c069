// Answers as cards or as a table: sorted, filtered, saved. Names are text, never markup.

import { boxing } from "./boxes.js";
import { correcting } from "./correct.js";
import { explanations } from "./why.js";

const KINDS = 4; // colors of boxes, by class
const LONGEST = 200; // characters of a name that are shown

export function shown(name) {
  const characters = [...name];
  return characters.length > LONGEST ? characters.slice(0, LONGEST).join("") + "…" : name;
}

export const percent = (share) => `${(100 * share).toFixed(1)} %`;

export function create(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export const isolated = (name) => create("bdi", { className: "name", textContent: shown(name), title: shown(name) });

// Ctrl+Z, also with Caps Lock, and on a keyboard without Latin letters by its place.
export function isUndo({ key, code, ctrlKey, metaKey, altKey, shiftKey }) {
  const isZ = key?.toLowerCase() === "z" || (code === "KeyZ" && !/^[a-z]$/i.test(key));
  return isZ && (ctrlKey || metaKey) && !altKey && !shiftKey;
}

// What an item's answer is, in a word: its best class, or that there is none.
export function label(item) {
  if (item.error) return "not read";
  if (item.answer?.none) return "none of these";
  return item.answer?.top[0]?.class ?? (item.answer ? counted(item.answer.boxes ?? []) : "");
}

// Boxes in words: "2 boxes", or of several classes "1 cat, 2 dogs" by their names.
export function counted(boxes) {
  if (!boxes.length) return "no box";
  const counts = new Map();
  for (const box of boxes) counts.set(box.class ?? "", (counts.get(box.class ?? "") ?? 0) + 1);
  if (counts.has("")) return boxes.length === 1 ? "1 box" : `${boxes.length} boxes`;
  return [...counts].map(([name, count]) => `${count} ${shown(name)}`).join(", ");
}

export function certainty(item) {
  const { top = [], boxes = [] } = item.answer ?? {};
  return top[0]?.probability ?? boxes[0]?.confidence ?? -1;
}

export function arranged(items, { order, filter }) {
  const kept = items.filter((item) => filter === "" || label(item) === filter);
  const sign = { sure: -1, unsure: 1 }[order];
  if (sign) kept.sort((a, b) => sign * (certainty(a) - certainty(b)));
  return kept;
}

export function makeCard(item) {
  const figure = create("figure");
  const image = create("img", { src: item.url, alt: "", loading: "lazy", draggable: false });
  image.addEventListener("error", () => image.replaceWith(create("p", { className: "quiet", textContent: "no preview" })));
  figure.append(image);
  const text = create("div", { className: "text" });
  const card = create("article", { className: "card" }, figure, text);
  fillCard(item, figure, text);
  return { card, refresh: () => fillCard(item, figure, text) };
}

function fillCard(item, figure, text) {
  text.replaceChildren(create("h2", { className: "name" }, isolated(item.name)));
  for (const layer of figure.querySelectorAll("svg")) layer.remove();
  figure.classList.remove("heated");
  if (item.error) {
    text.append(create("p", { className: "error", textContent: item.error }));
  } else if (!item.answer) {
    text.append(create("p", { className: "quiet", textContent: "waiting…" }));
  } else {
    const { top, boxes, none } = item.answer;
    if (none) text.append(create("p", { textContent: "none of these" }));
    const list = create("ol", { className: "answers" });
    for (const { class: name, probability } of top.slice(0, 5)) {
      const bar = create("progress", { value: probability, max: 1 });
      bar.setAttribute("aria-hidden", "true");
      list.append(create("li", {}, bar, isolated(name), create("span", { textContent: percent(probability) })));
    }
    text.append(list);
    if (boxes) {
      text.append(create("p", { className: "quiet", textContent: counted(boxes) }));
      figure.append(drawBoxes({ ...item.answer, boxes: item.boxed?.map(({ box, label }) => ({ box, class: label })) ?? boxes }, item.classes));
    }
    const [tools, ...explained] = explanations(item, figure);
    const [correct = "", ...corrected] = correcting(item);
    const [correctBoxes = "", ...correctedBoxes] = boxing(item);
    tools.append(correct, correctBoxes);
    text.append(tools, ...explained, ...corrected, ...correctedBoxes);
  }
}

// Boxes as a layer; a class has one color in all pictures, by its place.
function drawBoxes({ boxes, width, height }, classes) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-hidden", "true");
  const kinds = [...new Set([...classes, ...boxes.map((box) => box.class)])]; // those that were typed, too
  for (const { box: [x0, y0, x1, y1], class: kind } of boxes) {
    for (const look of ["shade", `kind-${kind ? kinds.indexOf(kind) % KINDS : 0}`]) {
      const rect = document.createElementNS(space, "rect");
      const values = { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: look };
      for (const [name, value] of Object.entries(values)) rect.setAttribute(name, value);
      svg.append(rect);
    }
  }
  return svg;
}

export function fillTable(table, items, finds) {
  const names = ["picture", "answer", "probability", ...(finds ? ["boxes"] : [])];
  const isNumber = (name) => (["probability", "boxes"].includes(name) ? "number" : "");
  const head = create("tr", {}, ...names.map((name) => create("th", { textContent: name, scope: "col", className: isNumber(name) })));
  const rows = items.map((item) => {
    const probability = item.answer?.top[0]?.probability;
    const values = [isolated(item.name), isolated(item.error ?? label(item)), probability === undefined ? "" : percent(probability)];
    if (finds) values.push(String(item.answer?.boxes?.length ?? ""));
    return create("tr", {}, ...values.map((value, column) => create("td", { className: isNumber(names[column]) }, value)));
  });
  table.replaceChildren(create("thead", {}, head), create("tbody", {}, ...rows));
}
