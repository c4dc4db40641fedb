/* The content of a frame, and how to decode it.
 *
 * A frame is {site, layers, units, unit_names, channels, has_gates, step, norm_top, fields}. `channels` are the parts
 * of a cell, such as offset and scale. `fields` contains one Uint8Array(layers * units) for the norm of each channel
 * (offset_norm) and, with gates, for the gate and the probability that it is open (offset_gate, offset_open): 0 =
 * exactly 0, 1..254 = equal steps up to 1 (for a norm: up to norm_top), 255 = not trained. `unit_names` is null if
 * units are numbered. `on` contains for each channel the codes that tell what is edited: gates, or norms without gates.
 * CIVIDIS is defined in cividis.js.
 */
const GATE_OPEN_LEVELS = 254;
const GATE_UNTRAINED = 255;
/* The channels of JoLA's edits, which have gates and states. */
const HALVES = ["offset", "scale"];
const STATE_WORDS = ["no edit", "offset only", "scale only", "both edits"];

const decodeGates = (text) => {
  const bytes = atob(text), codes = new Uint8Array(bytes.length);
  for (let index = 0; index < bytes.length; index++) codes[index] = bytes.charCodeAt(index);
  return codes;
};

/* Decode a frame from the server. */
const decodeFrame = (frame) => {
  const fields = Object.fromEntries(Object.entries(frame.fields).map(([name, text]) => [name, decodeGates(text)]));
  const on = Object.fromEntries(frame.channels.map((name) => [name, fields[`${name}_${frame.has_gates ? "gate" : "norm"}`]]));
  return { ...frame, fields, on };
};

const gateValue = (code) => code / GATE_OPEN_LEVELS;
const gateTrained = (code) => code !== GATE_UNTRAINED;
const gateOpen = (code) => code > 0 && code < GATE_UNTRAINED;
const gateColour = (code) => CIVIDIS[Math.round((code / GATE_OPEN_LEVELS) * 255)];

/* Red, green, blue and opacity of each code as one number, in the byte order of a canvas. */
const pixelTable = (colourOf) => {
  const bytes = new Uint8ClampedArray(4 * 256);
  for (let code = 0; code < 256; code++) {
    const colour = colourOf(code);
    if (!colour) continue;
    for (let channel = 0; channel < 3; channel++) {
      bytes[4 * code + channel] = parseInt(colour.slice(1 + 2 * channel, 3 + 2 * channel), 16);
    }
    bytes[4 * code + 3] = 255;
  }
  return new Uint32Array(bytes.buffer);
};
const GATE_PIXELS = pixelTable((code) => (code === GATE_UNTRAINED ? null : gateColour(code)));

/* The states of all units, from the gates of both halves. */
const stateCodes = ({ on: { offset, scale } }) => offset.map((code, index) => (
  code === GATE_UNTRAINED && scale[index] === GATE_UNTRAINED
    ? GATE_UNTRAINED
    : Number(gateOpen(code)) + 2 * Number(gateOpen(scale[index]))
));

const openWords = (code) => (code === GATE_UNTRAINED ? "not trained" : gateValue(code) < 0.005 ? "< 0.01" : gateValue(code).toFixed(2));
const gateWords = (code) => (code === 0 ? "closed" : openWords(code));
const normWords = (code, top) => (code === GATE_UNTRAINED ? "not trained" : Number((gateValue(code) * top).toPrecision(2)).toString());

/* Quantities that the color can show: field, title, labels at both ends of the scale, and the text of a value. */
const MEANINGS = {
  gate: {
    title: (half) => `${half} gates`, field: "gate", ends: () => ["0 closed", "1 fully open"], words: gateWords,
    about: "Bright: the gate is open, and an offset is added to the head's output (left) or the output is scaled (right). "
      + "Dark: the gate is closed, and this half of the edit has no effect.",
  },
  open: {
    title: (half) => `${half}: P(open)`, field: "open", ends: () => ["0", "1 surely open"], words: openWords,
    about: "Bright: the gate of its offset (left) or scale (right) is likely open when training draws it. The penalty of "
      + "training counts these probabilities.",
  },
  size: {
    about: "Bright: the edit is large, measured by its norm. Dark: nothing is edited.",
    title: (channel) => channel, field: "norm",
    ends: (frame) => ["0", `${frame ? frame.norm_top : 1}, norm of the edit`],
    words: (code, frame) => normWords(code, frame.norm_top),
  },
  norm: {
    about: "Bright: its offset (left) or scale (right) is a long vector, and would change the head's output much if its "
      + "gate is open.",
    title: (half) => `${half}: norm`, field: "norm",
    ends: (frame) => ["0", `${frame ? frame.norm_top : 1} (L2 norm)`],
    words: (code, frame) => normWords(code, frame.norm_top),
  },
  state: {
    title: () => "Edits of each head", field: null, ends: () => ["", ""], words: (code) => STATE_WORDS[code] ?? "not trained",
    about: "Its colour and sign say which edits are on: an offset that is added to its output (+), a scale that multiplies "
      + "it (×), both, or none.",
  },
};

/* The smallest round number of cells between two labels that are at least `room` pixels apart. */
const tickEvery = (cell, room) => [1, 2, 4, 5, 8, 10, 16, 20, 32].find((every) => every * cell >= room) || 64;

const SITE_UNITS = { heads: "head", weights: "module" };

/* The name of one unit of a frame: "head 3", "q_proj", "mlp". */
const unitName = ({ site, unit_names: names }, unit) => (site === "heads" ? `head ${unit}` : names ? names[unit] : site);

/* Create an element with text and attributes. */
const makeNode = (tag, text, attributes = {}) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
};

const capital = (word) => word[0].toUpperCase() + word.slice(1);
