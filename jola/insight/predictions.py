"""Predictions with and without the edits: next tokens, texts, answers.

Probabilities are those of the softmax of the model. Logarithms are natural; they and KL divergences are in nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from jola.data.examples import IGNORED, Encoded, Example, Template, collate, pad_token_of
from jola.errors import InputError
from jola.insight.prompts import (
    Prompt,
    answer_ids,
    batch_of,
    checked_ids,
    prompt_ids,
    shared_mask,
    token_text,
    token_texts,
)
from jola.model.edited import EditedModel, Masks
from jola.model.resting import at_rest

_ROWS = 32
"""Maximum number of answers per pass, and of positions of a text whose distributions are computed at once."""


@dataclass(frozen=True)
class TokenChange:
    """One token and its probability without and with the edits."""

    id: int
    token: str
    base: float
    edited: float


@dataclass(frozen=True)
class NextTokens:
    """The most likely next tokens, sorted by the larger probability; `kl` is KL(edited ‖ base) in nats."""

    tokens: tuple[TokenChange, ...]
    kl: float

    def to_frame(self) -> pd.DataFrame:
        """One row per token: id, text, and probability without and with the edits."""
        columns = ("id", "token", "base", "edited")
        frame = pd.DataFrame({name: [getattr(t, name) for t in self.tokens] for name in columns})
        return frame.assign(change=frame.edited - frame.base)


@dataclass(frozen=True)
class TokenScores:
    """ln p of each token of a text given those before it, without and with the edits; nats, NaN for the first token.

    `kl` is KL(edited ‖ base) of the distribution that predicts the token.
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    base: NDArray[np.float64]
    edited: NDArray[np.float64]
    kl: NDArray[np.float64]

    def to_frame(self) -> pd.DataFrame:
        """One row per token of the text."""
        return pd.DataFrame(
            {
                "id": self.ids,
                "token": self.tokens,
                "base_nats": self.base,
                "edited_nats": self.edited,
                "change_nats": self.edited - self.base,
                "kl_nats": self.kl,
            }
        )


