"""The views that are updated after every click: the next token, and the probability of given answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from jola.errors import InputError
from workbench.figures.frames import to_csv
from workbench.playground import results
from workbench.playground.snippet import snippet
from workbench.playground.wiring import Wiring, answers_of, failed, prompt_of
from workbench.service import views
from workbench.service.calls import Superseded, Ticket
from workbench.service.page_state import Column, PageState, columns, masks_text
from workbench.service.session import Prompt
from workbench.ui.view_tools import tools_value, view_tools

if TYPE_CHECKING:
    from jola.insight import AnswerScores


@dataclass(frozen=True)
class LiveViews:
    """The components; `look` fills `outputs`."""

    tokens: gr.HTML
    tokens_tools: gr.HTML
    shares: gr.HTML
    shares_tools: gr.HTML

    def outputs(self, wiring: Wiring) -> list[Any]:
        return [wiring.message, self.tokens, self.tokens_tools, self.shares, self.shares_tools]


def build() -> LiveViews:
    """Lay out both views."""
    with gr.Column(elem_classes="jw-view"):
        tokens = gr.HTML(results.token_table(None), apply_default_css=False, elem_id="tokens")
        tokens_tools = view_tools("tokens-tools")
    with gr.Column(elem_classes="jw-view"):
        shares = gr.HTML("", apply_default_css=False, elem_id="answer-shares")
        shares_tools = view_tools("answer-shares-tools")
    return LiveViews(tokens, tokens_tools, shares, shares_tools)


def look(
    wiring: Wiring, state: PageState, page: str, text: str, kind: str, answers: str, *, asked: bool = False
) -> Iterator[tuple[Any, ...]]:
    """Yield values for `LiveViews.outputs`: the next tokens first, then the answers.

    Unless ``asked`` by a button, nothing is sent to NDIF and no large model is downloaded; the page then says so.
    """
    nothing = (gr.skip(),) * 4
    yield "", *nothing
    me, answered = object(), wiring.pages.change(page, lambda s: replace(s, asked=(text, kind, answers))).answered

    def said() -> Any:
        """Remove own words, but not those that another listener has said meanwhile."""
        return "" if wiring.pages.get(page).speaker is me else gr.skip()

    def waiting(tickets: Sequence[Ticket[Any]]) -> Iterator[Any]:
        """Say what is waited for, but not instead of the answer to a later click."""
        for words in _waiting(wiring, state, page, tickets):
            if wiring.pages.get(page).answered != answered:
                yield gr.skip()
                continue
            wiring.pages.change(page, lambda s: replace(s, speaker=me))
            yield words

    try:
        if not asked and (words := wiring.must_ask(state)):
            yield words, results.token_table(None), None, "", None
            return
        if not text.strip():
            yield said(), results.token_table(None), None, "", None
            return
        prompt, ways = prompt_of(state, text, kind), columns(wiring.bench, state)
        looked = views.ask_next_tokens(wiring.bench.session, ways, prompt, page=page)
        for words in waiting(looked):
            yield words, *nothing
        tokens = _tokens(wiring, state, page, ways, prompt, [ticket.result() for ticket in looked])
        yield said(), *tokens, *nothing[:2]
        given = answers_of(answers)
        if not given:
            yield said(), *nothing[:2], "", None
            return
        scored = [
            views.ask_answer_scores(wiring.bench.session, way.stack, prompt, given, page=page, kind=f"shares {index}")
            for index, way in enumerate(ways)
        ]
        for words in waiting(scored):
            yield words, *nothing
        scores = [ticket.result() for ticket in scored]
        yield said(), *nothing[:2], *_shares(wiring, state, page, text, ways, prompt, given, scores)
    except Superseded:
        yield said(), *nothing
    except InputError as error:
        yield failed(error), *nothing


def _waiting(wiring: Wiring, state: PageState, page: str, tickets: Sequence[Ticket[Any]]) -> Iterator[str]:
    if state.remote:
        for index, ticket in enumerate(tickets):
            wiring.stops.begin(page, f"look {index}", ticket)
    for ticket in tickets:
        yield from wiring.wait(ticket, state)


def _tokens(
    wiring: Wiring, state: PageState, page: str, ways: Sequence[Column], prompt: Prompt, looked: Sequence[views.Looked]
) -> tuple[Any, Any]:
    """Return the table of next tokens and its tools, with the change since the last result with other edits."""
    subject, edits = (state.run, prompt), f"{state.strength:g} {masks_text(state)}"
    last = wiring.pages.get(page).last
    before = last[2] if last is not None and last[0] == subject and last[1] != edits else None
    view = views.next_tokens(ways, looked, before=before)
    wiring.pages.change(page, lambda s: replace(s, last=(subject, edits, views.likeliest(looked[0]))))
    code = snippet(ways, "print(insight.next_tokens(model, prompt, mask=mask).to_frame())", prompt)
    tools = tools_value("next-tokens", to_csv(view.to_frame()), code)
    return results.token_table(view, masks_text(state)), tools


def _shares(
    wiring: Wiring,
    state: PageState,
    page: str,
    text: str,
    ways: Sequence[Column],
    prompt: Prompt,
    given: Sequence[str],
    scores: "Sequence[AnswerScores]",
) -> tuple[Any, Any]:
    """Return the table of the given answers and its tools; the state of the page stores the most likely one."""
    shares = views.AnswerShares(
        tuple(way.title for way in ways),
        tuple(given),
        tuple(map(float, scores[0].base)),
        tuple(tuple(map(float, one.edited)) for one in scores),
    )
    likeliest = given[max(range(len(given)), key=shares.edited[0].__getitem__)]
    wiring.pages.change(page, lambda s: replace(s, likeliest=(text, likeliest)))
    right = state.right if state.prompt is not None and state.prompt.text == text else ""
    call = "print(insight.answer_scores(model, prompt, answers, mask=mask).to_frame())"
    code = snippet(ways, call, prompt, answers=list(given))
    return results.answer_table(shares, right), tools_value("answers", to_csv(shares.to_frame()), code)
