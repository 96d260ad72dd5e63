"use strict";
document.documentElement.classList.add("scripted");
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

// what a cell is sorted by stands with it where it is not what the cell says
const keyOf = (cell) => cell.dataset.sort ?? cell.firstChild.textContent;

// a click on a column's head sorts by it; numbers start with the largest
for (const button of all("button.sort")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const column = head.cellIndex;
    const key = (row) => keyOf(row.cells[column]);
    const number = [...body.rows].every((row) => key(row) === "-inf" || (key(row) !== "" && !Number.isNaN(Number(key(row)))));
    const value = (row) => (number ? (key(row) === "-inf" ? -Infinity : Number(key(row))) : key(row));
    const before = head.getAttribute("aria-sort");
    const ascending = before ? before === "descending" : !number;
    const order = number ? (a, b) => value(a) - value(b) || 0 : (a, b) => value(a).localeCompare(value(b));
    const rows = [...body.rows].sort(order);
    body.append(...(ascending ? rows : rows.reverse()));
    for (const other of all("th[aria-sort]", table)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  });
}

// one metric's gaps at a time
for (const select of all("select.metric")) {
  const show = () => {
    for (const part of all("[data-metric]")) part.hidden = part.dataset.metric !== select.value;
  };
  select.addEventListener("change", show);
  show();
}

// any figure enlarged
const dialog = document.getElementById("large");
for (const button of all("button.enlarge, button.enlarge-svg")) {
  button.addEventListener("click", () => {
    const from = button.querySelector("img"), to = dialog.querySelector("img"), figure = button.closest("figure");
    to.src = from ? from.src : asFile(figure.querySelector("svg"));
    to.alt = from ? from.alt : figure.querySelector("svg").getAttribute("aria-label");
    dialog.showModal();
  });
}
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

// what a mark of a chart stands for: by pointing at it, or with the arrow keys
for (const svg of all(".sheet svg[tabindex]")) {
  const marks = all(".mark", svg), told = svg.closest("figure").querySelector(".told");
  const tell = (event) => {
    const mark = event.target.closest(".mark");
    if (mark) told.textContent = mark.getAttribute("aria-label");
  };
  svg.addEventListener("pointerover", tell);
  svg.addEventListener("focusin", tell);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !marks.length) return;
    event.preventDefault();
    const at = marks.indexOf(document.activeElement);
    marks[at < 0 ? (step > 0 ? 0 : marks.length - 1) : (at + step + marks.length) % marks.length].focus();
  });
}

// what a cell of a matrix stands for: by pointing at it, or with the arrow keys
for (const table of all("table.heat, table.confusion")) {
  const told = document.createElement("output");
  told.className = "told";
  told.ariaLive = "polite";
  table.closest(".scroll").after(told);
  const tell = ({ target }) => {
    const cell = target.closest("tbody td");
    if (!cell) return;
    const row = cell.parentElement.cells[0].firstChild.textContent.trim(), heads = [...table.tHead.rows].at(-1).cells;
    const column = (heads[cell.cellIndex].querySelector("button, span") ?? heads[cell.cellIndex]).textContent;
    const [text, small] = [...cell.childNodes].map((node) => node.textContent);
    told.textContent = table.matches(".confusion")
      ? `${row} ${row === column ? "named right" : `taken for ${column}`}: ${text}${small ? ` (${small} %)` : ""} of ${cell.parentElement.cells[0].querySelector(".more").textContent} images`
      : [`${row}, ${column}: ${text}`, small, cell.title].filter(Boolean).join("; ");
  };
  table.addEventListener("pointerover", tell);
  table.addEventListener("focusin", tell);
  const cells = all("tbody td", table);
  if (cells.length) cells[0].tabIndex = 0;
  table.addEventListener("keydown", (event) => {
    const [down, across] = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key] ?? [];
    const cell = event.target.closest("tbody td");
    if (down === undefined || !cell) return;
    event.preventDefault();
    const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden), next = rows[rows.indexOf(cell.parentElement) + down]?.cells[cell.cellIndex + across];
    if (!next?.matches("td")) return;
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

// paper cannot be unfolded
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = all("details:not([open], .raw)");
  for (const part of unfolded) part.open = true;
});
addEventListener("afterprint", () => { for (const part of unfolded) part.open = false; });
