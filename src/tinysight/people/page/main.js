import { matches } from "./names.js";
import { call, draft, failure, forget, GONE, hasDraft, keepDraft, Outbox, pause } from "./sending.js";

const CANNOT_TELL = "I cannot tell";
const GUESSES = ["What is it?", "Second guess, if you have one", "Third guess, if you have one"];
const GLIMPSE = 200; // milliseconds that the quick game shows a picture
const TOO_SOON = 150; // milliseconds in which nobody answers: a key struck twice is one answer
const HOUR = 3600e3;
const AHEAD = 4; // pictures loaded at once
const byId = (id) => document.getElementById(id);
const element = (tag, text, properties = {}) => Object.assign(document.createElement(tag), { textContent: text ?? "" }, properties);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

let quiz, person, outbox, todo = [], practice = [], current, shownAt = 0, askedAt = 0, active = 0, turn = 0, ready = false;
let told = ""; // what is said until the next answer
const pictures = new Map();
const given = new Set(); // keys that were answered here: what the server says may be older

function show(section) {
  for (const each of ["start", "game", "result"]) byId(each).hidden = each !== section;
  byId("yours").hidden = section === "start";
}

const remembered = () => `tinysight-${quiz.preview ? "preview" : "code"}-${quiz.data}`;
const say = (text) => { byId("status").textContent = text; };
const words = (error) => error.status === undefined ? "Something went wrong. Load the page again." : error.message;

// Do what needs the server as often as it takes, while it is wanted; a refusal is thrown.
async function insist(act, wanted = () => true) {
  for (let failed = false; wanted(); await pause()) {
    try {
      const found = await act();
      if (failed) say("");
      return found;
    } catch (error) {
      if (error.status === 400 || error.status === 404) throw error;
      failed = wanted();
      if (failed) say(`${words(error)} This page goes on by itself.`);
    }
  }
}

async function begin() {
  quiz = await insist(() => call("api/quiz"));
  byId("preview").hidden = !quiz.preview;
  byId("about").textContent = `${quiz.data}: ${quiz.num_images} images`;
  byId("purpose").textContent = `You see ${quiz.num_images} images and a few more, and say what each shows. `
    + (quiz.guesses > 1 ? `In the full game you may name up to ${quiz.guesses} classes. ` : "")
    + (quiz.networks.length ? `Networks answered the same images: ${quiz.networks.join(", ")}.` : "");
  byId("rules").textContent = quiz.rules.join("; or ");
  const code = localStorage.getItem(remembered());
  if (!code) return show("start");
  try { await insist(() => enter(code)); } catch (error) {
    if (error.status !== 400) throw error;
    localStorage.removeItem(remembered());
    show("start");
  }
}

async function register(game) {
  byId("full").disabled = byId("quick").disabled = true; // a second click is not a second person
  try {
    const { code } = await call("api/people", { method: "POST", body: JSON.stringify({ game }) });
    localStorage.setItem(remembered(), code);
    await insist(() => enter(code));
  } finally { byId("consent").onchange(); }
}

// Return the code that was typed; one that cannot be a code is not sent, as it may be a path.
function typedCode() {
  const code = byId("code").value.trim().toLowerCase();
  if (!code) throw failure(400, "type the code of your game first");
  if (!/^[a-z0-9]+$/.test(code)) throw failure(400, "there is no game of this code; it has letters and digits only");
  return code;
}

async function enter(code) {
  const found = await call(`api/people/${code}`);
  person = { code, ...found };
  localStorage.setItem(remembered(), code);
  const own = person;
  const isOwn = () => person === own;
  outbox = new Outbox(code, (text) => { if (isOwn()) say(text); },
    (key, text) => {
      given.delete(key); // the server knows
      insist(() => call(`api/people/${code}`), isOwn).then((found) => catchUp(own, found, text)).catch(fail);
    });
  say(told = "");
  given.clear();
  outbox.send();
  byId("own").textContent = code;
  byId("code").value = "";
  collect();
  ready = false;
  const begun = todo.length < person.items.length || hasDraft(code);
  practice = begun ? [] : [...quiz.practice[person.game]];
  byId("typed").hidden = person.game === "quick";
  byId("classes").hidden = person.game === "quick";
  drawClasses();
  preload();
  goOn();
}

// Go on from what was found that other windows and devices have answered.
function catchUp(own, found, text) {
  if (person !== own || !found) return;
  person.items = found.items;
  const before = todo[0];
  collect();
  ready &&= todo[0] === before;
  if (text) say(told = text);
  if (!practice.length && todo[0] !== before && !byId("game").hidden) goOn();
}

function collect() {
  const waiting = outbox.waiting;
  todo = person.items.filter(({ key, answered }) => !answered && !given.has(key) && !(key in waiting)).map(({ key }) => key);
}

