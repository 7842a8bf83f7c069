import { matches } from "./names.js";
import { call, Outbox } from "./sending.js";

const CANNOT_TELL = "I cannot tell";
const GUESSES = ["What is it?", "Second guess, if you have one", "Third guess, if you have one"];
const GLIMPSE = 200; // milliseconds that the quick game shows a picture
const AHEAD = 4; // pictures loaded at once
const byId = (id) => document.getElementById(id);
const element = (tag, text, properties = {}) => Object.assign(document.createElement(tag), { textContent: text ?? "" }, properties);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

let quiz, person, outbox, todo = [], practice = [], current, shownAt = 0, active = 0, turn = 0;
const pictures = new Map();

function show(section) {
  for (const each of ["start", "game", "result"]) byId(each).hidden = each !== section;
}

const remembered = () => `tinysight-code-${quiz.data}`;

async function begin() {
  quiz = await call("api/quiz");
  byId("about").textContent = `${quiz.data}: ${quiz.num_images} images`;
  byId("purpose").textContent = `You see ${quiz.num_images} images and a few more, and say what each shows. `
    + (quiz.guesses > 1 ? `In the full game you may name up to ${quiz.guesses} classes. ` : "")
    + (quiz.networks.length ? `Networks answered the same images: ${quiz.networks.join(", ")}.` : "");
  byId("rules").textContent = quiz.rules.join("; or ");
  const code = localStorage.getItem(remembered());
  if (!code) return show("start");
  try { await enter(code); } catch (error) {
    if (error.status !== 400) throw error;
    localStorage.removeItem(remembered());
    show("start");
  }
}

async function register(game) {
  const { code } = await call("api/people", { method: "POST", body: JSON.stringify({ game }) });
  localStorage.setItem(remembered(), code);
  practice = [...quiz.practice[game]];
  await enter(code);
}

async function enter(code) {
  person = { code, ...await call(`api/people/${code}`) };
  localStorage.setItem(remembered(), code);
  outbox = new Outbox(code, (text) => { if (text !== null) byId("status").textContent = text; });
  outbox.send();
  byId("own").textContent = byId("kept").textContent = code;
  if (person.items.some((item) => item.answered)) practice = [];
  collect();
  byId("typed").hidden = person.game === "quick";
  byId("classes").hidden = person.game === "quick";
  drawClasses();
  preload();
  await next();
}

function collect() {
  const waiting = outbox.waiting;
  todo = person.items.filter((item) => !item.answered && !(item.key in waiting)).map((item) => item.key);
}

// Load what is to come, so that a lost connection stops nobody.
async function preload() {
  const keys = [...todo];
  const work = async () => {
    for (let key; (key = keys.shift()); ) if (!pictures.has(key)) await load(key).catch(() => {});
  };
  await Promise.all(Array.from({ length: AHEAD }, work));
}

async function load(key) {
  if (!pictures.has(key)) {
    const answer = await fetch(`api/people/${person.code}/${key}`);
    if (!answer.ok) throw new Error("the picture was not sent");
    pictures.set(key, URL.createObjectURL(await answer.blob()));
  }
  return pictures.get(key);
}

async function next() {
  current = null;
  byId("name").value = "";
  byId("question").textContent = GUESSES[0];
  byId("unknown").textContent = CANNOT_TELL;
  suggest();
  const mine = ++turn; // whatever was waited for before is out of date
  byId("skip").hidden = !practice.length;
  if (!practice.length && !todo.length) return finish();
  show("game");
  byId("game-title").textContent = practice.length ? `Practice: ${practice.length} to go`
    : `Image ${person.items.length - todo.length + 1} of ${person.items.length}`;
  let source;
  for (;;) {
    try {
      if (mine !== turn) return;
      source = practice.length ? `api/gallery/${practice[0][0]}` : await load(todo[0]);
      if (mine !== turn) return;
      byId("picture").src = source;
      await byId("picture").decode();
      break;
    } catch {
      if (mine !== turn) return;
      byId("status").textContent = "Waiting for the picture: the server does not answer.";
      await new Promise((done) => setTimeout(done, 1000));
    }
  }
  if (mine !== turn) return;
  byId("picture").style.visibility = "";
  shownAt = performance.now();
  current = practice.length ? { practice: practice[0] } : { key: todo[0], guesses: [] };
  byId("game").dataset.shown = current.key ?? `practice-${practice.length}`;
  if (person.game === "quick") {
    setTimeout(() => { if (turn === mine) byId("picture").style.visibility = "hidden"; }, GLIMPSE);
  } else byId("name").focus();
}

