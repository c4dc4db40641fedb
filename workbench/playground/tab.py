"""The Playground tab: a prompt, the map of the edits, and how the edits change the answer of the model."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from jola.data.records import Example
from jola.errors import InputError
from jola.runs.run import Run
from workbench.playground import edits_panel, head_panel, import_panel, live, mask_test_panel
from workbench.playground.asked_panels import answer_panel, lens_panel, text_panel
from workbench.playground.edits_events import EditsEvents
from workbench.playground.edits_panel import EditsPanel
from workbench.playground.effects_panel import effects_panel
from workbench.playground.live import LiveViews
from workbench.playground.pages import Pages
from workbench.playground.wiring import CHAT, PLAIN, PRIVATE, Wiring, page_of
from workbench.service.bench import Workbench
from workbench.service.examples import draw_example, first_prompt, labels_of, test_examples
from workbench.service.follow import describe_config, result_of
from workbench.service.page_state import PageState, chosen_run, open_run
from workbench.service.session import Prompt
from workbench.ui import markup

_TO_ANSWERS = '() => ({__type__: "update", selected: "answers"})'

_TO_PROMPT = """() => document.querySelector("#prompt")?.scrollIntoView({ block: "nearest" })"""

_HEAD = "<h1>Edits</h1><p>Each cell is one edit; click it to switch the edit on or off.</p>"


@dataclass(frozen=True)
class PlaygroundTab:
    """The components that the app connects with other tabs."""

    wiring: Wiring
    panel: EditsPanel
    live: LiveViews
    right: gr.HTML
    """The right answer of the example in the text box."""

    def outputs(self) -> list[Any]:
        """The outputs of `offer`."""
        return [
            self.panel.run, self.panel.others, self.wiring.prompt, self.wiring.answers, self.right,
            *self.panel.run_outputs(self.wiring), *self.live.outputs(self.wiring),
        ]  # fmt: skip


def about_run(bench: Workbench, id: str | None) -> str:
    """Describe the chosen run in a few lines of HTML."""
    run = bench.find(id)
    if run is None:
        return markup.note("No run has edits yet. Train one first; it appears here after its first epoch.")
    try:
        about = describe_config(run.config())
    except InputError as error:
        about = str(error)
    facts = result_of(run, run.raw_config())
    rows = "".join(f"<dt>{markup.escape(what)}</dt><dd>{markup.escape(figure)}</dd>" for what, figure in facts)
    return f'<p class="jw-about">{markup.escape(about)}</p><dl class="jw-figures">{rows}</dl>'


def offer(
    tab: PlaygroundTab,
    bench: Workbench,
    request: gr.Request,
    wanted: str | None,
    masks: str = "",
    text: str = "",
    example: Example | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Fill the tab for a run: yield values for `PlaygroundTab.outputs`.

    The choices of the page are kept unless ``wanted`` is another run with edits. ``masks`` and ``example`` open the run
    again, with these edits on or with this prompt.
    """
    before = tab.wiring.state(request)
    choices = bench.run_choices(with_adapter=True, also=(wanted, before.run, *before.others))
    ids = [id for _, id in choices]
    id = next((id for id in (wanted, before.run, *ids) if id in ids), None)
    run_list = gr.Dropdown(choices=choices, value=id, interactive=bool(ids))
    others = gr.Dropdown(choices=choices, value=[i for i in before.others if i in ids and i != id])
    skipped = (gr.skip(),) * (len(tab.outputs()) - 2)
    if id is not None and id == before.run and not masks and example is None:
        yield run_list, others, *skipped
        return
    for number, values in enumerate(_opened(tab, bench, page_of(request), id, masks, text, example)):
        yield (run_list, others, *values) if number == 0 else (gr.skip(), gr.skip(), *values)


