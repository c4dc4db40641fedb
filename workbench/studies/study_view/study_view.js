/* The list of studies, the selected one with its cells, and one cell, updated by a long poll while the tab is visible.
 *
 * Body of js_on_load of a gr.HTML, after work_list.js and matrix.js: props, server and watch are also defined.
 */
const root = find(".sv");

const STATE_WORDS = {
  planned: "Planned", working: "Working", finished: "Finished", stopped: "Stopped", failed: "Failed", damaged: "Damaged",
};
const asked = new URLSearchParams(location.search);
const view = {
  id: props.value || "", token: "", drawn: null, inSight: false, chosen: null,
  cell: asked.get("tab") === "studies" ? asked.get("cell") || "" : "", cellFacts: null, kick: null,
};

/* Abandon the pending request and send a new one. */
const askAnew = () => {
  view.token = "";
  if (view.kick) view.kick();
};

const matrix = makeMatrix(find(".sv-frame"), async (row, column) => {
  const answer = await server.cell_at([view.id, row, column]);
  if (!answer || !answer.cell) return;
  chooseCell(answer.cell.name);
  showCell(answer.cell);
}, (words) => setText(find(".sv-line"), words));
element.studyMatrix = matrix;

// The list

const counted = (number) => number.toLocaleString("en");
const withFailures = (failed) => (failed ? `, ${counted(failed)} failed` : "");

const showList = (list) => {
  showWorks("sv", view, list, (found) => ({
    state: STATE_WORDS[found.state], title: found.title, tip: found.title, about: found.about,
    done: `${counted(found.done)} of ${counted(found.total)}${withFailures(found.failed)}`, created: found.created,
  }));
  find(".sv-first").hidden = list.length > 0;
  find(".sv-list").hidden = !list.length;
  root.dataset.count = list.length;
};

// The selected study

const showCounts = (counts) => {
  const shown = Object.entries(STATES).filter(([, state]) => counts[state.name]);
  const list = find(".sv-counts");
  const wanted = JSON.stringify([shown.map(([code, state]) => [code, counts[state.name]]), isDark()]);
  if (list.dataset.wanted === wanted) return;
  list.dataset.wanted = wanted;
  list.replaceChildren(...shown.map(([code, state]) => {
    const mark = make("canvas");
    drawCell(fit(mark, 14, 14), code, 0, 0, 14, 14, colorsNow());
    return make("li", {}, mark, `${counted(counts[state.name])} ${state.words}`);
  }));
};

const showChosen = (chosen) => {
  view.chosen = chosen;
  find(".sv-chosen").hidden = !chosen;
  root.dataset.id = chosen ? chosen.id : "";
  root.dataset.work = chosen ? chosen.state : "";
  root.dataset.done = chosen ? chosen.done : "";
  if (!chosen) return;
  setText(find("#sv-title"), chosen.title);
  setText(find(".sv-about"), chosen.about);
  const working = chosen.state === "working", left = chosen.total - chosen.done - chosen.failed;
  find(".sv-stop").hidden = !working;
  find(".sv-stop").disabled = chosen.stopping;
  find(".sv-resume").hidden = working || !left || chosen.state === "damaged";
  find(".sv-retry-all").hidden = !chosen.failed;
  find(".sv-more").hidden = working || chosen.state === "damaged";
  // Disabled instead of hidden, so that a second click on Stop does not delete.
  const remove = find(".sv-remove");
  setText(remove, chosen.opened ? "Remove from the list" : "Delete");
  remove.disabled = !chosen.removable;
  remove.title = remove.disabled ? `Stop the study before you ${chosen.opened ? "remove" : "delete"} it.` : chosen.opened ? "The folder is not deleted." : "";
  const counts = `${counted(chosen.done)} of ${counted(chosen.total)} cells done${withFailures(chosen.failed)}`;
  const parts = [STATE_WORDS[chosen.state], counts, chosen.used, chosen.left].filter(Boolean).join(" · ");
  setText(find(".sv-state"), chosen.message ? `${parts}. ${chosen.message}` : parts);
  find(".sv-chosen").dataset.state = chosen.state;
  find(".sv-progress").hidden = chosen.state === "finished" || chosen.state === "damaged";
  showProgress("sv", chosen.done, chosen.total, chosen.failed);
  const now = find(".sv-now");
  now.hidden = !chosen.now.length;
  setText(now, chosen.now.map(([name, step]) => `${name}: ${step}`).join(" · "));
  find(".sv-study-log").hidden = !chosen.log;
  setText(find(".sv-study-log pre"), chosen.log);
  find(".sv-cells").hidden = !chosen.labels;
  if (!chosen.labels) return;
  showCounts(chosen.counts);
  matrix.set(chosen.labels, chosen.cells);
};

