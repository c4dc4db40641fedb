/* Small charts on canvases: lines over steps, the four states stacked over steps, and maps at chosen steps. */

/* The colors of a map, and those of lines and states. */
const chartTheme = (theme) => {
  const style = getComputedStyle(document.body);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    ...theme,
    train: read("--jw-train"), validation: read("--jw-validation"),
    states: ["none", "offset", "scale", "both"].map((state) => read(`--jw-state-${state}`)),
  };
};

/* Clear the canvas and draw both axes; return the mapping from data to pixels. With `log`, the value axis is
 * logarithmic between two powers of ten, and lower values are drawn at its bottom. */
const chartFrame = (canvas, theme, { steps, top, bottom = 0, left = 34, format, log = false }) => {
  const width = Math.max(160, canvas.clientWidth), height = Math.max(60, canvas.clientHeight);
  const context = fitCanvas(canvas, width, height);
  context.clearRect(0, 0, width, height);
  const plot = { left, right: width - 4, top: 6, bottom: height - 16 };
  const x = (step) => plot.left + (step / Math.max(1, steps)) * (plot.right - plot.left);
  const along = (value) => (log
    ? Math.log10(Math.max(value, bottom) / bottom) / Math.log10(top / bottom)
    : (value - bottom) / Math.max(1e-9, top - bottom));
  const y = (value) => plot.bottom - along(value) * (plot.bottom - plot.top);
  context.font = `10px ${theme.mono}`;
  context.fillStyle = theme.quiet;
  context.strokeStyle = theme.line;
  context.lineWidth = 1;
  context.textAlign = "right";
  context.textBaseline = "middle";
  const powers = log ? Math.round(Math.log10(top / bottom)) : 0;
  const lines = log ? Array.from({ length: powers + 1 }, (_, power) => bottom * 10 ** power) : [bottom, (bottom + top) / 2, top];
  for (const value of lines) {
    const line = Math.round(y(value)) + 0.5;
    context.beginPath();
    context.moveTo(plot.left, line);
    context.lineTo(plot.right, line);
    context.stroke();
    context.fillText(format(value), plot.left - 5, line);
  }
  context.textBaseline = "alphabetic";
  context.textAlign = "left";
  context.fillText("0", plot.left, height - 3);
  context.textAlign = "right";
  context.fillText(`step ${steps.toLocaleString("en")}`, plot.right, height - 3);
  return { context, plot, x, y };
};

const chartMarker = ({ context, plot, x }, theme, step) => {
  if (step === null) return;
  context.strokeStyle = theme.text;
  context.lineWidth = 1;
  context.setLineDash([3, 3]);
  context.beginPath();
  context.moveTo(Math.round(x(step)) + 0.5, plot.top);
  context.lineTo(Math.round(x(step)) + 0.5, plot.bottom);
  context.stroke();
  context.setLineDash([]);
};

/* Return a round number that is at least the value. */
const roundUp = (value) => {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((factor) => factor * power >= value) * power;
};

/* Means over the neighbors on both sides, and over fewer at the ends, to avoid bias at a steep beginning. */
const smooth = (points, reach = 6) => points.map(([step], index) => {
  const side = Math.min(reach, index, points.length - 1 - index);
  const near = points.slice(index - side, index + side + 1);
  return [step, near.reduce((sum, [, value]) => sum + value, 0) / near.length];
});

const strokeLine = ({ context, x, y }, points, colour, width, alpha = 1) => {
  context.globalAlpha = alpha;
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.lineJoin = "round";
  context.beginPath();
  points.forEach(([step, value], index) => context[index ? "lineTo" : "moveTo"](x(step), y(value)));
  context.stroke();
  context.globalAlpha = 1;
};

const shortNumber = (value) => (value === 0 ? "0" : Number(value.toPrecision(2)).toString());

const highest = (...series) => series.flat().reduce((most, [, value]) => Math.max(most, value), 0);

/* The powers of ten that enclose all series, at most three decades. */
const decades = (...series) => {
  const values = series.flat().map(([, value]) => value).filter((value) => value > 0);
  if (!values.length) return [0.1, 1];
  const most = Math.ceil(Math.log10(Math.max(...values)) - 1e-9);
  const least = Math.floor(Math.log10(Math.min(...values)) + 1e-9);
  return [10 ** Math.min(most - 1, Math.max(least, most - 3)), 10 ** most];
};

/* train, validation, penalty: arrays of [step, value]. The penalty is dashed, validations are dots. */
const drawLoss = (canvas, theme, { train, validation, penalty, steps, marker }) => {
  const level = smooth(train), [bottom, top] = decades(level, validation, penalty);
  const chart = chartFrame(canvas, theme, { steps, top, bottom, format: shortNumber, log: true });
  chart.context.setLineDash([4, 3]);
  strokeLine(chart, penalty, theme.quiet, 1.25);
  chart.context.setLineDash([]);
  strokeLine(chart, train, theme.train, 1, 0.35);
  strokeLine(chart, level, theme.train, 1.75);
  strokeLine(chart, validation, theme.validation, 1.5);
  chart.context.fillStyle = theme.validation;
  for (const [step, value] of validation) {
    chart.context.beginPath();
    chart.context.arc(chart.x(step), chart.y(value), 2.5, 0, 7);
    chart.context.fill();
  }
  chartMarker(chart, theme, marker);
};

