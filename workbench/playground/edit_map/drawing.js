/* Drawing of the edits, and texts about them. Layout, theme and axes are those of GateMap.
 *
 * Places name a channel, such as the halves offset and scale (`half`, where "both" means all); arrays index channels in
 * the order of frame.channels. Arrays over all channels have the cells of the first channel first. The drawn state:
 * data {gate, norm, effect, open}, base {on, strength} from the server, `on` including changes that the server has not
 * confirmed, counts, meaning of the color, cursor, hover, selection, drag.
 */
const WHERE_ROWS_ARE_NUMBERED = 11;

class EditDrawing extends GateMap {
  constructor(root) {
    super(root);
    Object.assign(this, {
      data: null,
      base: null,
      on: new Uint8Array(0),
      counts: null,
      meaning: "gate",
      selection: null,    // {from, to}: corners, set by keys
      drag: null,         // {half, from, to, both} while the pointer is down
      sprites: new MarkSprites(),
    });
  }

  // Properties of cells; `half` is a name, `index` its index among the channels

  halvesOf(half) {
    return half === "both" ? this.channels.map((_, index) => index) : [this.channels.indexOf(half)];
  }

  halfName(half) {
    return half === "both" ? (this.channels.length > 1 ? "Both halves" : capital(this.channels[0])) : capital(half);
  }

  /* The name of the columns: heads, modules or units. */
  unitsName() {
    return `${SITE_UNITS[this.frame.site] || "unit"}s`;
  }

  cellIndex({ layer, unit }) {
    return layer * this.frame.units + unit;
  }

  isOpen(index, cell) {
    return Boolean(this.data.open[index][this.cellIndex(cell)]);
  }

  isOn(index, cell) {
    return Boolean(this.on[index * this.frame.layers * this.frame.units + this.cellIndex(cell)]);
  }

  strengthAt(index, cell) {
    const all = this.base.strength;
    return all ? Math.round(100 * all[index * this.frame.layers * this.frame.units + this.cellIndex(cell)]) / 100 : 1;
  }

  /* Cells of a rectangle {from, to}, including the corners. */
  cellsIn({ from, to }) {
    const cells = [];
    for (let layer = Math.min(from.layer, to.layer); layer <= Math.max(from.layer, to.layer); layer++) {
      for (let unit = Math.min(from.unit, to.unit); unit <= Math.max(from.unit, to.unit); unit++) cells.push({ layer, unit });
    }
    return cells;
  }

  wholeLayers(from, to = from) {
    return { from: { layer: from, unit: 0 }, to: { layer: to, unit: this.frame.units - 1 } };
  }

  /* The halves that keys change. */
  reach() {
    return this.both ? "both" : this.cursor.half;
  }

  /* Page coordinates of a cell, also before the first drawing. */
  position(half, layer, unit) {
    this.measure();
    return super.position(half, layer, unit);
  }

  layerPosition(half, layer) {
    const [, y] = this.position(half, layer, 0);
    return [this.canvas.getBoundingClientRect().left + this.plots[half].left - 9, y];
  }

  // Drawing

  readTheme() {
    super.readTheme();
    this.theme.dark = document.body.classList.contains("dark");
    this.theme.rim = "rgb(255 255 255 / 45%)";
  }

  /* The color of a cell, by index of half and cell. Closed gates have the dark end of the scale, or gray next to
   * effects, where dark may mean large. Edits that are off are faded, in addition to their mark. */
  paints() {
    const { scale, index: colourOf } = colouring(this.data, this.meaning, this.theme.dark), { surface } = this.theme;
    const faded = scale.map((colour) => mix(colour, surface, 0.68)), cells = this.frame.layers * this.frame.units;
    const closed = this.meaning === "effect" ? this.theme.line : CIVIDIS[0];
    return (half, cell) => {
      if (!this.data.open[half][cell]) return closed;
      const colour = colourOf(half, cell);
      if (colour === null) return surface;
      return (this.on[half * cells + cell] ? scale : faded)[colour];
    };
  }

  draw() {
    this.measure();
    this.context.clearRect(0, 0, this.size.width, this.size.height);
    if (!this.frame || !this.base) return;
    const paints = this.paints();
    for (const half of this.channels) this.drawEdits(half, paints);
    this.drawLayerAxis();
    for (const half of this.channels.slice(1)) this.drawLayerNumbers(this.plots[half]);
    this.drawRings();
  }

