"""The results part of the Compare tab: three views, their controls, and one set of heads to use elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from jola.errors import InputError
from workbench.service.comparison_plan import title_of
from workbench.service.stored_comparison import StoredComparison
from workbench.ui import markup
from workbench.ui.details import details_box
from workbench.ui.view_tools import view_tools

VIEWS = ("heads", "overlap", "accuracy")
READINGS = {"sets": "Which methods", "agreement": "How many agree", "against": "Each against JoLA"}
"""Labels of the readings of the map of heads, by name; `workbench.compare.results.FIGURES` draws them."""
_AUTO = "auto"
_FEW_METHODS = 4
"""Maximum number of methods for which the map first shows which of them chose each head."""


@dataclass(frozen=True)
class Panel:
    """The components; `draw` returns updates by the names of these fields."""

    box: gr.Column
    message: gr.HTML
    methods: gr.CheckboxGroup
    k: gr.Dropdown
    seed: gr.Dropdown
    tabs: Mapping[str, gr.Tab]
    view: gr.State
    """Name of the visible view."""
    known: gr.State
    """The comparison that was drawn last, and its methods: methods with new results are shown by default."""
    dark: gr.Checkbox
    reading: gr.Radio
    heads_plot: gr.Plot
    heads_text: gr.HTML
    heads_tools: gr.HTML
    pick: gr.Dropdown
    set_text: gr.HTML
    set_tools: gr.HTML
    set_message: gr.HTML
    train: gr.Button
    playground: gr.Button
    overlap_plot: gr.Plot
    overlap_tools: gr.HTML
    ranks_plot: gr.Plot
    ranks_tools: gr.HTML
    layers_plot: gr.Plot
    layers_tools: gr.HTML
    forest_plot: gr.Plot
    forest_text: gr.HTML
    forest_tools: gr.HTML
    by_k: gr.Column
    accuracy_plot: gr.Plot
    accuracy_tools: gr.HTML
    costs_plot: gr.Plot
    costs_tools: gr.HTML

    def outputs(self) -> list[Any]:
        """The components that `draw` may change."""
        still = ("tabs", "dark", "train", "playground")
        return [getattr(self, field.name) for field in fields(self) if field.name not in still]

    def by_component(self, updates: Mapping[str, Any]) -> dict[Any, Any]:
        """Return the updates of `draw`, by component."""
        return {getattr(self, name): update for name, update in updates.items()}

    @staticmethod
    def draw(found: StoredComparison | None, view: str, *choice: Any, dark: bool) -> dict[str, Any]:
        """Return updates by name that show a comparison in one of `VIEWS`; choices that it does not offer are replaced.

        ``choice`` are the values of `methods`, `known`, `k`, `seed`, `pick` and `reading`.
        """
        mark = found.mark() if found is not None else ""
        if found is None or not mark:
            return {"box": gr.Column(visible=False), "known": {}}
        from workbench.compare import (
            results as compare_results,  # imports PyTorch, which the page does not need at startup
        )

        try:
            results = compare_results.results_of(found.folder, mark)
            return _updates(results, found.id, dark, view, *choice)
        except InputError as error:
            return {"box": gr.Column(visible=True), "message": markup.note(str(error), "error")}


def _updates(
    results: Any,
    id: str,
    dark: bool,
    view: str,
    methods: Sequence[str] | None,
    known: Any,
    k: str | None,
    seed: Any,
    pick: str | None,
    reading: str | None,
) -> dict[str, Any]:
    from workbench.compare import results as made

    seeds, ks, offered = results.seeds(), results.ks(), results.methods()
    if not seeds:
        return {"box": gr.Column(visible=False), "known": {}}
    same = isinstance(known, dict) and known.get("id") == id
    before = {"methods": list(methods or []), "k": k, "seed": str(seed), "pick": pick, "reading": reading}
    before = before if same else {}
    if same:
        seen = known.get("methods", [])
        chosen = [name for name in offered if name in (methods or []) or name not in seen]
    else:
        chosen, k, seed, pick, reading = offered, None, None, None, None
    if reading not in READINGS:
        reading = "sets" if len(offered) <= _FEW_METHODS else "agreement"
    seed = int(seed) if str(seed).isdigit() and int(seed) in seeds else seeds[0]
    k = k if k in ks else _first_k(results, seed, ks)
    assert k is not None
    picks = results.picks(seed, k)
    # JoLA's set is shown while it is the only one; the first set of a selector then replaces it.
    forced = same and pick is not None and pick == known.get("forced") and len(picks) > 1
    if forced or pick not in [name for _, name in picks]:
        pick = next((name for _, name in picks[1:2] or picks), None)
    offers: dict[str, list[Any]] = {
        "methods": [[title_of(name), name] for name in offered],
        "k": ks,
        "seed": [str(one) for one in seeds],
        "pick": [list(one) for one in picks],
    }
    forced_now = pick if len(picks) == 1 else None
    updates: dict[str, Any] = {
        "box": gr.Column(visible=True),
        "message": "",
        "known": {"id": id, "methods": offered, "forced": forced_now, "offers": offers},
    }
    # Unchanged values are not sent back: the user may have changed them in the meantime.
    types = {"methods": gr.CheckboxGroup, "reading": gr.Radio}
    for name, value in {"methods": chosen, "k": k, "seed": str(seed), "pick": pick, "reading": reading}.items():
        change: dict[str, Any] = {} if name in before and before[name] == value else {"value": value}
        if name in offers and (not same or known.get("offers", {}).get(name) != offers[name]):
            change["choices"] = [tuple(one) if isinstance(one, list) else one for one in offers[name]]
            if name in ("k", "seed"):
                change["interactive"] = len(offers[name]) > 1
        if change:
            updates[name] = types.get(name, gr.Dropdown)(**change)
    drawn: dict[str, Any] = {}
    if view == "overlap":
        drawn["overlap"] = made.overlap_view(results, seed, k, chosen, dark=dark)
        drawn["ranks"] = made.ranks_view(results, seed, chosen, dark=dark)
        drawn["layers"] = made.layers_view(results, seed, k, chosen, dark=dark)
    elif view == "accuracy":
        drawn["forest"] = made.forest_view(results, k, chosen, dark=dark)
        if len(ks) > 1:
            drawn["accuracy"] = made.accuracy_view(results, chosen, dark=dark)
        updates["by_k"] = gr.Column(visible=len(ks) > 1)
        drawn["costs"] = made.costs_view(results, chosen, dark=dark)
    else:
        drawn["heads"] = made.heads_view(results, seed, k, chosen, reading, dark=dark)
        if pick is not None:
            cell = results.picked(pick)
            updates |= {
                "set_text": made.set_words(cell),
                "set_tools": made.set_tools(results, cell),
                "set_message": "",
            }
    for name, one in drawn.items():
        updates |= {f"{name}_plot": one.figure, f"{name}_tools": one.tools}
        if one.text:
            updates[f"{name}_text"] = one.text
    return updates


def _first_k(results: Any, seed: int, ks: Sequence[str]) -> str:
    """Return the K that is shown first; not 'auto' if JoLA closed no head, because all sets are then equal."""
    jola = next((cell.heads for cell in results.cells if cell.protocol == "jola" and cell.seed == seed), None)
    if ks[0] == _AUTO and len(ks) > 1 and jola is not None and len(jola) == jola.layers * jola.heads:
        return ks[1]
    return ks[0]


def build_results() -> Panel:
    """Build the components, hidden until there are results."""
    parts: dict[str, Any] = {}
    with gr.Column(visible=False, elem_id="compare-results") as box:
        parts["message"] = gr.HTML("", apply_default_css=False, elem_id="compare-results-message")
        with gr.Row(elem_classes="cv-choice"):
            parts["methods"] = gr.CheckboxGroup([], label="Methods shown", elem_id="compare-methods")
            parts["k"] = gr.Dropdown([], label="K (heads)", filterable=False, elem_id="compare-show-k")
            parts["seed"] = gr.Dropdown([], label="Seed", filterable=False, elem_id="compare-show-seed")
        parts["view"], parts["known"] = gr.State("heads"), gr.State({})
        parts["dark"] = gr.Checkbox(visible=False, label="Dark")
        with gr.Tabs(elem_id="compare-views", elem_classes="jw-views"):
            with gr.Tab("Heads", id="heads") as heads, gr.Row(elem_classes="cv-map"):
                with gr.Column(elem_classes="jw-view"):
                    parts["reading"] = gr.Radio(
                        [(label, name) for name, label in READINGS.items()],
                        label="Map",
                        elem_id="compare-reading",
                    )
                    _view(parts, "heads", text=True)
                with gr.Column(elem_classes="cv-set", elem_id="compare-set"):
                    _build_set(parts)
            with gr.Tab("Overlap", id="overlap") as overlap:
                with gr.Row(elem_classes="cv-pair"):
                    for name in ("overlap", "ranks"):
                        with gr.Column(elem_classes="jw-view"):
                            _view(parts, name)
                with gr.Column(elem_classes="jw-view"):
                    _view(parts, "layers")
            with gr.Tab("Accuracy", id="accuracy") as accuracy:
                with gr.Row(elem_classes="cv-pair"):
                    with gr.Column(elem_classes="jw-view"):
                        _view(parts, "forest")
                    with gr.Column(elem_classes="jw-view", elem_id="compare-by-k") as parts["by_k"]:
                        _view(parts, "accuracy")
                parts["forest_text"] = _text("forest")
                with gr.Column(elem_classes="jw-view"):
                    _view(parts, "costs")
    return Panel(box=box, tabs=dict(zip(VIEWS, (heads, overlap, accuracy), strict=True)), **parts)


def _view(parts: dict[str, Any], name: str, *, text: bool = False) -> None:
    """Build a figure with its tools, and its text if it has one."""
    parts[f"{name}_plot"] = gr.Plot(show_label=False, elem_id=f"compare-{name}-plot")
    parts[f"{name}_tools"] = view_tools(f"compare-{name}-tools")
    if text:
        parts[f"{name}_text"] = _text(name)


def _text(name: str) -> gr.HTML:
    return details_box(f"compare-{name}-text")


def _build_set(parts: dict[str, Any]) -> None:
    gr.HTML(markup.section("One set"), apply_default_css=False)
    parts["pick"] = gr.Dropdown(
        [],
        label="Heads chosen by, with this K and seed",
        filterable=False,
        elem_id="compare-pick",
    )
    parts["set_text"] = gr.HTML("", apply_default_css=False, elem_id="compare-set-text")
    parts["train"] = gr.Button("Train on these heads", size="sm", elem_id="compare-train")
    parts["playground"] = gr.Button("Load into the Playground", size="sm", elem_id="compare-playground")
    parts["set_message"] = gr.HTML("", apply_default_css=False, elem_id="compare-set-message")
    parts["set_tools"] = view_tools("compare-set-tools")
