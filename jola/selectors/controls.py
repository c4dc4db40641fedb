r"""Controls: baseline scores that need little or no training, and the scores of JoLA itself and of LoFiT.

    random        independent uniform numbers
    gradient      E_x |∂L/∂ξ|, ξ a factor on the head's output, at 1           (Michel, Levy and Neubig, 2019)
    offset        ‖E_x ∂L/∂a‖₂, a an offset added to the head's output, at 0
    ablation      E_x [L without the head − L]
    lofit         ‖A‖₂ after training z ← (1 + A) ⊙ z on all heads with λ·Σ|A|  (Yin, Ye and Durrett, 2024)
    jola          the larger of the two expected gates of a trained adapter

L is the negative log-likelihood of an answer, in nats. Differences from published code, with reasons:

* Michel et al.'s code adds |gradient| over batches, so gradients within a batch cancel before the absolute value is
  taken. It then divides by the number of tokens and by the norm of each layer. Here every example has its own ξ, which
  gives the expectation in the formula. Layers are not normalized, because heads of all layers compete for K places.
* LoFiT's first stage is trained with JoLA's budget and optimizer; its second stage trains offsets of the chosen heads,
  as select-then-edit does. `jola train --method lofit` trains both (`jola.methods.lofit`).
* Ablation needs (layers · heads) passes per example, so it uses only as many examples as fit into the budget
  (`Ablation.examples`). A pass without a head starts at the layer of the head.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from jola.adapters.directory import read_edits
from jola.data.examples import Encoded
from jola.edits.gated import GatedEdits
from jola.edits.gates import expectation
from jola.edits.intervention import Intervention
from jola.edits.sites import Site
from jola.errors import InputError
from jola.methods.lofit import l1_penalty, scaling_norms
from jola.model.tracing import Wanted
from jola.selectors.heads import Cost
from jola.selectors.protocol import BaseSelector, HeadFactors, Selection, fit, fresh_edits

FORWARD_SHARE = 1 / 3
"""Cost of a forward pass relative to a training step: the backward pass takes about twice as long."""


@dataclass(frozen=True)
class Random(BaseSelector):
    """Uniform random scores: the K best heads are a random set."""

    name: ClassVar[str] = "random"
    title: ClassVar[str] = "Random"

    def score(self, selection: Selection) -> tuple[Tensor, Cost]:
        """Scores that depend only on the seed."""
        return torch.rand(selection.shape, generator=selection.generator(), dtype=torch.float64), Cost()


@dataclass(frozen=True)
class GradientImportance(BaseSelector):
    """Mean absolute gradient of the loss with respect to a factor on each head."""

    name: ClassVar[str] = "gradient"
    title: ClassVar[str] = "Gradient importance"

    def score(self, selection: Selection) -> tuple[Tensor, Cost]:
        """One backward pass over the examples."""
        total = torch.zeros(selection.shape, dtype=torch.float64)
        done = 0
        for rows in selection.batches():
            factors = torch.ones(len(rows), *selection.shape, requires_grad=True)
            # Undo the mean over the batch, so that the gradient of each row is that of its own loss.
            loss = selection.loss(rows, HeadFactors(factors)) * len(rows)
            (gradient,) = torch.autograd.grad(loss, factors)
            total += gradient.abs().sum(0)
            done += len(rows)
            selection.tell(done, len(selection.rows))
        return total / done, Cost(forward=done, backward=done)


@dataclass(frozen=True)
class OffsetSaliency(BaseSelector):
    """Norm of the mean gradient of the loss with respect to an offset on each head, at offset zero."""

    name: ClassVar[str] = "offset"
    title: ClassVar[str] = "Offset saliency"

    def score(self, selection: Selection) -> tuple[Tensor, Cost]:
        """One backward pass over the examples."""
        edits = fresh_edits(selection, "offset")
        offset = edits.get_parameter("offset")
        total = torch.zeros(offset.shape, dtype=torch.float64)
        done = 0
        for rows in selection.batches():
            (gradient,) = torch.autograd.grad(selection.loss(rows, edits) * len(rows), offset)
            total += gradient.cpu().double()
            done += len(rows)
            selection.tell(done, len(selection.rows))
        return (total / done).norm(dim=-1), Cost(forward=done, backward=done)


@dataclass(frozen=True)
class LoFiT(BaseSelector):
    """Norm of scale vectors trained on all heads jointly with an L1 penalty (first stage of LoFiT)."""

    name: ClassVar[str] = "lofit"
    title: ClassVar[str] = "LoFiT scaling norm"

    learning_rate: float = 5e-3
    l1_weight: float = 5e-4

    def score(self, selection: Selection) -> tuple[Tensor, Cost]:
        """Train with as many passes as JoLA."""
        edits = fresh_edits(selection, "scale")
        edits.reset(selection.generator())
        cost = fit(
            selection,
            lambda: edits,
            edits.edit_parameters(),
            learning_rate=self.learning_rate,
            penalty=lambda: l1_penalty(self.l1_weight, [edits], 0.0),
        )
        return scaling_norms(edits), cost


@dataclass(frozen=True)
class Ablation(BaseSelector):
    """Increase of the loss when the output of a head is set to zero and all others are unchanged."""

    name: ClassVar[str] = "ablation"
    title: ClassVar[str] = "Ablation effect"

    examples: int = 0
    """Number of examples; 0 uses as many as cost the same as JoLA's training."""

    def affordable(self, selection: Selection) -> int:
        """Number of examples that fit into the budget: each needs (layers · heads) half passes on average."""
        layers, heads = selection.shape
        own = sum(len(row.input_ids) for row in selection.rows) / len(selection.rows)
        budget = selection.tokens() * self.budget.epochs / FORWARD_SHARE
        return max(1, min(len(selection.rows), math.floor(budget / own / (layers * heads / 2 + 1))))

    @torch.no_grad()
    def score(self, selection: Selection) -> tuple[Tensor, Cost]:
        """Run the passes on a sample of the examples that depends on the seed."""
        count = min(self.examples, len(selection.rows)) or self.affordable(selection)
        chosen = torch.randperm(len(selection.rows), generator=selection.generator())[:count].tolist()
        total, passes = torch.zeros(selection.shape, dtype=torch.float64), 0
        for done, index in enumerate(chosen, 1):
            total += _ablation(selection, selection.rows[index])
            passes += 1 + selection.shape[0] * selection.shape[1]
            selection.tell(done, count)
        return total / count, Cost(forward=passes)