  drawEdits(half, paints) {
    const { context, theme } = this, plot = this.plots[half], index = this.channels.indexOf(half);
    const { on, open } = this.counts[index];
    context.textBaseline = "alphabetic";
    context.fillStyle = theme.text;
    context.textAlign = "left";
    context.font = `700 13px ${theme.font}`;
    context.fillText(this.channels.length > 1 ? `${capital(half)} edits` : "Edits", plot.left, plot.top - 10);
    context.fillStyle = theme.quiet;
    context.font = `12px ${theme.font}`;
    context.textAlign = "right";
    const trained = this.data.gate[index].some((code) => code !== GATE_UNTRAINED);
    // There is no room for both above a narrow half.
    if (plot.width > 170) context.fillText(trained ? `${on} of ${open} on` : "not trained", plot.left + plot.width, plot.top - 10);

    const roomy = plot.cellWidth >= 7 && plot.cellHeight >= 6;
    if (roomy) this.drawLarge(half, index, paints);
    else this.drawSmall(plot, index, paints);
    this.drawMarks(half, index, roomy);
    this.drawCounts(plot, index);
    this.drawUnitAxis(plot);
  }

  /* Draw large cells; only open ones, which can be switched, have a border. */
  drawLarge(half, index, paints) {
    const { context, theme, frame, data } = this;
    const edged = this.plots[half].cellWidth >= 11 && this.plots[half].cellHeight >= 9;
    context.lineWidth = 1;
    for (let layer = 0; layer < frame.layers; layer++) {
      for (let unit = 0; unit < frame.units; unit++) {
        const at = layer * frame.units + unit;
        const { x, y, width, height } = this.cell(half, layer, unit);
        if (data.gate[index][at] === GATE_UNTRAINED) {
          context.strokeStyle = theme.line;
          context.strokeRect(x + 0.5, y + 0.5, width - 2, height - 2);
          continue;
        }
        context.fillStyle = paints(index, at);
        context.fillRect(x, y, width - 1, height - 1);
        if (data.open[index][at] && edged) {
          context.strokeStyle = theme.rim;
          context.strokeRect(x + 0.5, y + 0.5, width - 2, height - 2);
        }
      }
    }
  }

  /* Draw thousands of small cells: one pixel each, enlarged without smoothing. */
  drawSmall(plot, index, paints) {
    const { layers, units } = this.frame;
    this.pixels ||= document.createElement("canvas");
    Object.assign(this.pixels, { width: units, height: layers });
    const target = this.pixels.getContext("2d"), image = target.createImageData(units, layers);
    const parts = new Map();
    for (let at = 0; at < layers * units; at++) {
      if (this.data.gate[index][at] === GATE_UNTRAINED) continue;
      const colour = paints(index, at);
      if (!parts.has(colour)) parts.set(colour, rgb(colour));
      image.data.set(parts.get(colour), 4 * at);
      image.data[4 * at + 3] = 255;
    }
    target.putImageData(image, 0, 0);
    this.context.imageSmoothingEnabled = false;
    this.context.drawImage(this.pixels, plot.left, plot.top, plot.width, plot.height);
    this.context.strokeStyle = this.theme.line;
    this.context.lineWidth = 1;
    this.context.strokeRect(plot.left - 0.5, plot.top - 0.5, plot.width + 1, plot.height + 1);
  }

  drawMarks(half, index, roomy) {
    const plot = this.plots[half], density = window.devicePixelRatio || 1;
    const size = Math.round(Math.max(4, Math.min(10, 0.55 * Math.min(plot.cellWidth, plot.cellHeight))));
    for (let layer = 0; layer < this.frame.layers; layer++) {
      for (let unit = 0; unit < this.frame.units; unit++) {
        const cell = { layer, unit };
        if (!this.isOpen(index, cell)) continue;
        const mark = markOf(this.isOn(index, cell), this.strengthAt(index, cell));
        if (!mark) continue;
        const { x, y, width, height } = this.cell(half, layer, unit), gap = roomy ? 1 : 0;
        this.sprites.draw(this.context, mark, x + (width - gap) / 2, y + (height - gap) / 2, size, density);
      }
    }
  }

  /* Draw in the margin how many of a layer's open edits are on. */
  drawCounts(plot, index) {
    const { context, theme, frame } = this;
    const numbered = plot.cellHeight >= WHERE_ROWS_ARE_NUMBERED, full = numbered ? 14 : 40;
    this.counts[index].rows.forEach(({ on, open }, layer) => {
      const y = Math.round(plot.top + layer * plot.cellHeight);
      const height = Math.max(1, Math.round(plot.top + (layer + 1) * plot.cellHeight) - y - 1);
      const length = (count) => Math.max(count ? 1 : 0, (full * count) / frame.units);
      context.fillStyle = theme.line;
      context.fillRect(plot.left + plot.width + 5, y, length(open), height);
      context.fillStyle = theme.bar;
      context.fillRect(plot.left + plot.width + 5, y, length(on), height);
      if (!numbered || !open) return;
      context.fillStyle = theme.quiet;
      context.font = `10px ${theme.mono}`;
      context.textAlign = "left";
      context.fillText(`${on}/${open}`, plot.left + plot.width + 22, y + height / 2 + 3.5, 28);
    });
  }

