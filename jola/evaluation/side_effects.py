r"""Side effects: what edits change on plain text that is unrelated to their task.

For each token t of a passage after the first one, with p the base model and q the edited one,

    cross-entropy     −ln q(t | before)          and −ln p(t | before) of the base model
    divergence        KL(p ‖ q) = Σ_v p(v | before) · ln (p(v | before) / q(v | before))

Each figure is the mean over all scored tokens of all passages, in nats per token. Its 95 % interval is a bootstrap over
the passages, whose tokens are not independent. One pass of the base model serves all figures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jola.data.examples import IGNORED, Encoded, collate, pad_token_of
from jola.errors import InputError
from jola.evaluation.metrics import interval_of
from jola.evaluation.scoring import Progress, evaluating

if TYPE_CHECKING:
    import pandas as pd

    from jola.model.edited import EditedModel, Masks

OWN_TEXT = "plain text of JoLA Workbench"
"""Name of the passages of `plain_text`."""
PASSAGE_TOKENS = 256
"""Longer passages are cut into parts of this many tokens."""
MOST_TOKENS = 8192
"""Maximum number of tokens read from a text."""
_LOGITS = 1 << 25
"""Maximum number of logits in a pass, which bounds the memory; a pass has at least one passage."""


@dataclass(frozen=True)
class Mean:
    """A mean over tokens in nats, with its 95 % interval over passages; None for a single passage."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return f"{self.value:.4g}" + ("" if self.low is None else f" ({self.low:.4g} to {self.high:.4g})")


@dataclass(frozen=True)
class SideEffects:
    """What edits change on plain text; see the module for the figures."""

    text: str
    """Name of the text."""
    passages: int
    tokens: int
    """Scored tokens: all but the first of each passage, or of each part of a long one."""
    base_cross_entropy: Mean
    cross_entropy: Mean
    change: Mean
    """Cross-entropy with the edits minus that of the base model, on the same tokens."""
    kl: Mean
    """KL(base ‖ edited)."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: vars(value) if isinstance(value, Mean) else value for name, value in found.items()}

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per figure: value and interval, in nats per token."""
        import pandas as pd  # takes long to import

        means = {name: value for name, value in vars(self).items() if isinstance(value, Mean)}
        rows = [(name, mean.value, mean.low, mean.high) for name, mean in means.items()]
        frame = pd.DataFrame(rows, columns=["figure", "nats", "low", "high"])
        return frame.assign(text=self.text, passages=self.passages, tokens=self.tokens)


def plain_text() -> list[str]:
    """Return forty short passages on everyday subjects, written for this project."""
    return _passages((Path(__file__).parent / "plain_text.txt").read_text("utf-8"))