const pathOf = (key) => `api/people/${person.code}/${key}`;

// Load what is to come, so that a lost connection stops nobody.
async function preload() {
  const paths = todo.map(pathOf);
  const work = async () => {
    for (let path; (path = paths.shift()); ) await load(path).catch(() => {});
  };
  await Promise.all(Array.from({ length: AHEAD }, work));
}

async function load(path) {
  if (!pictures.has(path)) pictures.set(path, URL.createObjectURL(await call(path, {}, "blob")));
  return pictures.get(path);
}

async function next() {
  current = null;
  delete byId("game").dataset.shown; // until a picture can be answered
  byId("name").value = "";
  byId("question").textContent = GUESSES[0];
  byId("unknown").textContent = CANNOT_TELL;
  suggest();
  const mine = ++turn; // whatever was waited for before is out of date
  byId("skip").hidden = !practice.length;
  if (!practice.length && !todo.length) return finish();
  show("game");
  if (!practice.length && !hasDraft(person.code)) keepDraft(person.code, {}); // practice is over
  byId("game-title").textContent = practice.length ? `Practice: ${practice.length} to go`
    : `Image ${person.items.length - todo.length + 1} of ${person.items.length}`;
  const begun = practice.length ? {} : draft(person.code); // of a page that was left at this image
  const again = begun.key !== undefined && begun.key === todo[0];
  const waits = person.game === "quick" && !ready && !again;
  byId("ready").hidden = !waits;
  byId("seen").hidden = !again || person.game === "full";
  byId("picture").style.visibility = "hidden"; // until it is there: the one before has another number
  if (person.game === "quick") byId("picture").parentElement.scrollIntoView({ block: "nearest" });
  if (waits) return byId("show").focus({ preventScroll: true });
  const path = practice.length ? `api/gallery/${practice[0][0]}` : pathOf(todo[0]);
  await insist(async () => {
    const source = await load(path);
    if (mine !== turn) return;
    byId("picture").src = source;
    await byId("picture").decode();
  }, () => mine === turn);
  if (mine !== turn) return;
  byId("picture").style.visibility = again && person.game === "quick" ? "hidden" : "";
  const away = again && person.game === "quick" ? Date.now() - begun.at : 0; // the time goes on
  shownAt = performance.now() - Math.min(Math.max(0, away), HOUR);
  current = practice.length ? { practice: practice[0] } : { key: todo[0], guesses: [], at: Date.now() };
  byId("game").dataset.shown = current.key ?? `practice-${practice.length}`;
  if (again) current = begun;
  else if (current.key) keepDraft(person.code, current);
  if (person.game === "quick") {
    if (!again) setTimeout(() => { if (turn === mine) byId("picture").style.visibility = "hidden"; }, GLIMPSE);
    return;
  }
  byId("name").value = ""; // what was typed meanwhile is of no picture
  suggest();
  byId("name").focus();
  if (again && begun.guesses.length) askFurther(begun.guesses.at(-1));
}

function answer(response) {
  if (!current || (person.game === "quick" && performance.now() - shownAt < TOO_SOON)) return;
  if (response === null && performance.now() - askedAt < TOO_SOON) return;
  const own = current;
  if (told) say(told = "");
  if (own.practice) {
    current = null;
    const [, target] = own.practice;
    const before = element("img", "", { src: byId("picture").src, alt: "", width: 48, height: 48 });
    byId("feedback").replaceChildren(before, element("span", response === target ? `Right: ${target}` : `It was ${target}`));
    practice.shift();
    ready = practice.length > 0;
    return goOn();
  }
  if (own.guesses.includes(response)) return;
  own.seconds ??= Math.round(performance.now() - shownAt) / 1000; // of the first guess
  if (response !== null) own.guesses.push(response);
  if (response !== null && own.guesses.length < person.guesses) {
    keepDraft(person.code, own);
    return askFurther(response);
  }
  current = null; // one answer per picture
  byId("feedback").textContent = "";
  const [first, ...further] = own.guesses;
  const screen = `${innerWidth}x${innerHeight}@${devicePixelRatio}`;
  outbox.add(own.key, { response: first ?? null, seconds: own.seconds, further, screen });
  given.add(own.key);
  todo.shift();
  URL.revokeObjectURL(pictures.get(pathOf(own.key)));
  pictures.delete(pathOf(own.key));
  goOn();
}

// Show what comes next.
const goOn = () => next().catch(fail);

