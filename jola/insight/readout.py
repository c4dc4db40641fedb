r"""The direct path of an edit to the logits: promoted tokens, and the direct effect on the logit of an answer.

The final norm and the language-model head read the residual stream x: logits = W_U · norm(x). A head writes to x
through its columns W_O of the output projection of its layer; an MLP writes to x directly. An addition c to x changes
the logits directly by W_U · D·c, where D is the final norm with its scale fixed at the actual value:

    RMSNorm     D·c = w ⊙ c / rms(x)                       (w + 1 for w in Gemma)
    LayerNorm   D·c = w ⊙ (c − mean(c)) / std(x)

The response of later layers to c is not included. If a norm follows the sub-layer (Gemma 2 and 3, OLMo 2), it is
applied to c first, in the same way, with its own actual scale.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jola.data.examples import Template
from jola.edits.gated import GatedEdits
from jola.edits.intervention import Edit
from jola.edits.sites import Site
from jola.errors import InputError
from jola.insight.effects import EditRef, masks_without, open_edits
from jola.insight.prompts import (
    Prompt,
    answer_ids,
    answer_of,
    batch_of,
    prompt_ids,
    shared_mask,
    token_text,
)
from jola.model.architectures import architecture_of, module_path
from jola.model.edited import EditedModel, Masks
from jola.model.placement import refuse_spread
from jola.model.quantization import refuse_quantized
from jola.model.resting import at_rest
from jola.model.tracing import Plan, Wanted

_VOCABULARY_ROWS = 16384
"""Rows of the weight of the language-model head that are converted to float32 at once."""


@dataclass(frozen=True)
class PromotedTokens:
    """Tokens whose logits an offset increases and decreases most, as (token, logit), most extreme first."""

    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per token: text, logit, and whether it is promoted or suppressed."""
        rows = [(*pair, kind) for kind in ("promoted", "suppressed") for pair in getattr(self, kind)]
        return pd.DataFrame(rows, columns=["token", "logit", "kind"])


@dataclass(frozen=True)
class DirectEffects:
    """The direct effect of each edit half that is on, on the logit of `token`, the first of the answer.

    `logit` is that logit with all edits, before any soft cap of the model.
    """

    edits: tuple[EditRef, ...]
    effect: NDArray[np.float64]
    token: str
    logit: float

    def to_frame(self) -> pd.DataFrame:
        """One row per edit half: its location and its direct effect."""
        columns = ("site", "layer", "unit", "half", "intervention")
        frame = pd.DataFrame({name: [getattr(edit, name) for edit in self.edits] for name in columns})
        return frame.assign(direct_effect_logits=self.effect, token=self.token)


def promoted_tokens(
    model: EditedModel, layer: int, unit: int, count: int = 10, site: str = "heads", *, intervention: int | None = None
) -> PromotedTokens:
    """The tokens that an offset promotes and suppresses: W_U · diag(w) · W_O · a.

    The logits are those that the offset, with an open gate, adds to a residual stream of norm scale 1 (LayerNorm: after
    subtracting the mean). Their order and ratios are meaningful, but not their size. They do not depend on gates, masks
    and prompts.

    Args:
        intervention: Index in `EditedModel.in_use`; None uses the first intervention at the site.

    Raises:
        InputError: The edit does not exist, or it has no offset.
    """
    used = model.in_use
    found = [i for i, e in enumerate(used) if isinstance(e, GatedEdits) and e.site == site]
    position = (found[0] if found else None) if intervention is None else intervention
    edits = used[position] if position is not None and 0 <= position < len(used) else None
    if not isinstance(edits, GatedEdits) or edits.site != site:
        raise InputError(f"No edits are in use at site {site!r}; choose another site.")
    if not (0 <= layer < edits.layers and 0 <= unit < edits.units):
        raise InputError(
            f"There is no unit {unit} in layer {layer}; layers go from 0 to {edits.layers - 1} and units from 0 to "
            f"{edits.units - 1}."
        )
    if "offset" not in edits.halves:
        raise InputError("These edits have only scales, and only an offset promotes tokens; choose edits with offsets.")
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
    """The direct effect of each edit on the logit of the answer's first token, at the last token of the prompt.

    An offset half adds W_U[token] · D · W_O · g_a·a, a scale half W_U[token] · D · W_O · (g_m·m ⊙ z), where z is the
    output of the head at this token in the edited pass. With several adapters at one site, the effect is the change
    when the edit is removed.

    Raises:
        InputError: The answer is missing, the prompt is empty, or the model normalizes the residual stream itself.
    """
    template = template or Template(model.tokenizer)
    ids = prompt_ids(model, prompt, template)
    token = answer_ids(model, answer_of(prompt, answer), template)[0]
    with at_rest(model):
        reader = _Reader(model)
        edits, masks = open_edits(model, mask, strength), shared_mask(model, mask)
        if any(e.site == Site.WEIGHTS for e in edits):
            raise InputError(
                "Only edits of activations, which add to the residual stream, have direct effects; for changed "
                "weights, measure effects instead."
            )
        inputs, last = model.inputs(batch_of(ids)), torch.zeros(1, len(ids), dtype=torch.bool, device=model.device)
        last[0, -1] = True
        layers = {e.layer for e in edits}
        wanted = Wanted(projected=layers, entering=[model.geometry.num_layers])
        where = model.prompt_tokens(inputs)
        with model.editing(masks, strength, prompt=where) as plan:
            keep = _Keep(plan)
            record = model.traced.record(inputs, keep.plan, wanted, rows=last)
        final = record.entering[model.geometry.num_layers][0, -1].float()
        direction, constant = reader.logit_of(token, final)
        effects = np.zeros(len(edits))
        for place in {(e.layer, Site(e.site)) for e in edits} & set(plan):
            layer, site = place
            here = [i for i, e in enumerate(edits) if (e.layer, e.site) == place]
            before = keep.inputs[place].reshape(1, len(ids), -1).float()
            after = plan[place](before)[:, -1]
            without = model.plan(masks_without(model, [edits[i] for i in here], masks), strength, len(here), where)
            rows = before.expand(len(here), -1, -1)
            added = after - (without[place](rows) if place in without else rows)[:, -1]
            output = record.projected[layer][0, -1].float() if site is Site.HEADS else after[0]
            effects[here] = (reader.written(site, layer, added, output) @ direction).cpu().double().numpy()
        logit = float(direction @ final + constant)
    return DirectEffects(edits, effects, token_text(model.tokenizer, token), logit)


