r"""SMP: single-shot meta-pruning (Zhang et al., AI Open 2021), a network that scores heads from their attention maps.

One convolutional network, shared by all heads, takes the 128 × 128 attention map of a head on one input and returns two
numbers in (0, 2). The score of a head is the mean of one of them over inputs. The network is trained without labels:
the similarities between the representations in a batch should be preserved when half of the heads of half of the layers
are switched off.

    the heads of a layer:  union of hard Gumbel-softmax draws (τ = 1) from the scores of its heads, until it has
                           half of the heads, at most 5·H draws; straight-through gradients
    X                      representations × one random mask (each entry kept with probability 0.2),
                           centered over the batch and divided by their norms
    S = 10·XXᵀ             split into pairs of neighbors
    loss                   mean of KL(softmax(S of the whole model) ‖ softmax(S of the pruned one))

The optimizer is SGD with learning rate 0.02; gradients are clipped to norm 1.

Adaptations to decoders and other differences from the official code, with reasons:

* Attention maps are causal. A map of T < 128 tokens is padded with zeros, as in the official code. A longer map is
  reduced to 128 × 128 by averaging over areas instead of being cropped, because the question is usually at the end.
* A decoder has no pooled first token. The representation is the last position of the prompt, the only one that attends
  to all of it (`representation="last"`, with the first output of the network), or the mean over positions (``"mean"``,
  with the second output and ten times the loss). It is taken from the residual stream after the last layer.
* The official code reshapes scores into rows of length `layers` instead of `heads`, which is correct only if both are
  equal. Here, draws are over the heads of a layer.
* The K best heads of the model are chosen, as in all selectors here, instead of half of every layer.
* The network is trained only on the prompts of the task's training examples, for a share of the epochs of JoLA's
  training, in batches of 8. The official runs take 8,000 steps of 8 × 60 inputs from seven tasks. With a few hundred
  inputs, the network hardly moves from its initialization, because the method needs more data.
* The network is trained on the maps of the layers that a step prunes; other layers receive no gradient in the official
  code either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jola.data.examples import pad_token_of
from jola.edits.intervention import Edit
from jola.edits.sites import Site
from jola.model.tracing import Wanted
from jola.selectors.heads import Cost
from jola.selectors.protocol import BaseSelector, HeadFactors, Selection, gumbel, last_positions, right_padded

SIZE = 128
"""Width and height of the input maps of the network."""
WIDTH = 8
"""Channels of the first layer of the network."""
DRAWS = 5
"""Maximum Gumbel-softmax draws per layer, as a multiple of its number of heads."""
KEPT = 0.2
"""Share of the entries of a representation that one step compares."""
SHARPNESS = 10.0
INITIAL_STD = 0.01
_OUTPUTS = {"last": (0, 1.0), "mean": (1, 10.0)}
"""Output index of the network and factor on the loss, by representation."""


class MapScorer(nn.Module):
    """The network: (maps, 128, 128) → (maps, 2), each in (0, 2); its convolutions have 178,304 weights."""

    def __init__(self, width: int = WIDTH, generator: torch.Generator | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
        for depth in range(4):
            channels = width * 2**depth
            layers += [
                nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=False),
                nn.BatchNorm2d(2 * channels),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers.append(nn.Conv2d(16 * width, 2, 4, 1, 0, bias=False))
        self.layers = nn.Sequential(*layers)
        with torch.no_grad():
            for module in self.layers:
                if isinstance(module, nn.Conv2d):
                    module.weight.normal_(0.0, INITIAL_STD, generator=generator)
                elif isinstance(module, nn.BatchNorm2d):
                    module.weight.normal_(1.0, INITIAL_STD, generator=generator)

    def forward(self, maps: Tensor) -> Tensor:
        """Compute both scores of every map."""
        return 2 * torch.sigmoid(self.layers(maps[:, None]).flatten(1))


def to_size(attention: Tensor, lengths: Sequence[int]) -> Tensor:
    """Convert attention (batch, heads, tokens, tokens), padded on the right, to maps (batch, heads, 128, 128).

    Rows of padding tokens are zero. Shorter maps are placed in the upper left corner; longer maps are averaged.
    """
    maps = attention.new_zeros(*attention.shape[:2], SIZE, SIZE, dtype=torch.float32)
    for row, length in enumerate(lengths):
        own = attention[row, :, :length, :length].float()
        if length > SIZE:
            maps[row] = F.adaptive_avg_pool2d(own, SIZE)
        else:
            maps[row, :, :length, :length] = own
    return maps


def draw_heads(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a random half of the heads of one layer, (heads,) of 0 and 1, with straight-through gradients to `scores`.

    Args:
        scores: Logits of the draws, (heads,).
    """
    heads = len(scores)
    wanted, attempts = heads // 2, DRAWS * heads
    noise = gumbel((attempts, heads), generator).to(scores)
    soft = torch.softmax(scores + noise, -1)
    hard = F.one_hot(soft.argmax(-1), heads).to(soft)
    draws = hard + soft - soft.detach()
    distinct = (hard.cumsum(0) > 0).sum(-1)
    enough = (distinct >= wanted).nonzero()
    stop = int(enough[0]) + 1 if len(enough) else attempts
    union = draws[:stop].max(0).values
    # Rounding may turn a straight-through 1 into 1 − 1e-7.
    return union + (union.round() - union).detach()


