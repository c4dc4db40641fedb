"""What the panels of the Playground share: the prompt on the page, the page's state, and waiting in words."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from jola.errors import InputError
from jola.system.ndif import has_key
from workbench.playground.pages import Pages
from workbench.service.bench import Workbench
from workbench.service.calls import Stops, Superseded, Ticket
from workbench.service.page_state import Column, PageState, columns
from workbench.service.session import Prompt
from workbench.ui import events, markup

PRIVATE: dict[str, Any] = {**events.PRIVATE, "concurrency_limit": None}
"""As `workbench.ui.events.PRIVATE`, for listeners that wait for the model and may do so side by side."""

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
    """What the Stop button of a page ends."""

    @property
    def asking(self) -> list[Any]:
        """Inputs of a listener that works with the prompt."""
        return [self.prompt, self.kind]

    def state(self, request: gr.Request) -> PageState:
        """What the asking page has chosen."""
        return self.pages.get(page_of(request))

    def columns(self, request: gr.Request) -> list[Column]:
        """The ways of answering that the asking page compares."""
        return self.columns_of(self.state(request))

    def columns_of(self, state: PageState) -> list[Column]:
        """The ways of answering that a state compares."""
        return columns(self.bench, state)

    def wait(self, ticket: Ticket[Any], state: PageState) -> Iterator[str]:
        """Why nothing is there yet, as HTML, again and again until the call is done."""
        run = self.bench.find(state.run)
        loading = run is not None and not self.bench.session.is_loaded(run, state.remote)
        for place in ticket.waiting():
            yield waiting_words(place, loading, state.remote)

    def must_ask(self, state: PageState) -> str:
        """Why the model of a run only computes when a button is pressed, as HTML; empty if it may always compute.

        Prompts are not sent to NDIF unasked. Where NDIF can be chosen, large models are not fetched unasked either.
        """
        run = self.bench.find(state.run)
        if state.remote:
            return markup.note("Press Answer to send the prompt to NDIF.", "plain")
        session = self.bench.session
        if run is None or not has_key() or session.is_loaded(run) or session.is_here(run):
            return ""
        return markup.note(
            "The model is not on this machine. Press Answer to fetch it, or choose Remote (NDIF) as its place.", "plain"
        )


def page_of(request: gr.Request) -> str:
    """The name of the page that asks."""
    return request.session_hash or ""


def prompt_of(state: PageState, text: str, kind: str) -> Prompt:
    """The drawn conversation while the box still shows it, else what the box holds."""
    if kind != PLAIN and state.prompt is not None and state.prompt.text == text:
        return state.prompt
    return Prompt.of(text, plain=kind == PLAIN)


def answers_of(text: str | None) -> list[str]:
    """The answers in a box, one on each line; equal ones count once."""
    return list(dict.fromkeys(filter(None, map(str.strip, (text or "").splitlines()))))


def waiting_words(place: int, loading: bool, remote: bool = False) -> str:
    """Why nothing is there yet, in one sentence."""
    if place:
        return markup.note(f"In the queue: {place} before you.", "busy")
    if remote:
        return markup.note("Waiting for NDIF …", "busy")
    return markup.note("Loading the model …" if loading else "Computing …", "busy")


def failed(error: Exception) -> str:
    """What went wrong, as HTML; empty for a call that a newer one replaced."""
    return "" if isinstance(error, Superseded) else markup.note(str(error), "error")


EXPECTED = (InputError, Superseded)
"""What a listener shows in words; everything else is a fault of the app."""
