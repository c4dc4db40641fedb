/* The comparisons there are, and the chosen one, fed by a long poll while the place is in sight.
 *
 * The body of a gr.HTML's js_on_load, after work_list.js: props, server and watch are given too.
 */
const root = find(".cv");

const STATE_WORDS = { working: "Working", finished: "Finished", stopped: "Stopped", failed: "Failed" };
const view = { id: props.value || "", token: "", drawn: null, inSight: false, chosen: null };

// The list

const titled = (found) => (found.label ? `${found.label}: ${found.words}` : found.words);

const showList = (list) => {
  showWorks("cv", view, list, (found) => ({
    state: STATE_WORDS[found.state], title: titled(found), tip: found.methods, about: found.about,
    done: `${found.done} of ${found.planned}`, created: found.created,
  }));
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

const tellDeleted = connectRemoval("cv", view, (gone) => `Deleted the comparison of ${gone.created}.`);

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

followNews("__compareView", root, view, async () => {
  const asked = view.id;
  const answer = await server.news([asked, view.token]);
  return { token: answer && answer.token, take: () => { if (answer.list && asked === view.id) apply(answer); } };
}, putIntoAddress);
