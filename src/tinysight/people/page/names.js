// Find classes by what is typed: beginnings of names first, then initials, then words, then parts.

const split = (text) => text.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean);

function rank(name, asked) {
  const words = split(name), all = words.join(" ");
  if (all === asked) return 0;
  if (all.startsWith(asked)) return 1;
  if (words.map((word) => word[0]).join("").startsWith(asked) && asked.length > 1) return 2;
  if (words.some((word) => word.startsWith(asked))) return 3;
  return all.includes(asked) ? 4 : 9;
}

// The names that match, best first, at most `limit`, each with the synonym that matched better, if
// any. A name's parts between commas are names, too; `synonyms` has more of them by name.
export function matches(names, typed, synonyms = {}, limit = 8) {
  const asked = split(typed).join(" ");
  if (!asked) return [];
  const found = names.map((name) => {
    let best = [Math.min(...name.split(",").map((part) => rank(part, asked))), name];
    for (const synonym of synonyms[name] ?? []) {
      const place = rank(synonym, asked) + 0.5; // after names that match as well
      if (place < best[0]) best = [place, name, synonym];
    }
    return best;
  });
  return found.filter(([place]) => place < 9)
    .sort(([a, one], [b, two]) => a - b || one.length - two.length || (one < two ? -1 : 1))
    .slice(0, limit).map(([, name, synonym]) => [name, synonym]);
}
