/* The numbers of the map as text: one table for each channel, or one for the states, layers as rows. */
const gateTables = (frame, shows = "gate") => {
  const make = (tag, text, attributes = {}) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const meaning = MEANINGS[shows], gates = frame.has_gates, states = gates ? stateCodes(frame) : null;
  return (shows === "state" ? ["state"] : frame.channels).map((half) => {
    const codes = half === "state" ? states : frame.fields[`${half}_${meaning.field}`];
    const opens = half === "state" ? states : frame.on[half];
    const table = make("table");
    table.append(make("caption", `${meaning.title(capital(half))} at step ${frame.step}`));
    const head = table.createTHead().insertRow();
    head.append(make("th", "layer", { scope: "col" }));
    if (gates) head.append(make("th", half === "state" ? "edited" : "open", { scope: "col" }));
    for (let unit = 0; unit < frame.units; unit++) {
      head.append(make("th", unitName(frame, unit), { scope: "col" }));
    }
    const body = table.createTBody();
    for (let layer = 0; layer < frame.layers; layer++) {
      const row = body.insertRow(), from = layer * frame.units, to = from + frame.units;
      const near = opens.subarray(from, to);
      row.append(make("th", layer, { scope: "row" }));
      if (gates) row.append(make("td", near.some(gateTrained) ? near.filter(gateOpen).length : "–"));
      for (const code of codes.subarray(from, to)) row.append(make("td", meaning.words(code, frame)));
    }
    return table;
  });
};
