
{ // a room of its own for these names
// maps are kept at their own resolution, 8 bits a cell; here they are enlarged, coloured and laid over the photograph
const contentOf = (id) => JSON.parse(document.getElementById(id)?.textContent ?? "null");
const kept = contentOf("pictures-data");
const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const colours = kept && { one: bytesOf(kept.colours.one), two: bytesOf(kept.colours.two) };
const modelOf = kept && new Map(kept.models.map((model) => [model.name, model]));

// the pictures that maps and overlays are made from; the page carries them, so they are there as soon as it has loaded
const photographs = kept && new Map(all("img[data-photo]").map((image) => [image.dataset.photo, image]));
const sheets = kept && new Map(kept.models.flatMap((model) => Object.values(model.sheets)).map((address) => {
  const image = new Image();
  image.src = address;
  return [address, { image }];
}));
const sheet = (address) => {
  const found = sheets.get(address), { image } = found;
  if (!found.paper) {
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    found.paper = canvas.getContext("2d", { willReadFrequently: true });
    found.paper.drawImage(image, 0, 0);
  }
  return found.paper;
};

// one map of a model: its cells, row by row, 0 to 255
const cellsOf = (model, kind, [left, top, columns, rows]) => {
  const pixels = sheet(model.sheets[kind]).getImageData(left, top, columns, rows).data;
  return { columns, rows, values: Uint8Array.from({ length: columns * rows }, (_, i) => pixels[4 * i]) };
};

// between the middles of cells, as in the figures; beyond the outermost ones their value
const enlarged = ({ columns, rows, values }, width, height) => {
  const found = new Float32Array(width * height);
  const along = (size, cells) => Array.from({ length: size }, (_, i) => {
    const place = Math.min(Math.max((i + 0.5) * cells / size - 0.5, 0), cells - 1), first = Math.floor(place);
    return [first, Math.min(first + 1, cells - 1), place - first];
  });
  const across = along(width, columns);
  along(height, rows).forEach(([top, bottom, down], y) => across.forEach(([left, right, share], x) => {
    const upper = values[top * columns + left] * (1 - share) + values[top * columns + right] * share;
    const lower = values[bottom * columns + left] * (1 - share) + values[bottom * columns + right] * share;
    found[y * width + x] = (upper * (1 - down) + lower * down) / 255;
  }));
  return found;
};

// the part of a photograph that a model sees
const viewOf = (id, geometry, longest) => {
  const image = photographs.get(id), sample = kept.samples[id];
  const [left, top, right, bottom] = sample.crops[geometry];
  const wide = (right - left) * sample.width, high = (bottom - top) * sample.height;
  const scale = longest / Math.max(wide, high), w = image.naturalWidth, h = image.naturalHeight;
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(wide * scale));
  canvas.height = Math.max(1, Math.round(high * scale));
  const paper = canvas.getContext("2d", { willReadFrequently: true });
  paper.imageSmoothingQuality = "high";
  paper.drawImage(image, left * w, top * h, (right - left) * w, (bottom - top) * h, 0, 0, canvas.width, canvas.height);
  return paper;
};

// the photograph in grey, coloured where the map is strong; a signed map has its own colours for either sign
const overlay = (id, model, map, range, longest) => {
  const paper = viewOf(id, model.geometry, longest), { width, height } = paper.canvas;
  if (!map) return paper.canvas;
  const view = paper.getImageData(0, 0, width, height), pixels = view.data, heat = enlarged(map, width, height);
  for (let i = 0; i < heat.length; i++) {
    const [colour, at, strength] = shade(heat[i], range);
    const grey = 0.299 * pixels[4 * i] + 0.587 * pixels[4 * i + 1] + 0.114 * pixels[4 * i + 2], opacity = 0.42 + 0.38 * strength;
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = colour[3 * at + c] * opacity + grey * (1 - opacity);
  }
  paper.putImageData(view, 0, 0);
  return paper.canvas;
};
const shade = (share, range) => {
  const low = range?.[0] ?? 0, high = range?.[1] ?? 1, value = low + share * (high - low);
  if (low < 0) {
    const most = Math.max(-low, high), place = value / most;
    return [colours.two, Math.round(127.5 + 127.5 * place), Math.abs(place)];
  }
  return [colours.one, Math.round(255 * value / high), value / high];
};

