"""The views of the Playground that are tables and text. All text from people and models is escaped."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jola.system.formatting import visible
from workbench.service.page_state import PageState
from workbench.service.views import AnswerShares, NextToken, NextTokens, Since, Writings
from workbench.ui import markup

if TYPE_CHECKING:
    from jola.insight import EditEffects, EditRef, PromotedTokens, TokenScores

_RANKED = 12
_CERTAIN = -0.01
"""ln p above which a model is certain: p > 0.99."""

_DIFFERENT = 0.05
"""Spread of probabilities from which runs are marked as different."""
_TOP = (
    '<span class="jw-likeliest" title="most likely in this column">▲<span class="jw-hidden">most likely</span></span>'
)
_LEGEND = "▲: most likely in the column. Spread: largest − smallest probability of the runs, in points. "

_MEANINGS = {
    "log_probability": (
        "An effect is ln p(answer) with all edits on minus ln p(answer) with this one off: above zero, the edit helps "
        "the answer."
    ),
    "logit_difference": (
        "An effect is the logit difference, right − wrong, with all edits on minus the difference with this one off: "
        "above zero, the edit helps the right answer."
    ),
    "kl": (
        "An effect is KL(all edits on ‖ this one off) of the next token: how much the edit matters, not in which "
        "direction."
    ),
}


def token_table(view: NextTokens | None, masks: str = "") -> str:
    """Return the most likely next tokens, base next to edited, with the change in percentage points.

    With several columns, the most likely token of each is marked, and the last column is the spread between the runs.
    ``masks`` is the text of the masks, from `masks_text`; the table has it as ``data-masks``.
    """
    if view is None:
        return markup.note("Write a prompt: the next token, without and with the edits, appears here.")
    one = len(view.columns) == 1
    heads = "".join(f'<th scope="col">{markup.escape(name)}</th>' for name in view.columns)
    top = [max((token.edited[i] for token in view.tokens), default=0.0) for i in range(len(view.columns))]
    rows = "".join(_token_row(token, top) for token in view.tokens)
    divergences = ", ".join(
        (f"{kl:.3f}" if one else f"{markup.escape(name)} {kl:.3f}")
        for name, kl in zip(view.columns, view.kl, strict=True)
    )
    legend = "" if one else _LEGEND
    return (
        f'{since_words(view.since)}<div class="jw-picture" data-masks="{markup.escape(masks)}">'
        f'<table class="jw-tokens{"" if one else " jw-many"}"><caption>Next token</caption>'
        f'<thead><tr><th scope="col">Token</th><th scope="col">Base</th>{heads}{_last_head(one)}</tr></thead>'
        f'<tbody>{rows}</tbody></table><p class="jw-foot">{legend}KL(edited ‖ base) over the whole '
        f"vocabulary: {divergences} nats · prompt of {view.length:,} tokens</p></div>"
    )


def since_words(since: Since | None) -> str:
    """Describe the effect of the last change of the edits, even if no digit of the table changes."""
    if since is None:
        return ""
    name = visible(since.before.token)
    change = since.ln_p - since.before.ln_p
    words = f"ln p({name}) {_ln_p(since.before.ln_p)} → {_ln_p(since.ln_p)}"
    words += f" ({change:+.2g} nats)" if change else " (no change)"
    if since.now.id != since.before.id:
        words += f"; now the most likely token is {visible(since.now.token)}, ln p {_ln_p(since.now.ln_p)}"
    return f'<p class="jw-since" role="status">Since the last change: {markup.escape(words)}.</p>'


def _ln_p(value: float) -> str:
    return f"{value:.4f}" if abs(value) >= 0.001 or value == 0 else f"{value:.2g}"


def _token_row(token: NextToken, top: Sequence[float]) -> str:
    cells = _shares(token.edited, [p == most for p, most in zip(token.edited, top, strict=True)])
    return (
        f'<tr><th scope="row"><code>{markup.escape(visible(token.token))}</code></th>'
        f"<td>{share_bar(token.base, 'base')}</td>{cells}{_last_cell(token.base, token.edited)}</tr>"
    )


def _shares(shares: Sequence[float], likeliest: Sequence[bool]) -> str:
    """Return a cell for each column; with several, the most likely token of a column is marked."""
    marks = [_TOP if is_top and len(shares) > 1 else "" for is_top in likeliest]
    return "".join(f"<td>{share_bar(p, 'edited')}{mark}</td>" for p, mark in zip(shares, marks, strict=True))


def _last_head(one: bool) -> str:
    return f'<th scope="col" class="jw-change" title="percentage points">{"Change" if one else "Spread"}</th>'


def _last_cell(base: float, edited: Sequence[float]) -> str:
    """Return the change from the base model, or with several columns their spread."""
    if len(edited) == 1:
        return _points(edited[0] - base)
    spread = max(edited) - min(edited)
    kind = "up" if spread >= _DIFFERENT else "down"
    return f'<td class="jw-change jw-{kind}">{100 * spread:.1f}</td>'


def _points(change: float) -> str:
    direction = "up" if change > 0 else "down"
    return f'<td class="jw-change jw-{direction}">{100 * change:+.1f}</td>'


def share_bar(share: float, side: str) -> str:
    """Return a share in [0, 1] as a bar with its value."""
    percent = 100 * share
    return (
        '<span class="jw-bar-track" aria-hidden="true">'
        f'<span class="jw-bar-fill jw-bar-{side}" style="--share:{percent:.2f}%"></span></span>'
        f'<span class="jw-percent">{percent:.1f} %</span>'
    )


def answer_table(view: AnswerShares | None, right: str = "") -> str:
    """Return the share of each given answer, base next to edited; the right answer is marked if it is known."""
    if view is None:
        return ""
    one = len(view.columns) == 1
    heads = "".join(f'<th scope="col">{markup.escape(name)}</th>' for name in view.columns)
    shares = [view.shares(values) for values in (view.base, *view.edited)]
    rows, top = [], [max(share) for share in shares[1:]]
    for index, answer in enumerate(view.answers):
        mark = ' <span class="jw-right">right</span>' if right and answer.strip() == right.strip() else ""
        edited = [share[index] for share in shares[1:]]
        cells = _shares(edited, [p == most for p, most in zip(edited, top, strict=True)])
        rows.append(
            f'<tr><th scope="row"><code>{markup.escape(visible(answer))}</code>{mark}</th>'
            f"<td>{share_bar(shares[0][index], 'base')}</td>{cells}{_last_cell(shares[0][index], edited)}</tr>"
        )
    legend = "" if one else _LEGEND
    return (
        f'<div class="jw-picture"><table class="jw-tokens{"" if one else " jw-many"}"><caption>Given answers</caption>'
        f'<thead><tr><th scope="col">Answer</th><th scope="col">Base</th>{heads}{_last_head(one)}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table><p class="jw-foot">{legend}Probability of the whole answer, its '
        f"end included, relative to the {len(view.answers)} answers listed.</p></div>"
    )


def answers(view: Writings | None) -> str:
    """Return the generated answers side by side; once all are complete, words that the base answer lacks are marked.

    With several runs, the heading of an answer names an earlier answer that is equal.
    """
    if view is None:
        view = Writings(("Edited",), (None, None))
    base = view.texts[0]
    sections = []
    for index, (title, text) in enumerate(zip(("Base model", *view.columns), view.texts, strict=True)):
        title = "With the edits" if title == "Edited" else title
        other = (view.texts[1] if index == 0 and len(view.texts) == 2 else base) if view.done else None
        if index == 0 and len(view.texts) > 2:
            other = None
        body = markup.answer(text, other, writing=view.writing == index)
        sections.append(
            f'<section aria-labelledby="answer-title-{index}"><h2 id="answer-title-{index}" class="jw-section">'
            f"{markup.escape(title)}{_equal_words(view, index)}</h2>{body}</section>"
        )
    return f'<div class="jw-answers jw-picture">{"".join(sections)}</div>'


def _equal_words(view: Writings, index: int) -> str:
    """Name an earlier answer that is equal to this one, if several runs have answered."""
    text = view.texts[index]
    if not view.done or len(view.texts) < 3 or text is None:
        return ""
    names = ("the base model", *view.columns)
    equal = next((names[i] for i in range(index) if (view.texts[i] or "").strip() == text.strip()), None)
    return f' <span class="jw-equal">same as {markup.escape(equal)}</span>' if equal else ""


def text_strip(scores: "TokenScores") -> str:
    """Return the text with tokens marked as more or less likely by color, and by a sign for readers without color."""
    pieces = []
    for token, base, edited in zip(scores.tokens, scores.base, scores.edited, strict=True):
        change = float(edited) - float(base)
        if change != change:  # the first token is not scored
            pieces.append(f"<span>{markup.escape(token)}</span>")
            continue
        depth = min(1.0, abs(change) / 3)
        kind = "likelier" if change > 0 else "unlikelier"
        sign = "" if abs(change) < 0.1 else f"<sup>{'+' if change > 0 else '−'}</sup>"
        words = f"ln p {base:.2f} → {edited:.2f} ({change:+.2f})"
        pieces.append(
            f'<span class="jw-{kind}" style="--depth:{depth:.2f}" title="{words}">{markup.escape(token)}{sign}</span>'
        )
    return f'<p class="jw-strip">{"".join(pieces)}</p>'


def figure(value: float) -> str:
    """Format a signed number with three decimals, or with two significant digits if it is small."""
    value = float(value)
    return f"{value:+.3f}" if value == 0 or abs(value) >= 0.0095 else f"{value:+.2g}"


def effects_table(effects: "EditEffects", answer: str, names: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return the edits with the largest effects; ``names`` are those of the units by site."""
    names = names or {}
    unit, half = ("Module", "Channel") if any(edit.site == "weights" for edit in effects.edits) else ("Head", "Half")
    order = sorted(range(len(effects.edits)), key=lambda i: -abs(float(effects.effect[i])))[:_RANKED]
    if not order:
        return markup.note("No edit is on; switch some on, or choose a run with open gates.")
    interval = effects.n > 1
    rows = "".join(
        f"<tr><td>{effects.edits[i].layer}</td><td>{_unit_words(effects.edits[i], names)}</td>"
        f"<td>{effects.edits[i].half}</td>"
        f"<td>{figure(effects.effect[i])}</td>"
        + (f"<td>{figure(effects.low[i])} to {figure(effects.high[i])}</td>" if interval else "")
        + "</tr>"
        for i in order
    )
    bounds = '<th scope="col">95 % interval</th>' if interval else ""
    return (
        f'<table class="jw-rank" data-measure="{effects.measure}"><caption>The edits that matter most for '
        f"{markup.escape(_subject(effects, answer))}</caption><thead><tr>"
        f'<th scope="col">Layer</th><th scope="col">{unit}</th><th scope="col">{half}</th>'
        f'<th scope="col">Effect, nats</th>{bounds}</tr></thead><tbody>{rows}</tbody></table>'
    )


