/* One run on the page: map, figures, curves and the slider over its history, updated by a long poll.
 *
 * Body of js_on_load of a gr.HTML, after basics.js, gate_map.js and curves.js and before run_tools.js: element,
 * trigger, props, server and watch are defined. All text from files or people is written with textContent.
 */
const root = find(".rv");

const view = {
  run: null,          // id on the page
  token: "",          // last token of the server, sent back so that it answers when there is news
  site: "",
  snapshot: null,
  shown: null,        // record that the slider selects, or null while it follows the run
  shownStep: null,
  linked: null,       // step in the address, until the run has a map
  wanted: null,       // record to fetch while another request is pending
  fetching: false,
  wasActive: null,
};

const map = new GateMap(find(".gm"));
element.gateMap = map;
for (const ramp of root.querySelectorAll(".gm-ramp")) {
  ramp.style.background = `linear-gradient(to right, ${CIVIDIS.filter((_, index) => index % 15 === 0).join(", ")})`;
}

const splitFigure = (text) => text.split(/(?= \()/);
/* Show a figure, with text in parentheses in small type. */
const setFigure = (selector, text) => {
  const node = find(selector);
  if (node.textContent === text) return;
  const [figure, rest] = splitFigure(text), small = document.createElement("small");
  small.textContent = rest || "";
  node.replaceChildren(figure, small);
};

// Drawing a snapshot

const showFrame = (frame) => {
  const decoded = decodeFrame(frame);
  map.show(decoded);
  showLegend();
  root.dataset.step = frame.step;
  root.dataset.open = decoded.channels.reduce((sum, name) => sum + decoded.on[name].filter(gateOpen).length, 0);
  root.dataset.gates = decoded.has_gates;
  ["none", "offset", "scale", "both"].forEach((state, index) => {
    setText(find(`.rv-count-${state}`), frame.counts[index]?.toLocaleString("en") ?? "–");
  });
  const step = `step ${frame.step.toLocaleString("en")}`;
  setText(find(".rv-shown"), step);
  find(".rv-slider").setAttribute("aria-valuetext", step);
  if (view.snapshot?.active && view.shown === null) showTableSoon();
  else showTable();
};

/* Show what the color means: the selected button, and the labels at the ends of the scale. */
const showLegend = () => {
  for (const button of root.querySelectorAll(".gm-colours button")) {
    button.setAttribute("aria-pressed", String(button.dataset.shows === map.shows));
  }
  const shows = map.meaningShown, states = shows === "state", [low, high] = MEANINGS[shows].ends(map.frame);
  find(".gm-scale").hidden = states;
  find(".gm-states").hidden = !states;
  const { site = "heads", has_gates: gates = true } = map.frame || {};
  find(".gm-colours").hidden = !gates;
  const each = `Each cell is one ${CELLS[site] || "unit"}.`, special = gates ? GATING[view.snapshot?.gates] : "";
  setText(find(".rv-meaning"), [each, MEANINGS[shows].about, special].filter(Boolean).join(" "));
  setText(find(".gm-low"), low);
  setText(find(".gm-high"), high);
  root.dataset.shows = shows;
};
const CELLS = { heads: "attention head", mlp: "MLP", weights: "weight matrix" };
for (const button of root.querySelectorAll(".gm-colours button")) {
  button.addEventListener("click", () => {
    map.colourBy(button.dataset.shows);
    showLegend();
    showTable();
  });
}
/* Notes on the gates of runs with other settings of the gates. */
const GATING = {
  shared: "In this run both halves of an edit share one gate, so both maps of gates agree.",
  none: "This run has no gates: every edit is always on.",
};

const showTable = () => {
  const body = find(".gm-table-body");
  if (!map.frame || find(".rv-table").hidden) return;
  const key = `${view.run} ${map.frame.site} ${map.frame.step} ${map.meaningShown}`;
  if (body.dataset.key === key) return;
  body.dataset.key = key;
  body.replaceChildren(...gateTables(map.frame, map.meaningShown).map((table) => {
    const scroller = document.createElement("div");
    scroller.tabIndex = 0;
    scroller.setAttribute("role", "region");
    scroller.setAttribute("aria-label", table.caption.textContent);
    scroller.append(table);
    return scroller;
  }));
};

/* While a run is running, rebuild the table only once a second; a large one costs more than the map. */
let tableTimer = 0;
const showTableSoon = () => {
  tableTimer ||= setTimeout(() => {
    tableTimer = 0;
    showTable();
  }, 1000);
};

/* While a run is running, request the curves only every two seconds; they hardly change and cost more than the map. */
const curves = { at: -Infinity, of: null, lines: null, states: null };
const wantsCurves = () => curves.of !== curvesOf(view.snapshot) || performance.now() - curves.at > 2000;
const curvesOf = (snapshot) => `${snapshot?.run} ${snapshot?.frame?.site}`;
const keepCurves = (snapshot) => {
  if (!snapshot.curves) return false;
  Object.assign(curves, { at: performance.now(), of: curvesOf(snapshot), lines: snapshot.curves, states: snapshot.states });
  return true;
};

const drawCurves = () => {
  const snapshot = view.snapshot;
  if (!snapshot || !curves.lines) return;
  const theme = chartTheme(map.theme);
  const { train, validation, penalty, edit_rate: edits, gate_rate: gates, l0_weight: l0 } = curves.lines;
  // Do not leave space for steps after an early end.
  const steps = Math.max(snapshot.state === "finished" ? 0 : snapshot.total, snapshot.step, 1), marker = view.shownStep;
  const gated = snapshot.frame?.has_gates !== false;
  drawLoss(find(".rv-loss"), theme, { train, validation, penalty: gated ? penalty : [], steps, marker });
  const states = curves.states || { steps: [], counts: [], closed: [], norms: [] };
  if (!gated) {
    drawNorms(find(".rv-norms"), theme, { at: states.steps, norms: states.norms, steps, marker });
  } else drawStates(find(".rv-states"), theme, { at: states.steps, counts: states.counts, steps, marker });
  if (find(".rv-rates").open) {
    drawRate(find(".rv-rate-edits"), theme, { points: edits, steps, marker });
    if (!gated) return;
    drawRate(find(".rv-rate-gates"), theme, { points: gates, steps, marker });
    drawRate(find(".rv-rate-l0"), theme, { points: l0, steps, marker });
  }
  if (!find(".rv-course").hidden) {
    drawClosed(find(".rv-closed"), theme, { at: states.steps, closed: states.closed, steps, marker });
  }
};
find(".rv-rates").addEventListener("toggle", () => drawCurves());

const showResult = (rows) => {
  const list = find(".rv-result");
  list.replaceChildren(...rows.flatMap(([what, figure]) => {
    const [term, value, bold] = ["dt", "dd", "b"].map((tag) => document.createElement(tag));
    term.textContent = what;
    const [strong, rest] = splitFigure(figure);
    bold.textContent = strong;
    value.append(bold, rest || "");
    return [term, value];
  }));
  find(".rv-result-box").hidden = rows.length === 0;
};

const showSites = (sites, chosen) => {
  const box = find(".rv-sites");
  box.hidden = sites.length < 2;
  const key = sites.join();
  if (box.hidden) return;
  // The buttons stay the same elements while the sites do, so that they keep the focus.
  if (box.dataset.key !== key) makeSites(box, sites);
  box.dataset.key = key;
  sites.forEach((site, at) => box.children[at].setAttribute("aria-pressed", String(site === chosen)));
};

const makeSites = (box, sites) => {
  box.replaceChildren(...sites.map((site) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = site === "heads" ? "Attention heads" : site === "mlp" ? "MLP outputs" : site;
    button.addEventListener("click", () => {
      view.site = site;
      view.token = "";
      follow();
    });
    return button;
  }));
};