def _opened(
    tab: PlaygroundTab,
    bench: Workbench,
    page: str,
    id: str | None,
    masks: str,
    text: str,
    example: Example | None,
) -> Iterator[tuple[Any, ...]]:
    """Yield values for `PlaygroundTab.outputs` after the lists of runs, for a run that is opened."""
    wiring = tab.wiring
    empty = (gr.skip(),) * len(tab.live.outputs(wiring))
    state, message = _state_of(bench, id, masks)
    if example is not None and state.run:
        state = replace(state, prompt=Prompt.of_example(example), right=example.completion)
    state = wiring.pages.change(page, state.opened_after)
    shown = edits_panel.run_updates(wiring, state, about_run(bench, id))
    if not state.run:
        yield gr.skip(), gr.skip(), "", *shown, message, *empty[1:]
        return
    run = chosen_run(bench, id)
    prompt = state.prompt.text if state.prompt is not None else text or _prompt_of(bench, run)
    answers = "\n".join(example.options if example is not None and example.options else labels_of(run))
    yield prompt if prompt else gr.skip(), answers, right_words(state), *shown, message, *empty[1:]
    rest = (gr.skip(),) * (3 + len(shown))
    for values in live.look(wiring, state, page, prompt, CHAT, answers):
        yield *rest, message or values[0], *values[1:]


def _state_of(bench: Workbench, id: str | None, masks: str) -> tuple[PageState, str]:
    """Return the state that opens a run, without the masks if they are invalid, and the error as HTML."""
    message = ""
    for wanted in dict.fromkeys((masks, "")):
        if id is None:
            break
        try:
            return open_run(bench, id, wanted), message
        except InputError as error:
            message = message or markup.note(str(error), "error")
    return PageState(), message


def _prompt_of(bench: Workbench, run: Run) -> str:
    """Return a prompt like those that the run was trained on; empty if the data of its task are missing."""
    with suppress(InputError):
        return first_prompt(run) or test_examples(bench, run)[0].prompt[-1].content
    return ""


def right_words(state: PageState) -> str:
    """Return the right answer of the example in the text box, as HTML; empty without an example."""
    if state.prompt is None:
        return ""
    earlier = len(state.prompt.turns) - 1
    note = f"Right answer: {state.right}" + (f" (with {earlier} earlier turns)" if earlier else "")
    return markup.note(note, "good")


def build(bench: Workbench, page: gr.Blocks) -> PlaygroundTab:
    """Lay out the tab and connect its own events."""
    with gr.Row(elem_classes="jw-place"):
        with gr.Column(elem_classes="jw-settings", scale=0):
            parts = edits_panel.build_settings()
        with gr.Column(elem_classes=["jw-work", "pg-map"], scale=1):
            gr.HTML(_HEAD, apply_default_css=False, elem_classes="jw-head")
            parts["map"] = edits_panel.build_map()
        with gr.Column(elem_classes=["jw-work", "jw-prompt", "pg-views"], scale=1):
            prompt = gr.Textbox(
                label="Prompt", lines=3, max_lines=10, placeholder="Ask something, or take an example.",
                elem_id="prompt",
            )  # fmt: skip
            with gr.Row(elem_classes="jw-actions"):
                go = gr.Button("Answer", variant="primary", interactive=False, scale=0, elem_id="answer")
                stop = gr.Button("Stop", scale=0, visible=False, elem_id="stop")
                draw = gr.Button("Example from the test data", interactive=False, scale=0, elem_id="example")
                kind = gr.Radio(
                    [CHAT, PLAIN], value=CHAT, show_label=False, label="The prompt is", container=False,
                    elem_id="prompt-kind", elem_classes="jw-radio",
                )  # fmt: skip
            parts |= {"answer": go, "example": draw}
            right = gr.HTML("", apply_default_css=False, elem_id="right-answer")
            message = gr.HTML("", apply_default_css=False, elem_id="playground-message")
            dark = gr.Checkbox(visible=False, label="Dark")
            with gr.Tabs(elem_id="views", elem_classes="jw-views") as views:
                # First, because the listeners of a click run one after the other, and the answers take their time.
                go.click(None, None, views, js=_TO_ANSWERS, **PRIVATE)
                with gr.Tab("Next token", id="next"):
                    shown = live.build()
                    answers = gr.Textbox(
                        label="Given answers", info="One per line; initially the labels of the task.", lines=2,
                        max_lines=8, elem_id="given-answers", elem_classes="jw-line",
                    )  # fmt: skip
                wiring = Wiring(bench, Pages(), prompt, kind, answers, message, dark)
                with gr.Tab("Answers", id="answers"):
                    answer_panel(wiring, page, go, stop, shown)
                with gr.Tab("Text", id="text"):
                    text_panel(wiring)
                with gr.Tab("Effects", id="effects"):
                    effects_panel(wiring, parts["map"], page)
                with gr.Tab("Test", id="test"):
                    tested = mask_test_panel.build(wiring, page)
                with gr.Tab("Head", id="head"):
                    card = head_panel.build(wiring)
                with gr.Tab("Layers", id="lens"):
                    lens_panel(wiring, stop)
    panel = EditsPanel(**parts)
    events = EditsEvents(wiring, panel, shown, lambda id: about_run(bench, id))
    events.connect()
    head_panel.connect(events, card, views)
    _connect_prompt(wiring, shown, draw, tested.examples, right)

    def on_unload(request: gr.Request) -> None:
        wiring.pages.forget(page_of(request))

    page.unload(on_unload)
    tab = PlaygroundTab(wiring, panel, shown, right)

    def opened(request: gr.Request, id: str) -> Iterator[tuple[Any, ...]]:
        return offer(tab, bench, request, id)

    import_panel.connect(bench, panel.taking, opened, tab.outputs())
    return tab


