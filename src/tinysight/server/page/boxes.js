// Correct the boxes of an answer: an editor over the picture, by mouse, finger or keyboard.
// Boxes are [x0, y0, x1, y1], half-open, in pixels of the upright picture.

import { counted, create, isolated, isUndo, shown } from "./answers.js";
import { call } from "./server.js";

const REACH = { mouse: 8, pen: 12, touch: 20 }; // pixels of the screen within which an edge is taken
const MIN_SIDE = 2; // pixels of a box
const MAX_BOXES = 200;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

let offerUndo = () => {};

export function setUpBoxes(hooks) {
  offerUndo = hooks.offerUndo;
}

const post = (item, boxes) => {
  const label = item.corrected ?? item.answer.top[0]?.class ?? "";
  const query = new URLSearchParams({ name: item.name, label, boxes: JSON.stringify(boxes) });
  return call(`api/boxes?${query}`, { method: "POST", body: item.blob });
};

// A button of an answer that has boxes, and what was corrected.
export function boxing(item) {
  if (!item.answer.boxes) return [];
  const button = create("button", { type: "button", textContent: "Correct boxes", className: "box-tool" });
  button.addEventListener("click", () => edit(item));
  const status = create("p", { role: "status", className: "quiet" });
  if (item.boxFailure) status.textContent = item.boxFailure;
  else if (item.boxed) status.textContent = `Corrected: ${counted(item.boxed.map(({ label }) => ({ class: label })))}`;
  status.classList.toggle("error", Boolean(item.boxFailure));
  delete item.boxFailure;
  return [button, status];
}

// The boxes as a person gave them, or as the model did, in whole pixels.
function initial({ boxed, answer, labeled, corrected }) {
  if (boxed) return boxed.map((each) => ({ ...each }));
  return answer.boxes.slice(0, MAX_BOXES).map(({ box, class: name }) => ({
    box: within(box.map(Math.round), answer),
    label: labeled ? name ?? corrected ?? answer.top[0]?.class ?? null : null,
  }));
}

// The box that is nearest within the picture, with sides of MIN_SIDE or more.
function within([x0, y0, x1, y1], { width, height }) {
  const fit = (low, high, size) => {
    const start = Math.min(Math.max(low, 0), Math.max(size - MIN_SIDE, 0));
    return [start, Math.min(Math.max(high, start + MIN_SIDE), size)];
  };
  const [[left, right], [top, bottom]] = [fit(x0, x1, width), fit(y0, y1, height)];
  return [left, top, right, bottom];
}

function moved([x0, y0, x1, y1], dx, dy, { width, height }) {
  const x = Math.min(Math.max(dx, -x0), width - x1);
  const y = Math.min(Math.max(dy, -y0), height - y1);
  return [x0 + x, y0 + y, x1 + x, y1 + y];
}