// a map alone, cell by cell
const alone = (map, range, side) => {
  const small = document.createElement("canvas"), canvas = document.createElement("canvas");
  small.width = map.columns;
  small.height = map.rows;
  const paper = small.getContext("2d"), image = paper.createImageData(map.columns, map.rows);
  map.values.forEach((value, i) => {
    const [colour, at] = shade(value / 255, range);
    image.data.set([colour[3 * at], colour[3 * at + 1], colour[3 * at + 2], 255], 4 * i);
  });
  paper.putImageData(image, 0, 0);
  const scale = side / Math.max(map.columns, map.rows);
  canvas.width = Math.round(map.columns * scale);
  canvas.height = Math.round(map.rows * scale);
  const large = canvas.getContext("2d");
  large.imageSmoothingEnabled = false;
  large.drawImage(small, 0, 0, canvas.width, canvas.height);
  return canvas;
};

const described = (canvas, text) => {
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", text);
  return canvas;
};
const made = (tag, text = "", kind = "") => {
  const element = document.createElement(tag);
  element.textContent = text;
  if (kind) element.className = kind;
  return element;
};
const inPercent = (share) => (share === null ? "" : `${(100 * share).toFixed(1)}\u00a0%`);
const blank = (model, status, side) => {
  const box = made("div", kept.said[model.statuses[status]] ?? model.statuses[status], "blank");
  if (side) box.style.minHeight = `${side}px`;
  return box;
};
const named = (id) => `${kept.samples[id].label}, ${kept.sets[kept.samples[id].dataset]}`;

// drawn when somebody comes near, or when the page is printed: paper cannot be scrolled
const undrawn = new Map(); // a part of the page -> what draws it
let ready = false;
const drawNow = (part) => {
  const draw = undrawn.get(part);
  undrawn.delete(part);
  whenSeen.unobserve(part);
  draw?.();
};
const whenSeen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) drawNow(entry.target);
}, { rootMargin: "400px" });
const drawSoon = (part, draw) => {
  undrawn.set(part, draw);
  if (ready) whenSeen.observe(part);
};
if (kept) Promise.allSettled([...photographs.values(), ...[...sheets.values()].map(({ image }) => image)].map((image) => image.decode())).then(() => {
  ready = true;
  for (const part of undrawn.keys()) whenSeen.observe(part);
});
addEventListener("beforeprint", () => { for (const part of [...undrawn.keys()]) if (!part.hidden) drawNow(part); });

// all depths of one model
for (const figure of kept ? all("figure.cams") : []) {
  const model = modelOf.get(figure.dataset.model), scene = figure.querySelector(".scene"), beside = figure.querySelector(".beside");
  const draw = () => {
    const own = kept.scenes[Number(scene.value)];
    const shown = [own[0], ...(beside ? own.slice(1).filter((id) => kept.samples[id].dataset === beside.value) : [])];
    const columns = [made("div", "", "depth photos")];
    columns[0].append(made("p"));
    columns[0].firstChild.append(made("b", "what the model says"));
    for (const id of shown) {
      const [answer, probability] = model.said[id], right = answer === kept.samples[id].label, cell = made("div");
      const what = `${right ? "✓" : "✗"} ${answer} ${inPercent(probability)}`;
      const caption = made("span", `${kept.sets[kept.samples[id].dataset]}: `);
      caption.append(made("b", what, right ? "right" : "wrong"));
      cell.append(described(overlay(id, model, null, null, 99), named(id)), caption);
      columns[0].append(cell);
    }
    for (const [place, [name, stride, shape]] of model.depths.entries()) {
      const column = made("div", "", "depth"), head = made("p");
      const size = made("small");
      size.append(made("span", `stride ${stride}, `, "screen"), `${shape[1]}\u00a0×\u00a0${shape[2]}`);
      head.append(made("b", name.replaceAll(/[._]/g, "$&\u200b")), size);
      column.append(head);
      for (const id of shown) {
        const cell = made("div"), [, status, ...box] = model.maps[id].find((row) => row[0] === place) ?? [place, model.statuses.indexOf("undefined")];
        cell.append(status ? blank(model, status, 99) : described(
          overlay(id, model, cellsOf(model, "maps", box), null, 99), `Map of ${model.shown} at ${name}: ${named(id)}`));
        cell.append(made("span"));
        column.append(cell);
      }
      columns.push(column);
    }
    figure.querySelector(".depths").replaceChildren(...columns);
  };
  cellsFrom.set(figure, () => {
    const rows = [["set", "image", "class", "prediction", "depth", "row", "column", "share of the map's maximum"]], own = kept.scenes[Number(scene.value)];
    for (const id of [own[0], ...(beside ? own.slice(1).filter((other) => kept.samples[other].dataset === beside.value) : [])])
      for (const [place, status, ...box] of model.maps[id] ?? []) {
        if (status) continue;
        const { dataset, key, label } = kept.samples[id], cells = cellsOf(model, "maps", box);
        cells.values.forEach((value, i) => rows.push([dataset, key, label, model.said[id][0], model.depths[place][0],
          Math.floor(i / cells.columns), i % cells.columns, (value / 255).toFixed(4)].map(String)));
      }
    return rows;
  });
  for (const select of all("select", figure)) select.addEventListener("change", draw);
  drawSoon(figure, draw);
}

