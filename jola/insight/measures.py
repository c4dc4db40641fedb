r"""Three measures of the effect of an ablation on the output of a model.

    log_probability     m = ln p(answer | prompt), summed over the tokens of the answer, its end token included
    logit_difference    m = logit(right) − logit(wrong), at the first token in which the two answers differ
    kl                  m = KL(p_all ‖ p) of the next token, where p_all is the distribution with all edits

All are in nats; the difference of two logits at one position is the logarithm of the odds of the two tokens. Near
p = 1, edits hardly change ln p. The logit difference does not saturate, and KL also detects changes that do not affect
the given answers. Zhang and Nanda (2024, arXiv 2309.16042) compare such measures.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from jola.errors import InputError
from jola.insight.prompts import batch_of
from jola.model.edited import EditedModel
from jola.model.tracing import Plan

Measure = Literal["log_probability", "logit_difference", "kl"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
CONFIDENCE = 0.95


class Scorer:
    """Runs one prompt under given plans of edits and scores the logits of its last positions.

    Args:
        ids: Token ids of the prompt.
        continuation: Token ids after the prompt that are part of the input.
        positions: The number of last positions whose logits are scored.
    """

    def __init__(self, model: EditedModel, ids: Sequence[int], continuation: Sequence[int], positions: int) -> None:
        self._model = model
        tokens = [*ids, *continuation]
        self.tokens = len(tokens)
        self.positions = positions
        self.inputs = model.inputs(batch_of(tokens))
        self.prompt = model.prompt_tokens(self.inputs, len(ids))
        """(1, tokens): true at the tokens of the prompt."""
        self._rows = torch.arange(self.tokens, device=model.device)[None] >= self.tokens - positions

    def rows(self, count: int) -> Tensor:
        """(count, tokens): true at the positions whose logits are scored."""
        return self._rows.expand(count, -1)

    def logits(self, plan: Plan, start: dict[int, Tensor] | None = None) -> Tensor:
        """The logits of a pass, (rows · positions, vocabulary)."""
        count = sum(len(rows) for rows in start.values()) if start else 1
        return self._model.traced.record(self.inputs, plan, rows=self.rows(count), start=start).logits

    def refer_to(self, edited: Tensor) -> None:
        """Set the logits with all edits, (positions, vocabulary), before values are computed."""

    def values(self, logits: Tensor) -> Tensor:
        """The measure m of each row, (rows,), float64 on the CPU, from logits (rows · positions, vocabulary)."""
        each = logits.float().view(-1, self.positions, logits.shape[-1])
        return self._values(each).cpu().double()

    def _values(self, logits: Tensor) -> Tensor:
        raise NotImplementedError

    def effects(self, edited: float, without: Tensor) -> Tensor:
        """The effect of each edit, from m with all edits and m without each one."""
        return edited - without

    def rounding(self, values: Tensor) -> float:
        """Rounding error of an effect, estimated from the values of rows that differ only by rounding."""
        return float(values.std())


class LogProbability(Scorer):
    """ln p of the answer, given by its token ids."""

    def __init__(self, model: EditedModel, ids: Sequence[int], answer: Sequence[int]) -> None:
        # The prediction after the last token of the answer is unused.
        super().__init__(model, ids, answer[:-1], len(answer))
        self._answer = torch.tensor(list(answer), device=model.device)

    def _values(self, logits: Tensor) -> Tensor:
        chosen = logits.log_softmax(-1).gather(-1, self._answer.expand(len(logits), -1)[..., None])
        return chosen.sum((-2, -1))


class LogitDifference(Scorer):
    """logit(right) − logit(wrong) at the first token in which the two answers differ, after the tokens they share."""

    def __init__(self, model: EditedModel, ids: Sequence[int], right: Sequence[int], wrong: Sequence[int]) -> None:
        pairs = zip(right, wrong, strict=False)
        shared = next((place for place, (a, b) in enumerate(pairs) if a != b), None)
        if shared is None:
            raise InputError("The right and the wrong answer have the same tokens; give a wrong answer that differs.")
        super().__init__(model, ids, right[:shared], 1)
        self._right, self._wrong = right[shared], wrong[shared]

    def _values(self, logits: Tensor) -> Tensor:
        return logits[:, 0, self._right] - logits[:, 0, self._wrong]


class Divergence(Scorer):
    """KL(all edits ‖ row) of the next token."""

    def __init__(self, model: EditedModel, ids: Sequence[int]) -> None:
        super().__init__(model, ids, (), 1)
        self._edited: Tensor | None = None

    def refer_to(self, edited: Tensor) -> None:
        self._edited = edited.float().log_softmax(-1)

    def _values(self, logits: Tensor) -> Tensor:
        assert self._edited is not None, "values before refer_to"
        each = (self._edited.exp() * (self._edited - logits[:, 0].log_softmax(-1))).sum(-1)
        return each.clamp(min=0)  # against rounding

    def effects(self, edited: float, without: Tensor) -> Tensor:
        return without

    def rounding(self, values: Tensor) -> float:
        return float(values.square().mean().sqrt())  # divergences are not negative, so their spread is too small


def check_measure(measure: str) -> None:
    """Raise `InputError` if this is not the name of a measure."""
    if measure not in MEASURES:
        raise InputError(f"There is no measure '{measure}'; choose one of {', '.join(MEASURES)}.")


def mean_interval(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean over rows and the bounds of its 95 % interval (Student's t), per column; bounds are NaN for one row."""
    mean, n = values.mean(0), len(values)
    if n < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(0, ddof=1) / np.sqrt(n)
    return mean, mean - half, mean + half
