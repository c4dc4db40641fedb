"""The views that follow every click: the next token, and the probability of given answers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from workbench.figures.frames import to_csv
from workbench.playground import results
from workbench.playground.recipe import recipe
from workbench.playground.wiring import EXPECTED, Wiring, answers_of, failed, prompt_of
from workbench.service import views
from workbench.service.page_state import PageState, columns, masks_text
from workbench.ui.view_tools import tools_value, view_tools


@dataclass(frozen=True)
class LiveViews:
    """The components; `outputs` are those that `look` fills."""

    tokens: gr.HTML
    tokens_tools: gr.HTML
    shares: gr.HTML
    shares_tools: gr.HTML

    def outputs(self, wiring: Wiring) -> list[Any]:
        return [wiring.message, self.tokens, self.tokens_tools, self.shares, self.shares_tools]


def build() -> LiveViews:
    """Lay the two views out."""
    with gr.Column(elem_classes="jw-view"):
        tokens = gr.HTML(results.token_table(None), apply_default_css=False, elem_id="tokens")
        tokens_tools = view_tools("tokens-tools")
    with gr.Column(elem_classes="jw-view"):
        shares = gr.HTML("", apply_default_css=False, elem_id="answer-shares")
        shares_tools = view_tools("answer-shares-tools")
    return LiveViews(tokens, tokens_tools, shares, shares_tools)


def look(wiring: Wiring, state: PageState, page: str, text: str, kind: str, answers: str) -> Iterator[tuple[Any, ...]]:
    """Values for `LiveViews.outputs`: the next tokens first, then the answers."""
    nothing = (gr.skip(),) * 4
    session = wiring.bench.session
    try:
        if not text.strip():
            yield "", results.token_table(None), None, "", None
            return
        prompt = prompt_of(state, text, kind)
        ways = columns(wiring.bench, state)
        tickets = views.ask_next_tokens(session, ways, prompt, page=page)
        for ticket in tickets:
            for words in wiring.wait(ticket, state):
                yield words, *nothing
        view = views.next_tokens(ways, [ticket.result() for ticket in tickets])
        code = recipe(ways, "print(insight.next_tokens(model, prompt, mask=mask).to_frame())", prompt)
        tokens = results.token_table(view, masks_text(state)), tools_value("next-tokens", to_csv(view.to_frame()), code)
        given = answers_of(answers)
        if not given:
            yield "", *tokens, "", None
            return
        yield "", *tokens, gr.skip(), gr.skip()
        asked = [
            views.ask_answer_scores(session, way.stack, prompt, given, page=page, kind=f"shares {index}")
            for index, way in enumerate(ways)
        ]
        for ticket in asked:
            for words in wiring.wait(ticket, state):
                yield words, *nothing
        scores = [ticket.result() for ticket in asked]
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
        code = recipe(ways, call, prompt, answers=given)
        yield (
            "",
            gr.skip(),
            gr.skip(),
            results.answer_table(shares, right),
            tools_value("answers", to_csv(shares.to_frame()), code),
        )
    except EXPECTED as error:
        yield failed(error), *nothing
