/* The page of runs: a table that draws only the visible rows, and next to it the selected run.
 *
 * Body of js_on_load of a gr.HTML, after basics.js, rows.js and messages.js: element, trigger, props, server and watch
 * are defined.
 * Actions on a run are sent to the server as events, and the answer comes back as the value. All text from files or
 * people is written with textContent.
 */
const root = find(".rt");
const scroller = find(".rt-scroll");
const body = find("tbody");

const ROW = 30;          // pixels, as in run_table.css
const SPARE = 8;         // rows drawn above and below those in sight
const POLL = 1500;       // milliseconds between two looks while the page is in sight
const MOST_MARKED = 2;

const view = {
  token: "", runs: new Map(), deleted: [], shown: [], search: "", key: "created", down: false,
  chosen: "", marked: [], pool: [], first: -1, edited: false, serial: 0, method: "",
};
const run = () => view.runs.get(view.chosen);

// The table

const buildHead = () => {
  const columns = find("colgroup");
  columns.append(make("col", { className: "rt-col-mark" }));
  const head = find("thead tr");
  const mark = make("th", { className: "rt-col-mark" }, make("span", { className: "jw-hidden", textContent: "Compare" }));
  mark.setAttribute("role", "columnheader");
  head.append(mark);
  for (const column of COLUMNS) {
    const col = make("col", { className: `rt-col-${column.key}` });
    if (column.width) col.style.width = `${column.width}px`;
    columns.append(col);
    const button = make("button", { type: "button", textContent: column.title });
    if (column.hint) button.title = column.hint;
    button.addEventListener("click", () => sortBy(column.key));
    const cell = make("th", { className: `rt-col-${column.key}${column.number ? " rt-number" : ""}` }, button);
    cell.setAttribute("role", "columnheader");
    head.append(cell);
  }
};

const sortBy = (key) => {
  view.down = view.key === key ? !view.down : false;
  view.key = key;
  arrange();
};

/* Search and sort again, then draw. */
const arrange = () => {
  showMethods();
  const runs = [...view.runs.values()].filter((found) => !view.method || found.method === view.method);
  view.shown = sorted(searched(runs, view.search), view.key, view.down);
  COLUMNS.forEach((column, index) => {
    const cell = find("thead tr").children[index + 1];
    if (column.key !== view.key) cell.removeAttribute("aria-sort");
    // The first click sorts numbers and times in descending order.
    else cell.setAttribute("aria-sort", view.down !== Boolean(column.number || column.key === "created") ? "descending" : "ascending");
  });
  const total = view.runs.size;
  const words = total === 1 ? "1 run" : `${grouped(total)} runs`;
  setText(find(".rt-count"), view.search || view.method ? `${grouped(view.shown.length)} of ${words}` : words);
  const none = find(".rt-none");
  none.hidden = view.shown.length > 0 || root.dataset.state === "waiting";
  setText(none.children[0], total ? "Nothing found" : "No runs yet");
  setText(none.children[1], total
    ? "No run has all of these words in its name, note, model, data, method or status."
    : "A run appears here as soon as it is started in Train. Import adds a run from a zip file.");
  scroller.hidden = !none.hidden;
  scroller.setAttribute("aria-rowcount", view.shown.length + 1);
  view.first = -1;
  draw();
};

/* Show the filter by method if runs have several; reset it if the last run of its method is gone. */
const showMethods = () => {
  const methods = methodsOf([...view.runs.values()]);
  if (!methods.includes(view.method)) view.method = "";
  const select = find(".rt-method");
  select.hidden = methods.length < 2;
  if ([...select.options].slice(1).map((option) => option.value).join("\n") !== methods.join("\n")) {
    const option = (value, textContent) => make("option", { value, textContent });
    select.replaceChildren(option("", "All methods"), ...methods.map((method) => option(method, method)));
  }
  select.value = view.method;
};

const makeRow = () => {
  const box = make("input", { type: "checkbox", tabIndex: -1 });
  const row = make("tr", {}, make("td", { className: "rt-col-mark" }, box));
  row.setAttribute("role", "row");
  for (const column of COLUMNS) {
    const cell = make("td", { className: `rt-col-${column.key}${column.number ? " rt-number" : ""}` }, make("span"));
    if (column.quiet) cell.append(make("small"));
    row.append(cell);
  }
  for (const cell of row.children) cell.setAttribute("role", "gridcell");
  return row;
};