/* Actions on the run; the server performs them, and the next snapshot shows the result. */
const deeds = {
  pause: () => trigger("pauserun", { run: view.run }),
  resume: () => trigger("resumerun", { run: view.run }),
  cancel: () => trigger("cancelrun", { run: view.run }),
};
for (const button of root.querySelectorAll(".rv-controls button")) {
  button.addEventListener("click", () => {
    button.disabled = true;
    deeds[button.dataset.do]();
    setTimeout(() => (button.disabled = false), 1500);
  });
}

const showControls = (can) => {
  for (const button of root.querySelectorAll(".rv-controls button")) button.hidden = !can.includes(button.dataset.do);
  find(".rv-controls").hidden = can.length === 0;
};

const showQueue = (waiting) => {
  find(".rv-queue").hidden = waiting.length === 0;
  const list = find(".rv-queue-list"), key = JSON.stringify([waiting, view.run]);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...waiting.map(({ id, about }) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = about;
    button.title = id;
    if (id === view.run) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => trigger("openrun", { run: id }));
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "rv-unqueue";
    remove.textContent = "Remove";
    remove.setAttribute("aria-label", `Remove ${id} from the queue`);
    remove.addEventListener("click", () => trigger("cancelrun", { run: id }));
    item.append(button, remove);
    return item;
  }));
};

