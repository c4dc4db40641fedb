r"""What an edit says directly: the tokens it speaks for, and what it adds to the logit of an answer.

The residual stream x is read by the final norm and the language-model head: logits = W_U · norm(x). Heads write into it
through the columns W_O of their layer's output projection, an MLP writes as it is. What is added to x, c, changes a
logit directly by W_U · D·c, where D is the final norm with its scale held at the actual one:

    RMSNorm     D·c = w ⊙ c / rms(x)                       (w + 1 for w in Gemma)
    LayerNorm   D·c = w ⊙ (c − mean(c)) / std(x)

What later layers make of c is left out. Where a norm stands behind the sub-layer (Gemma 2 and 3, OLMo 2), it is applied
to c first in the same way, with its own actual scale.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jola.data.examples import Template
from jola.edits.gated import GatedEdits
from jola.edits.sites import Site
from jola.errors import InputError
from jola.insight.effects import EditRef, masks_without, open_edits
from jola.insight.prompts import (
    Prompt,
    answer_ids,
    answer_of,
    at_rest,
    batch_of,
    prompt_ids,
    shared_mask,
    token_text,
)
from jola.model.architectures import architecture_of, module_path
from jola.model.edited import EditedModel, Masks
from jola.model.tracing import Wanted

_VOCABULARY_ROWS = 16384
"""Rows of the head's weight that are turned into float32 at once."""


@dataclass(frozen=True)
class PromotedTokens:
    """Tokens with the largest and the smallest logit that an offset adds, each (token, logit), the extreme first."""

    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]

    def to_frame(self) -> pd.DataFrame:
        """One row for each token: its text, logit, and whether it is promoted or suppressed."""
        rows = [(*pair, kind) for kind in ("promoted", "suppressed") for pair in getattr(self, kind)]
        return pd.DataFrame(rows, columns=["token", "logit", "kind"])


@dataclass(frozen=True)
class DirectEffects:
    """What each edit half that is on adds directly to the logit of `token`, the answer's first, in logit units.

    `logit` is that logit with all edits, before any soft cap of the model.
    """

    edits: tuple[EditRef, ...]
    effect: NDArray[np.float64]
    token: str
    logit: float

    def to_frame(self) -> pd.DataFrame:
        """One row for each edit half: where it is and what it adds."""
        columns = ("site", "layer", "unit", "half", "intervention")
        frame = pd.DataFrame({name: [getattr(edit, name) for edit in self.edits] for name in columns})
        return frame.assign(direct_effect_logits=self.effect, token=self.token)


def promoted_tokens(
    model: EditedModel, layer: int, unit: int, count: int = 10, site: str = "heads", *, intervention: int | None = None
) -> PromotedTokens:
    """The tokens that an offset speaks for and against: W_U · diag(w) · W_O · a.

    The logits are those that the offset, fully open, adds to a residual stream of norm scale 1 (LayerNorm: after taking
    off the mean): their order and their ratios say something, their size does not. Gates, masks and prompts play no
    part.

    Args:
        intervention: Whose offset, by position among the interventions in use; None is the first at the site.

    Raises:
        InputError: There is no such edit, or it has no offset.
    """
    used = model.in_use
    found = [i for i, e in enumerate(used) if isinstance(e, GatedEdits) and e.site == site]
    position = (found[0] if found else None) if intervention is None else intervention
    edits = used[position] if position is not None and 0 <= position < len(used) else None
    if not isinstance(edits, GatedEdits) or edits.site != site:
        raise InputError(f"There are no edits at {site!r} in use here; choose another site.")
    if not (0 <= layer < edits.layers and 0 <= unit < edits.units):
        raise InputError(
            f"There is no unit {unit} in layer {layer}; layers go from 0 to {edits.layers - 1} and units from 0 to "
            f"{edits.units - 1}."
        )
    if "offset" not in edits.halves:
        raise InputError("These edits have scales alone, and a scale speaks for no token by itself.")
    with at_rest(model):
        reader = _Reader(model)
        vector = torch.zeros(edits.units, edits.width, device=model.device)
        vector[unit] = edits.get_parameter("offset")[layer, unit]
        logits = reader.logits(reader.written(edits.site, layer, vector.flatten()[None]))[0]
    count = min(max(count, 0), len(logits))

    def texts(top: "torch.return_types.topk", sign: int) -> tuple[tuple[str, float], ...]:
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return tuple((token_text(model.tokenizer, token), sign * value) for token, value in pairs)

    return PromotedTokens(texts(logits.topk(count), 1), texts((-logits).topk(count), -1))


