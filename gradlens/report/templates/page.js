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

// one metric's gaps at a time
for (const select of all("select.metric")) {
  const show = () => {
    for (const part of all("[data-metric]")) part.hidden = part.dataset.metric !== select.value;
  };
  select.addEventListener("change", show);
  show();
}

// a chart as a file of its own, and any figure enlarged
const chart = (figure) => "data:image/svg+xml;charset=utf-8," +
  encodeURIComponent(new XMLSerializer().serializeToString(figure.querySelector("svg")));
const dialog = document.getElementById("large");
for (const button of all("button.enlarge, button.enlarge-svg")) {
  button.addEventListener("click", () => {
    const from = button.querySelector("img"), to = dialog.querySelector("img"), figure = button.closest("figure");
    to.src = from ? from.src : chart(figure);
    to.alt = from ? from.alt : figure.querySelector("svg").getAttribute("aria-label");
    dialog.showModal();
  });
}
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

const save = (name, address) => {
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
};
const asPicture = async (figure, inches) => {
  const image = new Image(), svg = figure.querySelector("svg");
  image.src = svg ? chart(figure) : figure.querySelector("img").src;
  await image.decode();
  const canvas = document.createElement("canvas"), box = svg ? svg.viewBox.baseVal : null;
  canvas.width = svg ? Math.round(300 * inches) : image.naturalWidth; // dots per inch, as in print
  canvas.height = svg ? Math.round(canvas.width * box.height / box.width) : image.naturalHeight;
  const paper = canvas.getContext("2d");
  paper.fillStyle = "#fff";
  paper.fillRect(0, 0, canvas.width, canvas.height);
  paper.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/png");
};
const asTable = async (name) => {
  const packed = JSON.parse(document.getElementById("packed-tables").textContent)[name];
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  return "data:text/csv;charset=utf-8," + encodeURIComponent(text);
};
for (const button of all(".save [data-kind]")) {
  button.addEventListener("click", async () => {
    const figure = button.closest("figure"), { name, inches } = button.closest(".save").dataset;
    const { kind, table } = button.dataset;
    if (kind === "csv") save(table, await asTable(table));
    else save(`${name}.${kind}`, kind === "svg" ? chart(figure) : await asPicture(figure, inches || 7));
  });
}

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

// paper cannot be unfolded
addEventListener("beforeprint", () => { for (const part of all("details")) part.open = true; });
