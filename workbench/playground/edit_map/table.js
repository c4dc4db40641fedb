/* The same edits as text: one row per unit with an edit, one checkbox per channel. The table is built when it is
 * opened, with a limited number of rows at first, and updated in place to keep the focus. */
const TABLE_ROWS = 300;

class EditTable {
  constructor(place, map) {
    this.place = place;
    this.map = map;
    this.made = null;
    this.boxes = [];
    place.addEventListener("change", (event) => this.switch(event.target));
    place.addEventListener("click", (event) => this.press(event.target.closest("button")));
  }

  /* Show the edits of the map: rebuild the table for other edits, then update their state. */
  show() {
    if (!this.map.data) return;
    if (this.made !== this.map.data) this.build();
    for (const { box, state, index, cell } of this.boxes) {
      const on = this.map.isOn(index, cell);
      box.checked = on;
      const words = strengthWords(on, this.map.strengthAt(index, cell));
      if (state.textContent !== words) state.textContent = words;
    }
  }

  heads() {
    const { layers, units } = this.map.frame;
    return this.map.cellsIn({ from: { layer: 0, unit: 0 }, to: { layer: layers - 1, unit: units - 1 } })
      .filter((cell) => this.map.channels.some((_, index) => this.map.isOpen(index, cell)));
  }

  build() {
    this.made = this.map.data;
    this.boxes = [];
    this.left = this.heads();
    const effects = Boolean(this.map.data.effect);
    const table = makeNode("table");
    const head = table.createTHead().insertRow();
    const { site, has_gates: gates } = this.map.frame;
    const columns = ["Layer", capital(SITE_UNITS[site] || "unit")];
    for (const name of this.map.channels) {
      columns.push(capital(name), "State", ...(gates ? ["Gate"] : []), "Norm", ...(effects ? ["Effect, nats"] : []));
    }
    for (const name of columns) head.append(makeNode("th", name, { scope: "col" }));
    this.body = table.createTBody();
    this.more = makeNode("button", "", { type: "button", class: "em-more" });
    if (this.left.length) this.place.replaceChildren(table, this.more);
    else this.place.replaceChildren(makeNode("p", gates ? "All gates are closed: there is no edit to switch." : "There is no edit to switch."));
    this.addRows();
  }

  addRows() {
    for (const cell of this.left.splice(0, TABLE_ROWS)) this.addRow(cell);
    this.more.hidden = this.left.length === 0;
    this.more.textContent = `Show more (${this.left.length} ${this.map.unitsName()})`;
  }

  addRow(cell) {
    const { map } = this, row = this.body.insertRow(), where = map.place(cell);
    const { site, unit_names: names, has_gates: gates } = map.frame;
    const label = names ? names[cell.unit] : cell.unit, title = `Open this ${SITE_UNITS[site] || "unit"}`;
    const card = makeNode("button", label, { type: "button", "aria-label": `${where}: open`, title });
    Object.assign(card.dataset, cell);
    const name = makeNode("th", undefined, { scope: "row" });
    name.append(card);
    row.append(makeNode("td", cell.layer), name);
    map.channels.forEach((half, index) => {
      const open = map.isOpen(index, cell), at = map.cellIndex(cell), { effect } = map.data;
      const columns = 2 + Number(gates) + Number(Boolean(effect));
      if (!open) {
        row.append(makeNode("td", "–", { class: "em-closed" }), makeNode("td", gates ? "closed" : "none", { class: "em-closed", colspan: columns }));
        return;
      }
      const box = makeNode("input", undefined, { type: "checkbox", "aria-label": `${where}, ${half}` });
      Object.assign(box.dataset, { ...cell, half });
      const held = makeNode("td"), state = makeNode("td");
      held.append(box);
      this.boxes.push({ box, state, index, cell });
      row.append(held, state);
      if (gates) row.append(makeNode("td", gateWords(map.data.gate[index][at])));
      row.append(makeNode("td", figure(map.data.norm[index][at])));
      if (effect) {
        const value = effect.value[index][at];
        row.append(makeNode("td", Number.isNaN(value) ? "–" : map.effectWords(index, at)[0].replace(/^effect | nats/g, "")));
      }
    });
  }

  switch(box) {
    const { half, layer, unit } = box.dataset;
    this.map.switchCells([{ layer: Number(layer), unit: Number(unit) }], half, box.checked ? "on" : "off");
  }

  press(button) {
    if (!button) return;
    if (button === this.more) {
      this.addRows();
      this.show();
    } else {
      const { layer, unit } = button.dataset, cell = { layer: Number(layer), unit: Number(unit) };
      this.map.openCard({ ...cell, half: this.map.channels.find((_, index) => this.map.isOpen(index, cell)) });
    }
  }
}
