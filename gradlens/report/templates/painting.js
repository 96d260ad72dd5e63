// a part of the page as an SVG file: its boxes, letters and pictures as they stand, in the colours of paper
const SVG_NAME = "http://www.w3.org/2000/svg";
const colourOf = (text) => { // computed colours are rgb(...), rgba(...) or color(srgb ...)
  const [r, g, b, a = 1] = text.match(/-?[\d.]+(?:e-?\d+)?/g).map(Number), most = text.startsWith("color") ? 1 : 255;
  return { fill: "#" + [r, g, b].map((v) => Math.round(255 * Math.min(1, v / most)).toString(16).padStart(2, "0")).join(""), opacity: a };
};
const painted = (part) => {
  const root = document.documentElement, frame = part.closest(".scroll"), scrolled = frame?.scrollLeft ?? 0;
  const svg = document.createElementNS(SVG_NAME, "svg"), margin = 8;
  root.classList.add("on-paper");
  if (frame) frame.scrollLeft = 0; // or columns that stay in view would lie over others
  const from = part.getBoundingClientRect();
  const add = (name, given, text = "") => {
    const element = document.createElementNS(SVG_NAME, name);
    for (const [key, value] of Object.entries(given)) element.setAttribute(key, typeof value === "number" ? +value.toFixed(2) : value);
    element.textContent = text;
    svg.append(element);
  };
  let right = 0, bottom = 0; // of what is drawn: a part is often narrower than its place
  const reach = (box) => { right = Math.max(right, box.x + box.width); bottom = Math.max(bottom, box.y + box.height); };
  const place = (box) => ({ x: box.left - from.left + margin, y: box.top - from.top + margin, width: box.width, height: box.height });
  const rectangle = (box, paint, more = {}) => {
    const { fill, opacity } = colourOf(paint);
    if (opacity > 0 && box.width > 0 && box.height > 0) {
      reach(box);
      add("rect", { ...box, fill, ...(opacity < 1 ? { "fill-opacity": opacity } : {}), ...more });
    }
  };
  const letters = (node, style) => {
    const range = document.createRange(), lines = [];
    const piece = (start, text, gap) => {
      range.setStart(node, start);
      range.setEnd(node, start + text.length);
      const boxes = range.getClientRects(), box = boxes[0], line = lines.at(-1);
      if (boxes.length > 1 && text.length > 1) [...text].reduce((at, letter) => (piece(at, letter, at === start ? gap : ""), at + letter.length), start);
      else if (box?.width && line && Math.abs(line.top - box.top) < 2) {
        line.text += gap + text;
        line.box.width = box.right - from.left + margin - line.box.x;
      } else if (box?.width) lines.push({ text, top: box.top, box: place(box) });
    };
    for (const found of node.data.matchAll(/([\s\u200b]*)([^\s\u200b]+)/g))
      piece(found.index + found[1].length, found[2], /\s/.test(found[1]) ? " " : "");
    const { fill, opacity } = colourOf(style.color), upright = style.writingMode.startsWith("vertical");
    const look = { "font-family": style.fontFamily.replaceAll('"', "'"), "font-size": style.fontSize, "font-weight": style.fontWeight,
      fill, ...(opacity < 1 ? { "fill-opacity": opacity } : {}), "dominant-baseline": "central" };
    for (const { text, box } of lines) {
      const middle = box.y + box.height / 2;
      reach(box);
      if (!upright) add("text", { ...look, x: box.x, y: middle }, text);
      else add("text", { ...look, transform: `translate(${box.x + box.width / 2} ${box.y + box.height}) rotate(-90)` }, text);
    }
  };
  const walk = (element) => {
    const style = getComputedStyle(element), box = place(element.getBoundingClientRect());
    if (style.display === "none" || style.visibility === "hidden" || element.matches(".hidden, .save")) return;
    const round = style.borderTopLeftRadius === "50%";
    rectangle(box, style.backgroundColor, round ? { rx: box.width / 2, stroke: colourOf(style.borderTopColor).fill } : {});
    const level = style.getPropertyValue("--v"); // a cell that is a bar: as long as its score, a line where it is in distribution
    if (level && element.matches(".level")) {
      const [ink, fill, rest] = new Set(style.backgroundImage.match(/(?:rgba?|color)\([^)]*\)/g).filter((c) => colourOf(c).opacity > 0));
      const wide = box.width - parseFloat(style.borderRightWidth), long = wide * parseFloat(level) / 100, line = parseFloat(style.getPropertyValue("--d"));
      const bar = { ...box, y: box.y + 0.14 * box.height, height: 0.72 * box.height };
      rectangle({ ...bar, width: wide }, rest);
      rectangle({ ...bar, width: long }, fill);
      if (line >= 0) rectangle({ ...bar, x: box.x + wide * line / 100 - 1, width: 2 }, ink);
    }
    const share = style.getPropertyValue("--s"); // a bar: the beginning of it in one colour, the rest in another
    if (share && style.backgroundImage.startsWith("linear-gradient")) {
      const [own, rest] = style.backgroundImage.match(/(?:rgba?|color)\([^)]*\)/g), long = box.width * parseFloat(share) / 100;
      rectangle({ ...box, width: long }, own);
      rectangle({ ...box, x: box.x + long, width: box.width - long }, rest);
    }
    for (const [side, x, y, w, h] of [["Top", 0, 0, 1, 0], ["Bottom", 0, 1, 1, 0], ["Left", 0, 0, 0, 1], ["Right", 1, 0, 0, 1]]) {
      const thick = parseFloat(style[`border${side}Width`]);
      if (round || !thick || ["none", "hidden"].includes(style[`border${side}Style`])) continue;
      rectangle({ x: box.x + x * (box.width - thick), y: box.y + y * (box.height - thick), width: w ? box.width : thick, height: h ? box.height : thick }, style[`border${side}Color`]);
    }
    if (element.matches("canvas, img")) reach(box);
    if (element.matches("canvas")) add("image", { ...box, href: element.toDataURL("image/png") });
    else if (element.matches("img")) add("image", { ...box, href: element.src });
    else for (const child of element.childNodes) {
      if (child.nodeType === Node.TEXT_NODE) letters(child, style);
      else if (child.nodeType === Node.ELEMENT_NODE) walk(child);
    }
  };
  try {
    add("rect", { fill: "#fff" });
    walk(part);
    const size = { width: Math.ceil(right + margin), height: Math.ceil(bottom + margin) };
    for (const [key, value] of Object.entries(size)) for (const one of [svg, svg.firstChild]) one.setAttribute(key, value);
    svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  } finally {
    root.classList.remove("on-paper");
    if (frame) frame.scrollLeft = scrolled;
  }
  return svg;
};

// a table's cells as CSV: numbers at full precision where the cell has them
const cellText = (cell) => {
  if (cell.closest("thead")) { // beside numbers at full precision, which are fractions, a unit such as % would be wrong
    const unit = cell.closest("table").querySelector("td[data-sort]") ? null : cell.querySelector(".more");
    return [cell.querySelector("button") ?? cell.firstChild, unit].map((part) => part?.textContent.trim()).filter(Boolean).join(", ");
  }
  const text = cell.dataset.sort ?? (cell.querySelector("b, button, .n") ?? cell.firstChild ?? cell).textContent.trim();
  return text === "-inf" ? "" : text.replace(/(?<=\d),(?=\d{3})/g, "").replace(/^−(?=\d)/, "-").replace(/^–$/, "");
};
const csvOf = (rows) => rows.map((row) => row.map((cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)).join(",")).join("\n") + "\n";
const tableRows = (table) => [...table.rows].filter((row) => !row.matches(".groups")).map((row) => [...row.cells].map(cellText));