const apply = (snapshot) => {
  view.snapshot = snapshot;
  view.token = snapshot.token;
  Object.assign(root.dataset, { run: snapshot.run, state: snapshot.state, records: snapshot.records || 0 });
  setText(find(".rv-message"), snapshot.message);
  setText(find(".rv-warning"), snapshot.warning);
  setText(find(".rv-about"), snapshot.about);
  for (const [name, value] of Object.entries(snapshot.facts)) setFigure(`.rv-fact-${name}`, value);
  const done = snapshot.total ? Math.min(1, snapshot.step / snapshot.total) : 0;
  const progress = find(".rv-progress");
  progress.style.setProperty("--done", `${(100 * done).toFixed(1)}%`);
  progress.setAttribute("aria-valuenow", String(Math.round(100 * done)));
  progress.hidden = !snapshot.active;
  showControls(snapshot.can);
  showQueue(snapshot.queue);
  showResult(snapshot.result);
  showSites(snapshot.sites, snapshot.frame?.site);
  const log = find(".rv-log");
  log.hidden = !snapshot.log;
  if (log.dataset.run !== `${snapshot.run} ${snapshot.state}`) {
    log.dataset.run = `${snapshot.run} ${snapshot.state}`;
    log.open = snapshot.state === "failed";
  }
  setText(find(".rv-log pre"), snapshot.log);
  const records = snapshot.records || 0;
  const slider = find(".rv-slider");
  slider.max = String(Math.max(0, records - 1));
  slider.disabled = records < 2;
  if (snapshot.frame && view.linked !== null) showLinked(snapshot.frame);
  if (snapshot.frame && view.shown === null) {
    slider.value = slider.max;
    showFrame(snapshot.frame);
  }
  find(".rv-kept").hidden = !snapshot.frame || snapshot.kept === null;
  setText(find(".rv-kept"), `Kept edits, step ${snapshot.kept?.toLocaleString("en")}`);
  find(".rv-follow").hidden = view.shown === null;
  setText(find(".rv-follow"), snapshot.active ? "Follow the run" : "Back to the end");
  showEmpty(snapshot);
  if (keepCurves(snapshot)) drawCurves();
  refreshCourse();
  tellOthers(snapshot);
};

const showEmpty = (snapshot) => {
  const { method, has_gates: gates, trains = true } = snapshot ?? { has_gates: true };
  const edited = gates ? "Gates of the attention heads" : `Edits of ${method}`;
  setText(find("#rv-title"), trains ? edited : "Base model without edits");
  setText(find(".rv-result-box h2"), trains ? "Result of the edits kept" : "Result");
  const waiting = snapshot && !snapshot.frame;
  find(".rv-first").hidden = Boolean(snapshot);
  find(".rv-waiting").hidden = !waiting;
  find(".rv-body").hidden = !snapshot || waiting;
  find(".rv-rail").hidden = !snapshot;
  for (const chart of root.querySelectorAll(".rv-chart, .rv-rates")) chart.hidden = !snapshot?.frame;
  if (snapshot?.frame) showParts(snapshot.frame);
  if (waiting) {
    const coming = `${snapshot.message}${snapshot.active ? " …" : "."}${trains ? " The map appears with the first step." : ""}`;
    const none = snapshot.trains === false
      ? `${snapshot.method} trains nothing, so there is no map: the result is that of the base model.`
      : "This run ended before its first step, so there is no map.";
    const advice = snapshot.state === "failed" ? " Start another one with other settings, or resume it once the cause is fixed." : "";
    setText(find(".rv-waiting-words"), snapshot.active || snapshot.state === "queued" ? coming : none + advice);
    setText(find(".rv-waiting-note"), snapshot.note);
    find(".rv-waiting-hint").hidden = !snapshot.active && snapshot.state !== "queued";
  }
};

/* Show the parts for runs with gates, or for runs without. */
const showParts = ({ has_gates: gates, channels }) => {
  for (const part of root.querySelectorAll("[data-gates]")) part.hidden = part.dataset.gates !== String(gates);
  if (!gates) find(".rv-course").hidden = true;
  setText(find(".rv-rate-title"), gates ? "Learning rates and λ" : "Learning rate");
  setText(find(".rv-rate-name"), gates ? "rate of offsets and scales" : "rate of the edits");
  setText(find("[data-take=gates]"), gates ? "Gates as CSV" : "Edits as CSV");
  if (gates) return;
  const keys = find(".rv-norm-keys");
  keys.replaceChildren(...channels.map((name, index) => {
    const key = document.createElement("span");
    key.className = `rv-key-norm-${index}`;
    key.textContent = name;
    return key;
  }));
};

/* Update the top bar, and the buttons, which only the server can change. */
const tellOthers = (snapshot) => {
  document.dispatchEvent(new CustomEvent("jola-run", { detail: snapshot }));
  if (view.wasActive && !snapshot.active) trigger("ended", { run: snapshot.run });
  if (view.wasActive === false && snapshot.active) trigger("began", { run: snapshot.run });
  view.wasActive = snapshot.active;
};

