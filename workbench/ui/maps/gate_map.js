/* The layer × unit map on one canvas: one panel per channel, side by side, or one panel with the states.
 *
 * Only drawing and input, independent of the source of frames and of what the page does with a selected head.
 * gate_codes.js describes frames and the values of `shows`, the quantity that the color shows.
 */
class GateMap extends MapAxes {
  /* root contains .gm-canvas, .gm-tip, .gm-readout and .gm-say. */
  constructor(root) {
    super();
    this.root = root;
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
    this.shows = "gate";
    this.readTheme();
    this.listen();
  }

  get channels() {
    return this.frame?.channels ?? HALVES;
  }

  /* The quantity that the color shows now; edits without gates only have a size. */
  get meaningShown() {
    return this.frame?.has_gates === false ? "size" : this.shows;
  }

  show(frame) {
    const grew = !this.frame || this.frame.layers !== frame.layers || this.frame.units !== frame.units
      || String(this.frame.channels) !== String(frame.channels);
    this.frame = frame;
    if (grew) this.cursor = { half: frame.channels[0], layer: 0, unit: 0 };
    this.invalidate();
    this.writeReadout();
  }

  /* Change the quantity that the color shows: a name in MEANINGS. */
  colourBy(shows) {
    this.shows = shows;
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

  /* Draw at the next screen refresh, once for several frames. */
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
      states: ["none", "offset", "scale", "both"].map((state) => read(`--jw-state-${state}`)),
    };
    this.statePixels = null;
  }

  // Layout

  measure() {
    const width = Math.max(280, this.root.clientWidth);
    const height = Math.max(160, this.canvas.clientHeight);
    fitCanvas(this.canvas, width, height);
    const { layers, units } = this.frame || { layers: 1, units: 1 };
    const left = 40, top = 28, margin = 50, between = 20;
    const names = this.channels, single = this.meaningShown === "state", panels = single ? 1 : names.length;
    const room = (width - left - (panels - 1) * between - panels * margin) / panels;
    // Limits the size of cells with few layers or heads.
    const cellWidth = Math.min(64, room / units);
    const longest = this.longestName();
    this.tilted = longest > cellWidth - 4;
    const bottom = this.tilted ? longest + 24 : 32;
    const cellHeight = Math.min(36, (height - top - bottom) / layers);
    const plot = { top, width: cellWidth * units, height: cellHeight * layers, cellWidth, cellHeight };
    const step = single ? 0 : plot.width + margin + between;
    this.plots = Object.fromEntries(names.map((name, index) => [name, { ...plot, left: left + index * step }]));
    this.size = { width, height };
  }

  /* Position and size of a cell on the canvas, in whole pixels so that all gaps look equal. */
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

  /* Page coordinates of a cell's center. */
  position(half, layer, unit) {
    const bounds = this.canvas.getBoundingClientRect();
    const { x, y, width, height } = this.cell(half, layer, unit);
    return [bounds.left + x + width / 2, bounds.top + y + height / 2];
  }

  at(clientX, clientY) {
    if (!this.frame) return null;
    const bounds = this.canvas.getBoundingClientRect();
    for (const half of this.channels) {
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
    if (this.meaningShown === "state") this.drawStates();
    else for (const half of this.channels) this.drawHalf(half);
    this.drawLayerAxis();
    if (this.hover) for (const half of this.channels) this.outline({ ...this.hover, half }, 1);
    if (document.activeElement === this.canvas || this.picked) this.outline(this.cursor, 2);
  }

  drawHalf(half) {
    const { fields, has_gates: gates, on } = this.frame, opens = on[half];
    const codes = fields[`${half}_${MEANINGS[this.meaningShown].field}`];
    const total = opens.filter(gateTrained).length, open = opens.filter(gateOpen).length;
    const gated = gates && fields[`${half}_open`].some(gateTrained);
    const paint = { colour: gateColour, pixels: GATE_PIXELS };
    if (!codes.some(gateTrained)) paint.absent = total ? "no gates" : "not trained";
    const always = gates ? `${total} always on` : "";
    this.drawPanel(half, codes, opens, paint, !total ? "" : gated ? `${open} of ${total} open` : always);
  }

  /* Draw both halves as states; a state also has a sign if there is room. */
  drawStates() {
    const states = stateCodes(this.frame), colours = this.theme.states;
    this.statePixels ||= pixelTable((code) => colours[code]);
    const trained = states.filter(gateTrained).length;
    const edited = states.filter(gateOpen).length;
    const paint = { colour: (code) => colours[code], pixels: this.statePixels, sign: true };
    this.drawPanel(this.channels[0], states, states, paint, `${edited} of ${trained} edited`);
  }

  drawPanel(half, codes, opens, paint, words) {
    const { context, theme, frame } = this;
    const plot = this.plots[half];
    const gap = plot.cellWidth >= 7 && plot.cellHeight >= 6 ? 1 : 0;
    context.textBaseline = "alphabetic";
    context.fillStyle = theme.text;
    context.textAlign = "left";
    context.font = `700 13px ${theme.font}`;
    context.fillText(MEANINGS[this.meaningShown].title(capital(half)), plot.left, plot.top - 10);

    if (paint.absent) this.drawAbsent(plot, paint.absent);
    else if (gap) this.drawCells(half, codes, paint);
    else this.drawPixels(plot, codes, paint.pixels);
    for (let layer = 0; frame.has_gates && layer < frame.layers; layer++) {
      const row = opens.subarray(layer * frame.units, (layer + 1) * frame.units);
      if (row.some(gateTrained)) this.drawOpenBar(plot, layer, row.filter(gateOpen).length);
    }
    if (!gap && !paint.absent) {
      context.strokeStyle = theme.line;
      context.lineWidth = 1;
      context.strokeRect(plot.left - 0.5, plot.top - 0.5, plot.width + 1, plot.height + 1);
    }
    context.fillStyle = theme.quiet;
    context.font = `12px ${theme.font}`;
    context.textAlign = "right";
    // There is no room for both above a narrow panel.
    if (plot.width > 190) context.fillText(words, plot.left + plot.width - gap, plot.top - 10);
    this.drawUnitAxis(plot);
  }

  /* Draw a message in place of the cells of a missing half. */
  drawAbsent(plot, words) {
    const { context, theme } = this;
    context.strokeStyle = theme.line;
    context.lineWidth = 1;
    context.setLineDash([4, 4]);
    context.strokeRect(plot.left + 0.5, plot.top + 0.5, plot.width - 1, plot.height - 1);
    context.setLineDash([]);
    context.fillStyle = theme.quiet;
    context.font = `13px ${theme.font}`;
    context.textAlign = "center";
    context.fillText(words, plot.left + plot.width / 2, plot.top + plot.height / 2 + 4);
  }

  /* Draw cells with lines between them. */
  drawCells(half, codes, { colour, sign = false }) {
    const { context, theme, frame } = this;
    context.lineWidth = 1;
    for (let layer = 0; layer < frame.layers; layer++) {
      for (let unit = 0; unit < frame.units; unit++) {
        const code = codes[layer * frame.units + unit];
        const { x, y, width, height } = this.cell(half, layer, unit);
        if (code === GATE_UNTRAINED) {
          context.strokeStyle = theme.line;
          context.strokeRect(x + 0.5, y + 0.5, width - 2, height - 2);
          continue;
        }
        context.fillStyle = colour(code);
        context.fillRect(x, y, width - 1, height - 1);
        if (sign && code && width >= 9 && height >= 8) this.drawSign(code, x + (width - 1) / 2, y + (height - 1) / 2);
      }
    }
  }

  /* Draw + for an offset, × for a scale, or both. */
  drawSign(code, x, y) {
    const { context, theme } = this, reach = 3;
    context.strokeStyle = theme.surface;
    context.lineWidth = 1.25;
    context.beginPath();
    const strokes = [...(code & 1 ? [[1, 0], [0, 1]] : []), ...(code & 2 ? [[0.7, 0.7], [0.7, -0.7]] : [])];
    for (const [dx, dy] of strokes) {
      context.moveTo(x - reach * dx, y - reach * dy);
      context.lineTo(x + reach * dx, y + reach * dy);
    }
    context.stroke();
  }

  /* Draw thousands of small cells: one pixel each, enlarged without smoothing. */
  drawPixels(plot, codes, table) {
    const { layers, units } = this.frame;
    this.pixels ||= document.createElement("canvas");
    if (this.pixels.width !== units || this.pixels.height !== layers) {
      this.pixels.width = units;
      this.pixels.height = layers;
    }
    const target = this.pixels.getContext("2d");
    const image = target.createImageData(units, layers);
    const pixels = new Uint32Array(image.data.buffer);
    for (let index = 0; index < codes.length; index++) pixels[index] = table[codes[index]];
    target.putImageData(image, 0, 0);
    this.context.imageSmoothingEnabled = false;
    this.context.drawImage(this.pixels, plot.left, plot.top, plot.width, plot.height);
  }

  /* Draw the number of open gates of a layer in the margin, as a bar and, if there is room, as a number. */
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

  place({ layer, unit }) {
    return `Layer ${layer}, ${unitName(this.frame, unit)}`;
  }

  /* Everything known about a cell: the state, and one text per channel. */
  facts(cell) {
    const at = cell.layer * this.frame.units + cell.unit, { fields, norm_top: top, on } = this.frame;
    if (!this.frame.has_gates) {
      return ["", ...this.channels.map((name) => `norm of the ${name} ${normWords(fields[`${name}_norm`][at], top)}`)];
    }
    const halves = HALVES.map((half) => {
      const [gate, open, norm] = ["gate", "open", "norm"].map((kind) => fields[`${half}_${kind}`][at]);
      if (gate === GATE_UNTRAINED) return `${half} not trained`;
      if (open === GATE_UNTRAINED) return `${half} always on, it has no gate; norm ${normWords(norm, top)}`;
      return `${half} gate ${gateWords(gate)}, P(open) ${openWords(open)}, norm ${normWords(norm, top)}`;
    });
    return [STATE_WORDS[gateOpen(on.offset[at]) + 2 * gateOpen(on.scale[at])], ...halves];
  }

  describe(cell) {
    const [state, ...parts] = this.facts(cell);
    return `${this.place(cell)}: ${parts.join("; ")}${state && ` (${state})`}`;
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
    this.say.textContent = `${half}${this.channels.length > 1 ? " half" : ""}. ${this.describe(this.cursor)}`;
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
      const [state, ...halves] = this.facts(this.hover);
      this.tip.textContent = [[this.place(this.hover), state].filter(Boolean).join(" – "), ...halves].join("\n");
      this.placeTip(event);
    }
    this.invalidate();
    this.writeReadout();
  }

  placeTip(event) {
    const bounds = this.root.getBoundingClientRect();
    const x = event.clientX - bounds.left, y = event.clientY - bounds.top;
    const { offsetWidth: width, offsetHeight: height } = this.tip;
    const besideX = x + 16 + width > bounds.width ? x - 16 - width : x + 16;
    const besideY = y + 16 + height > bounds.height ? y - 16 - height : y + 16;
    this.tip.style.transform = `translate(${Math.max(0, besideX)}px, ${Math.max(0, besideY)}px)`;
  }

  pick(cell) {
    this.cursor = cell;
    this.picked = true;
    this.invalidate();
    this.announce();
  }

  nextChannel(name) {
    return this.channels[(this.channels.indexOf(name) + 1) % this.channels.length];
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
      m: () => (cursor.half = this.nextChannel(cursor.half)),
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