// One cell

const CELL_WORDS = { done: "Done", running: "Running", failed: "Failed", interrupted: "Interrupted", open: "Waiting" };

const showCell = (cell) => {
  view.cellFacts = cell;
  find(".sv-card").hidden = !cell;
  root.dataset.cell = cell ? cell.name : "";
  matrix.choose(cell ? cell.at : null);
  if (!cell) return;
  setText(find("#sv-cell-title"), cell.arm);
  const state = find(".sv-cell-state");
  state.dataset.state = cell.state;
  const sentence = cell.failure || cell.step;
  setText(state, `${CELL_WORDS[cell.state]}${sentence ? `: ${sentence}` : ""}`);
  find(".sv-card dl").replaceChildren(...cell.facts.flatMap(([what, value]) =>
    [make("dt", { textContent: what }), make("dd", { textContent: value })]));
  find(".sv-cell-log").hidden = !cell.log;
  setText(find(".sv-cell-log pre"), cell.log);
  find(".sv-playground").hidden = !cell.edits;
  find(".sv-answers").hidden = cell.state !== "done" || !cell.run;
  find(".sv-train").hidden = !cell.run;
  find(".sv-retry").hidden = cell.state !== "failed";
};

const chooseCell = (name) => {
  view.cell = name;
  askAnew();
  if (!name) showCell(null);
  putIntoAddress();
};
find(".sv-close").addEventListener("click", () => {
  chooseCell("");
  find(".sv-scroll").focus({ preventScroll: true });
});
for (const name of ["playground", "answers", "train"]) {
  find(`.sv-${name}`).addEventListener("click", () => { if (view.cellFacts) act(name, { id: view.cellFacts.run }); });
}
find(".sv-retry").addEventListener("click", () => { if (view.cellFacts) act("retry", { cell: view.cellFacts.name }); });
find(".sv-retry-all").addEventListener("click", () => act("retry", { cell: "" }));

const tellDeleted = connectRemoval("sv", view, (gone) => (gone.opened
  ? "Removed from the list; the folder is unchanged." : `Deleted the study of ${gone.created}.`));

const apply = (snapshot) => {
  root.dataset.state = "ready";
  showList(snapshot.list);
  tellDeleted(snapshot.list);
  showChosen(snapshot.chosen);
  showCell(snapshot.cell);
  redraw();
};

const redraw = connectRedraw(root, view, () => {
  if (view.chosen && view.chosen.labels) showCounts(view.chosen.counts);
});

// Actions

connectButtons("sv");
find(".sv-open").addEventListener("submit", (event) => {
  event.preventDefault();
  act("openfolder", { folder: find("#sv-folder").value });
});

watch("value", () => {
  if (view.id && view.id !== props.value) view.cell = "";
  view.id = props.value || "";
  askAnew();
  putIntoAddress();
});

const putIntoAddress = connectAddress(view, "studies", () => ({ study: view.id, cell: view.cell }));

followNews("__studyView", root, view, async () => {
  const [id, cell] = [view.id, view.cell];
  const kicked = new Promise((resolve) => { view.kick = () => resolve(null); });
  const news = server.news([id, view.token, cell]).then((answer) => ({
    token: answer && answer.token,
    take: () => {
      if (!answer.view || id !== view.id || cell !== view.cell) return;
      view.token = answer.token;
      apply(JSON.parse(answer.view));
    },
  }));
  return Promise.race([news, kicked]);
}, putIntoAddress);