def _connect_prompt(wiring: Wiring, shown: LiveViews, draw: gr.Button, tested: Any, right: gr.HTML) -> None:
    """Connect the prompt: typing updates the next token; a button, or a click on a tested example, fills it."""

    def on_prompt(text: str, kind: str, answers: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        state = wiring.state(request)
        note = gr.skip() if state.prompt is not None and state.prompt.text == text else ""
        if not state.run:
            yield *(gr.skip(),) * 5, note
            return
        for values in live.look(wiring, state, page_of(request), text, kind, answers):
            yield *values, note
            note = gr.skip()

    def shown_example(
        take: Callable[[PageState], tuple[Prompt, str]], kind: str, answers: str, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        page = page_of(request)
        try:
            found, answer = take(wiring.state(request))
        except InputError as error:
            yield gr.skip(), markup.note(str(error), "error"), *(gr.skip(),) * 4, ""
            return
        state = wiring.pages.change(page, lambda s: replace(s, prompt=found, right=answer))
        yield found.text, "", *(gr.skip(),) * 4, right_words(state)
        for values in live.look(wiring, state, page, found.text, CHAT, answers):
            yield gr.skip(), *values, gr.skip()

    def on_draw(kind: str, answers: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        def take(state: PageState) -> tuple[Prompt, str]:
            return draw_example(wiring.bench, chosen_run(wiring.bench, state.run))

        yield from shown_example(take, kind, answers, request)

    def on_open(kind: str, answers: str, request: gr.Request, event: gr.EventData) -> Iterator[tuple[Any, ...]]:
        def take(state: PageState) -> tuple[Prompt, str]:
            example = mask_test_panel.opened_example(state.tested, state.run, event._data).example
            return Prompt.of_example(example), example.completion

        yield from shown_example(take, kind, answers, request)

    outputs = shown.outputs(wiring)
    always = {**PRIVATE, "trigger_mode": "always_last"}
    gr.on(
        [wiring.prompt.input, wiring.kind.input, wiring.answers.input],
        on_prompt,
        [*wiring.asking, wiring.answers],
        [*outputs, right],
        **always,
    )
    filling = [wiring.kind, wiring.answers], [wiring.prompt, *outputs, right]
    draw.click(on_draw, *filling, **PRIVATE)
    tested.open(on_open, *filling, **PRIVATE).then(None, None, None, js=_TO_PROMPT)
