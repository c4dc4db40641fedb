"""Shared by the panels of the Playground: the prompt on the page, the page's state, and messages while waiting."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gradio as gr

from jola.errors import InputError
from jola.system.ndif import has_key
from workbench.playground.pages import Pages
from workbench.service.bench import Workbench
from workbench.service.calls import Stops, Superseded, Ticket
from workbench.service.page_state import Column, PageState, columns
from workbench.service.session import Prompt
from workbench.ui import events, markup

Answer = TypeVar("Answer")

PRIVATE: dict[str, Any] = {**events.PRIVATE, "concurrency_limit": None}
"""Like `workbench.ui.events.PRIVATE`, for listeners that wait for the model and may run concurrently."""

HIDDEN: dict[str, Any] = gr.update(visible=False)
"""Update that hides a component; can also be made while the page is laid out."""

PLAIN = "Plain text"
CHAT = "Chat turn"


@dataclass(frozen=True)
class Wiring:
    """The app, the states of its pages, and the components that several panels read."""

    bench: Workbench
    pages: Pages
    prompt: gr.Textbox
    kind: gr.Radio
    answers: gr.Textbox
    message: gr.HTML
    dark: gr.Checkbox
    stops: Stops = field(default_factory=Stops)
    """The calls that the Stop button of a page ends."""
    empty: dict[Any, Any] = field(default_factory=dict)
    """The components that show results for a run, with their values before there are any."""

    @property
    def asking(self) -> list[Any]:
        """Inputs of a listener that uses the prompt."""
        return [self.prompt, self.kind]

    def state(self, request: gr.Request) -> PageState:
        """Return the state of the requesting page."""
        return self.pages.get(page_of(request))

    def columns_of(self, state: PageState) -> list[Column]:
        """Return the columns that a state compares."""
        return columns(self.bench, state)

    def shows(self, request: gr.Request, state: PageState) -> bool:
        """Whether the requesting page still shows the run of a state."""
        return self.state(request).run == state.run

    def result(self, ticket: Ticket[Answer], state: PageState, request: gr.Request) -> Answer:
        """Wait for a result, and return it. Raises `Superseded` if the page shows another run by then."""
        found = ticket.result()
        if not self.shows(request, state):
            raise Superseded
        return found

    def wait(self, ticket: Ticket[Any], state: PageState) -> Iterator[str]:
        """Yield why there is no result yet, as HTML, repeatedly until the call is done."""
        run = self.bench.find(state.run)
        loading = run is not None and not self.bench.session.is_loaded(run, state.remote)
        for place in ticket.waiting():
            yield waiting_words(place, loading, state.remote)

    def must_ask(self, state: PageState) -> str:
        """Return as HTML why the model only computes when a button is pressed; empty if it may always compute.

        Prompts are not sent to NDIF without a request. If NDIF can be chosen, models are not downloaded without one
        either.
        """
        run = self.bench.find(state.run)
        if state.remote:
            return markup.note("Press Answer to send the prompt to NDIF.", "plain")
        session = self.bench.session
        if run is None or not has_key() or session.is_loaded(run) or session.is_here(run):
            return ""
        return markup.note(
            "The model is not on this machine. Press Answer to download it, or choose Remote (NDIF).", "plain"
        )


def page_of(request: gr.Request) -> str:
    """Return the name of the requesting page."""
    return request.session_hash or ""


def prompt_of(state: PageState, text: str, kind: str) -> Prompt:
    """Return the drawn conversation if the text box still shows it, otherwise the content of the box."""
    if kind != PLAIN and state.prompt is not None and state.prompt.text == text:
        return state.prompt
    return Prompt.of(text, plain=kind == PLAIN)


def answers_of(text: str | None) -> list[str]:
    """Return the answers in a text box, one per line, without duplicates."""
    return list(dict.fromkeys(filter(None, map(str.strip, (text or "").splitlines()))))


def waiting_words(place: int, loading: bool, remote: bool = False) -> str:
    """Return why there is no result yet, in one sentence."""
    if place:
        return markup.note(f"In the queue: {place} before you.", "busy")
    if remote:
        return markup.note("Waiting for NDIF …", "busy")
    return markup.note("Loading the model …" if loading else "Computing …", "busy")


def failed(error: Exception) -> str:
    """Return an error as HTML; empty for a call that was replaced by a newer one."""
    return "" if isinstance(error, Superseded) else markup.note(str(error), "error")


EXPECTED = (InputError, Superseded)
"""Exceptions that a listener shows as text; all others are faults of the app."""