async function answer(response) {
  if (!current) return;
  const given = current;
  if (given.practice) {
    current = null;
    const [, target] = given.practice;
    const before = element("img", "", { src: byId("picture").src, alt: "", width: 48, height: 48 });
    byId("feedback").replaceChildren(before, element("span", response === target ? `Right: ${target}` : `It was ${target}`));
    practice.shift();
    return next();
  }
  if (given.guesses.includes(response)) return;
  given.seconds ??= Math.round(performance.now() - shownAt) / 1000; // of the first guess
  if (response !== null) given.guesses.push(response);
  if (response !== null && given.guesses.length < person.guesses) return askFurther(response);
  current = null; // one answer per picture
  byId("feedback").textContent = "";
  const [first, ...further] = given.guesses;
  const screen = `${innerWidth}x${innerHeight}@${devicePixelRatio}`;
  outbox.add(given.key, { response: first ?? null, seconds: given.seconds, further, screen });
  todo.shift();
  URL.revokeObjectURL(pictures.get(given.key));
  pictures.delete(given.key);
  await next();
}

function askFurther(response) {
  byId("feedback").textContent = `${response}. What else could it be? Enter alone: nothing else.`;
  byId("question").textContent = GUESSES[current.guesses.length];
  byId("unknown").textContent = "Nothing else";
  byId("name").value = "";
  suggest();
  byId("name").focus();
}

function suggest() {
  const left = person.classes.filter((name) => !current?.guesses?.includes(name));
  const found = person.game === "full" ? matches(left, byId("name").value, quiz.synonyms) : [];
  active = 0;
  byId("names").replaceChildren(...found.map(([name, synonym], i) => {
    const option = element("li", name, { id: `name-${i}`, role: "option", onclick: () => answer(name) });
    option.dataset.name = name;
    if (synonym) option.append(element("span", ` ${synonym}`, { className: "quiet" }));
    return option;
  }));
  byId("name").setAttribute("aria-expanded", String(found.length > 0));
  mark();
}

function mark() {
  const options = [...byId("names").children];
  options.forEach((option, i) => option.setAttribute("aria-selected", String(i === active)));
  if (options.length) byId("name").setAttribute("aria-activedescendant", `name-${active}`);
  else byId("name").removeAttribute("aria-activedescendant");
}

function onKey(event) {
  const options = byId("names").children;
  if (event.key === "Enter" && options.length) answer(options[active].dataset.name);
  else if (event.key === "Enter" && current?.guesses?.length && !byId("name").value) answer(null);
  else if (event.key === "ArrowDown") active = Math.min(active + 1, options.length - 1);
  else if (event.key === "ArrowUp") active = Math.max(active - 1, 0);
  else if (event.key === "Escape") { byId("name").value = ""; suggest(); }
  else return;
  event.preventDefault();
  mark();
}

function drawClasses() {
  const quick = person.game === "quick";
  byId("keys").replaceChildren(...(quick ? person.classes : []).map((name, i) => {
    const button = element("button", name, { type: "button", onclick: () => answer(name) });
    button.prepend(element("kbd", String((i + 1) % 10)), " ");
    return button;
  }));
  byId("groups").replaceChildren(...(quick ? [] : quiz.groups).map(([name, group]) => {
    const part = element("details");
    part.append(element("summary", `${name} (${group.length})`));
    part.ontoggle = () => { if (part.open && part.children.length === 1) part.append(...group.map(drawClass)); };
    return part;
  }));
}

