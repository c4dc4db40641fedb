"""What does each edit do: the effect of switching it off, and what it adds directly to the answer's logit."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from jola.errors import InputError
from workbench import figures
from workbench.figures.frames import to_csv
from workbench.playground import results
from workbench.playground.edit_map import edit_map_value
from workbench.playground.prompts import test_examples
from workbench.playground.recipe import recipe
from workbench.playground.wiring import (
    EXPECTED,
    PRIVATE,
    Wiring,
    answers_of,
    failed,
    page_of,
    prompt_of,
    waiting_words,
)
from workbench.service import views
from workbench.service.calls import Stops
from workbench.service.page_state import PageState, chosen_run, edits_of
from workbench.ui import markup
from workbench.ui.events import DARK
from workbench.ui.view_tools import tools_value, view_tools

_MOST_EXAMPLES = 200


def effects_panel(wiring: Wiring, edit_map: gr.HTML, page: gr.Blocks) -> None:
    """Lay the view out and connect its events."""
    stops = Stops()
    gr.HTML(
        '<p class="jw-hint">Each open edit is switched off in turn, the others stay on. The change in the probability '
        "of the answer is its effect; the map can show it as colour.</p>",
        apply_default_css=False,
    )
    answer = gr.Textbox(
        label="Answer", info="Empty takes the right answer where it is known, else the likeliest of the given ones.",
        max_lines=1, elem_id="effect-answer", elem_classes="jw-line",
    )  # fmt: skip
    with gr.Row(elem_classes="jw-actions"):
        go = gr.Button("Measure on this prompt", size="sm", scale=0, elem_id="effects")
        mean = gr.Button("Mean over examples", size="sm", scale=0, elem_id="mean-effects")
        count = gr.Number(
            20, minimum=2, maximum=_MOST_EXAMPLES, precision=0, label="Examples", show_label=False, container=False,
            elem_id="effect-examples", elem_classes="jw-count",
        )  # fmt: skip
        stop = gr.Button("Stop", size="sm", scale=0, visible=False, elem_id="effects-stop")
    words = gr.HTML("", apply_default_css=False, elem_id="effects-words")
    with gr.Column(elem_classes="jw-view"):
        table = gr.HTML("", apply_default_css=False, elem_id="effects-table")
        ranked = gr.Plot(show_label=False, visible=False, elem_id="effects-plot")
        tools = view_tools("effects-tools")
    with gr.Column(elem_classes="jw-view"):
        direct_go = gr.Button(
            "Direct effects on the answer's logit", size="sm", elem_id="direct", elem_classes="jw-fit"
        )
        direct = gr.Plot(show_label=False, visible=False, elem_id="direct-plot")
        direct_tools = view_tools("direct-tools")
    outputs = [wiring.message, words, table, ranked, tools, edit_map, stop]
    skipped = (gr.skip(),) * 4

    def measured(request: gr.Request, ticket: Any, progress: views.Progress) -> Iterator[tuple[Any, ...]]:
        """The words of waiting, until the call is done."""
        stops.begin(page_of(request), "effects", ticket)
        for place in ticket.waiting():
            said = waiting_words(place, False)
            if not place and progress.total:
                said = markup.note(f"{progress.done:,} of {progress.total:,} edits measured", "busy")
            yield "", said, *skipped, gr.Button(visible=True)

    def shown(request: gr.Request, effects: Any, name: str, code: str, dark: bool) -> tuple[Any, ...]:
        state = wiring.pages.change(page_of(request), lambda s: replace(s, effects=effects))
        by_site = edits_of(chosen_run(wiring.bench, state.run))
        edits, names = by_site[state.site], {site: own.unit_names for site, own in by_site.items()}
        value = edit_map_value(edits, state.mask, key=state.key, site=state.site, seen=state.seen, effects=effects)
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

    def on_effects(
        text: str, kind: str, answers: str, answer: str, dark: bool, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        state = wiring.state(request)
        try:
            way, prompt = wiring.columns(request)[0], prompt_of(state, text, kind)
            wanted = wanted_answer(state, text, answers, answer)
            progress = views.Progress()
            ticket = views.ask_edit_effects(
                wiring.bench.session, way.stack, prompt, wanted, progress, page=page_of(request)
            )
            yield from measured(request, ticket, progress)
            call = "print(insight.edit_effects(model, prompt, answer, mask=mask).to_frame())"
            code = recipe([way], call, prompt, answer=wanted)
            yield shown(request, ticket.result(), f"“{wanted}”", code, dark)
        except EXPECTED as error:
            yield failed(error), "", *skipped, gr.Button(visible=False)

    def on_mean(count: float | None, dark: bool, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        state = wiring.state(request)
        try:
            way = wiring.columns(request)[0]
            number = max(2, min(int(count or 2), _MOST_EXAMPLES))
            run = chosen_run(wiring.bench, state.run)
            yield "", markup.note("Reading the test examples …", "busy"), *skipped, gr.Button(visible=False)
            examples = test_examples(wiring.bench, run)[:number]
            progress = views.Progress()
            ticket = views.ask_mean_edit_effects(
                wiring.bench.session, way.stack, examples, progress, page=page_of(request)
            )
            yield from measured(request, ticket, progress)
            call = (
                "config = Run.open(run).run_config()\n"
                "examples = load_task(config.data, config.training.seed).test[:n]\n"
                "print(insight.mean_edit_effects(model, examples, mask=mask).to_frame())"
            )
            code = recipe([way], call, run=str(run.path), n=number)
            code = "from jola.runs.run import Run\nfrom jola.data.tasks import load_task\n" + code
            yield shown(request, ticket.result(), "the right answers", code, dark)
        except EXPECTED as error:
            yield failed(error), "", *skipped, gr.Button(visible=False)

    def on_direct(
        text: str, kind: str, answers: str, answer: str, dark: bool, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        state = wiring.state(request)
        try:
            way, prompt = wiring.columns(request)[0], prompt_of(state, text, kind)
            wanted = wanted_answer(state, text, answers, answer)
            ticket = views.ask_direct_effects(wiring.bench.session, way.stack, prompt, wanted, page=page_of(request))
            for said in wiring.wait(ticket, state):
                yield said, gr.skip(), gr.skip()
            effects = ticket.result()
            call = "print(insight.direct_effects(model, prompt, answer, mask=mask).to_frame())"
            code = recipe([way], call, prompt, answer=wanted)
            figure = gr.Plot(figures.direct_effects(effects, dark=dark), visible=True)
            yield "", figure, tools_value("direct-effects", to_csv(effects.to_frame()), code)
        except EXPECTED as error:
            yield failed(error), gr.skip(), gr.skip()

    def on_stop(request: gr.Request) -> None:
        stops.stop(page_of(request))

    asking = [*wiring.asking, wiring.answers, answer, wiring.dark]
    go.click(on_effects, asking, outputs, js=DARK, **PRIVATE)
    mean.click(on_mean, [count, wiring.dark], outputs, js=DARK, **PRIVATE)
    direct_go.click(on_direct, asking, [wiring.message, direct, direct_tools], js=DARK, **PRIVATE)
    stop.click(on_stop, None, None, **PRIVATE)
    page.unload(on_stop)


def wanted_answer(state: PageState, text: str, answers: str, answer: str) -> str:
    """The answer whose probability is measured. `InputError` when none is given anywhere."""
    if answer.strip():
        return answer.strip()
    if state.right and state.prompt is not None and state.prompt.text == text:
        return state.right
    given = answers_of(answers)
    if not given:
        raise InputError("Write the answer whose probability should be measured.")
    seen_at, likeliest = state.likeliest
    return likeliest if seen_at == text and likeliest in given else given[0]
