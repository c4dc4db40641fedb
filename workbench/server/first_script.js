/* Gradio's loading indicator requests animation frames forever, even after it has left the page, and so uses a
 * processor that may be training. Once the page is ready, its requests are dropped while no indicator is shown.
 */
(() => {
  const request = window.requestAnimationFrame.bind(window);
  const ofIndicator = (callback) => /performance\.now\(\)\s*-/.test(Function.prototype.toString.call(callback));
  const shown = () => document.querySelector("[data-testid=status-tracker]:not(.hide)") !== null;
  window.requestAnimationFrame = (callback) => {
    const needless = document.documentElement.dataset.ready && ofIndicator(callback) && !shown();
    return needless ? 0 : request(callback);
  };
})();

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
