"""The settings of the edits and the map: the run whose edits are applied, which of them, and their strength.

`workbench.playground.edits_events` has the listeners.
"""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from jola.edits.masks import SavedMasks
from jola.errors import InputError
from jola.system.ndif import has_key, privacy
from workbench.playground import import_panel, results
from workbench.playground.edit_map import card_cell, edit_map, edit_map_mask, edit_map_value
from workbench.playground.wiring import Wiring
from workbench.service.page_state import (
    STRENGTH_LIMIT,
    PageState,
    chosen_run,
    edits_of,
    gates_of_edits,
    masks_text,
    open_gates,
)
from workbench.ui import markup

HERE, REMOTE = "This machine", "Remote (NDIF)"
BESIDE, ON_TOP = "separately, side by side", "together, in this order"


@dataclass(frozen=True)
class EditsPanel:
    """The components that other modules fill or read."""

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
    where: gr.Radio
    """Where the model runs; visible only with a key for NDIF."""
    shared: gr.Textbox
    arrangement: gr.Radio
    buttons: dict[str, gr.Button]
    strongest: gr.Number
    threshold: gr.Number
    of_gates: gr.Row
    """Shown only for edits with gates."""
    name: gr.Textbox
    answer: gr.Button
    example: gr.Button
    """With ``answer``, the buttons of the prompt, which are enabled while a run is open."""
    taking: import_panel.ImportPanel

    def mask_outputs(self) -> list[Any]:
        """The components that show the mask; filled by `mask_updates`."""
        return [self.map, self.summary, self.undo, self.redo, self.shared]

    def run_outputs(self, wiring: Wiring) -> list[Any]:
        """The components that show the run or results for it; filled by `run_updates`."""
        settings = [self.about, self.site, self.saved, self.strength, self.where, self.of_gates]
        return [self.answer, self.example, *settings, *self.mask_outputs(), *wiring.empty]


def build_settings() -> dict[str, Any]:
    """Build the left column; return the arguments of `EditsPanel` except the map and the buttons of the prompt."""
    parts: dict[str, Any] = {}
    gr.HTML(markup.section("Edits"), apply_default_css=False)
    parts["run"] = gr.Dropdown(
        [], label="Run", info="Run whose edits are applied.", filterable=False, elem_id="playground-run",
        elem_classes=["setting", "jw-wide"],
    )  # fmt: skip
    parts["about"] = gr.HTML("", apply_default_css=False)
    parts["where"] = gr.Radio(
        [HERE, REMOTE], value=HERE, label="Model", info=f"With NDIF, {privacy()[0].lower()}{privacy()[1:]}",
        visible=has_key(), elem_id="where", elem_classes="jw-radio",
    )  # fmt: skip
    parts["strength"] = gr.Slider(
        -STRENGTH_LIMIT, STRENGTH_LIMIT, 1.0, step=0.05, label="Strength of all edits",
        info="1: as trained, 0: off, below 0: reversed.", elem_id="strength", elem_classes=["jw-slider"],
    )  # fmt: skip
    with gr.Accordion("Compare or combine with other runs", open=False, elem_classes="jw-more"):
        parts["others"] = gr.Dropdown(
            [], multiselect=True, max_choices=3, label="Other runs", info="Up to three, of the same model.",
            elem_id="other-runs", elem_classes=["setting", "jw-wide"],
        )  # fmt: skip
        parts["arrangement"] = gr.Radio(
            [BESIDE, ON_TOP], value=BESIDE, label="Their edits act", elem_id="arrangement", elem_classes="jw-radio"
        )
    parts["taking"] = import_panel.build()
    gr.HTML(markup.section("Active edits"), apply_default_css=False)
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
            20, minimum=0, precision=0, label="Keep the strongest", info="By norm, times the gate if there is one.",
            elem_classes="setting", elem_id="strongest",
        )  # fmt: skip
        buttons["strongest"] = gr.Button("Keep", size="sm", scale=0, elem_id="mask-strongest")
    with gr.Row(elem_classes="jw-pick") as parts["of_gates"]:
        parts["threshold"] = gr.Number(
            0.5, minimum=0, maximum=1, step=0.05, label="Keep gates of at least", info="Expected gate, 0 to 1.",
            elem_classes="setting", elem_id="threshold",
        )  # fmt: skip
        buttons["threshold"] = gr.Button("Keep", size="sm", scale=0, elem_id="mask-threshold")
    gr.HTML(markup.section("Saved with the run"), apply_default_css=False)
    parts["saved"] = gr.Dropdown(
        [], label="Saved masks", info="Select one to apply it.", filterable=False, elem_id="saved-masks",
        elem_classes=["setting", "jw-wide"],
    )  # fmt: skip
    parts["name"] = gr.Textbox(
        label="Name", max_lines=1, max_length=60, placeholder="Name for the current mask", container=False,
        elem_id="mask-name", elem_classes="jw-name",
    )  # fmt: skip
    with gr.Row(elem_classes="jw-buttons"):
        for name, words in (("save", "Save"), ("remove", "Remove"), ("link", "Copy link")):
            buttons[name] = gr.Button(words, size="sm", elem_id=f"mask-{name}")
    # Only read by scripts: the mask as text for a link.
    parts["shared"] = gr.Textbox("", elem_classes="jw-hidden", elem_id="shared-mask", label="Mask in the link")
    parts["buttons"] = buttons
    return parts


