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
