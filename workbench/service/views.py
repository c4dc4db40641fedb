"""The data behind the views of the Playground. The functions use the session and are independent of the page."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from jola.errors import InputError
from workbench.service.calls import Stops, Superseded, Ticket
from workbench.service.page_state import Column
from workbench.service.session import Desk, Prompt, Session, Stack, refuse_remote

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from jola.data.records import Example
    from jola.insight import (
        AnswerScores,
        AttentionPattern,
        DirectEffects,
        EditEffects,
        LogitLens,
        PromotedTokens,
        TokenScores,
    )

MeasureName = Literal["log_probability", "logit_difference", "kl"]
"""Same as `jola.insight.Measure`, whose import needs PyTorch."""


@dataclass(frozen=True)
class NextToken:
    """A possible next token: its probability without the edits, and in each column."""

    token: str
    base: float
    edited: tuple[float, ...]


@dataclass(frozen=True)
class Likeliest:
    """The most likely next token of a column: its id, its text, and ln p in nats."""

    id: int
    token: str
    ln_p: float


@dataclass(frozen=True)
class Since:
    """A change of the prediction: the most likely token before, ln p of that token now, and the most likely one now."""

    before: Likeliest
    ln_p: float
    now: Likeliest


@dataclass(frozen=True)
class NextTokens:
    """The most likely next tokens of the base model and of each column, in the order of their largest probability.

    ``kl`` is KL(edited ‖ base) over the whole vocabulary, in nats, for each column; ``length`` the number of tokens of
    the prompt.
    """

    columns: tuple[str, ...]
    tokens: tuple[NextToken, ...]
    kl: tuple[float, ...]
    length: int
    since: "Since | None" = None
    """Change of the first column since the last result for the same prompt."""

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per token."""
        import pandas as pd

        rows = [(t.token, t.base, *t.edited) for t in self.tokens]
        return pd.DataFrame(rows, columns=["token", "base", *_unique(self.columns)])