/* counts: for each of the steps `at`, the number of units in each state; the stack begins with "none" at the bottom. */
const drawStates = (canvas, theme, { at, counts, steps, marker }) => {
  const total = counts.length ? counts[0].reduce((sum, count) => sum + count, 0) : 1;
  const chart = chartFrame(canvas, theme, { steps, top: total, format: (value) => Math.round(value) });
  const { context, x, y } = chart;
  const floor = counts.map(() => 0);
  for (let state = 0; state < 4; state++) {
    context.fillStyle = theme.states[state];
    context.beginPath();
    at.forEach((step, index) => context[index ? "lineTo" : "moveTo"](x(step), y(floor[index])));
    for (let index = at.length - 1; index >= 0; index--) {
      floor[index] += counts[index][state];
      context.lineTo(x(at[index]), y(floor[index]));
    }
    context.fill();
  }
  chartMarker(chart, theme, marker);
};

/* Draw one line over the steps: a learning rate, or λ. */
const drawRate = (canvas, theme, { points, steps, marker }) => {
  const chart = chartFrame(canvas, theme, { steps, top: roundUp(highest(points)), left: 48, format: shortNumber });
  strokeLine(chart, points, theme.train, 1.5);
  chartMarker(chart, theme, marker);
};

/* norms: for each of the steps `at`, the mean norm of the edits of each channel; null for an untrained channel. */
const drawNorms = (canvas, theme, { at, norms, steps, marker }) => {
  const series = (norms[0] || []).map((_, channel) => (
    at.map((step, index) => [step, norms[index][channel]]).filter(([, value]) => value !== null)));
  const chart = chartFrame(canvas, theme, { steps, top: roundUp(highest(...series)), left: 48, format: shortNumber });
  series.forEach((points, channel) => strokeLine(chart, points, channel ? theme.validation : theme.train, 1.75));
  chartMarker(chart, theme, marker);
};

/* closed: for each of the steps `at`, the mean P(closed) of the offset and the scale gates; null if not trained. */
const drawClosed = (canvas, theme, { at, closed, steps, marker }) => {
  const chart = chartFrame(canvas, theme, { steps, top: 1, format: shortNumber });
  [0, 1].forEach((half) => {
    const points = at.map((step, index) => [step, closed[index][half]]).filter(([, value]) => value !== null);
    if (half) chart.context.setLineDash([5, 3]);
    strokeLine(chart, points, theme.states[1 + half], 1.75);
  });
  chart.context.setLineDash([]);
  chartMarker(chart, theme, marker);
};

/* Mean P(closed) of one half in a frame; null if it is not trained. */
const meanClosed = (codes) => {
  const trained = codes.filter((code) => code !== GATE_UNTRAINED);
  return trained.length ? 1 - trained.reduce((sum, code) => sum + gateValue(code), 0) / trained.length : null;
};

/* Draw P(closed) of both halves, one below the other, at the steps of the frames from left to right. */
const drawCourse = (canvas, theme, frames) => {
  const width = Math.max(240, canvas.clientWidth), left = 52, gap = 14, foot = 20, head = 18;
  const each = Math.min(190, (width - left - 2 - gap * Math.max(0, frames.length - 1)) / Math.max(1, frames.length));
  const tall = Math.max(60, Math.min(190, each * 1.35));
  const height = head + 2 * (tall + foot);
  canvas.style.height = `${height}px`;
  const context = fitCanvas(canvas, width, height);
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = false;
  const closedPixels = pixelTable((code) => (code === GATE_UNTRAINED ? null : gateColour(GATE_OPEN_LEVELS - code)));
  const small = document.createElement("canvas");
  frames.forEach((frame, column) => {
    const x = left + column * (each + gap);
    context.fillStyle = theme.text;
    context.font = `12px ${theme.font}`;
    context.textAlign = "center";
    context.fillText(`step ${frame.step.toLocaleString("en")}`, x + each / 2, 12);
    HALVES.forEach((half, row) => {
      const y = head + row * (tall + foot), codes = frame.fields[`${half}_open`];
      small.width = frame.units;
      small.height = frame.layers;
      const target = small.getContext("2d"), image = target.createImageData(frame.units, frame.layers);
      const pixels = new Uint32Array(image.data.buffer);
      for (let index = 0; index < codes.length; index++) pixels[index] = closedPixels[codes[index]];
      target.putImageData(image, 0, 0);
      context.drawImage(small, x, y, each, tall);
      context.strokeStyle = theme.line;
      context.strokeRect(x - 0.5, y - 0.5, each + 1, tall + 1);
      const mean = meanClosed(codes);
      context.fillStyle = theme.quiet;
      const n = codes.filter((code) => code !== GATE_UNTRAINED).length;
      const words = mean === null ? "not trained" : `${mean.toFixed(2)} (n = ${n.toLocaleString("en")})`;
      context.fillText(words, x + each / 2, y + tall + 14);
    });
  });
  context.fillStyle = theme.text;
  context.textAlign = "left";
  HALVES.forEach((half, row) => context.fillText(capital(half), 0, head + row * (tall + foot) + tall / 2 + 4));
};
