/* Gradio's loading indicator goes on asking for an animation frame after it has left the page, for ever, and keeps a
 * processor awake that trains. Once the page is ready, its requests are not passed on while no indicator is shown.
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
