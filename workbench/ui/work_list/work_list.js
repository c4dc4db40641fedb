/* What the views of comparisons and of studies share: a list of works, deleting with undo, and the long poll.
 *
 * It comes after basics.js and before the script of a view in the body of a gr.HTML's js_on_load: element, trigger,
 * watch and props are given. Everything that came from a file or a person is written with textContent.
 */
/* Rows of the list, of which `view` has the chosen one. `describe` gives the words of a work: state, title, tip, about, done, created. */
const showWorks = (prefix, view, list, describe) => {
  const body = find("tbody");
  while (body.childElementCount > list.length) body.lastElementChild.remove();
  while (body.childElementCount < list.length) {
    const row = make("tr", {}, make("td", { className: `${prefix}-row-state` }),
      make("td", {}, make("button", { type: "button" })), make("td"), make("td", { className: `${prefix}-number` }),
      make("td"));
    row.addEventListener("click", () => {
      if (row.dataset.id !== view.id) act("choose", { id: row.dataset.id });
    });
    body.append(row);
  }
  list.forEach((found, index) => {
    const row = body.children[index], [state, title, about, done, created] = row.children, words = describe(found);
    row.dataset.id = found.id;
    row.dataset.state = found.state;
    row.classList.toggle(`${prefix}-row-chosen`, found.id === view.id);
    if (found.id === view.id) title.firstChild.setAttribute("aria-current", "true");
    else title.firstChild.removeAttribute("aria-current");
    setText(state, words.state);
    setText(title.firstChild, words.title);
    title.firstChild.title = words.tip;
    setText(about, words.about);
    about.title = words.about;
    setText(done, words.done);
    setText(created, words.created);
  });
};

/* Deleting may be refused, so it is told when the work is gone: call the result with each new list. `view` has the
 * chosen work; `tell` gives the words. */
const connectRemoval = (prefix, view, tell) => {
  const leaving = new Map();
  find(`.${prefix}-remove`).addEventListener("click", () => {
    const { chosen } = view;
    if (!chosen || leaving.has(chosen.id)) return;
    leaving.set(chosen.id, chosen);
    act("remove", { id: chosen.id });
  });
  watch("refused", () => { if (props.refused) leaving.delete(props.refused.id); });
  find(`.${prefix}-undo`).addEventListener("click", () => {
    find(`.${prefix}-toast`).hidden = true;
    act("restore", { id: find(`.${prefix}-undo`).dataset.id });
  });
  find(`.${prefix}-dismiss`).addEventListener("click", () => { find(`.${prefix}-toast`).hidden = true; });
  return (list) => {
    for (const [id, gone] of leaving) {
      if (list.some((found) => found.id === id)) continue;
      leaving.delete(id);
      find(`.${prefix}-undo`).dataset.id = id;
      setText(find(`.${prefix}-toast-words`), tell(gone));
      find(`.${prefix}-toast`).hidden = false;
    }
  };
};

/* Ask for news while the view is in sight, until the element is gone or mounted again under the same name.
 * `ask` gives the token of an answer and what takes it, or nothing if the question was given up; `seen` is called
 * when the view comes into sight or leaves it. */
const followNews = async (name, root, view, ask, seen) => {
  const own = (window[name] = (window[name] || 0) + 1);
  let wait = 500;
  while (element.isConnected && own === window[name]) {
    const inSight = root.offsetParent !== null;
    if (inSight !== view.inSight) {
      // While the page begins, its own address says where it goes.
      view.inSight = inSight;
      if (document.documentElement.dataset.ready) seen();
    }
    if (!inSight || document.visibilityState !== "visible") { await sleep(250); continue; }
    try {
      const answer = await ask();
      if (!answer) continue;
      if (!answer.token) throw new Error("no answer");
      wait = 500;
      root.dataset.connection = "live";
      answer.take();
    } catch {
      root.dataset.connection = "lost";
      await sleep(wait);
      wait = Math.min(8000, 2 * wait);
    }
    await sleep(150);
  }
};