@dataclass(frozen=True)
class AnswerScores:
    """ln p of each complete answer, end token included, after one prompt, without and with the edits; nats."""

    answers: tuple[str, ...]
    base: NDArray[np.float64]
    edited: NDArray[np.float64]

    def shares(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(base, edited): the probability of each answer, normalized over these answers; each array sums to 1."""
        return _normalised(self.base), _normalised(self.edited)

    def to_frame(self) -> pd.DataFrame:
        """One row per answer: ln p and its share among the answers, without and with the edits."""
        base, edited = self.shares()
        return pd.DataFrame(
            {
                "answer": self.answers,
                "base_nats": self.base,
                "edited_nats": self.edited,
                "base_share": base,
                "edited_share": edited,
            }
        )


def next_tokens(
    model: EditedModel,
    prompt: Prompt,
    count: int = 10,
    *,
    mask: Masks = None,
    strength: float = 1.0,
    template: Template | None = None,
) -> NextTokens:
    """The `count` most likely tokens after the prompt, by the larger probability without or with the edits.

    Raises:
        InputError: The prompt is empty.
    """
    ids = prompt_ids(model, prompt, template)

    def look() -> Tensor:
        logits = model.forward(batch_of(ids), positions="last", mask=mask, strength=strength).logits
        assert logits is not None
        return logits[0].float().log_softmax(-1)

    with at_rest(model):
        edited = look()
        with model.disable_edits():
            base = look()
    top = torch.maximum(base, edited).topk(min(max(count, 0), len(base))).indices.tolist()
    texts = [token_text(model.tokenizer, i) for i in top]
    changes = [
        TokenChange(i, text, float(base[i].exp()), float(edited[i].exp())) for i, text in zip(top, texts, strict=True)
    ]
    return NextTokens(tuple(changes), float(_divergence(edited, base)))


def token_scores(
    model: EditedModel,
    text: str | Example | Sequence[int],
    *,
    mask: Masks = None,
    strength: float = 1.0,
    template: Template | None = None,
) -> TokenScores:
    """ln p of each token of a text, without and with the edits.

    Args:
        text: A plain text, to which the tokenizer adds special tokens; an example with prompt and answer, formatted as
            in training; or token ids. For methods that edit positions of the prompt, the prompt is the whole text
            unless it is an example.

    Raises:
        InputError: The text has fewer than two tokens.
    """
    prompt_length = None
    if isinstance(text, str):
        text = list(model.tokenizer(text, verbose=False)["input_ids"])
    elif isinstance(text, Example):
        encoded = (template or Template(model.tokenizer)).encode(text)
        text, prompt_length = encoded.input_ids, encoded.completion_start
    ids = checked_ids(model, text)
    if len(ids) < 2:
        raise InputError("The text has only one token, and the first token is not scored; enter a longer text.")
    targets = torch.tensor(ids[1:], device=model.device)

    def look() -> Tensor:
        logits = model.forward(batch_of(ids), prompt_lengths=prompt_length, mask=mask, strength=strength).logits
        assert logits is not None
        return logits[0, :-1]

    with at_rest(model):
        edited_logits = look()
        with model.disable_edits():
            base_logits = look()
    columns: list[list[float]] = [[float("nan")] for _ in range(3)]
    for start in range(0, len(targets), _ROWS):
        part = slice(start, start + _ROWS)
        base, edited = (logits[part].float().log_softmax(-1) for logits in (base_logits, edited_logits))
        chosen = [scores.gather(-1, targets[part, None])[:, 0] for scores in (base, edited)]
        for column, values in zip(columns, (*chosen, _divergence(edited, base)), strict=True):
            column += values.tolist()
    return TokenScores(tuple(ids), tuple(token_texts(model.tokenizer, ids)), *map(np.array, columns))


def answer_scores(
    model: EditedModel,
    prompt: Prompt,
    answers: Sequence[str],
    *,
    mask: Masks = None,
    strength: float = 1.0,
    template: Template | None = None,
) -> AnswerScores:
    """ln p of each complete answer after the prompt, without and with the edits.

    The end token is included, so that an answer that is a prefix of another has no advantage.

    Raises:
        InputError: There are no answers, one is empty or given twice, or the prompt is empty.
    """
    answers = tuple(answers)
    if not answers or not all(answer.strip() for answer in answers):
        raise InputError("An answer is empty; give at least one answer, and remove empty ones.")
    if len(set(answers)) != len(answers):
        raise InputError("An answer is given twice; remove one of them.")
    template = template or Template(model.tokenizer)
    ids = prompt_ids(model, prompt, template)
    rows = [Encoded(ids + answer_ids(model, answer, template), len(ids)) for answer in answers]
    pad = pad_token_of(model.tokenizer)

    def look() -> list[float]:
        scores: list[float] = []
        for start in range(0, len(rows), _ROWS):
            batch = collate(rows[start : start + _ROWS], pad)
            tokens, real, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
            logits = model.forward(tokens, real, labels, mask=masks, strength=strength).logits
            assert logits is not None
            targets = labels[:, 1:].to(logits.device)
            chosen = targets != IGNORED
            each = logits.float().log_softmax(-1).gather(-1, targets[chosen][:, None])[:, 0]
            total = torch.zeros(len(targets), device=each.device).index_add(0, chosen.nonzero()[:, 0], each)
            scores += total.tolist()
        return scores

    with at_rest(model):
        masks = shared_mask(model, mask)
        edited = look()
        with model.disable_edits():
            base = look()
    return AnswerScores(answers, np.array(base), np.array(edited))


def _divergence(edited: Tensor, base: Tensor) -> Tensor:
    """KL(edited ‖ base) over the last dimension, from log-probabilities; clamped at 0 against rounding."""
    return (edited.exp() * (edited - base)).sum(-1).clamp(min=0)


def _normalised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    odds = np.exp(scores - scores.max())
    return odds / odds.sum()
