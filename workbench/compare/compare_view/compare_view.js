/* The comparisons there are, and the chosen one, fed by a long poll while the place is in sight.
 *
 * The body of a gr.HTML's js_on_load: element, trigger, props, server and watch are given. Everything that came from a
 * file or a person is written with textContent.
 */
const find = (selector) => element.querySelector(selector);
const root = find(".cv");
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const isDark = () => document.body.classList.contains("dark");
const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const make = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};

const STATE_WORDS = { working: "Working", finished: "Finished", stopped: "Stopped", failed: "Failed" };
const view = { id: props.value || "", token: "", drawn: null, inSight: false, chosen: null, leaving: null };

const act = (name, data = {}) => trigger(name, { dark: isDark(), ...data });

// The list

const titled = (found) => (found.label ? `${found.label}: ${found.words}` : found.words);

const makeRow = () => {
  const choose = make("button", { type: "button" });
  const row = make("tr", {}, make("td", { className: "cv-row-state" }), make("td", {}, choose), make("td"),
    make("td", { className: "cv-number" }), make("td"));
  row.addEventListener("click", () => { if (row.dataset.id !== view.id) act("choose", { id: row.dataset.id }); });
  return row;
};

const showList = (list) => {
  const body = find("tbody");
  while (body.childElementCount > list.length) body.lastElementChild.remove();
  while (body.childElementCount < list.length) body.append(makeRow());
  list.forEach((found, index) => {
    const row = body.children[index], [state, words, about, done, begun] = row.children;
    row.dataset.id = found.id;
    row.dataset.state = found.state;
    const chosen = found.id === view.id;
    row.classList.toggle("cv-row-chosen", chosen);
    if (chosen) words.firstChild.setAttribute("aria-current", "true");
    else words.firstChild.removeAttribute("aria-current");
    setText(state, STATE_WORDS[found.state]);
    setText(words.firstChild, titled(found));
    words.firstChild.title = found.methods;
    setText(about, found.about);
    about.title = found.about;
    setText(done, `${found.done} of ${found.planned}`);
    setText(begun, found.created);
  });
  // With the sample alone there is none of one's own yet.
  find(".cv-first").hidden = list.some((found) => found.id !== "sample");
  find(".cv-all").hidden = !list.length;
  root.dataset.count = list.length;
};

// The chosen one

const showChosen = (chosen) => {
  view.chosen = chosen;
  find(".cv-chosen").hidden = !chosen;
  root.dataset.id = chosen ? chosen.id : "";
  root.dataset.work = chosen ? chosen.state : "";
  if (!chosen) return;
  setText(find("#cv-title"), titled(chosen));
  find("#cv-title").title = chosen.methods;
  setText(find(".cv-about"), chosen.about);
  setText(find(".cv-note"), chosen.note);
  find(".cv-note").hidden = !chosen.note;
  const working = chosen.state === "working";
  find(".cv-stop").hidden = !working;
  find(".cv-more").hidden = working;
  find(".cv-resume").hidden = !["stopped", "failed"].includes(chosen.state);
  // It keeps its place, so that a second click on Stop does not delete.
  find(".cv-remove").disabled = working;
  find(".cv-remove").title = working ? "Stop the comparison before you delete it." : "";
  const counts = `${chosen.done} of ${chosen.planned} trainings done`;
  const parts = [STATE_WORDS[chosen.state], counts, chosen.left].filter(Boolean).join(" · ");
  setText(find(".cv-state"), chosen.message ? `${parts}. ${chosen.message}` : parts);
  find(".cv-chosen").dataset.state = chosen.state;
  const bar = find(".cv-progress");
  bar.hidden = chosen.state === "finished";
  bar.setAttribute("aria-valuemax", chosen.planned);
  bar.setAttribute("aria-valuenow", chosen.done);
  // A training under way counts as far as it is, and never as done.
  const part = chosen.now_total ? 0.9 * Math.min(1, chosen.now_done / chosen.now_total) : 0;
  bar.firstChild.style.width = `${100 * Math.min(1, (chosen.done + (working ? part : 0)) / Math.max(1, chosen.planned))}%`;
  const now = find(".cv-now");
  now.hidden = !chosen.now;
  setText(now, chosen.now_total ? `${chosen.now}, ${chosen.now_done} of ${chosen.now_total}` : chosen.now);
  find(".cv-log").hidden = !chosen.log;
  setText(find(".cv-log pre"), chosen.log);
};