function edit(item, boxes = initial(item)) {
  const { width, height } = item.answer;
  const step = Math.max(1, Math.round(Math.max(width, height) / 200));
  const start = JSON.stringify(initial(item));
  const past = []; // what Undo goes back to
  let chosen = boxes.length ? 0 : -1;
  let lastLabel = boxes[0]?.label ?? (item.labeled ? item.corrected ?? item.answer.top[0]?.class ?? item.classes[0] : null);

  const image = create("img", { src: item.url, alt: "", draggable: false });
  image.addEventListener("error", () => image.remove()); // as of a format that browsers do not show
  const layer = create("div", { className: "layer" });
  const stage = create("div", { className: "stage" }, image, layer);
  stage.style.setProperty("--shape", width / height);
  stage.setAttribute("role", "group");
  stage.setAttribute("aria-label", "The picture and its boxes");
  const status = create("p", { className: "quiet", role: "status" });
  const name = create("input", { maxLength: 80, autocomplete: "off", placeholder: "type a class" });
  name.setAttribute("list", "box-classes");
  const naming = create("label", { hidden: !item.labeled }, "Class ", name);
  const tool = (text, act, className = "") => {
    const button = create("button", { type: "button", textContent: text, className });
    button.addEventListener("click", act);
    return button;
  };
  const undoing = tool("Undo", undo);
  const deleting = tool("Delete box", remove);
  const saving = tool("Save boxes", save, "primary");
  const title = create("h2", {}, "Boxes of ", isolated(item.name));
  const help = create("p", { className: "quiet", textContent: "Drag to draw a box (with Shift, inside another), drag an edge or a corner to resize it, drag inside to move it. "
    + "Keys: Tab chooses a box, the arrows move it, with Shift they resize it, N is a new box, Delete removes it, Ctrl+Z undoes, Enter saves, Escape leaves." });
  const names = create("datalist", { id: "box-classes" }, ...item.classes.map((each) => new Option(shown(each), each)));
  const dialog = create("dialog", { className: "boxes" }, title, stage,
    create("div", { className: "row" }, naming, tool("New box", add), deleting, undoing, saving, tool("Cancel", leave)), status, help, names);
  dialog.setAttribute("aria-label", `Boxes of ${shown(item.name)}`);

  function remember() {
    past.push(JSON.stringify(boxes));
  }

  function undo() {
    if (!past.length) return;
    boxes = JSON.parse(past.pop());
    choose(Math.min(chosen, boxes.length - 1));
  }

  function choose(index, focus = true) {
    name.blur(); // what was typed belongs to the box chosen so far
    chosen = index;
    draw();
    if (focus) (layer.children[chosen] ?? saving).focus({ preventScroll: true });
  }

  function draw() {
    while (layer.children.length > boxes.length) layer.lastChild.remove();
    boxes.forEach(({ box: [x0, y0, x1, y1], label }, index) => {
      if (!layer.children[index]) {
        const added = create("button", { type: "button" }, create("span"));
        added.addEventListener("focus", () => chosen !== index && choose(index, false));
        layer.append(added);
      }
      const button = layer.children[index];
      const sides = { left: x0 / width, top: y0 / height, width: (x1 - x0) / width, height: (y1 - y0) / height };
      for (const [side, share] of Object.entries(sides)) button.style[side] = `${100 * share}%`;
      button.firstChild.textContent = label ? shown(label) : "";
      button.setAttribute("aria-label", `Box ${index + 1} of ${boxes.length}${label ? `: ${shown(label)}` : ""}; ${x0}, ${y0} to ${x1}, ${y1}`);
      button.setAttribute("aria-pressed", String(index === chosen));
    });
    const box = boxes[chosen];
    if (document.activeElement !== name) name.value = box?.label ?? "";
    name.disabled = deleting.disabled = !box;
    undoing.disabled = !past.length;
    say(box ? `Box ${chosen + 1} of ${boxes.length}: ${box.box[0]}, ${box.box[1]} to ${box.box[2]}, ${box.box[3]} of ${width} × ${height} pixels`
      : "No box: nothing is here.");
  }

  function say(text, wrong = false) {
    status.textContent = text;
    status.classList.toggle("error", wrong);
  }

  function full() {
    if (boxes.length >= MAX_BOXES) say(`A picture may have ${MAX_BOXES} boxes.`, true);
    return boxes.length >= MAX_BOXES;
  }

  function add() {
    if (full()) return;
    remember();
    const box = [width * 3 / 8, height * 3 / 8, width * 5 / 8, height * 5 / 8].map(Math.round);
    boxes.push({ box: within(box, item.answer), label: lastLabel });
    choose(boxes.length - 1);
  }

  function remove() {
    if (!boxes[chosen]) return;
    remember();
    boxes.splice(chosen, 1);
    choose(Math.min(chosen, boxes.length - 1));
  }

  let isSaving = false;
  async function save() {
    if (isSaving || drag) return;
    takeName();
    const [before, sent] = [item.boxed, structuredClone(boxes)];
    isSaving = dialog.inert = true; // nothing is changed, saved again or left until there is an answer
    try {
      await post(item, sent);
    } catch (error) {
      isSaving = dialog.inert = false;
      if (!dialog.open) dialog.showModal(); // closed by the browser, as by Escape twice
      say(error.message, true);
      saving.focus();
      return;
    }
    item.boxed = sent;
    close();
    offerUndo("Boxes corrected", async () => {
      try {
        await post(item, before ?? null);
        item.boxed = before;
      } catch (error) {
        item.boxFailure = error.message;
      }
      item.view.refresh();
    });
  }

  function leave() {
    if (isSaving) return;
    takeName();
    const left = JSON.stringify(boxes) !== start;
    close();
    if (left) offerUndo("Boxes left as they were", () => edit(item, boxes));
  }

  function close() {
    dialog.close();
    dialog.remove();
    item.view.refresh();
    item.view.card.querySelector(".box-tool")?.focus();
  }

  function takeName() {
    const [box, typed] = [boxes[chosen], name.value.trim()];
    if (!box || !item.labeled || !typed || typed === box.label) return;
    remember();
    box.label = lastLabel = typed;
  }

  name.addEventListener("change", () => {
    takeName();
    draw();
  });
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    leave();
  });
  dialog.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (drag || event.isComposing) return;
    const arrow = ARROWS[key];
    const box = boxes[chosen];
    if (isUndo(event) && target !== name) undo();
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (target === name) {
      if (key !== "Enter") return;
      takeName();
      choose(chosen);
    } else if (key.toLowerCase() === "n") add();
    else if (key === "Delete" || key === "Backspace") remove();
    else if (key === "Enter" && (layer.contains(target) || target === dialog)) {
      if (!event.repeat) save(); // not by the Enter, held, that opened it or chose a class
    } else if (arrow && box) {
      if (!event.repeat) remember();
      const [dx, dy] = arrow.map((way) => way * step);
      const [x0, y0, x1, y1] = box.box;
      box.box = event.shiftKey ? within([x0, y0, x1 + dx, y1 + dy], item.answer) : moved(box.box, dx, dy, item.answer);
      draw();
    } else return;
    event.preventDefault();
  });

  // Where a pointer is, in pixels of the picture, and how many of these its reach has.
  function at(event) {
    const frame = stage.getBoundingClientRect();
    const scale = width / frame.width;
    return { x: (event.clientX - frame.left) * scale, y: (event.clientY - frame.top) * scale, reach: (REACH[event.pointerType] ?? REACH.mouse) * scale };
  }

  // Which box is meant, and which of its edges: those of the chosen one first, then of the smallest.
  function hit({ x, y, reach }) {
    const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);
    const found = boxes.flatMap(({ box: [x0, y0, x1, y1] }, index) => {
      const edge = (value, low, high) => {
        if (value < low - reach || value > high + reach) return null;
        const near = Math.min(reach, (high - low) / 3);
        return value < low + near ? -1 : Number(value > high - near);
      };
      const [across, along] = [edge(x, x0, x1), edge(y, y0, y1)];
      return across === null || along === null ? [] : [{ index, across, along }];
    });
    found.sort((a, b) => area(boxes[a.index].box) - area(boxes[b.index].box));
    return found.find(({ index, across, along }) => index === chosen && (across || along)) ?? found[0] ?? null;
  }

  let drag = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || drag) return;
    event.preventDefault(); // no focus on the dialog, no dragging of the image
    takeName();
    const from = at(event);
    const found = event.shiftKey ? null : hit(from);
    if (!found && full()) return;
    drag = { from, found, id: event.pointerId, before: JSON.stringify(boxes) };
    if (found) choose(found.index);
    drag.box = found && [...boxes[found.index].box];
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    const to = at(event);
    if (!drag) {
      const { across, along } = (!event.shiftKey && hit(to)) || {};
      stage.style.cursor = across === undefined ? "crosshair" : !across && !along ? "move" : !along ? "ew-resize" : !across ? "ns-resize" : across === along ? "nwse-resize" : "nesw-resize";
      return;
    }
    if (event.pointerId !== drag.id) return;
    const { from, found } = drag;
    if (!drag.changed && Math.hypot(to.x - from.x, to.y - from.y) < to.reach / 3) return; // a click
    drag.changed = true;
    if (!found) {
      const corners = [[from.x, to.x], [from.y, to.y]].map((ends) => ends.sort((a, b) => a - b));
      const [[x0, x1], [y0, y1]] = corners;
      if (drag.drawn === undefined) drag.drawn = boxes.push({ label: lastLabel }) - 1;
      boxes[drag.drawn].box = within([x0, y0, x1, y1].map(Math.round), item.answer);
      choose(drag.drawn);
      return;
    }
    const [dx, dy] = [to.x - from.x, to.y - from.y].map(Math.round);
    const { index, across, along } = found;
    let box = moved(drag.box, dx, dy, item.answer);
    if (across || along) {
      const pulled = (low, high, way, by) => [low + (way < 0 ? by : 0), high + (way > 0 ? by : 0)].sort((a, b) => a - b);
      const [[x0, x1], [y0, y1]] = [pulled(drag.box[0], drag.box[2], across, dx), pulled(drag.box[1], drag.box[3], along, dy)];
      box = within([x0, y0, x1, y1], item.answer);
    }
    boxes[index].box = box;
    draw();
  });
  const end = (event) => {
    if (event.pointerId !== drag?.id) return;
    if (drag.changed) past.push(drag.before);
    drag = null;
    draw();
  };
  stage.addEventListener("pointerup", end);
  stage.addEventListener("pointercancel", end);

  document.body.append(dialog);
  dialog.showModal();
  choose(chosen);
}
