"""The card of one unit: its gates over training, its strength, the tokens its offset promotes, and its attention."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from jola.edits.names import HALVES
from jola.errors import InputError
from workbench import figures
from workbench.figures.frames import head_history, to_csv
from workbench.playground import results
from workbench.playground.edits_events import EditsEvents
from workbench.playground.edits_panel import opened_cell
from workbench.playground.snippet import snippet
from workbench.playground.wiring import EXPECTED, HIDDEN, PRIVATE, Wiring, failed, page_of, prompt_of
from workbench.service import views
from workbench.service.calls import Superseded
from workbench.service.page_state import (
    STRENGTH_LIMIT,
    PageState,
    chosen_run,
    edits_of,
    gates_of_edits,
    name_of_unit,
)
from workbench.ui import markup
from workbench.ui.events import DARK
from workbench.ui.view_tools import tools_value, view_tools

if TYPE_CHECKING:
    from jola.edits.intervention import Intervention

EMPTY = markup.note("Alt+click a unit on the map, or press i on it, to open its card.")


@dataclass(frozen=True)
class HeadPanel:
    """The components of the card."""

    title: gr.HTML
    first: gr.Slider
    """Strength of the first channel, which is the offset for JoLA's edits."""
    second: gr.Slider
    missing: gr.HTML
    """Why this unit does not have some of the views."""
    promoted: gr.HTML
    promoted_tools: gr.HTML
    attention: gr.Plot
    attention_tools: gr.HTML
    history: gr.Plot
    history_tools: gr.HTML

    def outputs(self) -> list[Any]:
        return [
            self.title, self.first, self.second, self.missing, self.promoted, self.promoted_tools, self.attention,
            self.attention_tools, self.history, self.history_tools,
        ]  # fmt: skip

    def closed(self) -> tuple[Any, ...]:
        """Return values for `outputs` while no card is open."""
        return EMPTY, HIDDEN, HIDDEN, "", "", None, HIDDEN, None, HIDDEN, None


def build(wiring: Wiring) -> HeadPanel:
    """Lay out the card."""
    title = gr.HTML(EMPTY, apply_default_css=False, elem_id="head-title")
    first, second = (
        gr.Slider(
            -STRENGTH_LIMIT, STRENGTH_LIMIT, 1.0, step=0.05, label=f"Strength of its {half}", visible=False,
            elem_id=f"head-{half}", elem_classes="jw-slider",
        )
        for half in HALVES
    )  # fmt: skip
    missing = gr.HTML("", apply_default_css=False, elem_id="head-missing")
    with gr.Column(elem_classes="jw-view"):
        promoted = gr.HTML("", apply_default_css=False, elem_id="promoted", elem_classes="jw-picture")
        promoted_tools = view_tools("promoted-tools")
    with gr.Column(elem_classes="jw-view"):
        attention = gr.Plot(show_label=False, visible=False, elem_id="attention-plot")
        attention_tools = view_tools("attention-tools")
    with gr.Column(elem_classes="jw-view"):
        history = gr.Plot(show_label=False, visible=False, elem_id="history-plot")
        history_tools = view_tools("history-tools")
    card = HeadPanel(
        title, first, second, missing, promoted, promoted_tools, attention, attention_tools, history, history_tools
    )  # fmt: skip
    wiring.empty.update(zip(card.outputs(), card.closed(), strict=True))
    return card


