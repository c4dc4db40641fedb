/* Messages below the table, with undo, and the list of deleted runs. `view` and `scroller` are those of run_table.js. */
const toast = ({ words, undo = "", kind = "plain" }) => {
  const box = find(".rt-toast");
  box.hidden = !words;
  box.dataset.kind = kind;
  setText(find(".rt-toast-words"), words);
  find(".rt-undo").hidden = !undo;
  find(".rt-undo").dataset.id = undo;
};

const showDeleted = (count) => {
  const box = find(".rt-deleted");
  box.hidden = !view.deleted.length;
  const rest = count > view.deleted.length ? `, the last ${grouped(view.deleted.length)} are shown` : "";
  setText(box.firstElementChild, `Deleted runs (${grouped(count)}${rest})`);
  // The buttons stay the same elements while the list does, so that they keep the focus.
  const key = JSON.stringify(view.deleted.map((found) => [found.id, found.label]));
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.lastElementChild.replaceChildren(...view.deleted.map((found) => {
    const button = make("button", { type: "button", textContent: "Restore" });
    button.setAttribute("aria-label", `Restore ${found.label || found.id}`);
    button.addEventListener("click", () => {
      act("restore", { id: found.id });
      scroller.focus({ preventScroll: true });
    });
    return make("li", {}, make("span", { textContent: found.label || found.id, title: found.id }), button);
  }));
};