def similarities(representations: Tensor, kept: Tensor) -> Tensor:
    """(batch, width) → (batch² / 2, 2): ten times the cosine similarities of all pairs, in pairs of neighbors.

    Args:
        kept: Factor on each entry, (width,). The last row of an odd batch is left out.
    """
    masked = representations.float() * kept
    centred = masked - masked.mean(0)
    unit = F.normalize(centred[: len(centred) // 2 * 2], dim=-1)
    return (SHARPNESS * unit @ unit.T).reshape(-1, 2)


def consistency_loss(full: Tensor, pruned: Tensor) -> Tensor:
    """Mean over all entries of the terms of KL(softmax(full) ‖ softmax(pruned)); both as returned by `similarities`."""
    return F.kl_div(pruned.log_softmax(-1), full.softmax(-1), reduction="none").mean()


@dataclass(frozen=True)
class SMP(BaseSelector):
    """Single-shot meta-pruning: trains a network on the task's prompts and ranks heads by its scores."""

    name: ClassVar[str] = "smp"
    title: ClassVar[str] = "SMP"

    representation: Literal["last", "mean"] = "last"
    learning_rate: float = 2e-2
    share: float = 0.4
    """Share of the epochs of the budget; each step takes two passes of the model and one of the network."""
    batch_size: int = 8
    """Prompts per step, unless the batch size of the budget is larger."""

    def score(self, selection: Selection) -> tuple[Tensor, Cost]:
        """Train the network, then score every prompt once."""
        generator = selection.generator()
        scorer = MapScorer(generator=generator).to(selection.model.device)
        optimizer = torch.optim.SGD(scorer.parameters(), lr=self.learning_rate)
        prompts = [row.input_ids[: row.completion_start] for row in selection.rows]
        size = max(self.batch_size, self.budget.batch_size)
        batches = -(-len(prompts) // size)
        wanted = max(1, round(self.share * self.budget.epochs * batches))
        units, steps, forward, backward = wanted + batches, 0, 0, 0
        with selection.model.traced.plain_attention():
            order: list[int] = []
            for step in range(wanted):
                start = step % batches * size
                if start == 0:
                    order = torch.randperm(len(prompts), generator=generator).tolist()
                batch = [prompts[index] for index in order[start : start + size]]
                if len(batch) > 1:  # one representation has no similarities
                    self._step(selection, scorer, optimizer, batch, generator)
                    steps, forward, backward = steps + 1, forward + 2 * len(batch), backward + len(batch)
                selection.tell(step + 1, units)
            scorer.eval()
            total = torch.zeros(selection.shape, dtype=torch.float64)
            for number in range(batches):
                batch = prompts[number * size : (number + 1) * size]
                total += self._scores(selection, scorer, batch)
                forward += len(batch)
                selection.tell(wanted + number + 1, units)
        return total / len(prompts), Cost(steps=steps, forward=forward, backward=backward)

    def _step(
        self,
        selection: Selection,
        scorer: MapScorer,
        optimizer: torch.optim.Optimizer,
        prompts: Sequence[Sequence[int]],
        generator: torch.Generator,
    ) -> None:
        (layers, heads), (output, factor) = selection.shape, _OUTPUTS[self.representation]
        pruned_layers = sorted(torch.randperm(layers, generator=generator)[layers // 2 :].tolist())
        lengths = [len(prompt) for prompt in prompts]
        with torch.no_grad():
            attention, full = self._pass(selection, prompts, {}, pruned_layers)
        # All maps at once, because batch normalization computes its statistics over them.
        maps = torch.cat([to_size(attention[layer], lengths).flatten(0, 1) for layer in pruned_layers])
        scores = scorer(maps)[:, output].view(len(pruned_layers), len(prompts), heads).mean(1)
        chosen = dict(zip(pruned_layers, scores, strict=True))
        ones = scores.new_ones(heads)
        mask = torch.stack(
            [draw_heads(chosen[layer], generator) if layer in chosen else ones for layer in range(layers)]
        )
        edits = HeadFactors(mask).prepare()
        _, pruned = self._pass(selection, prompts, {(layer, Site.HEADS): edits[layer] for layer in pruned_layers}, ())
        kept = (torch.rand(full.shape[-1], generator=generator) < KEPT).to(full.device, torch.float32)
        loss = factor * consistency_loss(similarities(full, kept), similarities(pruned, kept))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(scorer.parameters(), self.budget.max_grad_norm or 1.0)
        optimizer.step()

    @torch.no_grad()
    def _scores(self, selection: Selection, scorer: MapScorer, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Return the sum of the scores over prompts, (layers, heads)."""
        layers, heads = selection.shape
        attention, _ = self._pass(selection, prompts, {}, range(layers))
        lengths, output = [len(prompt) for prompt in prompts], _OUTPUTS[self.representation][0]
        sums = [
            scorer(to_size(attention[layer], lengths).flatten(0, 1))[:, output].view(-1, heads).sum(0)
            for layer in range(layers)
        ]
        return torch.stack(sums).cpu().double()

    def _pass(
        self,
        selection: Selection,
        prompts: Sequence[Sequence[int]],
        plan: dict[tuple[int, Site], Edit],
        attention: Sequence[int],
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Return attention (batch, heads, tokens, tokens) of some layers, and representations (batch, hidden_size)."""
        model = selection.model
        ids, mask = right_padded(prompts, pad_token_of(model.tokenizer))
        last, end = last_positions(mask).to(model.device), selection.shape[0]
        record = model.traced.record(
            model.inputs(ids, mask),
            plan,
            Wanted(attention=attention, entering=(end,)),
            # Only the last position is read, so the language-model head need not run at the others.
            rows=last if self.representation == "last" else None,
            uniform=True,
        )
        stream = record.entering[end]
        if self.representation == "last":
            return record.attention, stream[last]
        weights = mask.to(stream.device)[..., None]
        return record.attention, (stream.float() * weights).sum(1) / weights.sum(1)
