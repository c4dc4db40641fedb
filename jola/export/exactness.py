"""The exactness of an export: how closely its logits match those of the edited model on prompts.

Logits are compared in float32 arithmetic, at every position of every prompt, so that the result reflects the export
and not the rounding of a pass. `Deviation.lost` is the deciding measure. Let E be the logits of the edited model, B
those of the frozen model, and E', B' the same after the export (B' with weights in the exported data type). Then

    lost = ‖(E' − B') − (E − B)‖ / ‖E − B‖

is the share of the edits' effect that the export does not reproduce, as a root mean square over all logits: 0 is exact,
and 1 is the value for a checkpoint without the edits. Rounding of weights without edits affects B' and E' equally, so
it does not count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from jola.data.examples import Example, Message, Template
from jola.errors import InputError
from jola.system.progress import Progress

if TYPE_CHECKING:
    from jola.model.edited import EditedModel, Masks

PROMPTS = (
    "Is this review positive or negative? The plot wanders, but the two leads are a joy to watch.",
    "What kind of answer does this question ask for: Who was the first person to cross the strait alone?",
    "Explain in two sentences why the sky is dark at night although there are so many stars.",
    "Write a Python function that returns the three longest words of a text, longest first.",
    "A train leaves at 14:35 and needs 2 hours and 50 minutes. When does it arrive?",
    "Übersetze ins Englische: Am Abend gingen wir noch einmal hinunter zum Hafen.",
    "List the ingredients for a simple vegetable soup for four people, one on each line.",
    "My neighbour's dog barks all night. Help me write a short and friendly letter to them.",
)
"""The default prompts for measuring exactness."""

Logits = Callable[[Tensor], Tensor]
"""Token ids (1, tokens) → logits (tokens, vocabulary), float32 on the CPU."""


@dataclass(frozen=True)
class Deviation:
    """The deviation of logits from their reference, over all prompts."""

    largest: float
    """Largest |Δlogit|."""
    lost: float
    """Share of the edits' effect that is not reproduced."""
    same_top: int
    """Positions at which the most likely next token is the same."""


def encode_prompts(model: "EditedModel", prompts: Sequence[str] | None) -> list[Tensor]:
    """Each prompt as one user turn in the model's template: token ids (1, tokens).

    Raises:
        InputError: There are no prompts, or one is empty or longer than the model accepts.
    """
    texts = PROMPTS if prompts is None else tuple(prompts)
    if not texts or not all(text.strip() for text in texts):
        raise InputError(
            "A prompt is empty, or no prompts are given; give non-empty prompts, or omit them to use the default ones."
        )
    template = Template(model.tokenizer)
    limit = getattr(model.config, "max_position_embeddings", None)
    rows = []
    for text in texts:
        ids = template.encode_prompt(Example((Message("user", text),), ""))
        if limit is not None and len(ids) > limit:
            raise InputError(f"A prompt has {len(ids)} tokens, but the model accepts at most {limit}; shorten it.")
        rows.append(torch.tensor([ids]))
    return rows


def edited_logits(model: "EditedModel", mask: "Masks" = None, strength: float = 1.0) -> Logits:
    """Logits of a model with its edits."""
    return torch.no_grad()(lambda ids: model(ids, mask=mask, strength=strength).logits[0].float().cpu())


def plain_logits(model: PreTrainedModel) -> Logits:
    """Logits of a plain model."""
    return torch.no_grad()(lambda ids: model(ids.to(model.device), use_cache=False).logits[0].float().cpu())


class Steps:
    """Runs prompts through a model and reports progress per prompt."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._done = progress, 0

    def through(self, logits: Logits, rows: Sequence[Tensor]) -> list[Tensor]:
        """Logits of every prompt."""
        result = []
        for ids in rows:
            result.append(logits(ids))
            self._done += 1
            self._progress.advance(self._done)
        return result


def largest_difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Largest |Δlogit| over all prompts."""
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def deviation(
    edited: Sequence[Tensor],
    base: Sequence[Tensor],
    exported: Sequence[Tensor],
    exported_base: Sequence[Tensor] | None = None,
) -> Deviation:
    """Compare an exported model with the edited model; `exported_base` is the frozen model in the exported format."""
    wrong = effect = 0.0
    for e, b, x, p in zip(edited, base, exported, exported_base or base, strict=True):
        wrong += float(((x - p) - (e - b)).double().square().sum())
        effect += float((e - b).double().square().sum())
    lost = (wrong / effect) ** 0.5 if effect else float(wrong > 0)
    same = sum(int((e.argmax(-1) == x.argmax(-1)).sum()) for e, x in zip(edited, exported, strict=True))
    return Deviation(largest_difference(edited, exported), lost, same)


def percent(share: float) -> str:
    """Format a share as a percentage with two significant digits."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"
