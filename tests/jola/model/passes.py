"""Helpers for tests of forward passes: a batch, padding, masks, and the same edits for plain hooks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from jola.edits.gated import GatedEdits
from jola.edits.intervention import EditMask
from jola.jola_model import JoLAModel
from tests.jola.model.plain_hooks import Edits, SiteEdit, edits_of, hooked
from tests.tiny import CONFIGS, VOCABULARY

ARCHITECTURES = sorted(CONFIGS)
CLOSE: dict[str, float] = {"rtol": 0.0, "atol": 1e-5}
LENGTHS = (4, 12, 9)
BATCH = torch.randint(3, VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(0))

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def parameters_of(edits: GatedEdits) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in edits.named_parameters()}


def by_hand(model: JoLAModel, factor: float = 1.0) -> dict[str, Edits]:
    """Return the model's edits for plain hooks."""
    return {e.site: edits_of(parameters_of(e), None, factor, factor) for e in model.gated_edits()}


def with_noise(model: JoLAModel, seed: int, parameters: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Edits]:
    """Return the same for a training pass after ``seed_gates(seed)``: each site has its own generator."""
    result = {}
    for position, edits in enumerate(model.gated_edits()):
        generator = torch.Generator().manual_seed(seed + position)
        own = parameters[edits.site]
        names = [name for name in own if name.endswith("log_alpha")]
        noise = {name: torch.rand(own[name].shape, generator=generator) for name in names}
        result[edits.site] = edits_of(own, noise)
    return result


@dataclass
class OfThePrompt:
    """Edits at the positions of BATCH only, not after them."""

    edits: Edits

    def __call__(self, layer: int, z: Tensor) -> Tensor:
        rows = z.reshape(len(BATCH), -1, z.shape[-1])
        prompt, rest = rows[:, : BATCH.shape[1]], rows[:, BATCH.shape[1] :]
        return torch.cat([self.edits(layer, prompt), rest], 1).reshape(z.shape)


def logits_of(base: PreTrainedModel, ids: Tensor = BATCH, sites: Mapping[str, SiteEdit] | None = None) -> Tensor:
    """Return the logits of a plain model with plain hooks."""
    with hooked(base, sites or {}), torch.no_grad():
        return base(ids).logits


def padded(side: str, lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return (input_ids, attention_mask, rows without padding)."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(3, VOCABULARY, (n,), generator=generator) for n in lengths]
    ids = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    attention = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(max(lengths) - len(row), None) if side == "left" else slice(len(row))
        ids[i, place], attention[i, place] = row, 1
    return ids, attention, rows


def random_masks(model: JoLAModel, count: int | None = None, seed: int = 0) -> dict[str, EditMask]:
    """Return a random mask for each site; with `count`, one for each row of a batch."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for edits in model.gated_edits():
        shape = (*(() if count is None else (count,)), edits.layers, edits.units)
        halves = [(torch.rand(shape, generator=generator) < 0.6).float() for _ in range(2)]
        masks[edits.site] = EditMask(*halves)
    return masks


def row_of(masks: Mapping[str, EditMask], row: int) -> dict[str, EditMask]:
    return {site: EditMask(mask.offset[row], mask.scale[row]) for site, mask in masks.items()}


def none_of(model: JoLAModel) -> dict[str, EditMask]:
    return {edits.site: EditMask.none(edits) for edits in model.gated_edits()}


def greedy(model: JoLAModel, ids: Tensor, count: int = 6, **arguments: Any) -> Tensor:
    return model.generate(ids, max_new_tokens=count, do_sample=False, **arguments)


@torch.no_grad()
def close_all_gates(model: JoLAModel) -> None:
    for edits in model.gated_edits():
        for gate in edits.gate_parameters():
            gate.fill_(-9.0)


@torch.no_grad()
def draw_gates_between(model: JoLAModel) -> None:
    """Move φ towards 0, so that gates are seldom sampled as exactly 0 or 1, where they have no gradient."""
    for edits in model.gated_edits():
        for gate in edits.gate_parameters():
            gate.mul_(0.1)
