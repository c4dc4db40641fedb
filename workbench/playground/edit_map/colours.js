/* The colors of cells: gates, norms and effects without a sign in cividis, effects with a sign from blue through
 * neutral to orange. DIVERGING contains the anchors of the latter for the light and the dark page. */
const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

const mix = (from, to, share) => {
  const parts = rgb(to).map((part, channel) => Math.round(part * share + rgb(from)[channel] * (1 - share)));
  return `#${parts.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
};

const between = (anchors, count) => Array.from({ length: count }, (_, index) => {
  const place = (index / (count - 1)) * (anchors.length - 1);
  const low = Math.min(anchors.length - 2, Math.floor(place));
  return mix(anchors[low], anchors[low + 1], place - low);
});

const SCALES = { sequential: CIVIDIS, light: between(DIVERGING.light, 256), dark: between(DIVERGING.dark, 256) };

const floats = (text) => new Float32Array(decodeGates(text).buffer);
const largest = (values) => values.reduce((most, value) => (Math.abs(value) > most ? Math.abs(value) : most), 0);
const figure = (value) => (value !== 0 && Math.abs(value) < 0.0995 ? value.toPrecision(2) : value.toFixed(2));
const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${figure(Math.abs(value))}`;

/* The coloring of decoded data in a mode: a scale of 256 colors, and the index of a cell in it, null for no color. */
const colouring = (data, mode, dark) => {
  if (mode === "norm") {
    const most = data.norm.map(largest);
    return {
      scale: SCALES.sequential,
      index: (half, cell) => (most[half] ? Math.round((255 * data.norm[half][cell]) / most[half]) : 0),
      low: "norm 0",
      high: `largest (${data.channels.map((name, index) => `${name} ${figure(most[index])}`).join(", ")})`,
    };
  }
  if (mode === "effect" && data.effect) {
    const most = Math.max(...data.effect.value.map(largest)) || 1;
    if (!data.hasSign) {
      const share = (value) => (Number.isNaN(value) ? null : Math.round((255 * value) / most));
      return {
        scale: SCALES.sequential,
        index: (half, cell) => share(data.effect.value[half][cell]),
        low: "0 nats",
        high: `${figure(most)} nats`,
      };
    }
    const index = (value) => (Number.isNaN(value) ? null : Math.round(127.5 + (127.5 * value) / most));
    return {
      scale: SCALES[dark ? "dark" : "light"],
      index: (half, cell) => index(data.effect.value[half][cell]),
      low: `−${figure(most)} nats, against the answer`,
      high: `+${figure(most)} nats, for it`,
    };
  }
  return {
    scale: SCALES.sequential,
    index: (half, cell) => Math.round((255 * data.gate[half][cell]) / GATE_OPEN_LEVELS),
    low: "0 closed",
    high: "1 fully open",
  };
};
