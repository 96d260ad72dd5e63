// the table of models: its filter works on the tables of gaps too, the menu of columns on it alone
for (const tools of all("#model-tools")) {
  const table = document.querySelector("table.models"), frame = table.parentElement;
  const heads = all("th[data-column]", table);

  const filter = () => {
    const part = tools.querySelector(".filter").value.trim().toLowerCase();
    const choice = tools.querySelector(".filter-column").selectedOptions[0];
    const limit = tools.querySelector(".filter-number").valueAsNumber;
    const most = tools.querySelector(".filter-side").value === "most";
    const asked = choice.value !== "" && !Number.isNaN(limit);
    const fits = (row) => {
      if (!row.cells[0].textContent.toLowerCase().includes(part)) return false;
      if (!asked) return true;
      const text = row.cells[choice.value].dataset.sort;
      if (text === "-inf") return false; // what was not measured meets no condition
      const value = Number(text) * Number(choice.dataset.scale);
      return most ? value <= limit : value >= limit;
    };
    const rows = [...table.tBodies[0].rows], kept = rows.filter(fits);
    const names = new Set(kept.map((row) => row.cells[0].title));
    for (const row of all("table[data-filtered] tbody tr")) row.hidden = !names.has(row.cells[0].title);
    tools.querySelector("output").textContent = part || asked ? `${kept.length} of ${rows.length}` : "";
  };
  if (tools.querySelector(".filter"))
    for (const input of all("input, select", tools.querySelector("p"))) input.addEventListener("input", filter);

  const boxes = all(".columns input", tools);
  const show = (name, shown) => {
    boxes.find((box) => box.value === name).checked = shown;
    for (const head of heads.filter((h) => h.dataset.column === name))
      for (const row of table.rows) if (row.cells[head.cellIndex] && !row.matches(".groups")) row.cells[head.cellIndex].hidden = !shown;
    let first = 0; // a heading over several columns spans those that are shown
    for (const group of all(".groups th", table)) {
      group.dataset.span ??= group.colSpan;
      const own = heads.slice(first, (first += Number(group.dataset.span))).filter((h) => !h.hidden).length;
      group.hidden = own === 0;
      group.colSpan = own || 1;
    }
    const hidden = heads.filter((h) => h.hidden).length;
    tools.querySelector(".columns .note").textContent = hidden ? `(${heads.length - hidden} of ${heads.length} shown)` : "";
  };
  for (const box of boxes) box.addEventListener("change", () => show(box.value, box.checked));
  tools.querySelector(".columns button").addEventListener("click", () => { for (const box of boxes) show(box.value, true); });
  const order = heads.filter((h) => h.dataset.fold).sort((a, b) => a.dataset.fold - b.dataset.fold);
  for (const name of new Set(order.map((h) => h.dataset.column)))
    if (frame.scrollWidth > frame.clientWidth) show(name, false);
}

// a model's row leads to everything about it, and back
const openModel = (anchor, focus) => {
  const body = document.getElementById(anchor);
  if (!body?.matches(".model-body")) return false;
  const model = body.closest("details"), summary = model.querySelector("summary");
  model.open = true;
  if (focus) summary.focus({ preventScroll: true });
  model.scrollIntoView();
  return true;
};
const fromAddress = () => openModel(decodeURIComponent(location.hash.slice(1)), true);
addEventListener("hashchange", fromAddress);
for (const row of all("table.models tbody tr")) {
  const link = row.querySelector("th a");
  if (!link) continue;
  row.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || getSelection().toString()) return;
    const anchor = decodeURIComponent(link.hash.slice(1));
    if (!document.getElementById(anchor)) { // it is on another page
      if (!event.target.closest("a")) location.href = link.href;
      return;
    }
    event.preventDefault();
    if (location.hash !== link.hash) history.pushState(null, "", link.hash);
    openModel(anchor, true);
  });
}
const closeModel = (model) => {
  const anchor = model.querySelector(".model-body").id;
  model.open = false;
  history.replaceState(null, "", "#models");
  const link = all("table.models th a").find((a) => decodeURIComponent(a.hash.slice(1)) === anchor);
  (link && !link.closest("tr").hidden ? link : model.querySelector("summary")).focus();
};
for (const model of all("details.model")) {
  for (const button of all("button.close", model)) button.addEventListener("click", () => closeModel(model));
  model.addEventListener("keydown", (event) => { if (event.key === "Escape" && model.open) closeModel(model); });
  const choose = (selector, apply) => {
    const select = model.querySelector(selector);
    select?.addEventListener("change", () => apply(select.value));
    if (select) apply(select.value);
  };
  choose(".pick-set", (value) => { for (const part of all("[data-set]", model)) part.hidden = part.dataset.set !== value; });
  choose(".pick-cells", (value) => { for (const table of all("table.confusion", model)) table.dataset.cells = value; });
  choose(".pick-score", (value) => { for (const part of all("[data-score]", model)) part.hidden = part.dataset.score !== value; });
}
fromAddress();