  /* Draw the layer numbers of further channels too; each switches its layer in its channel. */
  drawLayerNumbers(plot) {
    const { context, theme, frame } = this;
    context.fillStyle = theme.quiet;
    context.textAlign = "right";
    context.font = `10px ${theme.mono}`;
    const every = tickEvery(plot.cellHeight, 17);
    for (let layer = 0; layer < frame.layers; layer += every) {
      context.fillText(layer, plot.left - 5, plot.top + (layer + 0.5) * plot.cellHeight + 3);
    }
  }

  drawRings() {
    const focused = document.activeElement === this.canvas;
    if (this.drag) {
      for (const index of this.halvesOf(this.drag.both ? "both" : this.drag.half)) this.frameRegion(this.channels[index], this.dragged());
      return;
    }
    if (this.hover) {
      const { half, layer, unit } = this.hover;
      if (unit === null) this.frameRegion(half, this.wholeLayers(layer));
      else this.outline({ half, layer, unit }, 1);
    }
    if (!focused) return;
    for (const index of this.halvesOf(this.reach())) {
      if (this.selection) this.frameRegion(this.channels[index], this.selection);
      this.outline({ ...this.cursor, half: this.channels[index] }, 2);
    }
  }

  /* Draw a dashed line around cells: a dragged region, a selection, or a layer. */
  frameRegion(half, { from, to }) {
    const { context, theme } = this;
    const first = this.cell(half, Math.min(from.layer, to.layer), Math.min(from.unit, to.unit));
    const last = this.cell(half, Math.max(from.layer, to.layer), Math.max(from.unit, to.unit));
    const width = last.x + last.width - first.x, height = last.y + last.height - first.y;
    context.save();
    context.lineWidth = 4;
    context.strokeStyle = theme.surface;
    context.strokeRect(first.x - 1.5, first.y - 1.5, width + 2, height + 2);
    context.setLineDash([5, 3]);
    context.lineWidth = 2;
    context.strokeStyle = theme.accent;
    context.strokeRect(first.x - 1.5, first.y - 1.5, width + 2, height + 2);
    context.restore();
  }

  // Words

  effectWords(index, at) {
    const { effect } = this.data;
    if (!effect || Number.isNaN(effect.value[index][at])) return [];
    const [value, low, high, n] = ["value", "low", "high", "n"].map((name) => effect[name][index][at]);
    const interval = Number.isNaN(low) || Number.isNaN(high) ? "" : `${signed(low)} to ${signed(high)}, `;
    return [`effect ${signed(value)} nats (${interval}n = ${n})`];
  }

  /* Lines of text about a place on the map. */
  words({ half, layer, unit }) {
    const index = this.channels.indexOf(half);
    if (unit === null) {
      const { on, open } = this.counts[index].rows[layer];
      return [`Layer ${layer}, ${half}: ${open ? `${on} of ${open} edits on` : "no open edit"}`];
    }
    const cell = { layer, unit }, at = this.cellIndex(cell), code = this.data.gate[index][at];
    const title = `${this.place(cell)}, ${half}`;
    if (!this.isOpen(index, cell)) return [title, code === GATE_UNTRAINED ? "not trained" : this.closedWords()];
    return [
      title,
      ...(this.frame.has_gates ? [`gate ${gateWords(code)}`] : []),
      `norm ${figure(this.data.norm[index][at])}`,
      strengthWords(this.isOn(index, cell), this.strengthAt(index, cell)),
      ...this.effectWords(index, at),
    ];
  }

  closedWords() {
    return this.frame.has_gates ? "gate closed, cannot be switched" : "not edited";
  }

  regionWords(region, half) {
    const range = (from, to) => (from === to ? `${from}` : `${Math.min(from, to)}–${Math.max(from, to)}`);
    const { from, to } = region, cells = this.cellsIn(region);
    const edits = this.halvesOf(half).flatMap((index) => cells.filter((cell) => this.isOpen(index, cell)).map((cell) => this.isOn(index, cell)));
    const names = this.frame.unit_names, [left, right] = [from.unit, to.unit].sort((a, b) => a - b);
    const units = names ? names.slice(left, right + 1).join(", ") : `${this.unitsName()} ${range(from.unit, to.unit)}`;
    const where = `Layers ${range(from.layer, to.layer)}, ${units}, ${this.halfName(half).toLowerCase()}`;
    return `${where}: ${edits.filter(Boolean).length} of ${edits.length} edits on`;
  }

  writeReadout() {
    if (!this.frame || !this.base) return;
    const both = this.channels.length > 1 ? ", Shift with it both halves" : "";
    let text = `Click switches an edit${both}; drag for a region, a number for its layer. Alt+click opens the ${SITE_UNITS[this.frame.site] || "unit"}.`;
    if (this.drag) text = this.regionWords(this.dragged(), this.drag.both ? "both" : this.drag.half);
    else if (this.hover) text = this.words(this.hover).join(", ");
    else if (document.activeElement === this.canvas) {
      text = this.selection ? this.regionWords(this.selection, this.reach()) : this.words(this.cursor).join(", ");
    }
    this.readout.textContent = text;
  }
}