@dataclass(frozen=True)
class AnswerShares:
    """ln p of whole answers, including the end, without the edits (answers) and in each column (columns, answers)."""

    columns: tuple[str, ...]
    answers: tuple[str, ...]
    base: tuple[float, ...]
    edited: tuple[tuple[float, ...], ...]

    def shares(self, log_probabilities: Sequence[float]) -> list[float]:
        """Return the probabilities of these answers relative to their sum."""
        top = max(log_probabilities)
        weights = [math.exp(value - top) for value in log_probabilities]
        return [weight / sum(weights) for weight in weights]

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per answer: ln p and share, without the edits and in each column."""
        import pandas as pd

        data: dict[str, Sequence[object]] = {"answer": self.answers}
        for name, values in zip(["base", *_unique(self.columns)], [self.base, *self.edited], strict=True):
            data[f"{name} ln p"], data[f"{name} share"] = values, self.shares(values)
        return pd.DataFrame(data)


def _unique(names: Sequence[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name} ({index + 1})" for index, name in enumerate(names)]


@dataclass(frozen=True)
class Looked:
    """The prediction of one column: ln p of the next token over the whole vocabulary, without and with its edits."""

    base: "torch.Tensor"
    edited: "torch.Tensor"
    length: int
    """Tokens of the prompt."""
    text: Callable[[int], str]
    """Returns the text of a token id."""


def ask_next_tokens(
    session: Session, columns: Sequence[Column], prompt: Prompt, *, page: str = ""
) -> list[Ticket[Looked]]:
    """Submit one call for each column."""

    def look(desk: Desk) -> Looked:
        from jola.insight.prompts import token_text

        ids = desk.encode(prompt)
        return Looked(*desk.next_log_probabilities(ids), len(ids), partial(token_text, desk.model.tokenizer))

    return [session.ask(column.stack, look, page=page, kind=f"next {index}") for index, column in enumerate(columns)]


def likeliest(looked: Looked) -> Likeliest:
    """Return the most likely next token with the edits of a column."""
    best = int(looked.edited.argmax())
    return Likeliest(best, looked.text(best), float(looked.edited[best]))


def next_tokens(
    columns: Sequence[Column], looked: Sequence[Looked], count: int = 10, before: Likeliest | None = None
) -> NextTokens:
    """Build the table of all columns; ``before`` is the most likely token in the last result for the prompt."""
    import torch

    base = looked[0].base.exp()
    edited = [one.edited.exp() for one in looked]
    top = torch.stack([base, *edited]).amax(0).topk(min(count, len(base))).indices.tolist()
    text = looked[0].text
    return NextTokens(
        columns=tuple(column.title for column in columns),
        tokens=tuple(NextToken(text(i), float(base[i]), tuple(float(e[i]) for e in edited)) for i in top),
        kl=tuple(max(0.0, float((one.edited.exp() * (one.edited - one.base)).sum())) for one in looked),
        length=looked[0].length,
        since=before and Since(before, float(looked[0].edited[before.id]), likeliest(looked[0])),
    )


def ask_answer_scores(
    session: Session, stack: Stack, prompt: Prompt, answers: Sequence[str], *, page: str = "", kind: str = ""
) -> "Ticket[AnswerScores]":
    """Compute ln p of each answer without and with the edits of one stack."""

    def score(desk: Desk) -> "AnswerScores":
        from jola import insight

        return insight.answer_scores(
            desk.model, desk.encode_before(prompt, *answers), answers, mask=list(desk.masks), template=desk.template
        )

    return session.ask(stack, score, page=page, kind=kind)


def ask_token_scores(session: Session, stack: Stack, text: str, *, page: str = "") -> "Ticket[TokenScores]":
    """Compute ln p of each token of a text given those before it, without and with the edits."""

    def score(desk: Desk) -> "TokenScores":
        from jola import insight

        desk.check_characters(text)
        ids = desk.checked(list(desk.model.tokenizer(text, verbose=False)["input_ids"]))
        if len(ids) < 2:
            raise InputError("The text has only one token, and the first token is not scored; write a longer text.")
        return insight.token_scores(desk.model, ids, mask=list(desk.masks))

    refuse_remote(stack)
    return session.ask(stack, score, page=page, kind="text")


@dataclass
class Progress:
    """Progress of a call; written by the worker thread, read by the page."""

    done: int = 0
    total: int = 0

    def __call__(self, done: int, total: int) -> None:
        self.done, self.total = done, total


def ask_edit_effects(
    session: Session,
    stack: Stack,
    prompt: Prompt,
    answer: str,
    progress: Progress,
    *,
    measure: MeasureName = "log_probability",
    wrong: Sequence[str] = (),
    page: str = "",
) -> "Ticket[EditEffects]":
    """Compute the effect of switching off each open edit after this prompt; see `jola.insight.edit_effects`."""

    def find(desk: Desk, **options: Any) -> "EditEffects":
        from jola.insight import edit_effects

        tokens = desk.encode_before(prompt, *filter(None, (answer, *wrong)))
        return edit_effects(desk.model, tokens, answer, wrong=wrong, **options)

    return _ask_effects(session, stack, find, page, measure=measure, progress=progress)


def ask_mean_edit_effects(
    session: Session,
    stack: Stack,
    examples: "Sequence[Example]",
    progress: Progress,
    *,
    measure: MeasureName = "log_probability",
    wrong: Sequence[str] = (),
    page: str = "",
) -> "Ticket[EditEffects]":
    """Compute the mean effect of switching off each open edit over examples and their right answers."""

    def find(desk: Desk, **options: Any) -> "EditEffects":
        from jola.insight import mean_edit_effects

        return mean_edit_effects(desk.model, examples, wrong=wrong, **options)

    return _ask_effects(session, stack, find, page, measure=measure, progress=progress)


def _ask_effects(
    session: Session, stack: Stack, find: "Callable[..., EditEffects]", page: str, **options: Any
) -> "Ticket[EditEffects]":
    """Submit a call of ``find``; it raises `Superseded` if it was stopped."""

    def work(desk: Desk) -> "EditEffects":
        from jola.insight import Stopped

        try:
            return find(desk, mask=list(desk.masks), template=desk.template, stop=desk.stop, **options)
        except Stopped:
            raise Superseded from None

    refuse_remote(stack)
    return session.ask(stack, work, page=page, kind="effects")


def ask_direct_effects(
    session: Session, stack: Stack, prompt: Prompt, answer: str, *, page: str = ""
) -> "Ticket[DirectEffects]":
    """Compute what each edit adds directly to the logit of the answer's first token."""

    def work(desk: Desk) -> "DirectEffects":
        from jola import insight

        return insight.direct_effects(
            desk.model, desk.encode_before(prompt, answer), answer, mask=list(desk.masks), template=desk.template
        )

    refuse_remote(stack)
    return session.ask(stack, work, page=page, kind="direct")