@dataclass(frozen=True)
class JoLAGates(BaseSelector):
    """The larger of the two expected gates E[g] of every head, read from a trained adapter.

    If K is the number of heads with an open gate, the K best heads are exactly those that JoLA edits.
    """

    name: ClassVar[str] = "jola"
    title: ClassVar[str] = "JoLA's gates"

    adapter: str = ""
    """Directory of an adapter trained on the same model and task."""

    def score(self, selection: Selection) -> tuple[Tensor, Cost]:
        """Read the gates; there is no cost beyond the training of the adapter."""
        edits = head_edits(read_edits(Path(self.adapter)), self.adapter)
        if edits.open_probability()["offset"].shape != selection.shape:
            raise InputError(
                f"The adapter in {self.adapter} was trained on a model of another shape; use one trained on this model."
            )
        return expected_gates(edits), Cost()


def head_edits(interventions: Sequence[Intervention], where: str) -> GatedEdits:
    """Return the gated edits of heads among `interventions`. Raises `InputError` if there are none."""
    for own in interventions:
        if isinstance(own, GatedEdits) and own.site is Site.HEADS and own.gate_parameters():
            return own
    raise InputError(
        f"The adapter in {where} has no gates on heads, so it does not rank them; use one trained with gates."
    )


def expected_gates(edits: GatedEdits) -> Tensor:
    """Return max(E[g_a], E[g_m]) of every head, (layers, heads), float64; the lowest score where no edit is allowed."""
    values = [expectation(parameter.detach().cpu().double()) for parameter in edits.gate_parameters()]
    return torch.stack(values).amax(0) * edits.editable.cpu()


def _ablation(selection: Selection, row: Encoded) -> Tensor:
    """Return the loss without each head minus the loss with it, (layers, heads), for one example, in nats."""
    model, (layers, heads) = selection.model, selection.shape
    ids = torch.tensor([row.input_ids[:-1]])
    answer = torch.tensor(row.input_ids[row.completion_start :], device=model.device)
    rows = torch.arange(ids.shape[1], device=model.device)[None] >= row.completion_start - 1
    inputs = model.inputs(ids)

    def loss(logits: Tensor, count: int) -> Tensor:
        each = logits.float().log_softmax(-1).view(count, len(answer), -1)
        return -each.gather(-1, answer.expand(count, -1)[..., None]).sum((-2, -1)).cpu().double()

    full = model.traced.record(inputs, {}, Wanted(entering=range(layers)), rows=rows)
    before = loss(full.logits, 1)
    result = torch.zeros(layers, heads, dtype=torch.float64)
    without = 1 - torch.eye(heads, device=model.device)
    for layer in range(layers):
        factors = torch.ones(heads, layers, heads, device=model.device)
        factors[:, layer] = without
        plan = {(layer, Site.HEADS): HeadFactors(factors).prepare()[layer]}
        start = {layer: full.entering[layer].expand(heads, -1, -1)}
        record = model.traced.record(inputs, plan, rows=rows.expand(heads, -1), start=start)
        result[layer] = loss(record.logits, heads) - before
    return result
