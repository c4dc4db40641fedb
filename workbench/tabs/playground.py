"""Playground: one prompt, the base model's answer beside the edited one, and how the edits move the next token."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import gradio as gr

from jola.errors import InputError
from jola.records import Example, Message
from jola.runs import Run
from jola.tasks import Task, load_task
from workbench import markup
from workbench.bench import Workbench, has_adapter
from workbench.follow import describe_config, result_facts
from workbench.session import TokenChange

_TICK_SECONDS = 0.5


# What the buttons do


@dataclass(frozen=True)
class Drawn:
    """An example from the test data: what the box shows, what the model is given, and what would be right."""

    shown: str
    prompt: tuple[tuple[str, str], ...]
    right: str

    def example(self) -> Example:
        return Example(tuple(Message(role, content) for role, content in self.prompt), "")


def prompt_for(text: str, drawn: Drawn | None) -> Example:
    """The conversation to continue: the drawn one while the box still shows it, else one turn with the text."""
    if drawn is not None and drawn.shown == text:
        return drawn.example()
    if not text.strip():
        raise InputError("The prompt is empty; write one, or take an example from the test data.")
    return Example((Message("user", text),), "")


def draw_example(bench: Workbench, id: str | None) -> Drawn:
    """A random example of the run's test data. `InputError` when there is no such data any more."""
    run = _chosen(bench, id)
    task = _task_of(run, run.run_config().to_dict()["data"]["task"])
    example = random.choice(task.test)
    shown = example.prompt[-1].content
    turns = tuple((message.role, message.content) for message in example.prompt)
    return Drawn(shown, turns, example.completion)


@lru_cache(maxsize=4)
def _task_of(run: Run, _name: str) -> Task:
    config = run.run_config()
    return load_task(config.data, config.training.seed)


@dataclass(frozen=True)
class Comparison:
    """What the page shows while the two answers are written; None is an answer that has not begun."""

    message: str = ""
    base: str | None = None
    edited: str | None = None
    writing: str = ""
    tokens: tuple[TokenChange, ...] = ()


def compare(
    bench: Workbench, id: str | None, example: Example, new_tokens: int, stop: threading.Event
) -> Iterator[Comparison]:
    """Load the model if need be, look at the next token, write the base answer and the edited one; ``stop`` ends it."""
    run = _chosen(bench, id)
    view = Comparison()
    if not bench.session.is_loaded(run):
        for seconds in _waiting(bench.session.prepare(run)):
            yield replace(view, message=f"Loading the model … {seconds} s")
    view = replace(view, tokens=tuple(bench.session.next_tokens(run, example)))
    yield view
    for side in ("base", "edited"):
        if stop.is_set():
            break
        view = replace(view, writing=side, **{side: ""})
        edited = side == "edited"
        for text in bench.session.generate(run, example, edited=edited, new_tokens=new_tokens, stop=stop):
            view = replace(view, **{side: text})
            yield view
    yield replace(view, writing="")


class Answering:
    """Who is being answered, so that a page can stop its own answer and no other."""

    def __init__(self) -> None:
        self._stops: dict[str, threading.Event] = {}

    def begin(self, page: str) -> threading.Event:
        """A new answer for this page; an older one is stopped."""
        self.stop(page)
        self._stops[page] = threading.Event()
        return self._stops[page]

    def stop(self, page: str) -> None:
        """Stop the answer for this page, if there is one."""
        event = self._stops.pop(page, None)
        if event is not None:
            event.set()


def _waiting(work: "Future[None]") -> Iterator[int]:
    """Whole seconds since the beginning, again and again until the work is done; raises what it raised."""
    begin = time.monotonic()
    while not work.done():
        yield round(time.monotonic() - begin)
        time.sleep(_TICK_SECONDS)
    work.result()


def _chosen(bench: Workbench, id: str | None) -> Run:
    run = bench.find(id)
    if run is None or not has_adapter(run):
        raise InputError("Choose a run that has finished; there is none without training one first.")
    return run


def about_run(bench: Workbench, id: str | None) -> str:
    """The chosen run in a few lines of HTML."""
    run = bench.find(id)
    if run is None:
        return markup.note("No run has finished yet. Train one first: it appears here when it ends.")
    try:
        about = describe_config(run.config())
    except InputError as error:
        about = str(error)
    rows = "".join(
        f"<dt>{markup.escape(what)}</dt><dd>{markup.escape(figure)}</dd>" for what, figure in result_facts(run.result())
    )
    return f'<p class="jw-about">{markup.escape(about)}</p><dl class="jw-figures">{rows}</dl>'


def answers_html(view: Comparison) -> str:
    """Both answers side by side; when both are written, what differs is marked."""
    done = not view.writing and view.base is not None and view.edited is not None
    base = markup.answer(view.base, view.edited if done else None, writing=view.writing == "base")
    edited = markup.answer(view.edited, view.base if done else None, writing=view.writing == "edited")
    return (
        '<div class="jw-answers">'
        f'<section aria-labelledby="base-title"><h2 id="base-title" class="jw-section">Base model</h2>{base}</section>'
        f'<section aria-labelledby="edited-title"><h2 id="edited-title" class="jw-section">With the edits</h2>{edited}'
        "</section></div>"
    )