def read_passages(path: Path | str) -> list[str]:
    """Read the passages of a text file, separated by empty lines.

    Raises:
        InputError: The file cannot be read, is not UTF-8, or contains no text.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; convert it to UTF-8.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a text file.") from error
    if not (found := _passages(text)):
        raise InputError(f"{path} has no text; give a file with passages that are separated by empty lines.")
    return found


def _passages(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines()]
    return [part for block in "\n".join(lines).split("\n\n") if (part := block.strip())]


def side_effects(
    model: "EditedModel",
    passages: Sequence[str] | None = None,
    *,
    text: str = "",
    mask: "Masks" = None,
    strength: float = 1.0,
    progress: Progress | None = None,
) -> SideEffects:
    """Compute cross-entropy and KL(base ‖ edited) per token on plain text, without a template.

    Methods that edit positions of the prompt treat each passage as a prompt.

    Args:
        model: Its interventions in use are compared with the base model.
        passages: Texts that the edits were not trained on; None takes `plain_text`.
        text: Name of the passages.
        mask: Switches individual edits off for this call, as in `EditedModel.forward`.
        strength: Factor on every edit.
        progress: Called with (done, total) in passages and parts of long ones.

    Raises:
        InputError: No passage has at least two tokens.
    """
    name = text or (OWN_TEXT if passages is None else "given text")
    rows, of_passage = _rows(model, plain_text() if passages is None else passages)
    sums = np.zeros((len(rows), 3))  # base cross-entropy, cross-entropy, divergence
    counts = np.array([len(row) - 1 for row in rows])
    done = 0
    with evaluating(model):
        for batch in _batches(model, counts):
            sums[batch] = _sums(model, [rows[index] for index in batch], mask, strength)
            done += len(batch)
            if progress is not None:
                progress(done, len(rows))
    base, edited, divergence = np.stack([np.bincount(of_passage, column) for column in sums.T])
    by_passage = np.bincount(of_passage, counts)
    means = [_mean(values, by_passage) for values in (base, edited, edited - base, divergence)]
    return SideEffects(name, len(by_passage), int(counts.sum()), *means)


def _rows(model: "EditedModel", passages: Sequence[str]) -> tuple[list[list[int]], list[int]]:
    """Return the token ids of the passages, in parts that the model can read, and the passage number of each part."""
    config = model.base.config.get_text_config()
    most = min(PASSAGE_TOKENS, getattr(config, "max_position_embeddings", None) or PASSAGE_TOKENS)
    rows: list[list[int]] = []
    of_passage: list[int] = []
    number, left = 0, MOST_TOKENS
    for passage in passages:
        if not left:
            break
        ids = list(model.tokenizer(passage, verbose=False)["input_ids"])[:left]
        left -= len(ids)
        parts = [part for start in range(0, len(ids), most) if len(part := ids[start : start + most]) > 1]
        rows += parts
        of_passage += [number] * len(parts)
        number += bool(parts)  # a passage with fewer than two tokens has nothing to score
    if not rows:
        raise InputError("The text has no passage of at least two tokens; give a longer one.")
    return rows, of_passage


def _batches(model: "EditedModel", counts: NDArray[np.int64]) -> Iterator[list[int]]:
    """Yield batches of row indices, the longest rows first, whose logits stay below the limit."""
    tokens = max(1, _LOGITS // model.base.config.get_text_config().vocab_size)
    batch: list[int] = []
    for index in np.argsort(-counts, kind="stable").tolist():
        if batch and counts[[*batch, index]].sum() > tokens:
            yield batch
            batch = []
        batch.append(index)
    yield batch


def _sums(model: "EditedModel", rows: Sequence[list[int]], mask: "Masks", strength: float) -> NDArray[np.float64]:
    """Return the sums of the three figures over the tokens of each row, (rows, 3)."""
    batch = collate([Encoded(row, 0) for row in rows], pad_token_of(model.tokenizer))
    lengths = torch.tensor([len(row) for row in rows])
    scored = batch["labels"][:, 1:] != IGNORED

    def look(**edits: Any) -> Tensor:
        logits = model.forward(**batch, prompt_lengths=lengths, **edits).logits
        assert logits is not None
        return logits.float().log_softmax(-1)

    edited = look(mask=mask, strength=strength)
    with model.disable_edits():
        base = look()
    targets = batch["labels"][:, 1:][scored].to(base.device)[:, None]
    divergence = torch.nn.functional.kl_div(edited, base, reduction="none", log_target=True).sum(-1)
    figures = torch.stack([-base.gather(-1, targets)[:, 0], -edited.gather(-1, targets)[:, 0], divergence], 1)
    # A divergence is not negative, except by rounding.
    figures[:, 2].clamp_(min=0)
    found = torch.zeros(len(rows), 3, dtype=torch.float64)
    return found.index_add(0, scored.nonzero()[:, 0], figures.cpu().double()).numpy()


def _mean(values: NDArray[np.float64], counts: NDArray[Any]) -> Mean:
    """Return the mean per token from sums by passage."""
    low, high = None, None
    if len(values) > 1:
        low, high = interval_of(np.stack([values, counts.astype(np.float64)], 1), lambda sums: sums[0] / sums[1])
    return Mean(float(values.sum() / counts.sum()), low, high)