// one depth of one model on one sample: its strongest channels
for (const explorer of kept ? all(".explorer") : []) {
  const [model, depth, sample] = [".model", ".depth", ".sample"].map((name) => explorer.querySelector(name));
  const strip = explorer.querySelector(".channels"), panels = explorer.querySelector(".panels"), said = explorer.querySelector(".said");
  const options = (select, pairs, wanted) => {
    select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value, false, value === wanted)));
  };
  const rowsOf = () => {
    const own = modelOf.get(model.value);
    return own.features[sample.value].filter((row) => own.explored[row[0]] === depth.value);
  };
  const label = ([, channel, strength, sign]) => `channel ${channel}: ${sign < 0 ? "−" : sign > 0 ? "+" : ""}${inPercent(strength)}`;
  const map = (own, [, , , , , , status, ...box]) => (status ? null : cellsOf(own, "features", box));

  const show = () => {
    const own = modelOf.get(model.value), id = sample.value;
    const pressed = Number(strip.querySelector("[aria-pressed=true]")?.dataset.place ?? 0), row = rowsOf()[pressed];
    const range = [row[4], row[5]], cells = map(own, row), made_ = [];
    const panel = (picture, text) => {
      const figure = made("figure");
      figure.append(picture, made("figcaption", text));
      made_.push(figure);
    };
    panel(described(overlay(id, own, null, null, 240), `Photograph: ${named(id)}`), `what ${own.shown} sees`);
    panel(cells ? described(alone(cells, range, 240), `Activation of ${label(row)}`) : blank(own, row[6], 240),
      `activation of channel ${row[1]}` + (cells ? `, ${cells.columns} × ${cells.rows} cells, ${range.join(" to ").replaceAll("-", "−")}` : ""));
    if (cells) panel(described(overlay(id, own, cells, range, 240), `${label(row)} over the photograph`), "over the photograph");
    const cam = own.maps[id]?.find(([place]) => own.depths[place][0] === depth.value);
    if (cam) panel(cam[1] ? blank(own, cam[1], 240) : described(
      overlay(id, own, cellsOf(own, "maps", cam.slice(2)), null, 240), `Class activation map at ${depth.value}`), "class activation map of this depth");
    const [answer, probability] = own.said[id];
    panels.replaceChildren(...made_);
    said.textContent = `${own.shown} says ${answer} ${inPercent(probability)} to ${named(id)}; at ${depth.value}, ${label(row)}.`;
  };

  cellsFrom.set(explorer, () => {
    const own = modelOf.get(model.value), row = rowsOf()[Number(strip.querySelector("[aria-pressed=true]")?.dataset.place ?? 0)];
    const cells = map(own, row), { dataset, key } = kept.samples[sample.value];
    const values = [...(cells?.values ?? [])].map((value, i) => [own.name, depth.value, row[1], dataset, key, Math.floor(i / cells.columns), i % cells.columns,
      (row[4] + (row[5] - row[4]) * value / 255).toPrecision(4)].map(String));
    return [["model", "depth", "channel", "set", "image", "row", "column", "activation"], ...values];
  });
  const list = () => {
    const own = modelOf.get(model.value), buttons = [];
    for (const [place, row] of rowsOf().entries()) {
      const button = made("button"), cells = map(own, row);
      button.type = "button";
      button.dataset.place = place;
      button.setAttribute("aria-pressed", place === 0);
      const picture = cells ? overlay(sample.value, own, cells, [row[4], row[5]], 102) : blank(own, row[6]);
      if (cells) picture.setAttribute("aria-hidden", "true");
      button.append(picture, label(row));
      button.addEventListener("click", () => {
        for (const other of buttons) other.setAttribute("aria-pressed", other === button);
        show();
      });
      buttons.push(button);
    }
    strip.replaceChildren(...buttons);
    show();
  };
  const samples = () => {
    const own = modelOf.get(model.value);
    options(depth, own.explored.map((name) => [name, name]), depth.value);
    options(sample, Object.keys(own.features).sort().map((id) => [id, named(id)]), sample.value);
    if (!depth.value) depth.selectedIndex = 0;
    if (!sample.value) sample.selectedIndex = 0;
    list();
  };
  model.addEventListener("change", samples);
  depth.addEventListener("change", list);
  sample.addEventListener("change", list);
  drawSoon(explorer, samples);
}

