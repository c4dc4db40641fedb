/* The layer × head map: two halves, offset gates and scale gates, on one canvas.
 *
 * Drawing and input alone: it knows neither where frames come from nor what the page does with a chosen head.
 * A frame is {site, layers, units, step, offset, scale}, the last two Uint8Array(layers * units) with
 * 0 = closed, 1..254 = open in equal steps up to 1, 255 = not trained. CIVIDIS comes from cividis.js.
 */
const GATE_OPEN_LEVELS = 254;
const GATE_UNTRAINED = 255;
const HALVES = ["offset", "scale"];

const decodeGates = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

const gateValue = (code) => code / GATE_OPEN_LEVELS;
const gateOpen = (code) => code > 0 && code < GATE_UNTRAINED;
const gateColour = (code) => CIVIDIS[Math.round((code / GATE_OPEN_LEVELS) * 255)];

/* Red, green, blue and opacity of every code; what is not trained is left transparent. */
const GATE_PIXELS = Uint8ClampedArray.from({ length: 4 * 256 }, (_, index) => {
  const code = index >> 2, channel = index & 3;
  if (code === GATE_UNTRAINED) return 0;
  return channel === 3 ? 255 : parseInt(gateColour(code).slice(1 + 2 * channel, 3 + 2 * channel), 16);
});

const gateWords = (code) => {
  if (code === GATE_UNTRAINED) return "not trained";
  if (code === 0) return "closed";
  return gateValue(code) < 0.005 ? "< 0.01" : gateValue(code).toFixed(2);
};

class GateMap {
  /* root holds .gm-canvas, .gm-tip, .gm-readout and .gm-say; onPick(half, layer, unit) is called on click and Enter. */
  constructor(root, onPick = () => {}) {
    this.root = root;
    this.onPick = onPick;
    this.canvas = root.querySelector(".gm-canvas");
    this.context = this.canvas.getContext("2d");
    this.tip = root.querySelector(".gm-tip");
    this.readout = root.querySelector(".gm-readout");
    this.say = root.querySelector(".gm-say");
    this.frame = null;
    this.cursor = { half: "offset", layer: 0, unit: 0 };
    this.hover = null;
    this.plots = {};
    this.pending = false;
    this.readTheme();
    this.listen();
  }

  show(frame) {
    const grew = !this.frame || this.frame.layers !== frame.layers || this.frame.units !== frame.units;
    this.frame = frame;
    if (grew) this.cursor = { half: "offset", layer: 0, unit: 0 };
    this.invalidate();
    this.writeReadout();
  }

  clear() {
    this.frame = null;
    this.hover = null;
    this.tip.hidden = true;
    this.readout.textContent = "";
    this.invalidate();
  }

