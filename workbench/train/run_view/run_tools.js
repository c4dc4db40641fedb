/* Below the map: the collapsible panels and the exports. The last part of run_view.js. */

// Panels

const panels = {
  "rv-table": () => showTable(),
  "rv-course": () => {
    drawCurves();
    refreshCourse(true);
  },
  "rv-code": () => showCode(),
};
for (const button of root.querySelectorAll(".rv-tools [data-panel]")) {
  button.addEventListener("click", () => {
    const panel = find(`.${button.dataset.panel}`);
    panel.hidden = !panel.hidden;
    button.setAttribute("aria-expanded", String(!panel.hidden));
    if (panel.hidden) return;
    panels[button.dataset.panel]();
    panel.scrollIntoView({ block: "nearest" });
  });
}

const course = { frames: [], key: "", at: 0, asking: false };

function forgetCourse() {
  Object.assign(course, { frames: [], key: "", at: 0 });
  find(".rv-code").dataset.run = "";
  if (!find(".rv-code").hidden) showCode();
}

/* Maps of P(closed) at chosen steps, requested again every few seconds while a run trains. */
async function refreshCourse(now = false) {
  const snapshot = view.snapshot;
  if (find(".rv-course").hidden || !snapshot?.frame || course.asking) return;
  const key = `${view.run} ${snapshot.frame.site} ${snapshot.records}`;
  if (key === course.key || (!now && snapshot.active && performance.now() - course.at < 3000)) return;
  course.asking = true;
  const run = view.run, found = await server.course([run, snapshot.frame.site]).catch(() => undefined);
  course.asking = false;
  if (!found || run !== view.run) return;
  Object.assign(course, { frames: found.map(decodeFrame), key, at: performance.now() });
  showCourse();
}

const showCourse = () => {
  if (find(".rv-course").hidden) return;
  drawCourse(find(".rv-course-maps"), chartTheme(map.theme), course.frames);
  const row = (cells, tag) => {
    const line = document.createElement("tr");
    line.append(...cells.map((text, index) => {
      const cell = document.createElement(index ? tag : "th");
      cell.textContent = text;
      return cell;
    }));
    return line;
  };
  const words = (value) => (value === null ? "not trained" : value.toFixed(2));
  const table = find(".rv-course-table");
  table.tHead.replaceChildren(row(["step", ...course.frames.map(({ step }) => step)], "th"));
  table.tBodies[0].replaceChildren(...HALVES.map((half) => (
    row([`${half} gates`, ...course.frames.map(({ fields }) => words(meanClosed(fields[`${half}_open`])))], "td"))));
};
new ResizeObserver(showCourse).observe(find(".rv-map"));
new MutationObserver(showCourse).observe(document.body, { attributes: true, attributeFilter: ["class"] });

// Code

async function showCode() {
  const box = find(".rv-code"), run = view.run;
  if (!run || box.dataset.run === run) return;
  const code = await server.recipe([run]).catch(() => undefined);
  if (run !== view.run) return;
  box.dataset.run = code ? run : "";
  for (const name of ["shell", "python", "read"]) {
    setText(find(`.rv-code-${name}`), code ? code[name] : "The settings of this run cannot be read.");
  }
}
for (const button of root.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = find(`.rv-code-${button.dataset.copy}`).textContent;
    const copied = await copyText(text);
    button.textContent = copied ? "Copied" : "Select it, then copy";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
}

/* Copy a text; return whether it reached the clipboard, which pages from other computers may not write. */
const copyText = (text) => Promise.resolve(navigator.clipboard?.writeText(text)).then(
  () => Boolean(navigator.clipboard), () => false);

// Exports

const save = (blob, name) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};

/* The map as shown, with its step and its color scale. */
const mapPicture = () => {
  const { theme, size, frame } = map, density = window.devicePixelRatio || 1, edge = 16, head = 44, foot = 34;
  const picture = document.createElement("canvas");
  picture.width = Math.round((size.width + 2 * edge) * density);
  picture.height = Math.round((size.height + head + foot) * density);
  const context = picture.getContext("2d");
  context.scale(density, density);
  context.fillStyle = theme.surface;
  context.fillRect(0, 0, picture.width, picture.height);
  context.fillStyle = theme.text;
  context.font = `700 14px ${theme.font}`;
  context.fillText(`Step ${frame.step.toLocaleString("en")} of ${view.run}`, edge, 22);
  context.fillStyle = theme.quiet;
  context.font = `12px ${theme.font}`;
  context.fillText(view.snapshot.about, edge, 38);
  context.drawImage(map.canvas, edge, head, size.width, size.height);
  const y = head + size.height + 16;
  if (map.meaningShown === "state") {
    let x = edge + 40;
    ["no edit", "+ offset", "× scale", "+× both"].forEach((words, state) => {
      context.fillStyle = theme.states[state];
      context.fillRect(x, y - 9, 10, 10);
      context.fillStyle = theme.quiet;
      context.fillText(words, x + 16, y);
      x += 34 + context.measureText(words).width;
    });
    return picture;
  }
  const [low, high] = MEANINGS[map.meaningShown].ends(frame), wide = context.measureText(low).width, from = edge + 48 + wide;
  context.fillText(low, edge + 40, y);
  context.fillText(high, from + 128, y);
  for (let index = 0; index < 120; index++) {
    context.fillStyle = CIVIDIS[Math.round((index / 119) * 255)];
    context.fillRect(from + index, y - 9, 1.5, 10);
  }
  return picture;
};

/* Fetch the whole table, in pieces from the server. */
const fetchPieces = async (site) => {
  const pieces = [], run = view.run;
  for (let start = 0; start !== null;) {
    const piece = await server.gates_table([run, site, start]).catch(() => undefined);
    if (!piece) return null;
    pieces.push(piece.text);
    start = piece.more;
  }
  return pieces;
};

const takes = {
  picture: async () => {
    const blob = await new Promise((done) => mapPicture().toBlob(done, "image/png"));
    try {
      await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
      return "The picture is in the clipboard.";
    } catch {
      save(blob, `${view.run}-step-${map.frame.step}.png`);
      return "The picture is saved.";
    }
  },
  gates: async () => {
    const site = map.frame.site, pieces = await fetchPieces(site);
    if (!pieces) return "The gates cannot be read.";
    save(new Blob(pieces, { type: "text/csv" }), `${view.run}-${site}-gates.csv`);
    return "The gates are saved.";
  },
  metrics: async () => {
    const text = await server.metrics_table([view.run]).catch(() => undefined);
    if (typeof text !== "string") return "The metrics cannot be read.";
    save(new Blob([text], { type: "text/csv" }), `${view.run}-metrics.csv`);
    return "The metrics are saved.";
  },
};
for (const button of root.querySelectorAll("[data-take]")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    setText(find(".rv-took"), "…");
    const words = await takes[button.dataset.take]();
    button.disabled = false;
    setText(find(".rv-took"), words);
    setTimeout(() => setText(find(".rv-took"), ""), 6000);
  });
}

/* Milliseconds of main-thread time for one update, from the received text to the drawn map; for benchmarks. */
element.measureUpdate = () => {
  const news = JSON.stringify(view.snapshot), begin = performance.now();
  apply(JSON.parse(news));
  map.draw();
  map.context.getImageData(0, 0, 1, 1); // waits until the drawing is complete
  return performance.now() - begin;
};

// Start

watch("value", () => openRun(props.value || ""));
openRun(props.value || "");
showEmpty(null);
poll();