/* Deleting may be refused: it is told when the comparison is gone. */
const tellDeleted = (list) => {
  if (!view.leaving || list.some((found) => found.id === view.leaving.id)) return;
  find(".cv-undo").dataset.id = view.leaving.id;
  setText(find(".cv-toast-words"), `Deleted the comparison of ${view.leaving.created}.`);
  find(".cv-toast").hidden = false;
  view.leaving = null;
};

const apply = (snapshot) => {
  view.token = snapshot.token;
  root.dataset.state = "ready";
  showList(snapshot.list);
  tellDeleted(snapshot.list);
  showChosen(snapshot.chosen);
  redraw();
};

/* The figures are drawn again when there are other results, another comparison, or another colour of the page. */
const redraw = () => {
  const wanted = `${view.chosen ? view.chosen.id + view.chosen.mark : ""} ${isDark()}`;
  if (view.drawn === wanted) return;
  view.drawn = wanted;
  act("redraw");
};
new MutationObserver(() => { if (root.dataset.state === "ready" && view.inSight) redraw(); })
  .observe(document.body, { attributes: true, attributeFilter: ["class"] });

// What is done

find(".cv-stop").addEventListener("click", () => act("stopwork"));
find(".cv-resume").addEventListener("click", () => act("resumework"));
find(".cv-remove").addEventListener("click", () => {
  if (!view.chosen) return;
  view.leaving = view.chosen;
  act("remove");
});
find(".cv-undo").addEventListener("click", () => {
  find(".cv-toast").hidden = true;
  act("restore", { id: find(".cv-undo").dataset.id });
});
find(".cv-dismiss").addEventListener("click", () => { find(".cv-toast").hidden = true; });
find(".cv-more").addEventListener("click", () => act("more"));
find(".cv-small").addEventListener("click", () => act("small"));

watch("value", () => {
  view.id = props.value || "";
  view.token = "";
  putIntoAddress();
});

/* The address names the place and the comparison while they are in sight, so that a reload and a link find them. */
const putIntoAddress = () => {
  const address = new URL(location), asked = address.searchParams;
  if (view.inSight) {
    asked.set("tab", "compare");
    if (view.id) asked.set("comparison", view.id); else asked.delete("comparison");
  } else if (asked.get("tab") === "compare") {
    asked.delete("tab");
    asked.delete("comparison");
  } else return;
  if (address.href !== location.href) history.replaceState(null, "", address);
};

const own = (window.__compareView = (window.__compareView || 0) + 1);  // a remount retires the old loop
(async () => {
  let wait = 500;
  while (element.isConnected && own === window.__compareView) {
    const inSight = root.offsetParent !== null;
    if (inSight !== view.inSight) {
      // While the page begins, its own address says where it goes.
      view.inSight = inSight;
      if (document.documentElement.dataset.ready) putIntoAddress();
    }
    if (!inSight || document.visibilityState !== "visible") { await sleep(250); continue; }
    const asked = view.id;
    try {
      const answer = await server.news([asked, view.token]);
      if (!answer || !answer.token) throw new Error("no answer");
      wait = 500;
      root.dataset.connection = "live";
      if (answer.list && asked === view.id) apply(answer);
    } catch {
      root.dataset.connection = "lost";
      await sleep(wait);
      wait = Math.min(8000, 2 * wait);
    }
    await sleep(150);
  }
})();