function askFurther(response) {
  askedAt = performance.now();
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
  const isNamed = !found.length && person.game === "full" && matches(person.classes, byId("name").value, quiz.synonyms).length;
  byId("nothing").hidden = found.length > 0 || !byId("name").value.trim();
  byId("nothing").textContent = isNamed ? "You named that already." : "No class has such a name. Open the list of all classes.";
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
  if (event.isComposing || event.keyCode === 229) return; // the key is an input method's
  if (event.key === "Enter" && event.repeat) return; // it is held: one answer was given
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

// The key of a class of the quick game: a digit is its own, the others have the next that is free.
function keyOf(name) {
  const digits = [..."1234567890"];
  if (digits.includes(name)) return name;
  const free = digits.filter((digit) => !person.classes.includes(digit));
  return free[person.classes.filter((other) => !digits.includes(other)).indexOf(name)];
}

function drawClasses() {
  const quick = person.game === "quick";
  byId("keys").replaceChildren(...(quick ? person.classes : []).map((name) => {
    const button = element("button", name, { type: "button", onclick: () => answer(name) });
    button.prepend(element("kbd", keyOf(name)), " ");
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
  const mine = turn;
  await outbox.empty();
  if (mine !== turn) return;
  forget(person.code); // nobody after finds the code
  const found = await insist(() => call(`api/people/${person.code}/result`), () => mine === turn);
  if (mine !== turn) return;
  const { shares, instructive } = found;
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
  byId("left-out").hidden = !found.excluded;
  byId("left-out").textContent = `By the rules your answers are not counted: ${found.excluded}.`;
  show("result");
  say(told);
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
  turn++;
  if (person && localStorage.getItem(remembered()) === person.code) localStorage.removeItem(remembered());
  person = current = null;
  byId("code").value = "";
  byId("feedback").textContent = "";
  byId("consent").checked = false; // each person agrees
  byId("consent").onchange();
  show("start");
  say(text);
}

async function askToDelete(code) {
  const { items } = await call(`api/people/${code}`).catch((error) => {
    throw error.again ? Object.assign(error, { message: `${error.message} Nothing was deleted.` }) : error;
  });
  const count = items.filter((item) => item.answered).length;
  byId("confirm-text").textContent = `What is kept of the code ${code}, ${count} of ${items.length} answers, is deleted from the study. Nobody can bring it back.`;
  byId("confirm").dataset.code = code;
  byId("confirm").showModal();
}

async function remove() {
  const { code } = byId("confirm").dataset;
  byId("confirm").close();
  await call(`api/people/${code}`, { method: "DELETE" });
  forget(code);
  leave(`All answers of the code ${code} are deleted.`);
}

// Say what did not work; where the person is not known any more, begin again.
async function fail(error) {
  const own = person;
  if (own && (error.status === 400 || error.status === 404)) {
    const isGone = await call(`api/people/${own.code}`).then(() => false, ({ status }) => status === 400);
    if (isGone) forget(own.code); // deleted in another window
    if (person === own) leave(isGone ? GONE : words(error));
  } else say(words(error) + (error.again ? " Try again in a moment." : ""));
}

const report = (act) => async (event) => {
  event?.preventDefault();
  try { await act(event); } catch (error) { fail(error); }
};

byId("consent").onchange = () => { byId("full").disabled = byId("quick").disabled = !byId("consent").checked; };
byId("full").onclick = report(() => register("full"));
byId("quick").onclick = report(() => register("quick"));
byId("resume").onsubmit = report(() => enter(typedCode()));
byId("delete-by-code").onclick = report(() => askToDelete(typedCode()));
byId("delete").onclick = report(() => askToDelete(person.code));
byId("sure").onclick = report(remove);
byId("keep").onclick = () => byId("confirm").close();
byId("unknown").onclick = report(() => answer(null));
byId("show").onclick = report(() => { ready = true; goOn(); });
byId("skip").onclick = report(() => { practice = []; ready = false; byId("feedback").textContent = ""; goOn(); });
byId("name").oninput = suggest;
byId("name").onkeydown = onKey;
byId("again").onclick = () => leave();
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.repeat && !byId("game").hidden) event.preventDefault(); // of buttons, too
  const plain = !event.ctrlKey && !event.metaKey && !event.altKey && !event.repeat;
  if (person?.game === "quick" && !byId("game").hidden && !byId("confirm").open && plain) {
    if (!byId("ready").hidden && ["Enter", " "].includes(event.key) && event.target.tagName !== "BUTTON") {
      event.preventDefault();
      byId("show").click();
      return;
    }
    const name = person.classes.find((each) => keyOf(each) === event.key);
    if (name !== undefined) answer(name);
  }
});
document.addEventListener("visibilitychange", report(async () => { // another tab may have gone on
  if (document.hidden || !person || byId("game").hidden) return;
  const own = person;
  catchUp(own, await call(`api/people/${own.code}`).catch((error) => { if (!error.again) throw error; }), "");
}));
report(begin)();
