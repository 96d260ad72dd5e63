"use strict";
document.documentElement.classList.add("scripted");
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

// a click on a column's head sorts by it; numbers start with the largest
for (const button of all("button.sort")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const column = head.cellIndex;
    const key = (row) => row.cells[column].dataset.sort;
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

// the filter hides models in the table of models and in those of gaps
for (const input of all("input.filter")) {
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    for (const row of all("table[data-filtered] tbody tr"))
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    const rows = all("tbody tr", document.querySelector("table[data-filtered]"));
    const shown = rows.filter((row) => !row.hidden).length;
    input.closest("p").querySelector("output").textContent = wanted ? `${shown} of ${rows.length}` : "";
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

const dialog = document.getElementById("large");
for (const button of all("button.enlarge")) {
  button.addEventListener("click", () => {
    const from = button.querySelector("img"), to = dialog.querySelector("img");
    to.src = from.src;
    to.alt = from.alt;
    dialog.showModal();
  });
}
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

for (const button of all("button.save")) {
  button.addEventListener("click", () => {
    const link = document.createElement("a"), source = button.closest("figure").querySelector("img").src;
    link.href = source;
    link.download = button.dataset.name + (source.startsWith("data:image/svg") ? ".svg" : ".webp");
    link.click();
  });
}

// paper cannot be unfolded
addEventListener("beforeprint", () => { for (const part of all("details")) part.open = true; });