/* Fill the visible rows into a small pool of table rows. */
const draw = () => {
  const sight = Math.ceil((scroller.clientHeight || 600) / ROW) + 2 * SPARE;
  const count = Math.min(view.shown.length, sight);
  const first = Math.max(0, Math.min(Math.floor(scroller.scrollTop / ROW) - SPARE, view.shown.length - count));
  while (view.pool.length < count) view.pool.push(makeRow());
  if (first === view.first && body.childElementCount === count + 2) return fill(first, count);
  view.first = first;
  const space = (rows) => {
    const row = make("tr", { className: "rt-space" }, make("td"));
    row.setAttribute("aria-hidden", "true");
    row.firstChild.style.height = `${rows * ROW}px`;
    return row;
  };
  if (body.childElementCount === count + 2) {
    body.firstChild.firstChild.style.height = `${first * ROW}px`;
    body.lastChild.firstChild.style.height = `${(view.shown.length - first - count) * ROW}px`;
  } else {
    body.replaceChildren(space(first), ...view.pool.slice(0, count), space(view.shown.length - first - count));
  }
  fill(first, count);
};

const fill = (first, count) => {
  scroller.removeAttribute("aria-activedescendant");
  for (let index = 0; index < count; index += 1) {
    const row = view.pool[index];
    const found = view.shown[first + index];
    const chosen = found.id === view.chosen;
    row.id = `rt-row-${first + index}`;
    row.dataset.id = found.id;
    row.dataset.state = found.state;
    row.setAttribute("aria-rowindex", first + index + 2);
    row.setAttribute("aria-selected", String(chosen));
    if (chosen) scroller.setAttribute("aria-activedescendant", row.id);
    const box = row.firstChild.firstChild;
    box.checked = view.marked.includes(found.id);
    box.setAttribute("aria-label", `Compare ${nameOf(found)}`);
    COLUMNS.forEach((column, at) => {
      const cell = row.children[at + 1];
      const text = column.text(found);
      setText(cell.firstChild, text);
      if (column.quiet) setText(cell.lastChild, column.quiet(found));
      const title = column.quiet ? `${text} ${column.quiet(found)}` : column.whole ? column.whole(found) : text;
      if (cell.title !== title) cell.title = title;
    });
    row.children[2].classList.toggle("rt-unnamed", !found.label);
  }
};

const reveal = () => {
  const at = view.shown.findIndex((found) => found.id === view.chosen);
  if (at < 0) return;
  const room = scroller.clientHeight - find("thead").offsetHeight;
  if (at * ROW < scroller.scrollTop) scroller.scrollTop = at * ROW;
  else if ((at + 1) * ROW > scroller.scrollTop + room) scroller.scrollTop = (at + 1) * ROW - room;
};

// The selected run

const choose = (id, { scroll = true } = {}) => {
  if (id !== view.chosen) save();
  view.chosen = id;
  root.dataset.chosen = id;
  if (scroll) reveal();
  draw();
  showChosen(true);
};

const showChosen = (anew = false) => {
  const found = run();
  find(".rt-chosen").hidden = !found;
  find(".rt-choose").hidden = Boolean(found);
  if (!found) return;
  setText(find(".rt-title"), nameOf(found));
  find(".rt-title").classList.toggle("rt-unnamed", !found.label);
  setText(find(".rt-state"), stateWords(found) + (found.imported ? ", imported" : ""));
  find(".rt-chosen").dataset.state = found.state;
  if (anew) {
    find(".rt-label").value = found.label;
    find(".rt-label").placeholder = found.id;
    find(".rt-note").value = found.note;
    view.edited = false;
    setText(find(".rt-saved"), "");
  }
  const needs = "This run has no adapter, because it did not finish.";
  const working = AT_WORK.has(found.state);
  for (const [name, off, why] of [
    ["playground", !found.adapter, needs], ["export", !found.adapter, needs],
    ["remove", working, "This run has not ended: cancel it in Train first."],
  ]) {
    const button = find(`.rt-${name}`);
    button.disabled = off;
    button.title = off ? why : "";
  }
  const list = find(".rt-facts");
  const facts = factsOf(found).filter(([, words]) => words);
  if (list.childElementCount !== facts.length) {
    list.replaceChildren(...facts.map(() => make("div", {}, make("dt"), make("dd"))));
  }
  facts.forEach(([name, words], index) => {
    setText(list.children[index].firstChild, name);
    setText(list.children[index].lastChild, words);
  });
};

