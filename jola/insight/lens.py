"""Logit lens and attention patterns, with the edits on and off."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from jola.data.examples import Template
from jola.edits.intervention import EditMask
from jola.errors import InputError
from jola.insight.prompts import Prompt, batch_of, prompt_ids, shared_mask, token_text, token_texts
from jola.model.edited import EditedModel, Masks
from jola.model.resting import at_rest
from jola.model.tracing import Wanted

ATTENTION_TOKENS = 256
"""Maximum prompt length for an attention pattern, whose size is quadratic in the number of tokens."""

_LENS_NUMBERS = 1 << 24
"""Maximum number of logits computed at once."""


@dataclass(frozen=True)
class LensToken:
    """One token and its probability according to a layer."""

    id: int
    token: str
    probability: float


Lens = tuple[tuple[tuple[LensToken, ...], ...], ...]
"""Tokens by layer, position and rank."""


@dataclass(frozen=True)
class LogitLens:
    """The next tokens predicted from the residual stream after each layer, without and with the edits.

    `layers` counts the layers that were run: 0 is the embedding, the last is the model's own prediction. `tokens` are
    the tokens at `positions`; the prediction is for the token after each of them. `kl` (layers, positions) is
    KL(edited ‖ base) in nats.
    """

    layers: tuple[int, ...]
    positions: tuple[int, ...]
    tokens: tuple[str, ...]
    base: Lens
    edited: Lens
    kl: NDArray[np.float64]

    def to_frame(self) -> pd.DataFrame:
        """One row per layer, position, rank and side (base or edited)."""
        rows = [
            (layer, position, self.tokens[p], side, rank, entry.id, entry.token, entry.probability, self.kl[k, p])
            for side, lens in (("base", self.base), ("edited", self.edited))
            for k, layer in enumerate(self.layers)
            for p, position in enumerate(self.positions)
            for rank, entry in enumerate(lens[k][p])
        ]
        columns = ["layers_run", "position", "at", "side", "rank", "id", "token", "probability", "kl_nats"]
        return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class AttentionPattern:
    """Attention weights of one head, (tokens, tokens): row t shows where token t attends; rows sum to 1."""

    layer: int
    unit: int
    tokens: tuple[str, ...]
    base: NDArray[np.float32]
    edited: NDArray[np.float32]

    def to_frame(self) -> pd.DataFrame:
        """One row per pair of tokens that the causal mask allows: positions, texts, weights without and with edits."""
        query, key = np.tril_indices(len(self.tokens))
        return pd.DataFrame(
            {
                "from_position": query,
                "to_position": key,
                "from_token": [self.tokens[i] for i in query],
                "to_token": [self.tokens[i] for i in key],
                "base": self.base[query, key],
                "edited": self.edited[query, key],
            }
        )


def logit_lens(
    model: EditedModel,
    prompt: Prompt,
    count: int = 5,
    *,
    last: int | None = 8,
    mask: Masks = None,
    strength: float = 1.0,
    template: Template | None = None,
) -> LogitLens:
    """The most likely next tokens when the final norm and the language-model head are applied after each layer.

    In early layers, the residual stream is not yet in the basis of the head: treat the result only as a hint.

    Args:
        count: Number of tokens per layer and position.
        last: Number of positions, from the end; None means all.

    Raises:
        InputError: The prompt is empty.
    """
    ids = prompt_ids(model, prompt, template)
    kept = len(ids) if last is None else max(1, min(last, len(ids)))
    layers = range(model.geometry.num_layers + 1)
    with at_rest(model):
        masks = shared_mask(model, mask)
        edited_streams = _streams(model, ids, kept, masks, strength)
        with model.disable_edits():
            base_streams = _streams(model, ids, kept, None, 1.0)
        base, edited, kl = [], [], []
        at_once = max(1, _LENS_NUMBERS // (kept * model.base.config.get_text_config().vocab_size))
        for start in range(0, len(layers), at_once):
            part = slice(start, start + at_once)
            sides = [_read(model, ids, streams[part], kept) for streams in (base_streams, edited_streams)]
            base += _top(model, sides[0], count)
            edited += _top(model, sides[1], count)
            kl += (sides[1].exp() * (sides[1] - sides[0])).sum(-1).clamp(min=0).tolist()
    positions = range(len(ids) - kept, len(ids))
    texts = token_texts(model.tokenizer, ids)[-kept:]
    return LogitLens(tuple(layers), tuple(positions), tuple(texts), tuple(base), tuple(edited), np.array(kl))


def lens_of(tokenizer: PreTrainedTokenizerBase, tokens: Tensor, probabilities: Tensor) -> Lens:
    """Convert token ids and probabilities, both (layers, positions, ranks), to the format of `LogitLens`."""
    texts = {token: token_text(tokenizer, token) for token in set(tokens.flatten().tolist())}
    return tuple(
        tuple(
            tuple(LensToken(token, texts[token], share) for token, share in zip(*ranks, strict=True))
            for ranks in zip(*positions, strict=True)
        )
        for positions in zip(tokens.tolist(), probabilities.tolist(), strict=True)
    )


def attention_pattern(
    model: EditedModel,
    prompt: Prompt,
    layer: int,
    unit: int,
    *,
    mask: Masks = None,
    strength: float = 1.0,
    template: Template | None = None,
) -> AttentionPattern:
    """The attention of a head, without and with the edits. Edits of the same or later layers do not affect it.

    Raises:
        InputError: The head does not exist, or the prompt is empty or has more than `ATTENTION_TOKENS` tokens.
    """
    geometry = model.geometry
    if not (0 <= layer < geometry.num_layers and 0 <= unit < geometry.num_heads):
        raise InputError(
            f"There is no head {unit} in layer {layer}; layers go from 0 to {geometry.num_layers - 1} and heads from 0 "
            f"to {geometry.num_heads - 1}."
        )
    ids = prompt_ids(model, prompt, template)
    if len(ids) > ATTENTION_TOKENS:
        raise InputError(
            f"The prompt has {len(ids):,} tokens, but an attention pattern is limited to {ATTENTION_TOKENS}; shorten "
            "the prompt."
        )
    inputs, rows = model.inputs(batch_of(ids)), _last_rows(model, len(ids), 1)

    def look(masks: list[EditMask | None] | None) -> NDArray[np.float32]:
        with model.editing(masks, strength, prompt=model.prompt_tokens(inputs)) as plan:
            record = model.traced.record(inputs, plan, Wanted(attention=[layer]), rows=rows)
        return record.attention[layer][0, unit].float().cpu().numpy()

    with at_rest(model), model.traced.plain_attention():
        edited = look(shared_mask(model, mask))
        with model.disable_edits():
            base = look(None)
    return AttentionPattern(layer, unit, tuple(token_texts(model.tokenizer, ids)), base, edited)


def _streams(
    model: EditedModel, ids: Sequence[int], kept: int, masks: list[EditMask | None] | None, strength: float
) -> Tensor:
    """The residual stream before, between and after the layers, (layers + 1, tokens, hidden_size)."""
    layers, rows = range(model.geometry.num_layers + 1), _last_rows(model, len(ids), kept)
    inputs = model.inputs(batch_of(ids))
    with model.editing(masks, strength, prompt=model.prompt_tokens(inputs)) as plan:
        record = model.traced.record(inputs, plan, Wanted(entering=layers), rows=rows)
    return torch.cat([record.entering[layer] for layer in layers])


def _read(model: EditedModel, ids: Sequence[int], streams: Tensor, kept: int) -> Tensor:
    """ln p (layers, positions, vocabulary) from the final norm and the language-model head."""
    rows = _last_rows(model, len(ids), kept).expand(len(streams), -1)
    start = {model.geometry.num_layers: streams}
    logits = model.traced.record(model.inputs(batch_of(ids)), {}, rows=rows, start=start).logits
    return logits.view(len(streams), kept, -1).float().log_softmax(-1)


def _last_rows(model: EditedModel, tokens: int, kept: int) -> Tensor:
    return torch.arange(tokens, device=model.device)[None] >= tokens - kept


def _top(model: EditedModel, scores: Tensor, count: int) -> Lens:
    top = scores.topk(min(max(count, 0), scores.shape[-1]))
    return lens_of(model.tokenizer, top.indices, top.values.double().exp())