# The page


@dataclass(frozen=True)
class PlaygroundTab:
    """The parts that the app connects with other places."""

    run: gr.Dropdown
    about: gr.HTML

    def choosing(self) -> list[Any]:
        """The outputs of `offer`."""
        return [self.run, self.about]


def offer(bench: Workbench, chosen: str | None, current: str | None) -> tuple[Any, str]:
    """The runs to choose from, for `PlaygroundTab.choosing`: keeps the choice, else the run on the Train page."""
    choices = bench.run_choices(with_adapter=True)
    ids = [id for _, id in choices]
    id = next((id for id in (chosen, current, *ids) if id in ids), None)
    return gr.Dropdown(choices=choices, value=id, interactive=bool(ids)), about_run(bench, id)


def build(bench: Workbench, page: gr.Blocks) -> PlaygroundTab:
    """Lay the place out and connect its own events."""
    drawn = gr.State(None)
    answering = Answering()
    limits = bench.settings.limits
    with gr.Row(elem_classes="jw-place"):
        with gr.Column(elem_classes="jw-settings", scale=0):
            gr.HTML(markup.section("Edits"), apply_default_css=False)
            run = gr.Dropdown(
                [],
                label="Run",
                info="Whose edits answer; runs appear here when they end.",
                filterable=False,
                elem_id="playground-run",
                elem_classes=["setting", "jw-wide"],
            )
            about = gr.HTML("", apply_default_css=False)
            gr.HTML(markup.section("Answer"), apply_default_css=False)
            length = gr.Number(
                min(32, limits.new_tokens),
                label="Longest answer (tokens)",
                info=f"At most {limits.new_tokens}.",
                minimum=1,
                maximum=limits.new_tokens,
                precision=0,
                elem_classes="setting",
                elem_id="answer-length",
            )
        with gr.Column(elem_classes=["jw-work", "jw-prompt"], scale=1):
            gr.HTML(
                "<h1>Base and edited answer</h1><p>The same model answers twice: as it came, and with the edits of a "
                "run. Both always take the likeliest token.</p>",
                apply_default_css=False,
                elem_classes="jw-head",
            )
            prompt = gr.Textbox(
                label="Prompt",
                lines=4,
                max_lines=12,
                placeholder="Ask something, or take an example.",
                elem_id="prompt",
            )
            with gr.Row(elem_classes="jw-actions"):
                go = gr.Button("Answer", variant="primary", scale=0, elem_id="answer")
                stop = gr.Button("Stop", scale=0, visible=False, elem_id="stop")
                draw = gr.Button("Example from the test data", scale=0, elem_id="example")
                right = gr.HTML("", apply_default_css=False, elem_id="right-answer")
            message = gr.HTML("", apply_default_css=False, elem_id="playground-message")
            answers = gr.HTML(answers_html(Comparison()), apply_default_css=False, elem_id="answers")
            tokens = gr.HTML("", apply_default_css=False, elem_id="tokens")

    def on_draw(id: str | None) -> tuple[Any, ...]:
        try:
            found = draw_example(bench, id)
        except InputError as error:
            return gr.skip(), gr.skip(), "", markup.note(str(error), "error")
        earlier = len(found.prompt) - 1
        note = f"Right answer: {found.right}" + (f" (with {earlier} earlier turns)" if earlier else "")
        return found, found.shown, markup.note(note, "good"), ""

    def on_answer(
        id: str | None, text: str, drawn: Drawn | None, length: float | None, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        working = gr.Button(visible=False), gr.Button(visible=True)
        ready = gr.Button(visible=True), gr.Button(visible=False)
        view = Comparison()
        stopped = answering.begin(request.session_hash or "")
        try:
            example = prompt_for(text, drawn)
            for view in compare(bench, id, example, int(length or 1), stopped):
                yield (
                    markup.note(view.message, "busy"),
                    answers_html(view),
                    markup.token_table(view.tokens),
                    *working,
                )
            yield "", answers_html(view), markup.token_table(view.tokens), *ready
        except InputError as error:
            yield markup.note(str(error), "error"), answers_html(replace(view, writing="")), gr.skip(), *ready

    def on_stop(request: gr.Request) -> None:
        answering.stop(request.session_hash or "")

    private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    outputs = [message, answers, tokens, go, stop]
    go.click(on_answer, [run, prompt, drawn, length], outputs, concurrency_id="model", concurrency_limit=1, **private)
    # Not by cancelling the event: that leaves the page as it was in the middle of a word.
    stop.click(on_stop, None, None, **private)
    page.unload(on_stop)
    draw.click(on_draw, run, [drawn, prompt, right, message], **private)
    prompt.input(lambda: "", None, right, **private)
    run.input(lambda id: about_run(bench, id), run, about, **private)
    return PlaygroundTab(run, about)
