/* The map of edits: the state of the server, gestures that it has not answered yet, pointer and keys.
 *
 * `tell` is {edit, card, undo, redo, differs}: functions that send the payload of an event.
 */
const RESENDS = 3;
const MILLISECONDS_TO_SETTLE = 500;
const MOST_EARLIER = 500;

class EditMap extends EditDrawing {
  constructor(root, tell) {
    super(root);
    Object.assign(this, {
      tell,
      edits: null,        // key of the edits on the map
      both: false,        // whether keys change both halves
      unanswered: [],     // gestures without an answer, oldest first
      lastGesture: 0,
      patience: 10000,    // milliseconds until a gesture without an answer is sent again
      onChange: () => {},
    });
  }

  // State of the server

  setValue(value) {
    // Revisions also grow from run to run: these are the edits of a run that was shown before.
    if (this.base && value.key !== this.edits && value.revision < this.base.revision) {
      this.tell.differs({ key: this.edits });
      return;
    }
    const { layers, units, site, channels, unit_names, has_gates } = value;
    const pairs = (texts) => texts.map(floats);
    const effect = value.effect && Object.fromEntries(Object.entries(value.effect).map(([k, v]) => [k, pairs(v)]));
    const gate = value.gate.map(decodeGates);
    const open = gate.map((codes) => codes.map((code) => gateOpen(code)));
    this.data = { gate, norm: pairs(value.norm), effect, hasSign: value.effect_has_sign, open, channels };
    if (this.frame && (this.edits !== value.key || layers !== this.frame.layers || units !== this.frame.units)) {
      this.base = this.selection = this.drag = this.hover = null;
      this.unanswered = [];
      this.cursor = { half: channels[0], layer: 0, unit: 0 };
    }
    if (!this.frame) this.cursor.half = channels[0];
    this.edits = value.key;
    this.frame = { layers, units, site, channels, unit_names, has_gates };
    if (this.meaning === "effect" && !effect) this.meaning = "gate";
    if (this.meaning === "gate" && !has_gates) this.meaning = "norm";
    if (!this.base || value.revision > this.base.revision) this.setMask(value);
    else this.refresh();
  }

  setMask(mask) {
    if (!this.frame || mask.key !== this.edits || (this.base && mask.revision <= this.base.revision)) return;
    const packed = decodeGates(mask.on), cells = this.frame.layers * this.frame.units;
    const on = Uint8Array.from({ length: this.channels.length * cells }, (_, index) => (packed[index >> 3] >> (7 - (index & 7))) & 1);
    this.base = { revision: mask.revision, text: mask.text, on, strength: mask.strength && floats(mask.strength) };
    this.unanswered = this.unanswered.filter((gesture) => gesture.gesture > mask.seen);
    this.refresh();
  }

  /* Compute what is on now: the server's mask with the unanswered gestures applied. */
  refresh() {
    const { layers, units } = this.frame, cells = layers * units;
    this.on = this.base.on.slice();
    for (const { half, cells: chosen, action } of this.unanswered) {
      for (const index of this.halvesOf(half)) {
        for (const [layer, unit] of chosen) this.on[index * cells + layer * units + unit] = Number(action === "on");
      }
    }
    this.counts = this.channels.map((_, half) => {
      const rows = Array.from({ length: layers }, () => ({ on: 0, open: 0 }));
      for (let cell = 0; cell < cells; cell++) {
        if (!this.data.open[half][cell]) continue;
        const row = rows[Math.floor(cell / units)];
        row.open += 1;
        row.on += this.on[half * cells + cell];
      }
      const sum = (what) => rows.reduce((total, row) => total + row[what], 0);
      return { rows, on: sum("on"), open: sum("open") };
    });
    this.invalidate();
    this.writeReadout();
    this.onChange();
  }

  // Changing edits

  /* Switch the open edits among cells: off if `first` is on, or without `first`, if any is on. */
  toggle(cells, half, first = null) {
    const halves = this.halvesOf(half);
    const open = cells.filter((cell) => halves.some((index) => this.isOpen(index, cell)));
    if (!open.length) {
      this.report(this.frame.has_gates ? "There is no edit here: the gate is closed." : "There is no edit here.");
      return;
    }
    const on = (cell) => halves.some((index) => this.isOpen(index, cell) && this.isOn(index, cell));
    const decides = first && open.find((cell) => cell.layer === first.layer && cell.unit === first.unit);
    this.switchCells(open, half, (decides ? on(decides) : open.some(on)) ? "off" : "on");
  }

