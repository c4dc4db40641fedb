/* Shared by the views of comparisons and studies: a list of works, deleting with undo, redrawing, the address, and the
 * long poll.
 *
 * Part of the body of js_on_load of a gr.HTML, after basics.js and before the script of a view: element, trigger, watch
 * and props are defined. All text from files or people is written with textContent.
 */
/* Show the rows of the list; `view` has the selected one. `describe` returns the texts of a work: state, title, tip,
 * about, done, created. */
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

/* Deleting may be refused, so it is only reported once the work is gone: call the result with each new list. `view`
 * has the selected work; `tell` returns the message. */
const connectRemoval = (prefix, view, tell) => {
  const leaving = new Map();
  find(`.${prefix}-remove`).addEventListener("click", () => {
    const { chosen } = view;
    if (!chosen || leaving.has(chosen.id)) return;
    leaving.set(chosen.id, chosen);
    act("remove", { id: chosen.id });
  });
  watch("refused", () => { if (props.refused) leaving.delete(props.refused.id); });
  // The button that has the focus disappears with the message.
  const dismiss = () => {
    find(`.${prefix}-toast`).hidden = true;
    find(`.${prefix}-list button`)?.focus({ preventScroll: true });
  };
  find(`.${prefix}-undo`).addEventListener("click", () => {
    dismiss();
    act("restore", { id: find(`.${prefix}-undo`).dataset.id });
  });
  find(`.${prefix}-dismiss`).addEventListener("click", dismiss);
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

/* Redraw the figures for new results, another work or another theme of the page; the latter also calls `recolour`.
 * Call the result with each new state. */
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

/* The bar shows what is done plus `further`, which has failed or is running. */
const showProgress = (prefix, done, total, further) => {
  const bar = find(`.${prefix}-progress`);
  bar.setAttribute("aria-valuemax", total);
  bar.setAttribute("aria-valuenow", done);
  bar.firstChild.style.width = `${100 * Math.min(1, (done + further) / Math.max(1, total))}%`;
};

/* While the tab is visible, the address names it and what it shows, for reloads and links. `shown` returns the
 * values by their names in the address; call the result when they change. */
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

/* Request news while the view is visible, until the element is removed or mounted again under the same name. `ask`
 * returns the token of an answer and the function that applies it, or nothing if the request was abandoned; `seen`
 * is called when the view becomes visible or hidden. */
const followNews = async (name, root, view, ask, seen) => {
  const own = (window[name] = (window[name] || 0) + 1);
  let wait = 500;
  while (element.isConnected && own === window[name]) {
    const inSight = root.offsetParent !== null;
    if (inSight !== view.inSight) {
      // Until the page is ready, its address must not change: it tells what to open.
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