def direct_effects(
    model: EditedModel,
    prompt: Prompt,
    answer: str | None = None,
    *,
    mask: Masks = None,
    strength: float = 1.0,
    template: Template | None = None,
) -> DirectEffects:
    """What each edit adds directly to the logit of the answer's first token, where that token is foretold.

    An offset half adds W_U[token] · D · W_O · g_a·a, a scale half W_U[token] · D · W_O · (g_m·m ⊙ z), with z the head's
    output there in the edited pass. Of several adapters at one site, an edit adds what its absence would take away.

    Raises:
        InputError: There is no answer, or the prompt is empty, or the model normalises the residual stream itself.
    """
    template = template or Template(model.tokenizer)
    ids = prompt_ids(model, prompt, template)
    token = answer_ids(model, answer_of(prompt, answer), template)[0]
    with at_rest(model):
        reader = _Reader(model)
        edits, masks = open_edits(model, mask, strength), shared_mask(model, mask)
        inputs, last = model.inputs(batch_of(ids)), torch.zeros(1, len(ids), dtype=torch.bool, device=model.device)
        last[0, -1] = True
        layers = {e.layer for e in edits}
        wanted = Wanted(heads=layers, projected=layers, mlp=layers, entering=[model.geometry.num_layers])
        plan = model.plan(masks, strength, 1)
        record = model.traced.record(inputs, plan, wanted, rows=last)
        final = record.entering[model.geometry.num_layers][0, -1].float()
        direction, constant = reader.logit_of(token, final)
        effects = np.zeros(len(edits))
        for layer, site in {(e.layer, Site(e.site)) for e in edits}:
            here = [i for i, e in enumerate(edits) if (e.layer, e.site) == (layer, site)]
            before = (record.heads if site is Site.HEADS else record.mlp)[layer][:, -1:].float()
            after = plan[layer, site](before)
            without = model.plan(masks_without(model, [edits[i] for i in here], masks), strength, len(here))
            rows = before.expand(len(here), -1, -1)
            added = after - (without[layer, site](rows) if (layer, site) in without else rows)
            output = record.projected[layer][0, -1].float() if site is Site.HEADS else after[0, 0]
            effects[here] = (reader.written(site, layer, added[:, 0], output) @ direction).cpu().double().numpy()
        logit = float(direction @ final + constant)
    return DirectEffects(edits, effects, token_text(model.tokenizer, token), logit)


class _Reader:
    """The linear maps from what an edit adds to the logits, in float32."""

    def __init__(self, model: EditedModel) -> None:
        self._base = model.base
        if not getattr(model.base.config, "do_layer_norm_before", True):
            raise InputError(
                "The layers of this model normalise the residual stream itself, so nothing that an edit adds reaches "
                "the logits directly."
            )
        decoder = model.base.get_submodule(architecture_of(model.base).layers.rpartition(".")[0])
        norms = [m for m in decoder.children() if _weight_shape(m) == (model.geometry.hidden_size,)]
        head = model.base.get_output_embeddings()
        if len(norms) != 1 or not isinstance(head, nn.Linear):
            raise InputError("The final norm of this model was not found, so its logits cannot be read directly.")
        self._norm, self._head = norms[0], head
        self._project: nn.Module | None = getattr(decoder, "project_out", None)

    def written(self, site: Site, layer: int, vectors: Tensor, output: Tensor | None = None) -> Tensor:
        """What vectors (n, width) at a site add to the residual stream, (n, hidden).

        `output` (hidden,) is what the whole sub-layer gave, where a norm stands behind it; None takes its scale as 1.
        """
        if site is Site.HEADS:
            projection = self._base.get_submodule(module_path(self._base, site, layer))
            weight = projection.get_parameter("weight").float()
            # GPT-2's Conv1D stores its weight as (in, out); nn.Linear as (out, in).
            vectors = vectors @ (weight.T if isinstance(projection, nn.Linear) else weight)
        block = self._base.get_submodule(module_path(self._base, Site.BLOCK, layer))
        # Only where this norm is there does the other one stand behind the attention, too.
        if hasattr(block, "post_feedforward_layernorm"):
            name = "post_attention_layernorm" if site is Site.HEADS else "post_feedforward_layernorm"
            vectors = _frozen(block.get_submodule(name), vectors, output)
        return vectors

    def logits(self, written: Tensor) -> Tensor:
        """The logits (n, vocabulary) that additions (n, hidden) to a residual stream of norm scale 1 make."""
        read = _frozen(self._norm, written, None)
        # OPT has a linear map between the final norm and the head of some sizes.
        if self._project is not None:
            read = read @ self._project.get_parameter("weight").float().T
        return torch.cat([read @ rows.float().T for rows in self._head.weight.split(_VOCABULARY_ROWS)], dim=-1)

    def logit_of(self, token: int, final: Tensor) -> tuple[Tensor, Tensor]:
        """(direction, constant): an addition c to the residual stream `final` adds c · direction to a token's logit.

        `final` and the direction are (hidden,), the constant is a number; the logit is final · direction + constant.
        """
        row = self._head.weight[token].float()
        if self._project is not None:
            row = row @ self._project.get_parameter("weight").float()
        gain, scale, centred = _scales(self._norm, final)
        direction = row * gain / scale
        if centred:
            direction = direction - direction.mean()
        bias = getattr(self._norm, "bias", None)
        constant = torch.zeros((), device=final.device) if bias is None else bias.float() @ row
        if self._head.bias is not None:
            constant = constant + self._head.bias[token].float()
        return direction, constant


def _frozen(norm: nn.Module, vectors: Tensor, at: Tensor | None) -> Tensor:
    """A norm as a linear map of vectors (n, hidden), with the scale that it has at `at` (hidden,); None is scale 1."""
    gain, scale, centred = _scales(norm, vectors[0] if at is None else at)
    if centred:
        vectors = vectors - vectors.mean(-1, keepdim=True)
    return vectors * gain if at is None else vectors * gain / scale


def _scales(norm: nn.Module, at: Tensor) -> tuple[Tensor, Tensor, bool]:
    """(gain (hidden,), what the norm divides a vector (hidden,) by, whether it takes off the mean)."""
    if isinstance(norm, nn.LayerNorm):
        return norm.weight.float(), (at.var(unbiased=False) + norm.eps).sqrt(), True
    # On equal numbers, large beside ε, an RMSNorm gives its gain: w in Llama, 1 + w in Gemma.
    gain = norm(torch.full((1, len(at)), 1e3, device=at.device))[0].float()
    eps = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None) or 0.0
    return gain, (at.square().mean() + eps).sqrt(), False


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) else ()
