/* Resize a canvas to this many CSS pixels at the density of the screen; return its context, in CSS pixels. */
const fitCanvas = (canvas, width, height) => {
  const density = window.devicePixelRatio || 1;
  const [across, down] = [Math.round(width * density), Math.round(height * density)];
  if (canvas.width !== across || canvas.height !== down) Object.assign(canvas, { width: across, height: down });
  const context = canvas.getContext("2d");
  context.setTransform(density, 0, 0, density, 0, 0);
  return context;
};

/* The axes of a layer × unit map, drawn from plots, frame and theme of GateMap. */
class MapAxes {
  /* Width of the longest unit name in pixels; 0 if units are numbered. */
  longestName() {
    this.context.font = `10px ${this.theme.mono}`;
    return Math.max(0, ...(this.frame?.unit_names || []).map((name) => this.context.measureText(name).width));
  }

  drawUnitAxis(plot) {
    const { context, theme, frame } = this;
    context.fillStyle = theme.quiet;
    context.textAlign = "center";
    context.font = `10px ${theme.mono}`;
    if (frame.unit_names) this.drawUnitNames(plot);
    else if (frame.site === "heads" || frame.units > 1) {
      const every = tickEvery(plot.cellWidth, 22);
      for (let unit = 0; unit < frame.units; unit += every) {
        context.fillText(unit, plot.left + (unit + 0.5) * plot.cellWidth, plot.top + plot.height + 13);
      }
    }
    context.textAlign = "center";
    const foot = plot.top + plot.height + (this.tilted ? this.longestName() + 19 : 27);
    context.font = `11px ${theme.font}`;
    const below = SITE_UNITS[frame.site] || (frame.unit_names ? "" : frame.site);
    context.fillText(below, plot.left + plot.width / 2, foot);
  }

  /* Draw names below the columns, rotated if the columns are narrow. */
  drawUnitNames(plot) {
    const { context, frame } = this;
    frame.unit_names.forEach((name, unit) => {
      const x = plot.left + (unit + 0.5) * plot.cellWidth, y = plot.top + plot.height;
      if (!this.tilted) {
        context.fillText(name, x, y + 13);
        return;
      }
      context.save();
      context.translate(x + 3, y + 5);
      context.rotate(-Math.PI / 2);
      context.textAlign = "right";
      context.fillText(name, 0, 0);
      context.restore();
    });
  }

  drawLayerAxis() {
    const { context, theme, frame } = this;
    const plot = this.plots[this.channels[0]];
    context.fillStyle = theme.quiet;
    context.textAlign = "right";
    context.font = `10px ${theme.mono}`;
    const every = tickEvery(plot.cellHeight, 17);
    for (let layer = 0; layer < frame.layers; layer += every) {
      context.fillText(layer, plot.left - 6, plot.top + (layer + 0.5) * plot.cellHeight + 3);
    }
    context.save();
    context.translate(11, plot.top + plot.height / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.font = `11px ${theme.font}`;
    context.fillText("layer", 0, 0);
    context.restore();
  }
}