  /* Several frames between two screen refreshes are drawn once. */
  invalidate() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.draw();
    });
  }

  readTheme() {
    const style = getComputedStyle(document.body);
    const read = (name) => style.getPropertyValue(name).trim();
    this.theme = {
      text: read("--jw-text"), quiet: read("--jw-quiet"), line: read("--jw-line"), surface: read("--jw-surface"),
      accent: read("--jw-accent"), bar: read("--jw-bar"), font: read("--font") || "sans-serif",
      mono: read("--font-mono") || "monospace",
    };
  }

  // Layout

  measure() {
    const width = Math.max(280, this.root.clientWidth);
    const height = Math.max(160, this.canvas.clientHeight);
    const density = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * density) || this.canvas.height !== Math.round(height * density)) {
      this.canvas.width = Math.round(width * density);
      this.canvas.height = Math.round(height * density);
    }
    this.context.setTransform(density, 0, 0, density, 0, 0);
    const { layers, units } = this.frame || { layers: 1, units: 1 };
    const left = 40, top = 28, bottom = 32, margin = 50, between = 20;
    const room = (width - left - between - 2 * margin) / 2;
    // Few layers or heads do not make giant cells.
    const cellWidth = Math.min(64, room / units);
    const cellHeight = Math.min(36, (height - top - bottom) / layers);
    const plot = { top, width: cellWidth * units, height: cellHeight * layers, cellWidth, cellHeight };
    this.plots = {
      offset: { ...plot, left },
      scale: { ...plot, left: left + plot.width + margin + between },
    };
    this.size = { width, height };
  }

  /* Pixels of a cell's edges relative to the canvas, on whole pixels so that gaps look equal. */
  cell(half, layer, unit) {
    const plot = this.plots[half];
    const x = Math.round(plot.left + unit * plot.cellWidth);
    const y = Math.round(plot.top + layer * plot.cellHeight);
    return {
      x, y,
      width: Math.round(plot.left + (unit + 1) * plot.cellWidth) - x,
      height: Math.round(plot.top + (layer + 1) * plot.cellHeight) - y,
    };
  }

  /* Page coordinates of a cell's centre, for whoever wants to point at it. */
  position(half, layer, unit) {
    const bounds = this.canvas.getBoundingClientRect();
    const { x, y, width, height } = this.cell(half, layer, unit);
    return [bounds.left + x + width / 2, bounds.top + y + height / 2];
  }

  at(clientX, clientY) {
    if (!this.frame) return null;
    const bounds = this.canvas.getBoundingClientRect();
    for (const half of HALVES) {
      const plot = this.plots[half];
      if (!plot) continue;
      const unit = Math.floor((clientX - bounds.left - plot.left) / plot.cellWidth);
      const layer = Math.floor((clientY - bounds.top - plot.top) / plot.cellHeight);
      if (unit >= 0 && unit < this.frame.units && layer >= 0 && layer < this.frame.layers) return { half, layer, unit };
    }
    return null;
  }

  // Drawing

  draw() {
    this.measure();
    this.context.clearRect(0, 0, this.size.width, this.size.height);
    if (!this.frame) return;
    for (const half of HALVES) this.drawHalf(half, this.frame[half]);
    this.drawLayerAxis();
    if (this.hover) for (const half of HALVES) this.outline({ ...this.hover, half }, 1);
    if (document.activeElement === this.canvas || this.picked) this.outline(this.cursor, 2);
  }

  drawHalf(half, codes) {
    const { context, theme, frame } = this;
    const plot = this.plots[half];
    const trained = codes.some((code) => code !== GATE_UNTRAINED);
    const gap = plot.cellWidth >= 7 && plot.cellHeight >= 6 ? 1 : 0;
    context.textBaseline = "alphabetic";
    context.fillStyle = theme.text;
    context.textAlign = "left";
    context.font = `700 13px ${theme.font}`;
    context.fillText(half === "offset" ? "Offset gates" : "Scale gates", plot.left, plot.top - 10);

    if (gap) this.drawCells(half, codes);
    else this.drawPixels(plot, codes);
    let open = 0;
    for (let layer = 0; layer < frame.layers; layer++) {
      const openInLayer = codes.subarray(layer * frame.units, (layer + 1) * frame.units).filter(gateOpen).length;
      open += openInLayer;
      this.drawOpenBar(plot, layer, openInLayer);
    }
    if (!gap) {
      context.strokeStyle = theme.line;
      context.lineWidth = 1;
      context.strokeRect(plot.left - 0.5, plot.top - 0.5, plot.width + 1, plot.height + 1);
    }
    context.fillStyle = theme.quiet;
    context.font = `12px ${theme.font}`;
    context.textAlign = "right";
    const total = frame.layers * frame.units;
    context.fillText(trained ? `${open} of ${total} open` : "not trained", plot.left + plot.width - gap, plot.top - 10);
    this.drawUnitAxis(plot);
  }

  /* Cells with a line between them. */
  drawCells(half, codes) {
    const { context, theme, frame } = this;
    context.strokeStyle = theme.line;
    context.lineWidth = 1;
    for (let layer = 0; layer < frame.layers; layer++) {
      for (let unit = 0; unit < frame.units; unit++) {
        const code = codes[layer * frame.units + unit];
        const { x, y, width, height } = this.cell(half, layer, unit);
        if (code === GATE_UNTRAINED) {
          context.strokeRect(x + 0.5, y + 0.5, width - 2, height - 2);
        } else {
          context.fillStyle = gateColour(code);
          context.fillRect(x, y, width - 1, height - 1);
        }
      }
    }
  }

  /* Thousands of small cells: one pixel each, enlarged without smoothing. */
  drawPixels(plot, codes) {
    const { layers, units } = this.frame;
    this.pixels ||= document.createElement("canvas");
    if (this.pixels.width !== units || this.pixels.height !== layers) {
      this.pixels.width = units;
      this.pixels.height = layers;
    }
    const target = this.pixels.getContext("2d");
    const image = target.createImageData(units, layers);
    codes.forEach((code, index) => image.data.set(GATE_PIXELS.subarray(4 * code, 4 * code + 4), 4 * index));
    target.putImageData(image, 0, 0);
    this.context.imageSmoothingEnabled = false;
    this.context.drawImage(this.pixels, plot.left, plot.top, plot.width, plot.height);
  }

  /* The margin: how many gates of the layer are open, as a bar and, where there is room, as a number. */
  drawOpenBar(plot, layer, open) {
    const { context, theme, frame } = this;
    const y = Math.round(plot.top + layer * plot.cellHeight);
    const height = Math.max(1, Math.round(plot.top + (layer + 1) * plot.cellHeight) - y - 1);
    const numbered = plot.cellHeight >= 11;
    const full = numbered ? 24 : 40;
    context.fillStyle = theme.bar;
    context.fillRect(plot.left + plot.width + 5, y, Math.max(open ? 1 : 0, (full * open) / frame.units), height);
    if (!numbered) return;
    context.fillStyle = theme.quiet;
    context.font = `10px ${theme.mono}`;
    context.textAlign = "left";
    context.fillText(open, plot.left + plot.width + 33, y + height / 2 + 3.5);
  }

  drawUnitAxis(plot) {
    const { context, theme, frame } = this;
    context.fillStyle = theme.quiet;
    context.textAlign = "center";
    context.font = `10px ${theme.mono}`;
    const every = tickEvery(plot.cellWidth, 22);
    for (let unit = 0; unit < frame.units; unit += every) {
      context.fillText(unit, plot.left + (unit + 0.5) * plot.cellWidth, plot.top + plot.height + 13);
    }
    context.font = `11px ${theme.font}`;
    context.fillText(frame.site === "heads" ? "head" : frame.site, plot.left + plot.width / 2, plot.top + plot.height + 27);
  }

  drawLayerAxis() {
    const { context, theme, frame } = this;
    const plot = this.plots.offset;
    context.fillStyle = theme.quiet;
    context.textAlign = "right";
    context.font = `10px ${theme.mono}`;
    const every = tickEvery(plot.cellHeight, 17);
    for (let layer = 0; layer < frame.layers; layer += every) {
      context.fillText(layer, plot.left - 6, plot.top + (layer + 0.5) * plot.cellHeight + 3);
    }
    context.save();
    context.translate(11, plot.top + plot.height / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.font = `11px ${theme.font}`;
    context.fillText("layer", 0, 0);
    context.restore();
  }

  outline({ half, layer, unit }, width) {
    const { context, theme } = this;
    const { x, y, width: w, height: h } = this.cell(half, layer, unit);
    context.lineWidth = width + 2;
    context.strokeStyle = theme.surface;
    context.strokeRect(x - 1.5, y - 1.5, w + 2, h + 2);
    context.lineWidth = width;
    context.strokeStyle = width > 1 ? theme.accent : theme.text;
    context.strokeRect(x - 1.5, y - 1.5, w + 2, h + 2);
  }

  // Words

  code(half, { layer, unit }) {
    return this.frame[half][layer * this.frame.units + unit];
  }

  place({ layer, unit }) {
    return this.frame.site === "heads" ? `Layer ${layer}, head ${unit}` : `Layer ${layer}, ${this.frame.site}`;
  }

  describe(cell) {
    const [offset, scale] = HALVES.map((half) => this.code(half, cell));
    const state = ["no edit", "offset only", "scale only", "both edits"][gateOpen(offset) + 2 * gateOpen(scale)];
    return `${this.place(cell)}: offset gate ${gateWords(offset)}, scale gate ${gateWords(scale)} (${state})`;
  }

  writeReadout() {
    if (!this.frame) return;
    const cell = this.hover || (document.activeElement === this.canvas || this.picked ? this.cursor : null);
    this.readout.textContent = cell ? this.describe(cell) : "Point at a cell, or press Tab and the arrow keys, to read it.";
  }

  announce() {
    if (!this.frame) return;
    const { half } = this.cursor;
    this.writeReadout();
    this.say.textContent = `${half} half. ${this.describe(this.cursor)}`;
  }

  // Input

  listen() {
    const { canvas } = this;
    new ResizeObserver(() => this.invalidate()).observe(this.root);
    new MutationObserver(() => {
      this.readTheme();
      this.invalidate();
    }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    document.fonts?.ready.then(() => {
      this.readTheme();
      this.invalidate();
    });
    canvas.addEventListener("pointermove", (event) => this.point(event));
    canvas.addEventListener("pointerleave", () => this.point(null));
    canvas.addEventListener("click", (event) => {
      const cell = this.at(event.clientX, event.clientY);
      if (cell) this.pick(cell);
    });
    canvas.addEventListener("focus", () => {
      this.invalidate();
      this.announce();
    });
    canvas.addEventListener("blur", () => {
      this.invalidate();
      this.writeReadout();
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  point(event) {
    this.hover = event && this.at(event.clientX, event.clientY);
    this.tip.hidden = !this.hover;
    if (this.hover) {
      this.tip.textContent = this.describe(this.hover).replace(": ", "\n").replace(", scale", "\nscale").replace(" (", "\n(");
      const bounds = this.root.getBoundingClientRect();
      const x = event.clientX - bounds.left, y = event.clientY - bounds.top;
      const width = this.tip.offsetWidth, height = this.tip.offsetHeight;
      const besideX = x + 16 + width > bounds.width ? x - 16 - width : x + 16;
      const besideY = y + 16 + height > bounds.height ? y - 16 - height : y + 16;
      this.tip.style.transform = `translate(${Math.max(0, besideX)}px, ${Math.max(0, besideY)}px)`;
    }
    this.invalidate();
    this.writeReadout();
  }

  pick(cell) {
    this.cursor = cell;
    this.picked = true;
    this.invalidate();
    this.announce();
    this.onPick(cell.half, cell.layer, cell.unit);
  }

  key(event) {
    if (!this.frame || event.ctrlKey || event.metaKey || event.altKey) return;
    const { layers, units } = this.frame;
    const cursor = { ...this.cursor };
    const pace = event.shiftKey ? 8 : 1;
    const moves = {
      ArrowRight: () => (cursor.unit = Math.min(units - 1, cursor.unit + pace)),
      ArrowLeft: () => (cursor.unit = Math.max(0, cursor.unit - pace)),
      ArrowDown: () => (cursor.layer = Math.min(layers - 1, cursor.layer + pace)),
      ArrowUp: () => (cursor.layer = Math.max(0, cursor.layer - pace)),
      Home: () => (cursor.unit = 0),
      End: () => (cursor.unit = units - 1),
      PageUp: () => (cursor.layer = 0),
      PageDown: () => (cursor.layer = layers - 1),
      m: () => (cursor.half = cursor.half === "offset" ? "scale" : "offset"),
      Enter: () => this.pick(cursor),
      Escape: () => (this.picked = false),
    };
    const move = moves[event.key === "M" ? "m" : event.key];
    if (!move) return;
    event.preventDefault();
    move();
    this.cursor = cursor;
    this.invalidate();
    this.announce();
  }
}

/* The smallest round number of cells between two labels that lie at least `room` pixels apart. */
const tickEvery = (cell, room) => [1, 2, 4, 5, 8, 10, 16, 20, 32].find((every) => every * cell >= room) || 64;

/* The same numbers as text: one table for each half, layers as rows. */
const gateTables = (frame) => {
  const make = (tag, text, attributes = {}) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  return HALVES.map((half) => {
    const table = make("table");
    table.append(make("caption", `${half === "offset" ? "Offset" : "Scale"} gates at step ${frame.step}`));
    const head = table.createTHead().insertRow();
    head.append(make("th", "layer", { scope: "col" }), make("th", "open", { scope: "col" }));
    for (let unit = 0; unit < frame.units; unit++) {
      head.append(make("th", frame.site === "heads" ? `head ${unit}` : frame.site, { scope: "col" }));
    }
    const body = table.createTBody();
    for (let layer = 0; layer < frame.layers; layer++) {
      const row = body.insertRow();
      const codes = frame[half].subarray(layer * frame.units, (layer + 1) * frame.units);
      row.append(make("th", layer, { scope: "row" }), make("td", codes.filter(gateOpen).length));
      for (const code of codes) row.append(make("td", gateWords(code)));
    }
    return table;
  });
};
