/* Gradio's text boxes send their `input` event when a key is pressed: before the text has changed, and not at all for
 * text that is pasted, dropped, deleted or composed. They are therefore told of every change after it has happened, and
 * of a pressed key only if it is Enter, which submits.
 */
(() => {
  const isBox = ({ target }) => target instanceof Element && target.matches(".gradio-container :is(textarea, input[type=text])");
  document.addEventListener("keypress", (event) => {
    if (event.isTrusted && event.key !== "Enter" && isBox(event)) event.stopPropagation();
  }, true);
  document.addEventListener("input", (event) => {
    if (event.isTrusted && isBox(event)) event.target.dispatchEvent(new KeyboardEvent("keypress"));
  });
})();