// The slider over the history

const follow = () => {
  view.shown = view.wanted = view.shownStep = null;
  find(".rv-follow").hidden = true;
  if (view.snapshot?.frame && view.snapshot.frame.site === (view.site || view.snapshot.frame.site)) {
    find(".rv-slider").value = find(".rv-slider").max;
    showFrame(view.snapshot.frame);
  }
  drawCurves();
};

find(".rv-kept").addEventListener("click", async () => {
  view.linked = view.snapshot.kept;
  await showLinked(view.snapshot.frame);
  putStepInAddress();
});

let addressTimer = 0;

/* Send one request at a time; of the records requested meanwhile, only the last one counts. */
const showRecord = async (record) => {
  view.shown = view.wanted = record;
  find(".rv-follow").hidden = false;
  if (view.fetching) return;
  view.fetching = true;
  while (view.wanted !== null) {
    const wanted = view.wanted, run = view.run;
    const frame = await server.frame([run, view.snapshot.frame.site, wanted]);
    if (view.wanted === wanted) view.wanted = null;
    if (frame && run === view.run && view.shown !== null) {
      view.shownStep = frame.step;
      showFrame(frame);
      drawCurves();
    }
  }
  view.fetching = false;
  clearTimeout(addressTimer);
  addressTimer = setTimeout(putStepInAddress, 300);
};

/* The step in the address, as set by a link: ?run=…&step=… */
const stepInAddress = () => {
  const asked = new URL(location).searchParams, step = asked.get("step") || "";
  return asked.get("run") === view.run && /^[0-9]{1,8}$/.test(step) ? Number(step) : null;
};
const putStepInAddress = () => {
  const step = view.shownStep, address = new URL(location);
  if (step === null) address.searchParams.delete("step");
  else for (const [name, value] of [["run", view.run], ["step", step]]) address.searchParams.set(name, value);
  history.replaceState(null, "", address);
};

/* Show the map at the step in the address; for a future step, follow the run. */
const showLinked = async (last) => {
  const run = view.run, step = view.linked;
  view.linked = null;
  if (step >= last.step) return;
  view.shown = 0;
  const frame = await server.frame_at([run, last.site, step]).catch(() => undefined);
  if (run !== view.run || view.shown === null) return;
  if (!frame) {
    follow();
    return;
  }
  Object.assign(view, { shown: frame.record, shownStep: frame.step });
  find(".rv-slider").value = String(frame.record);
  find(".rv-follow").hidden = false;
  showFrame(frame);
  drawCurves();
};

find(".rv-slider").addEventListener("input", (event) => showRecord(Number(event.target.value)));
find(".rv-follow").addEventListener("click", () => {
  follow();
  putStepInAddress();
  find(".rv-slider").focus();
});
new ResizeObserver(drawCurves).observe(find(".rv-rail"));
new MutationObserver(drawCurves).observe(document.body, { attributes: true, attributeFilter: ["class"] });

// The long poll

const setConnection = (state) => {
  root.dataset.connection = state;
  const words = {
    lost: "The connection to the app is lost; trying again …",
    gone: "This run is no longer in the run folder.",
  };
  setText(find(".rv-connection"), words[state] || "");
};

const openRun = (id) => {
  if (view.run === id) return;
  Object.assign(view, { run: id, token: "", site: "", snapshot: null, wasActive: null });
  Object.assign(curves, { of: null, lines: null });
  view.linked = stepInAddress();
  follow();
  map.clear();
  forgetCourse();
  setConnection("");
  root.dataset.run = "";
  for (const name of ["state", "step", "records", "open"]) delete root.dataset[name];
  showEmpty(null);
};

/* Mounting the view again ends the loop of the previous mount. */
const generation = (window.jolaRunView = (window.jolaRunView || 0) + 1);
const poll = async () => {
  let wait = 250;
  while (element.isConnected && generation === window.jolaRunView) {
    const { run: id, site } = view;
    if (!id || document.hidden) {
      await sleep(150);
      continue;
    }
    // A failed call returns undefined instead of raising an exception.
    const answer = await server.follow([id, view.token, site, wantsCurves()]).catch(() => undefined);
    if (id !== view.run || site !== view.site) continue;
    if (!answer) {
      setConnection("lost");
      await sleep(wait);
      wait = Math.min(8000, wait * 2);
      continue;
    }
    wait = 250;
    setConnection(answer.gone ? "gone" : "live");
    if (answer.snapshot) apply(JSON.parse(answer.snapshot));
    if (answer.gone) await sleep(2000);
  }
};