// the gallery: what its filters leave, some at a time
const failed = contentOf("failures-data");
for (const place of failed && kept ? all(".gallery") : []) {
  const STEP = 24;
  const images = new Map(failed.images.map((image) => [image.id, image]));
  const items = all(".cards > li", place), more = place.querySelector(".more-cards");
  const chosen = (name) => place.querySelector(name).value;
  let fitting = [], limit = STEP;

  // the failure a card shows: the surest of those that the filters leave
  const wanted = (image) => {
    const model = chosen(".by-model"), kind = chosen(".by-kind"), sample = kept.samples[image.id];
    const [from, to] = [".from", ".to"].map((name) => Number(chosen(name)) / 100);
    if (chosen(".by-set") && sample.dataset !== chosen(".by-set")) return null;
    if (chosen(".by-class") && sample.label !== chosen(".by-class")) return null;
    const left = image.failures.filter(([own, name, , confidence]) =>
      (!kind || own === kind) && (!model || !name || name === model) && (confidence === null ? from <= 0 && to >= 1 : confidence >= from && confidence <= to));
    return left.sort((a, b) => (b[3] ?? 0) - (a[3] ?? 0))[0] ?? null;
  };
  const answerOf = (image, name) => image.said[failed.models.indexOf(name)];
  const mapOf = (id, name) => {
    const model = modelOf.get(name);
    const row = model?.maps[id]?.find(([at]) => model.depths[at][0] === model.reading);
    if (!row) return null;
    return { model, status: row[1], box: row.slice(2), kind: kept.samples[id].use === "sample" ? "maps" : "failures" };
  };
  const withMap = (id) => failed.models.filter((name) => mapOf(id, name));
  const modelFor = (id, failure) => chosen(".by-model") || failure[1] || withMap(id)[0] || "";
  const picture = (id, name, longest) => {
    const found = mapOf(id, name);
    if (!found) return null;
    const cells = found.status ? null : cellsOf(found.model, found.kind, found.box);
    return overlay(id, found.model, cells, null, longest);
  };
  const shownAs = (name) => modelOf.get(name)?.shown ?? name;
  const sentence = (image, failure) => {
    const name = modelFor(image.id, failure), [answer, probability] = answerOf(image, name) ?? [failure[2], failure[3]];
    const who = failure[1] || chosen(".by-model") ? shownAs(name) : `every model; ${shownAs(name)}`;
    return `${who}: ${answer} ${inPercent(probability)}`;
  };

  const draw = (item) => {
    const image = images.get(item.dataset.image), failure = wanted(image);
    if (!failure || item.hidden) return;
    const canvas = picture(image.id, modelFor(image.id, failure), 128);
    const view = item.querySelector(".view");
    view.querySelector("canvas")?.remove();
    if (canvas) {
      canvas.setAttribute("aria-hidden", "true");
      view.append(canvas);
    }
  };
  const show = () => {
    const asked = ["set", "class", "model", "kind"].some((name) => chosen(`.by-${name}`)) || chosen(".from") !== "0" || chosen(".to") !== "100";
    fitting = items.filter((item) => wanted(images.get(item.dataset.image)));
    const visible = new Set(fitting.slice(0, limit));
    for (const item of items) {
      item.hidden = !visible.has(item);
      if (item.hidden) continue;
      const image = images.get(item.dataset.image);
      item.querySelector(".answer-of").textContent = sentence(image, wanted(image));
      drawSoon(item, () => draw(item));
    }
    more.hidden = fitting.length <= limit;
    more.textContent = `Show ${Math.min(STEP, fitting.length - limit)} more of ${fitting.length}`;
    place.querySelector("output").textContent = `${fitting.length} of ${items.length} images` + (asked ? " fit" : "");
  };
  const again = () => {
    limit = STEP;
    show();
  };
  for (const input of all(".tools select, .tools input", place)) input.addEventListener("input", again);
  place.querySelector(".all").addEventListener("click", () => {
    for (const select of all(".tools select", place)) select.value = "";
    place.querySelector(".from").value = 0;
    place.querySelector(".to").value = 100;
    again();
  });
  more.addEventListener("click", () => {
    const first = fitting[limit];
    limit += STEP;
    show();
    first?.querySelector("button").focus();
  });

  // one image, large, with every model's answer
  const box = document.getElementById("failure"), pick = box.querySelector(".map-of"), canvas = box.querySelector("canvas");
  let at = null;
  const enlarge = () => {
    const id = at.dataset.image, name = pick.value, found = mapOf(id, name);
    const drawn = name ? picture(id, name, 384) : photographs.get(id);
    const note = !name ? "no model has a map of this image" : found.status
      ? `${shownAs(name)}: ${kept.said[found.model.statuses[found.status]] ?? found.model.statuses[found.status]}; the photograph alone is shown`
      : `evidence of ${shownAs(name)} for ${found.model.said[id][0]}, at ${found.model.reading}`;
    canvas.width = drawn.width;
    canvas.height = drawn.height;
    canvas.getContext("2d").drawImage(drawn, 0, 0, drawn.width, drawn.height);
    described(canvas, `${named(id)}; ${note}`);
    const { key, width, height, dataset } = kept.samples[id], { pair } = images.get(id);
    box.querySelector("figcaption").textContent = `${note}. ${dataset}, ${key}, ${width} × ${height} pixels` + (pair ? `; the same scene in distribution: ${pair}` : "");
  };
  const open = (item) => {
    at = item;
    const id = item.dataset.image, image = images.get(id), sample = kept.samples[id], failure = wanted(image) ?? image.failures[0];
    const wrong = image.said.filter((said) => said && said[0] !== sample.label).length, asked = image.said.filter((said) => said).length;
    box.querySelector("h3").textContent = `${sample.label}, ${kept.sets[sample.dataset]}: wrong in ${wrong} of ${asked} models`;
    const names = withMap(id);
    pick.replaceChildren(...names.map((name) => new Option(shownAs(name), name, false, name === modelFor(id, failure))));
    pick.disabled = !names.length;
    box.querySelector("tbody").replaceChildren(...failed.models.map((name, i) => {
      const row = made("tr"), head = made("th", shownAs(name)), said = image.said[i];
      head.scope = "row";
      const right = said && said[0] === sample.label;
      row.append(head, made("td", said ? `${right ? "✓" : "✗"} ${said[0]}` : "–", said ? (right ? "right" : "wrong") : ""), made("td", said && said[1] !== null ? (100 * said[1]).toFixed(1) : "–"));
      return row;
    }));
    const there = fitting.indexOf(item);
    box.querySelector(".before").disabled = there <= 0;
    box.querySelector(".next").disabled = there < 0 || there + 1 >= fitting.length;
    enlarge();
    if (!box.open) box.showModal();
  };
  const step = (by) => {
    const next = fitting[fitting.indexOf(at) + by];
    if (next) open(next);
  };
  for (const item of items) item.querySelector("button").addEventListener("click", () => open(item));
  pick.addEventListener("change", enlarge);
  box.querySelector(".before").addEventListener("click", () => step(-1));
  box.querySelector(".next").addEventListener("click", () => step(1));
  box.addEventListener("keydown", (event) => {
    if (event.target === pick) return; // there the arrows choose a model
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  show();
}
}
