r"""The change of the residual stream after each layer by the edits of any method.

    change(l) = mean over tokens of ‖h'_l − h_l‖ / ‖h_l‖

h_l is the residual stream (hidden size) after layer l without edits, and h'_l with them. The change of a layer includes
the changes of earlier layers. The value of a prompt is the mean over its tokens, and that of several prompts the mean
over prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from jola.data.examples import Template
from jola.edits.intervention import EditMask
from jola.errors import InputError
from jola.insight.measures import mean_interval
from jola.insight.prompts import Prompt, batch_of, prompt_ids, shared_mask
from jola.model.edited import EditedModel, Masks
from jola.model.resting import at_rest
from jola.model.tracing import Wanted


@dataclass(frozen=True)
class LayerChanges:
    """Relative change of the residual stream after each layer, mean over `n` prompts.

    `change`, `low` and `high` are (layers,); the 95 % interval (Student's t) is over prompts and NaN for one prompt.
    """

    change: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: int
    tokens: int
    """Number of tokens of all prompts."""

    @property
    def largest(self) -> int:
        """The layer with the largest change."""
        return int(self.change.argmax())

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values; the bounds are None for one prompt."""
        bounds = {"low": self.low.tolist(), "high": self.high.tolist()} if self.n > 1 else {"low": None, "high": None}
        return {"change": self.change.tolist(), **bounds, "n": self.n, "tokens": self.tokens}

    def to_frame(self) -> pd.DataFrame:
        """One row per layer."""
        columns = {"layer": range(len(self.change)), "change": self.change, "low": self.low, "high": self.high}
        return pd.DataFrame(columns).assign(n=self.n)


def layer_changes(
    model: EditedModel,
    prompts: Sequence[Prompt],
    *,
    mask: Masks = None,
    strength: float = 1.0,
    template: Template | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LayerChanges:
    """The relative change of the residual stream after each layer, ‖h' − h‖ / ‖h‖, over prompts.

    Args:
        progress: Called with (done, total) in prompts.

    Raises:
        InputError: There are no prompts, or one is empty.
    """
    if not prompts:
        raise InputError("There are no prompts; give at least one.")
    rows = [prompt_ids(model, prompt, template) for prompt in prompts]
    changes = []
    with at_rest(model):
        masks = shared_mask(model, mask)
        for done, ids in enumerate(rows, start=1):
            edited = _after_layers(model, ids, masks, strength)
            with model.disable_edits():
                base = _after_layers(model, ids, None, 1.0)
            moved = (edited - base).norm(dim=-1) / base.norm(dim=-1)
            changes.append(moved.mean(-1).double().numpy())
            if progress is not None:
                progress(done, len(rows))
    mean, low, high = mean_interval(np.stack(changes))
    return LayerChanges(mean, low, high, len(rows), sum(map(len, rows)))


def _after_layers(
    model: EditedModel, ids: Sequence[int], masks: list[EditMask | None] | None, strength: float
) -> Tensor:
    """The residual stream after each layer, (layers, tokens, hidden size), float32, on the CPU."""
    # Layers may be on several devices.
    layers = range(1, model.geometry.num_layers + 1)
    inputs = model.inputs(batch_of(ids))
    with model.editing(masks, strength, prompt=model.prompt_tokens(inputs)) as plan:
        record = model.traced.record(inputs, plan, Wanted(entering=layers))
    return torch.stack([record.entering[layer][0].float().cpu() for layer in layers])