def build_map() -> gr.HTML:
    """Build the map."""
    return edit_map(elem_id="edit-map")


# Content


def mask_updates(wiring: Wiring, state: PageState) -> tuple[Any, ...]:
    """Return values for `EditsPanel.mask_outputs` after a change of the mask."""
    return gr.HTML(mask=edit_map_mask(state.mask, **map_state(state))), *_about_mask(wiring, state)


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
    """Return everything that the map shows."""
    edits = edits_of(chosen_run(wiring.bench, state.run))[state.site]
    return edit_map_value(edits, state.mask, site=state.site, effects=state.effects, **map_state(state))


def map_state(state: PageState) -> dict[str, Any]:
    """Return what the map needs to order the masks of a page, and the text of the masks that the page must show."""
    return {"key": state.key, "seen": state.seen, "revision": state.revision, "text": masks_text(state)}


def run_updates(wiring: Wiring, state: PageState, about: str, *, opened: bool = True) -> tuple[Any, ...]:
    """Return values for `EditsPanel.run_outputs` after a run was opened or, if not ``opened``, only shown again.

    If it was opened, results for the run before are removed, because they do not name their run.
    """
    results_for_run = wiring.empty.values() if opened else [gr.skip()] * len(wiring.empty)
    return *_run_updates(wiring, state, about), *results_for_run


def _run_updates(wiring: Wiring, state: PageState, about: str) -> tuple[Any, ...]:
    buttons = [gr.Button(interactive=bool(state.run))] * 2
    if not state.run:
        no_masks = gr.Dropdown(choices=[], value=None)
        return *buttons, about, gr.skip(), no_masks, *[gr.skip()] * 3, None, "", *[gr.skip()] * 2, ""
    sites = list(state.histories)
    return (
        *buttons,
        about,
        gr.Radio(choices=sites, value=state.site, visible=len(sites) > 1),
        saved_choices(wiring, state),
        state.strength,
        REMOTE if state.remote else HERE,
        gr.Row(visible=gates_of_edits(edits_of(chosen_run(wiring.bench, state.run))[state.site]) is not None),
        gr.HTML(value=map_value(wiring, state), mask=None),
        *_about_mask(wiring, state),
    )


def saved_choices(wiring: Wiring, state: PageState, chosen: str | None = None) -> gr.Dropdown:
    """Return the list of the masks that are saved with the run."""
    try:
        names = [saved.name for saved in saved_masks(wiring, state).list()]
    except InputError:
        names = []
    return gr.Dropdown(choices=names, value=chosen if chosen in names else None, interactive=bool(names))


def saved_masks(wiring: Wiring, state: PageState) -> SavedMasks:
    """Return the store of the masks that are saved with the run, at the chosen site."""
    return SavedMasks(chosen_run(wiring.bench, state.run).path, state.site)


def opened_cell(state: PageState, payload: Any) -> tuple[int, int] | None:
    """Return the head that a ``card`` event of the map names; None if the event belongs to another run."""
    if not isinstance(payload, dict) or payload.get("key") != state.key:
        return None
    return card_cell(payload, *state.mask.shape)