/* Save name and note when they lose the focus, so that no input is lost. */
const save = () => {
  const found = run();
  if (!found || !view.edited) return;
  const [label, note] = [find(".rt-label").value, find(".rt-note").value];
  view.edited = false;
  if (label === found.label && note === found.note) return;
  setText(find(".rt-saved"), "Saving …");
  // If the user returns to the run before the answer arrives, the fields have the new text.
  Object.assign(found, { label, note });
  act("annotate", { id: found.id, label, note });
};

const mark = (id) => {
  const without = view.marked.filter((marked) => marked !== id);
  view.marked = without.length < view.marked.length ? without : [...without, id].slice(-MOST_MARKED);
  draw();
  compare();
};

/* Two ticked runs are compared below the table; the comparison disappears with one of the ticks. */
const compare = () => {
  const [was, is] = [root.dataset.comparing === "true", view.marked.length === MOST_MARKED];
  root.dataset.comparing = String(is);
  find(".rt-clear").hidden = !view.marked.length;
  setText(find(".rt-clear"), is ? "Stop comparing" : "Tick one more to compare ×");
  if (is || was) act("compare", { ids: view.marked });
};

const step = (by) => {
  if (!view.shown.length) return;
  const at = view.shown.findIndex((found) => found.id === view.chosen);
  const to = at < 0 ? 0 : Math.max(0, Math.min(view.shown.length - 1, at + by));
  choose(view.shown[to].id);
};

const remove = () => {
  const found = run();
  if (!found || find(".rt-remove").disabled) return;
  const at = view.shown.findIndex((other) => other.id === found.id);
  const next = view.shown[at + 1] || view.shown[at - 1];
  view.edited = false;
  view.runs.delete(found.id);
  if (view.marked.includes(found.id)) mark(found.id);
  act("remove", { id: found.id });
  view.chosen = "";
  arrange();
  choose(next ? next.id : "");
  scroller.focus({ preventScroll: true });
};

watch("value", () => {
  const answer = props.value;
  if (!answer || answer.serial === view.serial) return;
  view.serial = answer.serial;
  // A refused action changed nothing, unlike the table, which showed its result at once.
  if (answer.kind === "error") view.token = "";
  if (answer.saved === undefined) toast(answer);
  else if (answer.run === view.chosen) {
    setText(find(".rt-saved"), answer.saved);
    if (answer.kind === "error") view.edited = true;  // the fields keep what was not saved
  }
  if (answer.chosen) view.wanted = answer.chosen;
  look();
});

// Following the store

/* Choose the run that an answer of the server named, once it is in the table; return whether it was. */
const chooseWanted = () => {
  if (!view.wanted || !view.runs.has(view.wanted)) return false;
  view.chosen = view.wanted;
  view.wanted = "";
  root.dataset.chosen = view.chosen;
  arrange();
  reveal();
  draw();
  showChosen(true);
  return true;
};

const take = (news) => {
  if (news.whole) view.runs.clear();
  for (const id of news.gone) view.runs.delete(id);
  for (const found of news.runs) view.runs.set(found.id, found);
  view.deleted = news.deleted;
  view.token = news.token;
  root.dataset.state = "ready";
  root.dataset.runs = view.runs.size;
  root.dataset.token = news.token;
  const marked = view.marked.filter((id) => view.runs.has(id));
  const lost = marked.length < view.marked.length;
  view.marked = marked;
  if (!chooseWanted()) {
    if (view.chosen && !view.runs.has(view.chosen)) view.chosen = "";
    arrange();
    showChosen(!view.edited && document.activeElement?.closest?.(".rt-chosen") === null);
  }
  showDeleted(news.deleted_count);
  if (lost) compare();
};

let looking = null;
const look = () => {
  looking = (looking || Promise.resolve()).then(async () => {
    const news = await server.news([view.token]);
    if (!news || news.token === undefined) throw Error("no answer");
    root.dataset.connection = "live";
    if (news.token !== view.token) take(news);
    else chooseWanted();  // the run may have been in the news before the answer that names it arrived
  }).catch(() => { root.dataset.connection = "lost"; });
  return looking;
};

