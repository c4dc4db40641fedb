/* What the views of comparisons and of studies share: a list of works, deleting with undo, redrawing, the address, and the
 * long poll.
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

/* Draw the figures again when there are other results, another work, or another colour of the page; `recolour` is called
 * for the last. Call the result with each new state. */
const connectRedraw = (root, view, recolour = () => {}) => {
  const redraw = () => {
    const wanted = `${view.chosen ? view.chosen.id + view.chosen.mark : ""} ${isDark()}`;
    if (view.drawn === wanted) return;
    view.drawn = wanted;
    act("redraw");
  };
  new MutationObserver(() => {
    if (root.dataset.state !== "ready" || !view.inSight) return;
    recolour();
    redraw();
  }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  return redraw;
};

const connectButtons = (prefix) => {
  for (const [name, event] of Object.entries({ stop: "stopwork", resume: "resumework", more: "more", small: "small" })) {
    find(`.${prefix}-${name}`).addEventListener("click", () => act(event));
  }
};

/* The bar reaches further than what is done by what has failed or is under way. */
const showProgress = (prefix, done, total, further) => {
  const bar = find(`.${prefix}-progress`);
  bar.setAttribute("aria-valuemax", total);
  bar.setAttribute("aria-valuenow", done);
  bar.firstChild.style.width = `${100 * Math.min(1, (done + further) / Math.max(1, total))}%`;
};

/* The address names the place and what it shows while it is in sight, so that a reload and a link find them. `shown`
 * gives the values by their names in the address; call the result when they change. */
const connectAddress = (view, place, shown) => () => {
  const address = new URL(location), parts = address.searchParams, values = shown();
  if (view.inSight) {
    parts.set("tab", place);
    for (const [name, value] of Object.entries(values)) {
      if (value) parts.set(name, value); else parts.delete(name);
    }
  } else if (parts.get("tab") === place) {
    for (const name of ["tab", ...Object.keys(values)]) parts.delete(name);
  } else return;
  if (address.href !== location.href) history.replaceState(null, "", address);
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
