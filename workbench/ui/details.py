"""Components whose HTML contains a ``<details>`` element that stays open when the HTML changes."""

import gradio as gr

# Gradio updates HTML in place and removes attributes that the new text lacks, which closes the element.
_SCRIPT = """(() => {
  let open = false;
  element.addEventListener("click", (event) => {
    const summary = event.target.closest("summary");
    if (summary) open = !summary.parentElement.open;
  });
  new MutationObserver(() => {
    const details = element.querySelector("details");
    if (details && details.open !== open) details.open = open;
  }).observe(element, { subtree: true, childList: true, attributes: true, attributeFilter: ["open"] });
})();"""


def details_box(elem_id: str) -> gr.HTML:
    """Create the component, without content; its values contain at most one ``<details>`` element."""
    return gr.HTML("", js_on_load=_SCRIPT, apply_default_css=False, elem_id=elem_id)
