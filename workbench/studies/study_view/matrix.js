/* The matrix of cells on a canvas as large as the visible part, for any number of cells.
 *
 * Every state has a color and a mark. The scrolling element covers the canvas and receives pointer and keys.
 */
const STATES = {
  d: { name: "done", words: "done", color: "--jw-good" },
  r: { name: "running", words: "running", color: "--jw-accent" },
  f: { name: "failed", words: "failed", color: "--jw-error" },
  i: { name: "interrupted", words: "interrupted", color: "--jw-edge" },
  o: { name: "open", words: "waiting", color: "--jw-line" },
};

/* Draw the mark of a state in a square of this size: a tick, an arrow, a cross, two bars, or a dot. */
const drawMark = (pen, code, x, y, size) => {
  const at = (across, down) => [x + across * size, y + down * size];
  pen.beginPath();
  if (code === "d") {
    pen.moveTo(...at(0.2, 0.52)); pen.lineTo(...at(0.42, 0.74)); pen.lineTo(...at(0.8, 0.28));
    pen.stroke();
  } else if (code === "f") {
    pen.moveTo(...at(0.26, 0.26)); pen.lineTo(...at(0.74, 0.74));
    pen.moveTo(...at(0.74, 0.26)); pen.lineTo(...at(0.26, 0.74));
    pen.stroke();
  } else if (code === "r") {
    pen.moveTo(...at(0.32, 0.22)); pen.lineTo(...at(0.78, 0.5)); pen.lineTo(...at(0.32, 0.78));
    pen.fill();
  } else if (code === "i") {
    pen.moveTo(...at(0.36, 0.26)); pen.lineTo(...at(0.36, 0.74));
    pen.moveTo(...at(0.64, 0.26)); pen.lineTo(...at(0.64, 0.74));
    pen.stroke();
  } else {
    pen.arc(...at(0.5, 0.5), 0.09 * size, 0, 2 * Math.PI);
    pen.fill();
  }
};

/* Draw one cell: filled with the color of its state, with a mark. A waiting cell is an outline, a done cell a tint. */
const drawCell = (pen, code, x, y, width, height, colors) => {
  const state = STATES[code];
  if (!state) return;
  const size = Math.min(width, height);
  if (code === "o") {
    pen.strokeStyle = colors["--jw-line"];
    pen.lineWidth = 1;
    pen.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
  } else {
    pen.fillStyle = colors[state.color];
    // Done cells are pale, because most cells are done at the end.
    pen.globalAlpha = code === "d" ? 0.16 : 1;
    pen.fillRect(x, y, width, height);
    pen.globalAlpha = 1;
  }
  const mark = { d: state.color, o: "--jw-edge" }[code] || "--jw-surface";
  pen.strokeStyle = pen.fillStyle = colors[mark];
  pen.lineWidth = Math.max(1.4, size / 10);
  drawMark(pen, code, x + (width - size) / 2, y + (height - size) / 2, size);
};

const colorsNow = () => {
  const style = getComputedStyle(document.body);
  const names = ["--jw-good", "--jw-accent", "--jw-error", "--jw-edge", "--jw-line", "--jw-surface", "--jw-text", "--jw-quiet", "--jw-panel"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(name).trim()]));
};

/* Resize a canvas to this many CSS pixels; return its context. */
const fit = (canvas, width, height) => {
  const ratio = window.devicePixelRatio || 1;
  const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== across || canvas.height !== down) Object.assign(canvas, { width: across, height: down });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
};

const MOST_HEIGHT = 440, ROW = 22, GAP = 2, LEAST_WIDTH = 22, MOST_WIDTH = 44, FONT = "12px", SMALL = "11px";