  switchCells(cells, half, action) {
    this.lastGesture = Math.max(this.lastGesture + 1, Date.now());
    const gesture = { gesture: this.lastGesture, half, cells: cells.map(({ layer, unit }) => [layer, unit]), action };
    this.unanswered = [...this.unanswered, gesture].slice(-MOST_EARLIER);
    this.refresh();
    this.send();
    this.resend(this.lastGesture, RESENDS);
    const halves = this.halvesOf(half);
    const [now, all] = ["on", "open"].map((what) => halves.reduce((sum, index) => sum + this.counts[index][what], 0));
    const where = cells.length === 1 ? this.place(cells[0]) : `${cells.length} ${this.unitsName()}`;
    this.report(`${where}, ${this.halfName(half).toLowerCase()} ${action}. ${now} of ${all} on.`);
  }

  /* Send the latest gesture, with earlier ones that have no answer yet. */
  send() {
    const latest = this.unanswered.at(-1);
    this.tell.edit({ key: this.edits, ...latest, earlier: this.unanswered.slice(0, -1) });
  }

  /* Requests can be lost. The number of a gesture prevents applying it twice. */
  resend(number, left) {
    setTimeout(() => {
      if (!this.canvas.isConnected || this.unanswered.at(-1)?.gesture !== number) return;
      if (left > 0) {
        this.send();
        this.resend(number, left - 1);
      } else {
        this.unanswered = [];
        this.refresh();
        this.report("The app did not answer; the last changes are not in effect.");
      }
    }, this.patience);
  }

  /* Report it if the page still shows the text of another mask a moment later; `shown` returns the text on the page.
   *
   * The server sends a mask and its text together, but the page can apply the answers to quick gestures in any order,
   * and only the map compares their revisions.
   */
  compare(shown) {
    clearTimeout(this.comparing);
    this.comparing = setTimeout(() => {
      if (this.canvas.isConnected && this.base && shown() !== this.base.text) this.tell.differs({ key: this.edits });
    }, MILLISECONDS_TO_SETTLE);
  }

  openCard({ half, layer, unit }) {
    this.tell.card({ key: this.edits, layer, unit, half });
  }

  // Pointer

  /* The place of the pointer: a cell, or with `unit` null, the number or the counts of a layer next to a half. */
  placeAt(event) {
    const cell = this.at(event.clientX, event.clientY);
    if (cell || !this.frame) return cell;
    const bounds = this.canvas.getBoundingClientRect();
    const x = event.clientX - bounds.left, y = event.clientY - bounds.top;
    for (const half of this.channels) {
      const plot = this.plots[half];
      if (!plot) continue;
      const layer = Math.floor((y - plot.top) / plot.cellHeight);
      const beside = x >= plot.left - 20 && x <= plot.left + plot.width + 48;
      if (beside && layer >= 0 && layer < this.frame.layers) return { half, layer, unit: null };
    }
    return null;
  }

  /* The place nearest to the pointer in the half where the drag began. */
  nearest(event, { half, unit }) {
    const bounds = this.canvas.getBoundingClientRect(), plot = this.plots[half];
    const place = (at, cell, count) => Math.max(0, Math.min(count - 1, Math.floor(at / cell)));
    return {
      layer: place(event.clientY - bounds.top - plot.top, plot.cellHeight, this.frame.layers),
      unit: unit === null ? null : place(event.clientX - bounds.left - plot.left, plot.cellWidth, this.frame.units),
    };
  }

  dragged() {
    const { from, to } = this.drag;
    return from.unit === null ? this.wholeLayers(from.layer, to.layer) : { from, to };
  }

  listen() {
    super.listen();
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      const place = event.button === 0 && this.placeAt(event);
      if (!place) return;
      this.selection = null;
      this.drag = { half: place.half, from: place, to: place, both: event.shiftKey };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointerup", (event) => this.drop(event));
    canvas.addEventListener("pointercancel", () => this.giveUp());
    canvas.addEventListener("dblclick", (event) => {
      const cell = this.at(event.clientX, event.clientY);
      if (cell && !event.altKey) this.openCard(cell);
    });
  }