def connect(events: EditsEvents, card: HeadPanel, places: gr.Tabs) -> None:
    """Connect the map's ``card`` event, which opens the card, and the sliders for the strength of the head."""
    wiring, panel = events.wiring, events.panel

    def on_card(text: str, kind: str, dark: bool, request: gr.Request, evt: gr.EventData) -> Iterator[tuple[Any, ...]]:
        page = page_of(request)
        keep = (gr.skip(),) * len(card.outputs())
        try:
            cell = opened_cell(wiring.state(request), evt._data)
            if cell is None:
                return
            state = wiring.pages.change(page, lambda s: replace(s, cell=cell))
            shown = _known(wiring, state, cell, dark)
        except InputError as error:
            yield gr.skip(), markup.note(str(error), "error"), *keep
            return
        yield gr.Tabs(selected="head"), "", *shown
        try:
            for values in _asked(wiring, state, cell, text, kind, dark, page):
                latest = wiring.pages.get(page)
                if (latest.key, latest.cell) != (state.key, cell):  # another card is open
                    return
                yield gr.skip(), "", *values
        except EXPECTED as error:
            yield gr.skip(), failed(error), *keep

    def strength_listener(number: int) -> Callable[..., Iterator[tuple[Any, ...]]]:
        """Return the listener of the slider with this number; it leaves the other channel as it is in the mask."""

        def on_strength(
            text: str, kind: str, answers: str, strength: float, request: gr.Request
        ) -> Iterator[tuple[Any, ...]]:
            yield from events.changed(
                request, lambda state: with_strength(state, number, strength), text, kind, answers
            )

        return on_strength

    def on_mask(request: gr.Request) -> list[Any]:
        return followed(wiring.state(request))

    panel.map.card(
        on_card,
        [*wiring.asking, wiring.dark],
        [places, wiring.message, *card.outputs()],
        js=DARK,
        **{**PRIVATE, "trigger_mode": "multiple"},
    )
    for number, slider in enumerate((card.first, card.second)):
        slider.input(
            strength_listener(number),
            [*wiring.asking, wiring.answers, slider],
            [*panel.mask_outputs(), *events.live.outputs(wiring)],
            **{**PRIVATE, "trigger_mode": "always_last"},
        )
    panel.shared.change(on_mask, None, [card.first, card.second], **PRIVATE)
    panel.site.input(card.closed, None, card.outputs(), **PRIVATE)


def _known(wiring: Wiring, state: PageState, cell: tuple[int, int], dark: bool) -> tuple[Any, ...]:
    """Return values for the outputs of the card that do not need the model."""
    layer, unit = cell
    run = chosen_run(wiring.bench, state.run)
    edits = edits_of(run)[state.site]
    gates, on, recorded_norms = gates_of_edits(edits), edits.on(), edits.record()
    rows = []
    for channel in edits.channels:
        norm = float(recorded_norms[f"{channel}_norm"][cell])
        if math.isnan(norm):
            words = "not trained"
        elif not bool(on[channel][cell]):
            words = "gate closed: nothing is edited" if gates else "nothing is edited"
        else:
            words = f"gate {float(gates[channel][cell]):.3f}, norm {norm:.3f}" if gates else f"norm {norm:.3f}"
        rows.append(f"<dt>{channel}</dt><dd>{words}</dd>")
        rows += [f"<dt>effect of the {channel}</dt><dd>{text}</dd>" for text in _effects(state, cell, channel)]
    title = (
        f'<h2 class="jw-card-title">Layer {layer}, {markup.escape(name_of_unit(edits, unit))}</h2>'
        f'<dl class="jw-figures jw-card-figures">{"".join(rows)}</dl>'
    )
    sliders = [
        gr.Slider(value=strength, label=f"Strength of its {channel}", visible=bool(on[channel][cell]))
        for channel, strength in _strengths(state, cell).items()
    ]
    sliders += [gr.Slider(visible=False)] * (2 - len(sliders))
    recorded = run.gates(state.site) if gates and state.site in run.sites() else None
    if recorded is None or not len(recorded):
        history: tuple[Any, Any] = gr.Plot(visible=False), None
    else:
        code = (
            "from jola.runs.run import Run\nfrom workbench import figures\n\n"
            f"history = Run.open({str(run.path)!r}).gates({state.site!r})\n"
            f"figures.head_history(history, {layer}, {unit}).show()\n"
        )
        frame = head_history(recorded, layer, unit)
        name = f"layer-{layer}-head-{unit}"
        history = (
            gr.Plot(figures.head_history(recorded, layer, unit, dark=dark), visible=True),
            tools_value(f"{name}-history", to_csv(frame), code),
        )
    return title, *sliders, _missing(edits), "", None, gr.Plot(visible=False), None, *history


