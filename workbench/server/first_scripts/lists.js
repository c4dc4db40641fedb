/* Gradio's lists handle a key after the page has been updated. Tab, which leaves and closes a list, would open it again
 * when the focus is elsewhere; it is therefore withheld from them.
 */
window.addEventListener("keydown", (event) => {
  if (event.key === "Tab" && event.target.matches?.("input[role=combobox]")) event.stopPropagation();
}, true);