class _Keep:
    """A plan that stores the input of each of its edits, by (layer, site)."""

    def __init__(self, plan: Plan) -> None:
        self.inputs: dict[tuple[int, Site], Tensor] = {}
        self.plan: Plan = {place: self._keeping(place, edit) for place, edit in plan.items()}

    def _keeping(self, place: tuple[int, Site], edit: Edit) -> Edit:
        def keep(activation: Tensor) -> Tensor:
            self.inputs[place] = activation
            return edit(activation)

        return keep


class _Reader:
    """The linear maps from the output of an edit to the logits, in float32."""

    def __init__(self, model: EditedModel) -> None:
        self._base = model.base
        if not getattr(model.base.config, "do_layer_norm_before", True):
            raise InputError(
                "The layers of this model normalize the residual stream itself, so edits have no direct effect on the "
                "logits; measure their total effect instead."
            )
        decoder = model.base.get_submodule(architecture_of(model.base).layers.rpartition(".")[0])
        norms = [m for m in decoder.children() if _weight_shape(m) == (model.geometry.hidden_size,)]
        refuse_spread(model.base, "A direct effect")
        refuse_quantized(model.base, "A direct effect")
        head = model.base.get_output_embeddings()
        if len(norms) != 1 or not isinstance(head, nn.Linear):
            raise InputError("The final norm of this model was not found, so direct effects cannot be computed.")
        self._norm, self._head = norms[0], head
        self._project: nn.Module | None = getattr(decoder, "project_out", None)

    def written(self, site: Site, layer: int, vectors: Tensor, output: Tensor | None = None) -> Tensor:
        """The contribution of vectors (n, width) at a site to the residual stream, (n, hidden_size).

        If a norm follows the sub-layer, `output` (hidden_size,) is the input of that norm; None means scale 1.
        """
        if site is Site.HEADS:
            projection = self._base.get_submodule(module_path(self._base, site, layer))
            weight = projection.get_parameter("weight").float()
            # GPT-2's Conv1D stores its weight as (in, out); nn.Linear as (out, in).
            vectors = vectors @ (weight.T if isinstance(projection, nn.Linear) else weight)
        block = self._base.get_submodule(module_path(self._base, Site.BLOCK, layer))
        # Only in models with this norm does post_attention_layernorm follow the attention directly.
        if hasattr(block, "post_feedforward_layernorm") and site is not Site.BLOCK:
            name = "post_feedforward_layernorm" if site is Site.MLP else "post_attention_layernorm"
            vectors = _frozen(block.get_submodule(name), vectors, output)
        return vectors

    def logits(self, written: Tensor) -> Tensor:
        """The logits (n, vocabulary) of additions (n, hidden_size) to a residual stream of norm scale 1."""
        read = _frozen(self._norm, written, None)
        # Some OPT models have a linear map between the final norm and the head.
        if self._project is not None:
            read = read @ self._project.get_parameter("weight").float().T
        return torch.cat([read @ rows.float().T for rows in self._head.weight.split(_VOCABULARY_ROWS)], dim=-1)

    def logit_of(self, token: int, final: Tensor) -> tuple[Tensor, Tensor]:
        """(direction, constant): adding c to the residual stream `final` adds c · direction to the logit of a token.

        `final` and the direction are (hidden_size,), the constant a scalar; the logit is final · direction + constant.
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
    """Apply a norm to vectors (n, hidden_size) with its scale fixed at `at` (hidden_size,); None means scale 1."""
    gain, scale, centred = _scales(norm, vectors[0] if at is None else at)
    if centred:
        vectors = vectors - vectors.mean(-1, keepdim=True)
    return vectors * gain if at is None else vectors * gain / scale


def _scales(norm: nn.Module, at: Tensor) -> tuple[Tensor, Tensor, bool]:
    """(gain (hidden_size,), divisor, whether the norm subtracts the mean) of a norm at one vector."""
    if isinstance(norm, nn.LayerNorm):
        return norm.weight.float(), (at.var(unbiased=False) + norm.eps).sqrt(), True
    # For equal inputs that are large compared with ε, an RMSNorm returns its gain: w in Llama, 1 + w in Gemma.
    gain = norm(torch.full((1, len(at)), 1e3, device=at.device))[0].float()
    eps = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None) or 0.0
    return gain, (at.square().mean() + eps).sqrt(), False


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) else ()
