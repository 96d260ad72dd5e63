// downloads: charts, figures, and parts of the page that are drawn or written here
const save = (name, address) => {
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
};
const asFile = (svg) => "data:image/svg+xml;charset=utf-8," + encodeURIComponent(new XMLSerializer().serializeToString(svg));
const asPicture = async (address, width, ratio) => {
  const image = new Image();
  image.src = address;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width || image.naturalWidth);
  canvas.height = Math.round(canvas.width * (ratio || image.naturalHeight / image.naturalWidth));
  const paper = canvas.getContext("2d");
  paper.fillStyle = "#fff";
  paper.fillRect(0, 0, canvas.width, canvas.height);
  paper.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/png");
};
const packed = async (name) => {
  const content = JSON.parse(document.getElementById("packed-tables").textContent)[name];
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};
const MOST_PIXELS = 8000; // of a side: browsers refuse much larger canvases
const cellsFrom = new Map(); // a part of the page -> a function that gives the rows behind what is drawn there
for (const button of all(".save [data-kind]")) {
  button.addEventListener("click", async () => {
    const { name, inches } = button.closest(".save").dataset, { kind, table } = button.dataset;
    const part = button.closest("[data-paint]"), figure = button.closest("figure");
    if (kind === "csv") {
      const text = table ? await packed(table) : csvOf(cellsFrom.has(part) ? await cellsFrom.get(part)() : tableRows(part.querySelector("table")));
      save(table || `${name}.csv`, "data:text/csv;charset=utf-8," + encodeURIComponent(text));
      return;
    }
    const svg = part ? painted(part.querySelector(part.dataset.paint)) : figure.querySelector("svg");
    const address = svg ? asFile(svg) : figure.querySelector("img").src;
    // 300 dots per inch, as in print; a part of the page has 96 of its pixels in an inch
    const width = !svg ? 0 : part ? Math.min(svg.width.baseVal.value * 300 / 96, MOST_PIXELS) : 300 * (inches || 7);
    const box = svg?.viewBox.baseVal;
    save(`${name}.${kind}`, kind === "svg" ? address : await asPicture(address, width, box && box.height / box.width));
  });
}
