/* The values of the map as text: one table per channel, or one for the states, with layers as rows. */
const gateTables = (frame, shows = "gate") => {
  const meaning = MEANINGS[shows], gates = frame.has_gates, states = gates ? stateCodes(frame) : null;
  return (shows === "state" ? ["state"] : frame.channels).map((half) => {
    const codes = half === "state" ? states : frame.fields[`${half}_${meaning.field}`];
    const opens = half === "state" ? states : frame.on[half];
    const table = makeNode("table");
    table.append(makeNode("caption", `${meaning.title(capital(half))} at step ${frame.step}`));
    const head = table.createTHead().insertRow();
    head.append(makeNode("th", "layer", { scope: "col" }));
    if (gates) head.append(makeNode("th", half === "state" ? "edited" : "open", { scope: "col" }));
    for (let unit = 0; unit < frame.units; unit++) {
      head.append(makeNode("th", unitName(frame, unit), { scope: "col" }));
    }
    const body = table.createTBody();
    for (let layer = 0; layer < frame.layers; layer++) {
      const row = body.insertRow(), from = layer * frame.units, to = from + frame.units;
      const near = opens.subarray(from, to);
      row.append(makeNode("th", layer, { scope: "row" }));
      if (gates) row.append(makeNode("td", near.some(gateTrained) ? near.filter(gateOpen).length : "–"));
      for (const code of codes.subarray(from, to)) row.append(makeNode("td", meaning.words(code, frame)));
    }
    return table;
  });
};
