/* Marks of edits that are not as trained: dark shapes with a light outline, visible on every color. */
const MARKS = {
  off: (path, r) => {
    path.moveTo(-r, -r);
    path.lineTo(r, r);
    path.moveTo(r, -r);
    path.lineTo(-r, r);
  },
  stronger: (path, r) => {
    path.moveTo(-r, 0.75 * r);
    path.lineTo(0, -0.85 * r);
    path.lineTo(r, 0.75 * r);
    path.closePath();
  },
  weaker: (path, r) => {
    path.moveTo(-r, -0.75 * r);
    path.lineTo(0, 0.85 * r);
    path.lineTo(r, -0.75 * r);
    path.closePath();
  },
  reversed: (path, r) => {
    path.moveTo(-r, 0);
    path.lineTo(r, 0);
  },
};

const markOf = (on, strength) => {
  if (!on) return "off";
  if (strength === 1) return null;
  return strength < 0 ? "reversed" : strength > 1 ? "stronger" : "weaker";
};

const strengthWords = (on, strength) => {
  const times = `strength ${strength < 0 ? "−" : ""}${Math.abs(strength).toFixed(2).replace(/\.?0+$/, "")}`;
  if (on) return strength === 1 ? "on" : `on, ${times}`;
  return strength === 1 ? "off" : `off (${times} when on)`;
};

const drawMark = (context, mark, x, y, size) => {
  const radius = size / 2, width = Math.max(1, Math.min(2, size / 5));
  context.save();
  context.translate(x, y);
  context.lineCap = context.lineJoin = "round";
  const path = new Path2D();
  MARKS[mark](path, radius);
  for (const [ink, extra] of [["#ffffff", Math.min(2.4, 0.6 + size / 6)], ["#11161d", 0]]) {
    context.strokeStyle = context.fillStyle = ink;
    context.lineWidth = width + extra;
    context.stroke(path);
    if (mark === "stronger" || mark === "weaker") context.fill(path);
  }
  context.restore();
};

/* Caches marks, which are drawn thousands of times: once for each kind, size and density, then copied. */
class MarkSprites {
  constructor() {
    this.made = new Map();
  }

  /* `context` uses CSS pixels with a scale of `density`. */
  draw(context, mark, x, y, size, density) {
    const key = `${mark} ${size} ${density}`;
    const side = Math.ceil(size + 6);
    let sprite = this.made.get(key);
    if (!sprite) {
      sprite = document.createElement("canvas");
      sprite.width = sprite.height = Math.round(side * density);
      const inside = sprite.getContext("2d");
      inside.scale(density, density);
      drawMark(inside, mark, side / 2, side / 2, size);
      this.made.set(key, sprite);
    }
    context.drawImage(sprite, x - side / 2, y - side / 2, side, side);
  }
}
