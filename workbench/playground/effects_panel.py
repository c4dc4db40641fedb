"""Effects of each edit: the effect of switching it off, and what it adds directly to the answer's logit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from jola.errors import InputError
from workbench import figures
from workbench.figures.frames import to_csv
from workbench.playground import results
from workbench.playground.edit_map import edit_map_value
from workbench.playground.edits_panel import map_state
from workbench.playground.snippet import snippet
from workbench.playground.wiring import (
    EXPECTED,
    HIDDEN,
    PRIVATE,
    Wiring,
    answers_of,
    failed,
    page_of,
    prompt_of,
    waiting_words,
)
from workbench.service import views
from workbench.service.calls import Stops, Ticket
from workbench.service.examples import labels_of, test_examples
from workbench.service.page_state import PageState, chosen_run, edits_of
from workbench.ui import markup
from workbench.ui.events import DARK
from workbench.ui.view_tools import tools_value, view_tools

if TYPE_CHECKING:
    from jola.insight import EditEffects

MOST_EXAMPLES = 200
LOG_PROBABILITY, DIFFERENCE, KL = "log_probability", "logit_difference", "kl"
_MEASURES = [("Log-probability", LOG_PROBABILITY), ("Logit difference", DIFFERENCE), ("KL", KL)]
_HINT = (
    '<p class="jw-hint">Each open edit is switched off in turn, and the others stay on. The change of the output is '
    "its effect; the map can show it as color.</p>"
)
_MEAN_CALL = (
    "config = Run.open(run).run_config()\n"
    "examples = load_task(config.data, config.training.seed).test[:n]\n"
    "print(insight.mean_edit_effects(model, examples, {arguments}mask=mask).to_frame())"
)
_MEAN_IMPORTS = "from jola.runs.run import Run\nfrom jola.data.tasks import load_task\n"

Values = Iterator[tuple[Any, ...]]


@dataclass(frozen=True)
class EffectsView:
    """The components of the panel."""

    measure: gr.Radio
    answer: gr.Textbox
    wrong: gr.Textbox
    go: gr.Button
    mean: gr.Button
    count: gr.Number
    stop: gr.Button
    words: gr.HTML
    table: gr.HTML
    ranked: gr.Plot
    tools: gr.HTML
    direct_go: gr.Button
    direct: gr.Plot
    direct_tools: gr.HTML

    def empty(self) -> dict[Any, Any]:
        """Return the results by component before anything is measured."""
        no_plots = {plot: HIDDEN for plot in (self.ranked, self.direct)}
        return {self.words: "", self.table: "", self.tools: None, self.direct_tools: None, **no_plots}


def effects_panel(wiring: Wiring, edit_map: gr.HTML, page: gr.Blocks) -> None:
    """Lay out the view and connect its events."""
    view = _build()
    wiring.empty.update(view.empty())
    EffectsEvents(wiring, edit_map, page, view).connect()


def _build() -> EffectsView:
    gr.HTML(_HINT, apply_default_css=False)
    parts: dict[str, Any] = _build_question()
    with gr.Row(elem_classes="jw-actions"):
        parts["go"] = gr.Button("Measure on this prompt", size="sm", scale=0, elem_id="effects")
        parts["mean"] = gr.Button("Mean over examples", size="sm", scale=0, elem_id="mean-effects")
        parts["count"] = gr.Number(
            20, minimum=2, maximum=MOST_EXAMPLES, precision=0, label="Examples", show_label=False, container=False,
            elem_id="effect-examples", elem_classes="jw-count",
        )  # fmt: skip
        parts["stop"] = gr.Button("Stop", size="sm", scale=0, visible=False, elem_id="effects-stop")
    parts["words"] = gr.HTML("", apply_default_css=False, elem_id="effects-words")
    with gr.Column(elem_classes="jw-view"):
        parts["table"] = gr.HTML("", apply_default_css=False, elem_id="effects-table")
        parts["ranked"] = gr.Plot(show_label=False, visible=False, elem_id="effects-plot")
        parts["tools"] = view_tools("effects-tools")
    with gr.Column(elem_classes="jw-view"):
        parts["direct_go"] = gr.Button(
            "Direct effects on the answer's logit", size="sm", elem_id="direct", elem_classes="jw-fit"
        )
        parts["direct"] = gr.Plot(show_label=False, visible=False, elem_id="direct-plot")
        parts["direct_tools"] = view_tools("direct-tools")
    return EffectsView(**parts)


def _build_question() -> dict[str, Any]:
    """Build the inputs for the measure and the answers."""
    return {
        "measure": gr.Radio(
            _MEASURES, value=LOG_PROBABILITY, label="Measure", elem_id="effect-measure", elem_classes="jw-radio"
        ),
        "answer": gr.Textbox(
            label="Answer",
            info="If empty: the right answer if known, otherwise the most likely of the given answers.",
            max_lines=1, elem_id="effect-answer", elem_classes="jw-line",
        ),
        "wrong": gr.Textbox(
            label="Wrong answer", info="If empty: the most likely of the other given answers.", visible=False,
            max_lines=1, elem_id="effect-wrong", elem_classes="jw-line",
        ),
    }  # fmt: skip


@dataclass(frozen=True)
class EffectsEvents:
    """The listeners of the panel."""

    wiring: Wiring
    edit_map: gr.HTML
    page: gr.Blocks
    view: EffectsView
    stops: Stops = field(default_factory=Stops)

    def connect(self) -> None:
        """Connect all events of the panel."""
        view, wiring = self.view, self.wiring
        view.measure.change(_fields_of, view.measure, [view.answer, view.wrong], **PRIVATE)
        asking = [*wiring.asking, wiring.answers, view.answer]
        question = [*asking, view.wrong, view.measure, wiring.dark]
        view.go.click(self.on_effects, question, self._outputs(), js=DARK, **PRIVATE)
        mean = [view.count, view.measure, wiring.answers, view.wrong, wiring.dark]
        view.mean.click(self.on_mean, mean, self._outputs(), js=DARK, **PRIVATE)
        direct = [wiring.message, view.direct, view.direct_tools]
        view.direct_go.click(self.on_direct, [*asking, wiring.dark], direct, js=DARK, **PRIVATE)
        view.stop.click(self.on_stop, None, None, **PRIVATE)
        self.page.unload(self.on_stop)

    def _outputs(self) -> list[Any]:
        view = self.view
        return [self.wiring.message, view.words, view.table, view.ranked, view.tools, self.edit_map, view.stop]

    # Effects of switching off

    def on_effects(
        self,
        text: str,
        kind: str,
        answers: str,
        answer: str,
        wrong: str,
        measure: views.MeasureName,
        dark: bool,
        request: gr.Request,
    ) -> Values:
        """Measure effects on the prompt."""

        def begin(state: PageState, progress: views.Progress) -> "tuple[Ticket[EditEffects], str, str]":
            way, prompt = self.wiring.columns_of(state)[0], prompt_of(state, text, kind)
            wanted = wanted_answer(state, text, answers, answer) if measure != KL else ""
            others = wrong_answers(answers, wanted, wrong) if measure == DIFFERENCE else []
            ticket = views.ask_edit_effects(
                self.wiring.bench.session, way.stack, prompt, wanted, progress, measure=measure, wrong=others,
                page=page_of(request),
            )  # fmt: skip
            known, values = _arguments(measure, others)
            if measure != KL:
                known, values = f"answer, {known}", {"answer": wanted, **values}
            code = snippet(
                [way], f"print(insight.edit_effects(model, prompt, {known}mask=mask).to_frame())", prompt, **values
            )
            return ticket, f"“{wanted}”", code

        yield from self._measured(request, begin, dark)

    def on_mean(
        self, count: float | None, measure: views.MeasureName, answers: str, wrong: str, dark: bool, request: gr.Request
    ) -> Values:
        """Measure mean effects on test examples of the run, with their right answers."""
        yield "", markup.note("Reading the test examples …", "busy"), *(gr.skip(),) * 4, gr.Button(visible=False)

        def begin(state: PageState, progress: views.Progress) -> "tuple[Ticket[EditEffects], str, str]":
            way, run = self.wiring.columns_of(state)[0], chosen_run(self.wiring.bench, state.run)
            number = max(2, min(int(count or 2), MOST_EXAMPLES))
            examples = test_examples(self.wiring.bench, run)[:number]
            others = []
            if measure == DIFFERENCE:
                others = [wrong.strip()] if wrong.strip() else list(labels_of(run)) or answers_of(answers)
            ticket = views.ask_mean_edit_effects(
                self.wiring.bench.session, way.stack, examples, progress, measure=measure, wrong=others,
                page=page_of(request),
            )  # fmt: skip
            known, values = _arguments(measure, others)
            code = snippet([way], _MEAN_CALL.format(arguments=known), run=str(run.path), n=number, **values)
            return ticket, "the right answers", _MEAN_IMPORTS + code

        yield from self._measured(request, begin, dark)

    def _measured(
        self,
        request: gr.Request,
        begin: "Callable[[PageState, views.Progress], tuple[Ticket[EditEffects], str, str]]",
        dark: bool,
    ) -> Values:
        """Begin a call, show its progress, then its result; ``begin`` also returns a name of the answer and code."""
        skipped, progress, state = (gr.skip(),) * 4, views.Progress(), self.wiring.state(request)
        try:
            ticket, name, code = begin(state, progress)
            self.stops.begin(page_of(request), "effects", ticket)
            for place in ticket.waiting():
                if not self.wiring.shows(request, state):
                    ticket.give_up()
                words = waiting_words(place, False)
                if not place and progress.total:
                    words = markup.note(f"{progress.done:,} of {progress.total:,} edits measured", "busy")
                yield "", words, *skipped, gr.Button(visible=True)
            yield self._shown(request, self.wiring.result(ticket, state, request), name, code, dark)
        except EXPECTED as error:
            yield failed(error), "", *skipped, gr.Button(visible=False)

    def _shown(self, request: gr.Request, effects: "EditEffects", name: str, code: str, dark: bool) -> tuple[Any, ...]:
        state = self.wiring.pages.change(page_of(request), lambda s: replace(s, effects=effects))
        by_site = edits_of(chosen_run(self.wiring.bench, state.run))
        edits, names = by_site[state.site], {site: own.unit_names for site, own in by_site.items()}
        value = edit_map_value(edits, state.mask, site=state.site, effects=effects, **map_state(state))
        figure = gr.Plot(figures.edit_effects(effects, names=names, dark=dark), visible=bool(effects.edits))
        return (
            "",
            results.effects_words(effects),
            results.effects_table(effects, name, names),
            figure,
            tools_value("effects", to_csv(effects.to_frame()), code),
            gr.HTML(value=value, mask=None),
            gr.Button(visible=False),
        )

    # Direct effects

    def on_direct(self, text: str, kind: str, answers: str, answer: str, dark: bool, request: gr.Request) -> Values:
        """Compute what each edit adds to the logit of the answer's first token."""
        state = self.wiring.state(request)
        try:
            way, prompt = self.wiring.columns_of(state)[0], prompt_of(state, text, kind)
            wanted = wanted_answer(state, text, answers, answer)
            session = self.wiring.bench.session
            ticket = views.ask_direct_effects(session, way.stack, prompt, wanted, page=page_of(request))
            for said in self.wiring.wait(ticket, state):
                yield said, gr.skip(), gr.skip()
            effects = self.wiring.result(ticket, state, request)
            call = "print(insight.direct_effects(model, prompt, answer, mask=mask).to_frame())"
            code = snippet([way], call, prompt, answer=wanted)
            figure = gr.Plot(figures.direct_effects(effects, dark=dark), visible=True)
            yield "", figure, tools_value("direct-effects", to_csv(effects.to_frame()), code)
        except EXPECTED as error:
            yield failed(error), gr.skip(), gr.skip()

    def on_stop(self, request: gr.Request) -> None:
        """Stop the measurement of this page."""
        self.stops.stop(page_of(request))