def _subject(effects: "EditEffects", answer: str) -> str:
    if effects.measure == "kl":
        return "the next token"
    if effects.measure == "logit_difference":
        return f"{answer} against {f'“{effects.wrong}”' if effects.wrong else 'a wrong one'}"
    return answer


def _unit_words(edit: "EditRef", names: Mapping[str, Sequence[str]]) -> str:
    known = names.get(str(edit.site), ())
    return markup.escape(known[edit.unit]) if edit.unit < len(known) else str(edit.unit)


def effects_words(effects: "EditEffects") -> str:
    """Describe what was measured, on how many examples, and the speed compared with one by one."""
    if not effects.edits:
        return markup.note("No edit is on; switch some on, or choose a run with open gates.")
    meaning = _MEANINGS[effects.measure]
    if effects.measure == "log_probability" and effects.edited > _CERTAIN:
        meaning += (
            f" The answer is almost certain (ln p = {effects.edited:.4f}), so ln p hardly changes; the logit "
            "difference shows more."
        )
    faster = effects.one_by_one_seconds / max(effects.seconds, 1e-9)
    where = "this prompt" if effects.n == 1 else f"the mean of {effects.n:,} examples"
    rounding = ""
    if effects.rounding > 0:
        rounding = (
            f" The data type of the model moves an effect by {effects.rounding:.3f} nats (standard deviation): "
            f"effects within ± {2 * effects.rounding:.3f} may be rounding errors."
        )
    speed = (
        f"{effects.seconds:.1f} s for all at once; one by one would take about {effects.one_by_one_seconds:.1f} s "
        f"({faster:.1f} times as long)"
    )
    if any(str(edit.site) == "weights" for edit in effects.edits):  # all rows of a batch share the weights
        speed = f"measured one by one in {effects.seconds:.1f} s"
    return markup.note(f"{len(effects.edits):,} edits, {where}: {speed}. {meaning}{rounding}")


def promoted(tokens: "PromotedTokens | None") -> str:
    """Return the tokens that a head's offset promotes and suppresses."""
    if tokens is None:
        return ""

    def listed(title: str, found: Sequence[tuple[str, float]]) -> str:
        items = "".join(
            f"<li><code>{markup.escape(visible(token))}</code> <span>{value:+.2f}</span></li>" for token, value in found
        )
        return f'<section><h3 class="jw-section">{title}</h3><ol>{items}</ol></section>'

    return (
        '<div class="jw-promoted">'
        + listed("Offset promotes", tokens.promoted)
        + listed("Offset suppresses", tokens.suppressed)
        + "</div>"
    )


def mask_words(state: PageState, counts: str) -> str:
    """Describe how many edits are on, in one sentence."""
    strength = "" if state.strength == 1.0 else f" All edits at strength {state.strength:g}."
    return f'<p class="jw-about" role="status">{markup.escape(counts + strength)}</p>'
