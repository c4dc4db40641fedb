/* Two small charts on canvases: lines over steps, and a stack of the four states over steps. */

/* A chart's frame: clears the canvas, draws both axes and gives the mapping from data to pixels. */
const chartFrame = (canvas, theme, { steps, top, bottom = 0, format }) => {
  const density = window.devicePixelRatio || 1;
  const width = Math.max(160, canvas.clientWidth), height = Math.max(60, canvas.clientHeight);
  if (canvas.width !== Math.round(width * density) || canvas.height !== Math.round(height * density)) {
    canvas.width = Math.round(width * density);
    canvas.height = Math.round(height * density);
  }
  const context = canvas.getContext("2d");
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  const plot = { left: 34, right: width - 4, top: 6, bottom: height - 16 };
  const x = (step) => plot.left + (step / Math.max(1, steps)) * (plot.right - plot.left);
  const y = (value) => plot.bottom - ((value - bottom) / Math.max(1e-9, top - bottom)) * (plot.bottom - plot.top);
  context.font = `10px ${theme.mono}`;
  context.fillStyle = theme.quiet;
  context.strokeStyle = theme.line;
  context.lineWidth = 1;
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const value of [bottom, (bottom + top) / 2, top]) {
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

/* A round number that is at least the value. */
const roundUp = (value) => {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((factor) => factor * power >= value) * power;
};

/* Means over the neighbours on both sides, fewer at the ends, so that a steep begin is not pulled along. */
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

/* train, validation: arrays of [step, value]. */
const drawLoss = (canvas, theme, { train, validation, steps, marker }) => {
  const highest = [...train, ...validation].reduce((most, [, value]) => Math.max(most, value), 0);
  const top = roundUp(highest);
  const format = (value) => (value === 0 ? "0" : Number(value.toPrecision(2)).toString());
  const chart = chartFrame(canvas, theme, { steps, top, format });
  strokeLine(chart, train, theme.train, 1, 0.35);
  strokeLine(chart, smooth(train), theme.train, 1.75);
  strokeLine(chart, validation, theme.validation, 1.5);
  chart.context.fillStyle = theme.validation;
  for (const [step, value] of validation) {
    chart.context.beginPath();
    chart.context.arc(chart.x(step), chart.y(value), 2.5, 0, 7);
    chart.context.fill();
  }
  chartMarker(chart, theme, marker);
};

/* counts: for each of steps, how many units are in each state; the stack begins with "none" at the bottom. */
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
