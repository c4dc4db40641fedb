/* The list of comparisons and the selected one, updated by a long poll while the tab is visible.
 *
 * Body of js_on_load of a gr.HTML, after work_list.js: props, server and watch are also defined.
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
  // The sample does not count as a comparison of the user.
  find(".cv-first").hidden = list.some((found) => found.id !== "sample");
  find(".cv-all").hidden = !list.length;
  root.dataset.count = list.length;
};

// The selected comparison

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
  // Disabled instead of hidden, so that a second click on Stop does not delete.
  find(".cv-remove").disabled = working;
  find(".cv-remove").title = working ? "Stop the comparison before you delete it." : "";
  const counts = `${chosen.done} of ${chosen.planned} training runs done`;
  const parts = [STATE_WORDS[chosen.state], counts, chosen.left].filter(Boolean).join(" · ");
  setText(find(".cv-state"), chosen.message ? `${parts}. ${chosen.message}` : parts);
  find(".cv-chosen").dataset.state = chosen.state;
  find(".cv-progress").hidden = chosen.state === "finished";
  // The running training counts by its progress, and never as done.
  const part = chosen.now_total ? 0.9 * Math.min(1, chosen.now_done / chosen.now_total) : 0;
  showProgress("cv", chosen.done, chosen.planned, working ? part : 0);
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

const redraw = connectRedraw(root, view);

// Actions

connectButtons("cv");

watch("value", () => {
  view.id = props.value || "";
  view.token = "";
  putIntoAddress();
});

const putIntoAddress = connectAddress(view, "compare", () => ({ comparison: view.id }));

followNews("__compareView", root, view, async () => {
  const asked = view.id;
  const answer = await server.news([asked, view.token]);
  return { token: answer && answer.token, take: () => { if (answer.list && asked === view.id) apply(answer); } };
}, putIntoAddress);