const inSight = () => element.isConnected && element.offsetParent !== null && !document.hidden;
const generation = (window.runTableGeneration = (window.runTableGeneration || 0) + 1);
const follow = async () => {
  let wait = POLL;
  while (element.isConnected && generation === window.runTableGeneration) {
    if (inSight()) {
      await look();
      wait = root.dataset.connection === "lost" ? Math.min(12_000, 2 * wait) : POLL;
    }
    // Stop waiting early if the page becomes visible for the first time.
    for (let waited = 0; waited < wait; waited += 250) {
      await sleep(250);
      if (inSight() && root.dataset.state === "waiting") break;
    }
  }
};

// Input

body.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-id]");
  if (!row) return;
  const marking = event.target.closest(".rt-col-mark");
  if (marking || event.ctrlKey || event.metaKey || event.shiftKey) {
    mark(row.dataset.id);
    if (!marking) choose(row.dataset.id, { scroll: false });
  } else choose(row.dataset.id, { scroll: false });
});
body.addEventListener("dblclick", (event) => {
  const row = event.target.closest("tr[data-id]");
  if (row && !event.target.closest(".rt-col-mark")) act("train", { id: row.dataset.id });
});
scroller.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
scroller.addEventListener("keydown", (event) => {
  if (event.target !== scroller) return;
  const page = Math.max(1, Math.floor(scroller.clientHeight / ROW) - 2);
  const keys = {
    ArrowDown: () => step(1), ArrowUp: () => step(-1), PageDown: () => step(page), PageUp: () => step(-page),
    Home: () => step(-view.shown.length), End: () => step(view.shown.length),
    " ": () => view.chosen && mark(view.chosen), Enter: () => view.chosen && act("train", { id: view.chosen }),
    F2: () => run() && find(".rt-label").focus(), Delete: remove,
  };
  if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  keys[event.key]();
});
find(".rt-search").addEventListener("input", (event) => {
  view.search = event.target.value.trim();
  scroller.scrollTop = 0;
  arrange();
});
find(".rt-method").addEventListener("change", (event) => {
  view.method = event.target.value;
  scroller.scrollTop = 0;
  arrange();
});
find(".rt-search").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown" || !view.shown.length) return;
  event.preventDefault();
  scroller.focus();
  if (!view.shown.some((found) => found.id === view.chosen)) choose(view.shown[0].id);
});
for (const name of ["label", "note"]) {
  const input = find(`.rt-${name}`);
  input.maxLength = { label: 80, note: 4000 }[name];
  input.addEventListener("input", () => { view.edited = true; });
  input.addEventListener("change", save);
}
find(".rt-label").addEventListener("keydown", (event) => {
  if (event.key === "Enter") { save(); scroller.focus({ preventScroll: true }); }
  if (event.key === "Escape") { showChosen(true); scroller.focus({ preventScroll: true }); }
});
for (const name of ["train", "playground", "answers", "export"]) {
  find(`.rt-${name}`).addEventListener("click", () => { save(); act(name, { id: view.chosen }); });
}
find(".rt-remove").addEventListener("click", remove);
find(".rt-clear").addEventListener("click", () => {
  view.marked = [];
  draw();
  compare();
  scroller.focus({ preventScroll: true });
});
find(".rt-undo").addEventListener("click", (event) => {
  act("restore", { id: event.target.dataset.id });
  scroller.focus({ preventScroll: true });
});
find(".rt-dismiss").addEventListener("click", () => {
  toast({ words: "" });
  scroller.focus({ preventScroll: true });
});
let height = 0;
new ResizeObserver(() => {
  if (scroller.clientHeight && scroller.clientHeight < height) reveal();
  height = scroller.clientHeight;
  view.first = -1;
  draw();
}).observe(scroller);
let darkness = isDark();
new MutationObserver(() => {
  if (isDark() === darkness) return;
  darkness = isDark();
  if (view.marked.length === MOST_MARKED) compare();
}).observe(document.body, { attributes: true, attributeFilter: ["class"] });

/* Gradio registers the events whose quoted names occur in a script. */
const EVENTS = ["annotate", "answers", "compare", "export", "playground", "remove", "restore", "train"];
element.runTable = { view, draw, scroller, events: EVENTS };

buildHead();
arrange();
follow();
