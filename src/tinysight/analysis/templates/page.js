"use strict";
// Sort a table by the column whose heading is clicked; numbers are in data-value.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        const [m, n] = [Number(x), Number(y)];
        return x !== "" && y !== "" && !isNaN(m) && !isNaN(n) ? m - n : x.localeCompare(y);
      };
      const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? -compare(a, b) : compare(a, b)));
      table.tBodies[0].append(...rows);
    });
  });
}
// State where a figure or table goes on, as scroll bars do not show everywhere.
for (const box of document.querySelectorAll("figure.chart, .scroll, pre")) {
  const update = () => {
    const more = [];
    if (box.scrollWidth > box.clientWidth + 1) more.push("sideways \u2192");
    if (box.scrollHeight > box.clientHeight + 1) more.push("down \u2193");
    if (more.length) box.dataset.more = `Scroll ${more.join(" and ")}`;
    else delete box.dataset.more;
  };
  new ResizeObserver(update).observe(box);
  update();
}
// Show only the mistakes of a class.
const filters = document.querySelector(".filters");
if (filters) {
  filters.hidden = false;
  const items = [...document.querySelectorAll(".gallery .mistake")];
  const [label, predicted] = filters.querySelectorAll("select");
  const count = filters.querySelector("output");
  const update = () => {
    let shown = 0;
    for (const item of items) {
      const fits = (!label.value || item.dataset.label === label.value) && (!predicted.value || item.dataset.predicted === predicted.value);
      item.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${items.length} shown`;
  };
  label.addEventListener("change", update);
  predicted.addEventListener("change", update);
  update();
}