def with_strength(state: PageState, number: int, strength: float) -> PageState:
    """Return the state after the slider with this number was moved, which belongs to one channel of the open card."""
    if state.cell is None or number >= len(state.mask.channels):
        raise InputError("Open the card of a head first.")
    mask = state.mask.with_strength([state.cell], state.mask.channels[number], strength)
    return replace(state.with_mask(mask), slid=True)


def followed(state: PageState) -> list[Any]:
    """Return updates of both sliders after a change of the mask, unless they made it: one may still be moving."""
    strengths = [] if state.cell is None or state.slid else list(_strengths(state, state.cell).values())
    return [*strengths, gr.skip(), gr.skip()][:2]


def _strengths(state: PageState, cell: tuple[int, int]) -> dict[str, float]:
    """Return the strength of each channel of a cell, 0 for one that is off."""
    return {channel: round(float(factors[cell]), 2) for channel, factors in state.mask.factors.items()}


def _missing(edits: "Intervention") -> str:
    """Explain which views this unit does not have."""
    sentences = []
    if edits.site == "weights":
        sentences.append(
            "A change of weights has no offset that promotes tokens and no attention pattern; see Effects for what it "
            "does to the answer."
        )
    elif edits.site != "heads":
        sentences.append("This unit is not an attention head, so it has no attention pattern.")
    if gates_of_edits(edits) is None:
        sentences.append("These edits have no gates, so no gate history is shown.")
    return markup.note(" ".join(sentences)) if sentences else ""


def _effects(state: PageState, cell: tuple[int, int], half: str) -> list[str]:
    """Return the measured effect of one half of the edit in words; empty if it was not measured."""
    effects = state.effects
    if effects is None:
        return []
    for index, edit in enumerate(effects.edits):
        if (str(edit.site), edit.layer, edit.unit, edit.half) == (state.site, *cell, half):
            value = f"{float(effects.effect[index]):+.3f} nats (n = {effects.n:,}"
            if effects.n > 1:
                value += f", 95 % interval {float(effects.low[index]):+.3f} to {float(effects.high[index]):+.3f}"
            return [value + ")"]
    return []


def _asked(
    wiring: Wiring, state: PageState, cell: tuple[int, int], text: str, kind: str, dark: bool, page: str
) -> Iterator[tuple[Any, ...]]:
    """Yield values that need the model: the tokens that the offset promotes, then the attention pattern."""
    layer, unit = cell
    way = wiring.columns_of(state)[0]
    keep = (gr.skip(),) * 4
    if state.site == "weights":
        return
    ticket = views.ask_promoted_tokens(wiring.bench.session, way.stack, layer, unit, state.site, page=page)
    for words in wiring.wait(ticket, state):
        yield *keep, words, *(gr.skip(),) * 5
    promoted = ticket.result()
    if promoted is not None:
        code = snippet([way], f"print(insight.promoted_tokens(model, {layer}, {unit}, site={state.site!r}).to_frame())")
        tools = tools_value(f"layer-{layer}-head-{unit}-tokens", to_csv(promoted.to_frame()), code)
        yield *keep, results.promoted(promoted), tools, *(gr.skip(),) * 4
    if not text.strip() or state.site != "heads":
        return
    prompt = prompt_of(state, text, kind)
    try:
        pattern = views.ask_attention(wiring.bench.session, way.stack, prompt, layer, unit, page=page).result()
    except Superseded:
        return
    code = snippet(
        [way], f"print(insight.attention_pattern(model, prompt, {layer}, {unit}, mask=mask).to_frame())", prompt
    )
    figure = gr.Plot(figures.attention_pattern(pattern, dark=dark), visible=True)
    tools = tools_value(f"layer-{layer}-head-{unit}-attention", to_csv(pattern.to_frame()), code)
    yield *keep, gr.skip(), gr.skip(), figure, tools, gr.skip(), gr.skip()