function drawClass(name) {
  const row = element("div", "", { className: "class" });
  row.append(element("button", name, { type: "button", onclick: () => answer(name) }));
  for (const image of quiz.gallery[name]) row.append(element("img", "", { src: `api/gallery/${image}/small`, alt: "", width: 64, height: 64, loading: "lazy" }));
  return row;
}

async function finish() {
  show("");
  await outbox.empty();
  const { shares, instructive } = await call(`api/people/${person.code}/result`);
  byId("shares").replaceChildren(...Object.entries(shares).map(([who, [share, low, high]]) => {
    const row = element("tr");
    row.append(element("th", who, { scope: "row" }), element("td", percent(share)), element("td", `${percent(low)} to ${percent(high)}`));
    return row;
  }));
  byId("instructive-title").hidden = byId("instructive-about").hidden = !instructive.length;
  byId("instructive-title").textContent = quiz.networks.length ? "Images that you or a network got wrong" : "Images that you got wrong";
  byId("instructive").replaceChildren(...instructive.map((each) => {
    const card = element("figure");
    const said = [["you", each.you], ...Object.entries(each.networks)].map(([who, name]) =>
      element("span", name === each.target ? `✓ ${who}` : `✗ ${who}: ${name ?? CANNOT_TELL}`));
    const caption = element("figcaption");
    caption.append(element("strong", each.target), ...said);
    const others = [each.you, ...Object.values(each.networks)].filter((name) => name && name !== each.target);
    const source = `api/people/${person.code}/${each.key}`;
    card.append(element("img", "", { src: source, alt: "", width: 160, height: 160 }), caption,
      ...[...new Set(others)].map((name) => askAlso(source, name, each.marks[name])));
    return card;
  }));
  show("result");
  byId("status").textContent = "";
}

// Ask whether an answer that is not the label is right, too; the last click counts.
function askAlso(item, name, before) {
  const part = element("fieldset", "", { className: "also" });
  part.append(element("legend", `Is ${name} right, too?`));
  const buttons = [true, false].map((fits) => element("button", fits ? "Yes" : "No", { type: "button",
    onclick: report(async () => { press((await call(`${item}/also`, { method: "POST", body: JSON.stringify({ name, fits }) })).fits); }) }));
  const press = (fits) => buttons.forEach((each, i) => each.setAttribute("aria-pressed", String(fits === (i === 0))));
  press(before);
  part.append(...buttons);
  return part;
}

function leave(text = "") {
  localStorage.removeItem(remembered());
  byId("status").textContent = text;
  byId("consent").checked = byId("consent").onchange();
  show("start");
}

const report = (act) => async (event) => {
  event?.preventDefault();
  try { await act(event); } catch (error) { byId("status").textContent = error.message; }
};

byId("consent").onchange = () => { byId("full").disabled = byId("quick").disabled = !byId("consent").checked; return byId("consent").checked; };
byId("full").onclick = report(() => register("full"));
byId("quick").onclick = report(() => register("quick"));
byId("resume").onsubmit = report(() => enter(byId("code").value.trim()));
byId("unknown").onclick = report(() => answer(null));
byId("skip").onclick = report(() => { practice = []; byId("feedback").textContent = ""; return next(); });
byId("name").oninput = suggest;
byId("name").onkeydown = onKey;
byId("delete").onclick = report(async () => {
  await call(`api/people/${person.code}`, { method: "DELETE" });
  leave("Your answers are deleted.");
});
byId("again").onclick = () => leave();
document.addEventListener("keydown", (event) => {
  const place = event.key === "0" ? 9 : Number(event.key) - 1;
  const plain = !event.ctrlKey && !event.metaKey && !event.altKey && !event.repeat;
  if (person?.game === "quick" && !byId("game").hidden && plain && place in person.classes) answer(person.classes[place]);
});
document.addEventListener("visibilitychange", report(async () => { // another tab may have gone on
  if (document.hidden || !person || byId("game").hidden) return;
  const { items } = await call(`api/people/${person.code}`);
  person.items = items;
  const before = todo[0];
  collect();
  if (!practice.length && todo[0] !== before) await next();
}));
report(begin)();