def ask_logit_lens(session: Session, stack: Stack, prompt: Prompt, *, page: str = "") -> "Ticket[LogitLens]":
    """Compute the prediction of the next token after each layer, without and with the edits."""

    def look(desk: Desk) -> "LogitLens":
        from jola import insight
        from jola.remote import RemoteModel

        ids, masks = desk.encode(prompt), list(desk.masks)
        if isinstance(desk.model, RemoteModel):
            return desk.model.logit_lens(ids, mask=masks)
        return insight.logit_lens(desk.model, ids, mask=masks)

    return session.ask(stack, look, page=page, kind="lens")


def ask_promoted_tokens(
    session: Session, stack: Stack, layer: int, unit: int, site: str, *, page: str = ""
) -> "Ticket[PromotedTokens | None]":
    """Compute which tokens an offset promotes and suppresses; None if that offset is not trained or closed."""

    def look(desk: Desk) -> "PromotedTokens | None":
        from jola import insight

        own = next((edits for edits in desk.edits if edits.site == site), None)
        if own is None or "offset" not in own.channels or not bool(own.on()["offset"][layer, unit]):
            return None
        with desk.model.using([own]):
            return insight.promoted_tokens(desk.model, layer, unit, site=site)

    refuse_remote(stack)
    return session.ask(stack, look, page=page, kind="promoted")


def ask_attention(
    session: Session, stack: Stack, prompt: Prompt, layer: int, unit: int, *, page: str = ""
) -> "Ticket[AttentionPattern]":
    """Compute the attention pattern of a head, without and with the edits."""

    def look(desk: Desk) -> "AttentionPattern":
        from jola import insight

        return insight.attention_pattern(desk.model, desk.encode(prompt), layer, unit, mask=list(desk.masks))

    refuse_remote(stack)
    return session.ask(stack, look, page=page, kind="card")


# Answers written by the model


@dataclass(frozen=True)
class Writings:
    """State of answers that are written one after the other; None for an answer that has not begun."""

    columns: tuple[str, ...]
    texts: tuple[str | None, ...]
    """Of the base model, then of each column."""
    writing: int | None = None
    """Index of the answer that is being written."""
    place: int = 0
    """Number of calls ahead in the queue."""

    @property
    def done(self) -> bool:
        return self.writing is None and None not in self.texts

    def ended(self) -> "Writings":
        """Return the same texts, with no answer being written."""
        return replace(self, writing=None, place=0)

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per answer."""
        import pandas as pd

        return pd.DataFrame({"edits": ["base", *_unique(self.columns)], "answer": [t or "" for t in self.texts]})


def write_answers(
    session: Session,
    columns: Sequence[Column],
    prompt: Prompt,
    new_tokens: int,
    *,
    page: str = "",
    stops: Stops | None = None,
) -> Iterator[Writings]:
    """Write the base model's answer, then that of each column; if the page stops them, they end where they are.

    Raises `Superseded` if the page asks again.
    """
    view = Writings(tuple(column.title for column in columns), (None,) * (len(columns) + 1))
    stacks: list[Stack] = [(), *(column.stack for column in columns)]
    for index, stack in enumerate(stacks):
        writing = session.generate(
            stack,
            prompt,
            new_tokens=new_tokens,
            page=page,
            kind="answer",
            base=columns[0].stack[0].run,
            remote=columns[0].stack[0].remote,
        )
        if stops is not None:
            stops.begin(page, "answer", writing.ticket)
        texts = list(view.texts)
        texts[index] = ""
        view = replace(view, texts=tuple(texts), writing=index)
        for text in writing.texts():
            texts[index] = text
            view = replace(view, texts=tuple(texts), place=writing.ticket.place)
            yield view
        if writing.stopped:
            break
    yield view.ended()