/* pick(row, column) is called when a cell is opened, say(words) with the text of the cell under the pointer. */
const makeMatrix = (frame, pick, say) => {
  const canvas = frame.querySelector("canvas"), scroll = frame.querySelector(".sv-scroll"), space = frame.querySelector(".sv-space");
  const family = getComputedStyle(frame).fontFamily;
  let rows = [], columns = [], cells = "", groups = [], box = null, cursor = null, hover = null, chosen = null, asked = 0;

  const code = (row, column) => cells[row * columns.length + column] || "-";
  const exists = (place) => place && STATES[code(...place)];

  /* Compute the sizes of labels and cells. */
  const measure = () => {
    const pen = canvas.getContext("2d");
    pen.font = `${FONT} ${family}`;
    const sample = rows.length > 400 ? [...rows].sort((a, b) => b.length - a.length).slice(0, 40) : rows;
    const left = Math.min(260, Math.ceil(Math.max(40, ...sample.map((words) => pen.measureText(words).width)))) + 12;
    groups = [];
    columns.forEach(([task], index) => {
      const last = groups[groups.length - 1];
      if (last && last.task === task) last.end = index + 1;
      else groups.push({ task, start: index, end: index + 1 });
    });
    const room = frame.clientWidth - left - 14;
    const width = Math.max(LEAST_WIDTH, Math.min(MOST_WIDTH, Math.floor(room / Math.max(1, columns.length))));
    const widest = Math.max(...groups.map(({ task }) => pen.measureText(task).width));
    const narrow = Math.min(...groups.map(({ start, end }) => (end - start) * width)) < Math.min(widest, 84) + 6;
    const heads = narrow ? Math.min(110, Math.ceil(widest)) + 8 : 20;
    const seeds = new Set(columns.map(([, seed]) => seed)).size > 1 ? 18 : 0;
    box = { left, width, narrow, heads, top: heads + seeds, seeds };
    const height = box.top + rows.length * ROW + 2;
    space.style.width = `${left + columns.length * width}px`;
    space.style.height = `${height}px`;
    const wide = left + columns.length * width > frame.clientWidth;
    frame.style.height = `${Math.min(MOST_HEIGHT, height + (wide ? 16 : 0))}px`;
  };

  const clipped = (pen, words, width) => {
    if (pen.measureText(words).width <= width) return words;
    let kept = words;
    while (kept.length > 1 && pen.measureText(`${kept}…`).width > width) kept = kept.slice(0, -1);
    return `${kept}…`;
  };

  const draw = () => {
    if (!box || !frame.clientWidth) return;
    const colors = colorsNow(), [width, height] = [scroll.clientWidth, scroll.clientHeight];
    const pen = fit(canvas, width, height), [across, down] = [scroll.scrollLeft, scroll.scrollTop];
    const xOf = (column) => box.left + column * box.width - across, yOf = (row) => box.top + row * ROW - down;
    const firstRow = Math.max(0, Math.floor(down / ROW)), lastRow = Math.min(rows.length, Math.ceil((down + height - box.top) / ROW));
    const firstColumn = Math.max(0, Math.floor(across / box.width));
    const lastColumn = Math.min(columns.length, Math.ceil((across + width - box.left) / box.width));
    pen.save();
    // Two more pixels for the frame around a cell at the edge.
    pen.beginPath(); pen.rect(box.left - 2, box.top - 2, width - box.left + 2, height - box.top + 2); pen.clip();
    for (let row = firstRow; row < lastRow; row += 1) {
      for (let column = firstColumn; column < lastColumn; column += 1) {
        drawCell(pen, code(row, column), xOf(column), yOf(row), box.width - GAP, ROW - GAP, colors);
      }
    }
    for (const [place, color, line] of [[hover, "--jw-quiet", 1], [chosen, "--jw-text", 2], [cursor, "--jw-text", 2]]) {
      if (!place || (place === cursor && document.activeElement !== scroll)) continue;
      pen.strokeStyle = colors[color];
      pen.lineWidth = line;
      pen.strokeRect(xOf(place[1]) - 1, yOf(place[0]) - 1, box.width, ROW);
    }
    pen.restore();
    // Labels stay visible when scrolling.
    pen.textBaseline = "middle";
    pen.save();
    pen.beginPath(); pen.rect(0, box.top, box.left, height - box.top); pen.clip();
    pen.font = `${FONT} ${family}`;
    pen.fillStyle = colors["--jw-text"];
    for (let row = firstRow; row < lastRow; row += 1) pen.fillText(clipped(pen, rows[row], box.left - 10), 0, yOf(row) + ROW / 2 - 1);
    pen.restore();
    pen.save();
    pen.beginPath(); pen.rect(box.left - 1, 0, width - box.left + 1, box.top); pen.clip();
    for (const { task, start, end } of groups) {
      if (end <= firstColumn || start >= lastColumn) continue;
      pen.fillStyle = colors["--jw-text"];
      pen.font = `${FONT} ${family}`;
      const middle = (xOf(start) + xOf(end) - GAP) / 2;
      if (box.narrow) {
        pen.save();
        pen.translate(middle, box.heads - 4);
        pen.rotate(-Math.PI / 2);
        pen.fillText(clipped(pen, task, box.heads - 6), 0, 0);
        pen.restore();
      } else {
        const words = clipped(pen, task, (end - start) * box.width - 4);
        pen.fillText(words, xOf(start), box.heads / 2);
      }
      if (!box.seeds) continue;
      pen.fillStyle = colors["--jw-quiet"];
      pen.font = `${SMALL} ${family}`;
      for (let column = Math.max(start, firstColumn); column < Math.min(end, lastColumn); column += 1) {
        const words = columns[column][1], size = pen.measureText(words).width;
        if (size <= box.width) pen.fillText(words, xOf(column) + (box.width - GAP - size) / 2, box.heads + box.seeds / 2);
      }
    }
    pen.restore();
  };
  const drawSoon = () => { if (!asked) asked = requestAnimationFrame(() => { asked = 0; draw(); }); };

  const placeAt = (event) => {
    const edge = scroll.getBoundingClientRect(), [x, y] = [event.clientX - edge.left, event.clientY - edge.top];
    if (!box || x < box.left || y < box.top) return null;
    const place = [Math.floor((y - box.top + scroll.scrollTop) / ROW), Math.floor((x - box.left + scroll.scrollLeft) / box.width)];
    return place[0] < rows.length && place[1] < columns.length && exists(place) ? place : null;
  };
  const words = (place) => {
    const [task, seed] = columns[place[1]];
    return `${rows[place[0]]} · ${task}${box.seeds ? ` · seed ${seed}` : ""}: ${STATES[code(...place)].words}`;
  };
  const show = (place) => say(place ? words(place) : "");
  const same = (a, b) => (a && b ? a[0] === b[0] && a[1] === b[1] : a === b);

  scroll.addEventListener("scroll", drawSoon);
  scroll.addEventListener("pointermove", (event) => {
    const place = placeAt(event);
    if (same(place, hover)) return;
    hover = place;
    scroll.style.cursor = place ? "pointer" : "";
    show(place || chosen);
    drawSoon();
  });
  scroll.addEventListener("pointerleave", () => { hover = null; show(chosen); drawSoon(); });
  scroll.addEventListener("click", (event) => { const place = placeAt(event); if (place) { cursor = place; pick(...place); } });
  scroll.addEventListener("focus", () => { if (!exists(cursor)) cursor = exists(chosen) ? chosen : firstCell(); drawSoon(); });
  scroll.addEventListener("blur", drawSoon);

  const firstCell = () => {
    for (let row = 0; row < rows.length; row += 1) {
      for (let column = 0; column < columns.length; column += 1) if (exists([row, column])) return [row, column];
    }
    return null;
  };
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -Infinity], End: [0, Infinity] };
  scroll.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && exists(cursor)) { event.preventDefault(); pick(...cursor); return; }
    const step = STEPS[event.key];
    if (!step || !cursor) return;
    event.preventDefault();
    const bound = (value, size) => Math.max(0, Math.min(size - 1, value));
    let next = [bound(cursor[0] + step[0], rows.length), bound(cursor[1] + step[1], columns.length)];
    // Skip places without a cell in this direction; for Home and End, back towards the cursor.
    const back = Number.isFinite(step[1]) ? step : [0, -Math.sign(step[1])];
    while (!exists(next)) {
      next = [next[0] + back[0], next[1] + back[1]];
      if (next[0] < 0 || next[1] < 0 || next[0] >= rows.length || next[1] >= columns.length) return;
    }
    cursor = next;
    const x = cursor[1] * box.width, y = cursor[0] * ROW;
    scroll.scrollLeft = Math.min(x, Math.max(scroll.scrollLeft, x + box.width - (scroll.clientWidth - box.left)));
    scroll.scrollTop = Math.min(y, Math.max(scroll.scrollTop, y + ROW - (scroll.clientHeight - box.top)));
    show(cursor);
    drawSoon();
  });
  new ResizeObserver(() => { if (frame.clientWidth && rows.length) { measure(); drawSoon(); } }).observe(frame.parentElement);
  new MutationObserver(drawSoon).observe(document.body, { attributes: true, attributeFilter: ["class"] });

  return {
    /* Show other cells; labels change only with the plan. */
    set(labels, codes) {
      const other = JSON.stringify([labels.rows, labels.columns]) !== JSON.stringify([rows, columns]);
      cells = codes;
      if (other) {
        ({ rows, columns } = labels);
        cursor = hover = null;
        scroll.scrollLeft = scroll.scrollTop = 0;
        measure();
      }
      drawSoon();
    },
    choose(place) { chosen = place; if (!hover) show(chosen); drawSoon(); },
    /* Position of a cell on the page, for tests. */
    xy(row, column) {
      const edge = scroll.getBoundingClientRect();
      return [edge.left + box.left + (column + 0.5) * box.width - scroll.scrollLeft, edge.top + box.top + (row + 0.5) * ROW - scroll.scrollTop];
    },
  };
};
