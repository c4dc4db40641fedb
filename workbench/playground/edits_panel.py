"""Whose edits answer, which of them are on, and how strongly: the settings at the left, and the map."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from jola.edits.masks import HeadMask, SavedMasks
from jola.errors import InputError
from workbench.playground import import_panel, results
from workbench.playground.edit_map import apply_edits, card_cell, edit_map, edit_map_mask, edit_map_value
from workbench.playground.live import LiveViews, look
from workbench.playground.wiring import PRIVATE, Wiring, page_of
from workbench.service.page_state import (
    STRENGTH_LIMIT,
    PageState,
    chosen_run,
    edits_of,
    masks_text,
    open_gates,
    open_run,
)
from workbench.ui import markup

BESIDE, ON_TOP = "beside it", "on top of it, in this order"

_COPY_LINK = """(run, mask) => {
  const address = new URL(location);
  address.searchParams.set("run", run || "");
  address.searchParams.set("tab", "playground");
  if (mask) address.searchParams.set("mask", mask); else address.searchParams.delete("mask");
  navigator.clipboard?.writeText(address.href);
}"""

_PUT_MASK_IN_ADDRESS = """(mask) => {
  const address = new URL(location);
  if (mask) address.searchParams.set("mask", mask); else address.searchParams.delete("mask");
  history.replaceState(null, "", address);
}"""


@dataclass(frozen=True)
class EditsPanel:
    """The components that other places fill or read."""

    run: gr.Dropdown
    others: gr.Dropdown
    about: gr.HTML
    site: gr.Radio
    map: gr.HTML
    summary: gr.HTML
    undo: gr.Button
    redo: gr.Button
    saved: gr.Dropdown
    strength: gr.Slider
    shared: gr.Textbox
    arrangement: gr.Radio
    buttons: dict[str, gr.Button]
    strongest: gr.Number
    threshold: gr.Number
    name: gr.Textbox
    taking: import_panel.ImportPanel

    def mask_outputs(self) -> list[Any]:
        """What shows the mask; filled by `mask_updates`."""
        return [self.map, self.summary, self.undo, self.redo, self.shared]

    def run_outputs(self) -> list[Any]:
        """What shows the run; filled by `run_updates`."""
        return [self.about, self.site, self.saved, self.strength, *self.mask_outputs()]


def build_settings() -> dict[str, Any]:
    """The column at the left."""
    parts: dict[str, Any] = {}
    gr.HTML(markup.section("Edits"), apply_default_css=False)
    parts["run"] = gr.Dropdown(
        [], label="Run", info="Whose edits answer.", filterable=False, elem_id="playground-run",
        elem_classes=["setting", "jw-wide"],
    )  # fmt: skip
    parts["about"] = gr.HTML("", apply_default_css=False)
    parts["strength"] = gr.Slider(
        -STRENGTH_LIMIT, STRENGTH_LIMIT, 1.0, step=0.05, label="Strength of all edits",
        info="1 as trained, 0 off, negative the other way.", elem_id="strength", elem_classes=["jw-slider"],
    )  # fmt: skip
    with gr.Accordion("Compare or stack with others", open=False, elem_classes="jw-more"):
        parts["others"] = gr.Dropdown(
            [], multiselect=True, max_choices=3, label="Other runs", info="Up to three, of the same model.",
            elem_id="other-runs", elem_classes=["setting", "jw-wide"],
        )  # fmt: skip
        parts["arrangement"] = gr.Radio(
            [BESIDE, ON_TOP], value=BESIDE, label="They answer", elem_id="arrangement", elem_classes="jw-radio"
        )
    parts["taking"] = import_panel.build()
    gr.HTML(markup.section("Which are on"), apply_default_css=False)
    parts["summary"] = gr.HTML("", apply_default_css=False, elem_id="mask-summary")
    parts["site"] = gr.Radio(
        ["heads"], value="heads", label="Site", visible=False, elem_id="site", elem_classes="jw-radio"
    )
    buttons = {}
    with gr.Row(elem_classes="jw-buttons"):
        for name, words in (("all", "All"), ("none", "None"), ("invert", "Invert")):
            buttons[name] = gr.Button(words, size="sm", elem_id=f"mask-{name}")
    with gr.Row(elem_classes="jw-buttons"):
        parts["undo"] = gr.Button("Undo", size="sm", interactive=False, elem_id="mask-undo")
        parts["redo"] = gr.Button("Redo", size="sm", interactive=False, elem_id="mask-redo")
    with gr.Row(elem_classes="jw-pick"):
        parts["strongest"] = gr.Number(
            20, minimum=0, precision=0, label="Keep the strongest", info="Edit halves, by gate × norm.",
            elem_classes="setting", elem_id="strongest",
        )  # fmt: skip
        buttons["strongest"] = gr.Button("Keep", size="sm", scale=0, elem_id="mask-strongest")
    with gr.Row(elem_classes="jw-pick"):
        parts["threshold"] = gr.Number(
            0.5, minimum=0, maximum=1, step=0.05, label="Keep gates from", info="Expected gate, 0 to 1.",
            elem_classes="setting", elem_id="threshold",
        )  # fmt: skip
        buttons["threshold"] = gr.Button("Keep", size="sm", scale=0, elem_id="mask-threshold")
    gr.HTML(markup.section("Saved with the run"), apply_default_css=False)
    parts["saved"] = gr.Dropdown(
        [], label="Saved masks", info="Choosing one switches to it.", filterable=False, elem_id="saved-masks",
        elem_classes=["setting", "jw-wide"],
    )  # fmt: skip
    parts["name"] = gr.Textbox(
        label="Name", max_lines=1, max_length=60, placeholder="Name of the present mask", container=False,
        elem_id="mask-name", elem_classes="jw-name",
    )  # fmt: skip
    with gr.Row(elem_classes="jw-buttons"):
        for name, words in (("save", "Save"), ("remove", "Remove"), ("link", "Copy link")):
            buttons[name] = gr.Button(words, size="sm", elem_id=f"mask-{name}")
    # Read by scripts alone: the mask as it stands in a link.
    parts["shared"] = gr.Textbox("", elem_classes="jw-hidden", elem_id="shared-mask", label="Mask in the link")
    parts["buttons"] = buttons
    return parts


def build_map() -> gr.HTML:
    """The map."""
    return edit_map(elem_id="edit-map")


# What is shown


def mask_updates(wiring: Wiring, state: PageState) -> tuple[Any, ...]:
    """Values for `EditsPanel.mask_outputs` after a change of the mask."""
    return gr.HTML(mask=edit_map_mask(state.mask, key=state.key, seen=state.seen)), *_about_mask(wiring, state)


def _about_mask(wiring: Wiring, state: PageState) -> tuple[Any, ...]:
    words = state.mask.describe(open_gates(state, wiring.bench))
    history = state.history
    return (
        results.mask_words(state, words),
        gr.Button(interactive=history.can_undo),
        gr.Button(interactive=history.can_redo),
        masks_text(state),
    )


def map_value(wiring: Wiring, state: PageState) -> dict[str, Any]:
    """Everything that the map shows."""
    edits = edits_of(chosen_run(wiring.bench, state.run))[state.site]
    return edit_map_value(edits, state.mask, key=state.key, site=state.site, seen=state.seen, effects=state.effects)


def run_updates(wiring: Wiring, state: PageState, about: str) -> tuple[Any, ...]:
    """Values for `EditsPanel.run_outputs` after another run or site was chosen."""
    if not state.run:
        return about, gr.skip(), gr.Dropdown(choices=[], value=None), gr.skip(), None, "", *[gr.skip()] * 2, ""
    sites = list(state.histories)
    return (
        about,
        gr.Radio(choices=sites, value=state.site, visible=len(sites) > 1),
        saved_choices(wiring, state),
        state.strength,
        gr.HTML(value=map_value(wiring, state), mask=None),
        *_about_mask(wiring, state),
    )


def saved_choices(wiring: Wiring, state: PageState, chosen: str | None = None) -> gr.Dropdown:
    """The masks that are saved with the run."""
    try:
        names = [saved.name for saved in _saved(wiring, state).list()]
    except InputError:
        names = []
    return gr.Dropdown(choices=names, value=chosen if chosen in names else None, interactive=bool(names))


def _saved(wiring: Wiring, state: PageState) -> SavedMasks:
    return SavedMasks(chosen_run(wiring.bench, state.run).path, state.site)


# What happens


def connect(wiring: Wiring, panel: EditsPanel, live: LiveViews, about: Callable[[str | None], str]) -> None:
    """Connect the panel's events. Each changes the state of the page, shows the mask, and looks at the prompt anew."""
    asking = [*wiring.asking, wiring.answers]
    outputs = [*panel.mask_outputs(), *live.outputs(wiring)]
    keep_live = (gr.skip(),) * 4

    def changed(
        request: gr.Request, change: Callable[[PageState], PageState], text: str, kind: str, answers: str
    ) -> Iterator[tuple[Any, ...]]:
        """Change the state, then show the mask with the first view that follows from it."""
        page = page_of(request)
        try:
            state = wiring.pages.change(page, lambda state: change(_chosen(state)))
        except InputError as error:
            yield *(gr.skip(),) * len(panel.mask_outputs()), markup.note(str(error), "error"), *keep_live
            return
        shown = mask_updates(wiring, state)
        for values in look(wiring, state, page, text, kind, answers):
            yield *shown, *values
            shown = (gr.skip(),) * len(shown)

    def gate_strengths(state: PageState) -> dict[str, Any]:
        edits = edits_of(chosen_run(wiring.bench, state.run))[state.site]
        norms = edits.norms()
        return {half: (values * norms[half]).numpy() for half, values in edits.gate_values().items()}

    def gate_values(state: PageState) -> dict[str, Any]:
        edits = edits_of(chosen_run(wiring.bench, state.run))[state.site]
        return {half: values.numpy() for half, values in edits.gate_values().items()}

    def on_edit(text: str, kind: str, answers: str, request: gr.Request, evt: gr.EventData) -> Iterator[Any]:
        payload = evt._data

        def change(state: PageState) -> PageState:
            if not isinstance(payload, dict) or payload.get("key") != state.key:
                return state
            mask, seen = apply_edits(state.mask, payload, state.seen)
            return replace(state.with_mask(mask), seen=seen)

        yield from changed(request, change, text, kind, answers)

    def on_all(text: str, kind: str, answers: str, request: gr.Request) -> Iterator[Any]:
        yield from changed(request, lambda s: s.with_mask(HeadMask.all(*s.mask.shape)), text, kind, answers)

    def on_none(text: str, kind: str, answers: str, request: gr.Request) -> Iterator[Any]:
        yield from changed(
            request, lambda s: s.with_mask(s.mask.switched(_cells(s), "both", False)), text, kind, answers
        )

    def on_invert(text: str, kind: str, answers: str, request: gr.Request) -> Iterator[Any]:
        yield from changed(request, lambda s: s.with_mask(s.mask.inverted()), text, kind, answers)

    def on_undo(text: str, kind: str, answers: str, request: gr.Request) -> Iterator[Any]:
        yield from changed(request, lambda s: s.with_history(s.history.undone()), text, kind, answers)

    def on_redo(text: str, kind: str, answers: str, request: gr.Request) -> Iterator[Any]:
        yield from changed(request, lambda s: s.with_history(s.history.redone()), text, kind, answers)

    def on_strongest(text: str, kind: str, answers: str, k: float | None, request: gr.Request) -> Iterator[Any]:
        def change(state: PageState) -> PageState:
            among = open_gates(state, wiring.bench)
            return state.with_mask(state.mask.strongest(int(k or 0), gate_strengths(state), among))

        yield from changed(request, change, text, kind, answers)

    def on_threshold(text: str, kind: str, answers: str, value: float | None, request: gr.Request) -> Iterator[Any]:
        yield from changed(
            request, lambda s: s.with_mask(s.mask.threshold(gate_values(s), float(value or 0))), text, kind, answers
        )

    def on_strength(text: str, kind: str, answers: str, value: float, request: gr.Request) -> Iterator[Any]:
        yield from changed(request, lambda s: replace(s, strength=float(value)), text, kind, answers)

    def on_others(
        text: str, kind: str, answers: str, others: list[str] | None, arrangement: str, request: gr.Request
    ) -> Iterator[Any]:
        def change(state: PageState) -> PageState:
            chosen = tuple(id for id in others or () if id != state.run)
            return replace(state, others=chosen, on_top=arrangement == ON_TOP)

        yield from changed(request, change, text, kind, answers)

    def on_saved(text: str, kind: str, answers: str, name: str | None, request: gr.Request) -> Iterator[Any]:
        def change(state: PageState) -> PageState:
            return state.with_mask(_saved(wiring, state).get(name)) if name else state

        yield from changed(request, change, text, kind, answers)

    def on_save(name: str, request: gr.Request) -> tuple[Any, Any]:
        state = wiring.state(request)
        try:
            entry = _saved(wiring, _chosen(state)).save(name, state.mask, replace=True)
        except InputError as error:
            return gr.skip(), markup.note(str(error), "error")
        return saved_choices(wiring, state, entry.name), markup.note(f"Saved as “{entry.name}”.", "good")

    def on_remove(name: str | None, request: gr.Request) -> tuple[Any, Any]:
        state = wiring.state(request)
        if not name:
            return gr.skip(), markup.note("Choose a saved mask to remove.", "error")
        try:
            _saved(wiring, _chosen(state)).remove(name)
        except InputError as error:
            return gr.skip(), markup.note(str(error), "error")
        return saved_choices(wiring, state), markup.note(f"Removed “{name}”.", "good")

    quick: dict[str, Any] = {**PRIVATE, "trigger_mode": "multiple"}
    panel.map.edit(on_edit, asking, outputs, **quick)
    panel.map.undo(on_undo, asking, outputs, **quick)
    panel.map.redo(on_redo, asking, outputs, **quick)
    panel.undo.click(on_undo, asking, outputs, **quick)
    panel.redo.click(on_redo, asking, outputs, **quick)
    panel.buttons["all"].click(on_all, asking, outputs, **quick)
    panel.buttons["none"].click(on_none, asking, outputs, **quick)
    panel.buttons["invert"].click(on_invert, asking, outputs, **quick)
    for name, box, listener in (
        ("strongest", panel.strongest, on_strongest),
        ("threshold", panel.threshold, on_threshold),
    ):
        gr.on([panel.buttons[name].click, box.submit], listener, [*asking, box], outputs, **quick)
    panel.strength.input(on_strength, [*asking, panel.strength], outputs, **{**PRIVATE, "trigger_mode": "always_last"})
    gr.on(
        [panel.others.input, panel.arrangement.input],
        on_others,
        [*asking, panel.others, panel.arrangement],
        outputs,
        **quick,
    )
    panel.saved.input(on_saved, [*asking, panel.saved], outputs, **quick)
    gr.on(
        [panel.buttons["save"].click, panel.name.submit],
        on_save,
        panel.name,
        [panel.saved, wiring.message],
        **PRIVATE,
    )
    panel.buttons["remove"].click(on_remove, panel.saved, [panel.saved, wiring.message], **PRIVATE)
    panel.buttons["link"].click(None, [panel.run, panel.shared], None, js=_COPY_LINK).then(
        lambda: markup.note("The link to this run with this mask is on the clipboard.", "good"),
        None,
        wiring.message,
        **PRIVATE,
    )
    panel.shared.change(None, panel.shared, None, js=_PUT_MASK_IN_ADDRESS)

    def on_run(text: str, kind: str, answers: str, id: str | None, request: gr.Request) -> Iterator[Any]:
        page = page_of(request)
        try:
            state = wiring.pages.change(page, lambda _: open_run(wiring.bench, id))
        except InputError as error:
            yield (
                *run_updates(wiring, PageState(), about(id)),
                markup.note(str(error), "error"),
                *keep_live,
            )
            return
        shown = run_updates(wiring, state, about(id))
        for values in look(wiring, state, page, text, kind, answers):
            yield *shown, *values
            shown = (gr.skip(),) * len(shown)

    def on_site(site: str, request: gr.Request) -> tuple[Any, ...]:
        page = page_of(request)
        state = wiring.pages.change(page, lambda s: replace(s, site=site) if site in s.histories else s)
        return run_updates(wiring, state, about(state.run))

    panel.run.input(on_run, [*asking, panel.run], [*panel.run_outputs(), *live.outputs(wiring)], **quick)
    panel.site.input(on_site, panel.site, panel.run_outputs(), **PRIVATE)


def _chosen(state: PageState) -> PageState:
    if not state.run:
        raise InputError("Choose a run first.")
    return state


def _cells(state: PageState) -> list[tuple[int, int]]:
    layers, units = state.mask.shape
    return [(layer, unit) for layer in range(layers) for unit in range(units)]


def opened_cell(state: PageState, payload: Any) -> tuple[int, int] | None:
    """The head that a ``card`` event of the map names; None when the event is of another run."""
    if not isinstance(payload, dict) or payload.get("key") != state.key:
        return None
    return card_cell(payload, *state.mask.shape)