def _fields_of(measure: str) -> tuple[Any, Any]:
    """Show the answers that a measure needs."""
    return gr.Textbox(visible=measure != KL), gr.Textbox(visible=measure == DIFFERENCE)


def _arguments(measure: str, wrong: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the measure as arguments of a Python call, and the values of the variables in them."""
    if measure == LOG_PROBABILITY:
        return "", {}
    if measure == KL:
        return f"measure={KL!r}, ", {}
    return f"measure={DIFFERENCE!r}, wrong=wrong, ", {"wrong": wrong}


def wanted_answer(state: PageState, text: str, answers: str, answer: str) -> str:
    """Return the answer whose probability is measured. Raises `InputError` if none is given."""
    if answer.strip():
        return answer.strip()
    if state.right and state.prompt is not None and state.prompt.text == text:
        return state.right
    given = answers_of(answers)
    if not given:
        raise InputError("Write the answer whose probability should be measured.")
    seen_at, likeliest = state.likeliest
    return likeliest if seen_at == text and likeliest in given else given[0]


def wrong_answers(answers: str, right: str, wrong: str) -> list[str]:
    """Return the wrong answers: the written one, or the other given answers. Raises `InputError` if there is none."""
    found = [wrong.strip()] if wrong.strip() else answers_of(answers)
    found = [answer for answer in found if answer != right]
    if not found:
        raise InputError("Write a wrong answer that differs from the right one.")
    return found
