"""The views that are computed on request: generated answers, scores along a text, and the logit lens."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from workbench import figures
from workbench.figures.frames import to_csv
from workbench.playground import results
from workbench.playground.live import LiveViews, look
from workbench.playground.snippet import snippet
from workbench.playground.wiring import EXPECTED, HIDDEN, PRIVATE, Wiring, failed, page_of, prompt_of, waiting_words
from workbench.service import views
from workbench.service.calls import Superseded
from workbench.ui import markup
from workbench.ui.events import DARK
from workbench.ui.view_tools import tools_value, view_tools

_LONG = "A figure of more than 400 tokens is hard to read; the CSV file has them all."


def answer_panel(wiring: Wiring, page: gr.Blocks, go: gr.Button, stop: gr.Button, shown: LiveViews) -> None:
    """Build the view of the answers, shown while they are written, and update next-token views that need a request."""
    limits, stops = wiring.bench.settings.limits, wiring.stops
    with gr.Column(elem_classes="jw-view"):
        answers = gr.HTML(results.answers(None), apply_default_css=False, elem_id="answers")
        tools = view_tools("answers-tools")
    length = gr.Number(
        min(48, limits.new_tokens),
        label="Longest answer (tokens)",
        info=f"At most {limits.new_tokens}. Greedy decoding.",
        minimum=1,
        maximum=limits.new_tokens,
        precision=0,
        elem_classes=["setting", "jw-short"],
        elem_id="answer-length",
    )
    wiring.empty.update({answers: results.answers(None), tools: None})

    def on_answer(
        text: str, kind: str, length: float | None, given: str, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        working = gr.Button(visible=False), gr.Button(visible=True)
        ready = gr.Button(visible=True), gr.Button(visible=False)
        name, state = page_of(request), wiring.state(request)
        same, unseen = (gr.skip(),) * 2, (gr.skip(),) * 4
        stops.stop(name)
        view = None
        try:
            prompt = prompt_of(state, text, kind)
            ways = wiring.columns_of(state)
            asked = bool(wiring.must_ask(state))
            loading = not wiring.bench.session.is_loaded(ways[0].stack[0].run, state.remote)
            yield waiting_words(0, loading, state.remote), results.answers(None), None, *working, *unseen
            for view in views.write_answers(
                wiring.bench.session, ways, prompt, int(length or 1), page=name, stops=stops
            ):
                if not wiring.shows(request, state):
                    view = None
                    raise Superseded
                words = waiting_words(view.place, False) if view.place else ""
                yield words, results.answers(view), gr.skip(), *working, *unseen
            assert view is not None
            tools = _answer_tools(view, ways, prompt, int(length or 1))
            yield "", results.answers(view), tools, *(working if asked and view.done else ready), *unseen
            if asked and view.done:
                for words, *values in look(wiring, state, name, text, kind, given, asked=True):
                    yield words, *same, *working, *values
                yield gr.skip(), *same, *ready, *unseen
        except EXPECTED as error:
            yield failed(error), results.answers(view and view.ended()), gr.skip(), *ready, *unseen

    def on_stop(request: gr.Request) -> None:
        stops.stop(page_of(request))

    outputs = [wiring.message, answers, tools, go, stop, *shown.outputs(wiring)[1:]]
    go.click(on_answer, [*wiring.asking, length, wiring.answers], outputs, **PRIVATE)
    # Not by cancelling the event, which would leave the page in the middle of a word.
    stop.click(on_stop, None, None, **PRIVATE)
    page.unload(on_stop)


def _answer_tools(view: views.Writings, ways: Any, prompt: Any, length: int) -> str:
    call = (
        "ids = Template(model.tokenizer).encode_prompt(Example((Message('user', prompt),), ''))\n"
        f"new = model.generate(torch.tensor([ids]), max_new_tokens={length}, do_sample=False, mask=mask)\n"
        "print(model.tokenizer.decode(new[0, len(ids):], skip_special_tokens=True))"
    )
    code = "import torch\n" + snippet(ways, call, prompt).replace(
        "from jola import JoLAModel, insight",
        "from jola import JoLAModel\nfrom jola.data.examples import Example, Message, Template",
    )
    if len(prompt.turns) > 1 or prompt.plain:
        ids = "prompt" if prompt.plain else "Template(model.tokenizer).encode_prompt(prompt)"
        code = code.replace("Template(model.tokenizer).encode_prompt(Example((Message('user', prompt),), ''))", ids)
    return tools_value("answers", to_csv(view.to_frame()), code)


def text_panel(wiring: Wiring) -> None:
    """Build the view of the changes by the edits along a given text."""
    gr.HTML(
        '<p class="jw-hint">The probability of each token of a text, given the tokens before it. The text is used as '
        "it is, without a chat template.</p>",
        apply_default_css=False,
    )
    text = gr.Textbox(label="Text", lines=3, max_lines=10, elem_id="scored-text")
    with gr.Row(elem_classes="jw-actions"):
        go = gr.Button("Score the text", size="sm", scale=0, elem_id="score")
        copy = gr.Button("Use the prompt", size="sm", scale=0, elem_id="score-prompt")
    with gr.Column(elem_classes="jw-view"):
        strip = gr.HTML("", apply_default_css=False, elem_id="text-strip")
        plot = gr.Plot(show_label=False, visible=False, elem_id="text-plot")
        tools = view_tools("text-tools")
    wiring.empty.update({strip: "", plot: HIDDEN, tools: None})

    def on_score(text: str, dark: bool, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        state = wiring.state(request)
        nothing = (gr.skip(),) * 3
        try:
            way = wiring.columns_of(state)[0]
            ticket = views.ask_token_scores(wiring.bench.session, way.stack, text, page=page_of(request))
            for words in wiring.wait(ticket, state):
                yield words, *nothing
            scores = wiring.result(ticket, state, request)
            few = len(scores.tokens) <= 400
            figure = gr.Plot(figures.token_scores(scores, dark=dark), visible=True) if few else gr.Plot(visible=False)
            call = "print(insight.token_scores(model, model.tokenizer(text)['input_ids'], mask=mask).to_frame())"
            code = snippet([way], call, text=text)
            yield (
                "" if few else markup.note(_LONG),
                results.text_strip(scores),
                figure,
                tools_value("text", to_csv(scores.to_frame()), code),
            )
        except EXPECTED as error:
            yield failed(error), *nothing

    copy.click(lambda prompt: prompt, wiring.prompt, text, **PRIVATE)
    gr.on(
        [go.click, text.submit], on_score, [text, wiring.dark], [wiring.message, strip, plot, tools], js=DARK, **PRIVATE
    )


def lens_panel(wiring: Wiring, stop: gr.Button) -> None:
    """Build the view of the next token after each layer."""
    gr.HTML(
        '<p class="jw-hint">What the model would say if it stopped after a layer: the final norm and the '
        "language-model head, applied to the residual stream at the last position.</p>",
        apply_default_css=False,
    )
    with gr.Row(elem_classes="jw-actions"):
        go = gr.Button("Look through the layers", size="sm", scale=0, elem_id="lens")
    with gr.Column(elem_classes="jw-view"):
        plot = gr.Plot(show_label=False, visible=False, elem_id="lens-plot")
        tools = view_tools("lens-tools")
    wiring.empty.update({plot: HIDDEN, tools: None})

    def on_lens(text: str, kind: str, dark: bool, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        page, state = page_of(request), wiring.state(request)
        running, ended = (gr.Button(visible=True), gr.Button(visible=False)) if state.remote else (gr.skip(),) * 2
        try:
            way, prompt = wiring.columns_of(state)[0], prompt_of(state, text, kind)
            ticket = views.ask_logit_lens(wiring.bench.session, way.stack, prompt, page=page)
            if state.remote:
                wiring.stops.begin(page, "lens", ticket)
            for words in wiring.wait(ticket, state):
                yield words, gr.skip(), gr.skip(), running
            lens = wiring.result(ticket, state, request)
            code = snippet([way], "print(insight.logit_lens(model, prompt, mask=mask).to_frame())", prompt)
            figure = gr.Plot(figures.logit_lens(lens, dark=dark), visible=True)
            yield "", figure, tools_value("logit-lens", to_csv(lens.to_frame()), code), ended
        except EXPECTED as error:
            yield failed(error), gr.skip(), gr.skip(), ended

    go.click(on_lens, [*wiring.asking, wiring.dark], [wiring.message, plot, tools, stop], js=DARK, **PRIVATE)