  point(event) {
    if (event && this.drag) {
      this.drag.to = this.nearest(event, this.drag.from);
      this.hover = null;
      this.tip.hidden = true;
      this.invalidate();
      this.writeReadout();
      return;
    }
    this.hover = event && this.placeAt(event);
    this.canvas.style.cursor = this.hover && this.cellsAt(this.hover).some((cell) => this.isOpen(this.channels.indexOf(this.hover.half), cell))
      ? "pointer" : "default";
    this.tip.hidden = !this.hover;
    if (this.hover) {
      this.tip.textContent = this.words(this.hover).join("\n");
      this.placeTip(event);
    }
    this.invalidate();
    this.writeReadout();
  }

  cellsAt({ layer, unit }) {
    return unit === null ? this.cellsIn(this.wholeLayers(layer)) : [{ layer, unit }];
  }

  drop(event) {
    if (!this.drag) return;
    this.drag.to = this.nearest(event, this.drag.from);
    const { from, half, both } = this.drag, cells = this.cellsIn(this.dragged());
    this.drag = null;
    if (from.unit !== null) this.cursor = { half, layer: from.layer, unit: from.unit };
    if (event.altKey && from.unit !== null) this.openCard(this.cursor);
    else this.toggle(cells, both ? "both" : half, from.unit === null ? null : from);
    this.point(event);
  }

  giveUp() {
    this.drag = this.selection = null;
    this.invalidate();
    this.writeReadout();
  }

  /* A click is handled as a drag of length 0. */
  pick() {}

  // Keys

  key(event) {
    if (!this.frame || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.ctrlKey || event.metaKey) {
      const undo = key === "z" && !event.shiftKey, redo = key === "y" || (key === "z" && event.shiftKey);
      if (!undo && !redo) return;
      event.preventDefault();
      this.tell[undo ? "undo" : "redo"]({ key: this.edits });
      return;
    }
    const act = this.actions()[key] || this.moves()[key];
    if (!act) return;
    event.preventDefault();
    act(event);
  }

  moves() {
    const { layers, units } = this.frame;
    const to = (change) => (event) => {
      const from = this.selection?.from || { layer: this.cursor.layer, unit: this.cursor.unit };
      const { layer, unit } = { ...this.cursor, ...change(this.cursor) };
      this.cursor = {
        half: this.cursor.half,
        layer: Math.max(0, Math.min(layers - 1, layer)),
        unit: Math.max(0, Math.min(units - 1, unit)),
      };
      this.selection = event.shiftKey ? { from, to: { layer: this.cursor.layer, unit: this.cursor.unit } } : null;
      this.announce();
    };
    return {
      ArrowRight: to(({ unit }) => ({ unit: unit + 1 })),
      ArrowLeft: to(({ unit }) => ({ unit: unit - 1 })),
      ArrowDown: to(({ layer }) => ({ layer: layer + 1 })),
      ArrowUp: to(({ layer }) => ({ layer: layer - 1 })),
      Home: to(() => ({ unit: 0 })),
      End: to(() => ({ unit: units - 1 })),
      PageUp: to(({ layer }) => ({ layer: layer - 8 })),
      PageDown: to(({ layer }) => ({ layer: layer + 8 })),
    };
  }

  actions() {
    const { cursor } = this;
    const half = () => (this.both ? "both" : cursor.half);
    const choose = (name) => () => {
      if (name !== "both" && !this.channels.includes(name)) return;
      this.both = name === "both";
      if (!this.both) this.cursor = { ...cursor, half: name };
      this.announce();
    };
    return {
      " ": () => this.toggle([cursor], half(), cursor),
      Enter: () => this.toggle(this.selection ? this.cellsIn(this.selection) : [cursor], half(), this.selection?.from || cursor),
      l: () => this.toggle(this.cellsIn(this.wholeLayers(cursor.layer)), half()),
      i: () => this.openCard(cursor),
      o: choose("offset"),
      s: choose("scale"),
      b: choose("both"),
      m: choose(this.nextChannel(cursor.half)),
      Escape: () => {
        this.giveUp();
        this.announce();
      },
    };
  }

  /* Show a sentence about the last action, until the pointer moves and for screen readers. */
  report(sentence) {
    this.say.textContent = sentence;
    this.readout.textContent = sentence;
  }

  announce() {
    if (!this.frame) return;
    this.invalidate();
    this.writeReadout();
    const scope = this.selection ? [this.regionWords(this.selection, this.reach())] : this.words(this.cursor);
    this.say.textContent = `${this.halfName(this.reach())}. ${scope.join(", ")}`;
  }
}
