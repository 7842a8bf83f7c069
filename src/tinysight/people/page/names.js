// Find classes by what is typed: a word of the name first, then beginnings of names, initials,
// beginnings of words and parts; at last the words in another order, or written as one.

const split = (text) => text.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean);

function rank(name, asked) {
  const words = split(name), all = words.join(" "), parts = asked.split(" ");
  const tests = [
    () => all === asked,
    () => ` ${all} `.includes(` ${asked} `),
    () => all.startsWith(asked),
    () => asked.length > 1 && words.map((word) => word[0]).join("").startsWith(asked),
    () => words.some((word) => word.startsWith(asked)),
    () => all.includes(asked),
    () => parts.every((part) => words.some((word) => word.startsWith(part))),
    () => words.join("").includes(parts.join("")),
  ];
  const found = tests.findIndex((test) => test());
  return found < 0 ? NONE : found;
}

const NONE = 99;

// The names that match, best first, at most `limit`, each with the synonym that matched better, if
// any. A name's parts between commas are names, too; `synonyms` has more of them by name.
export function matches(names, typed, synonyms = {}, limit = 8) {
  const asked = split(typed).join(" ");
  if (!asked) return [];
  const found = names.map((name) => {
    let best = [Math.min(...name.split(",").map((part) => rank(part, asked))), name];
    for (const synonym of synonyms[name] ?? []) {
      const place = rank(synonym, asked) + 1.5; // after names that match as well, or begin so
      if (place < best[0]) best = [place, name, synonym];
    }
    return best;
  });
  return found.filter(([place]) => place < NONE)
    .sort(([a, one], [b, two]) => a - b || one.length - two.length || (one < two ? -1 : 1))
    .slice(0, limit).map(([, name, synonym]) => [name, synonym]);
}
