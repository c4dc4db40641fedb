"""Pack a batch into one row, without padding and with the common beginning of all rows only once.

The chat template and the instruction are the first tokens of every example; in short-text tasks, these are about half
of all tokens. Attention is causal, so their activations are the same in every row. In a packed pass, each layer sees
one row: the common beginning, followed by the rest of each row. Only attention must know which tokens belong together.
Outputs and gradients are the same as for the unpacked batch.

With variable-length attention (flash attention), rows are concatenated without sharing their beginning.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

WORTH = 0.1
"""Minimum share of the positions of a batch that packing must save: unpacking rows in every layer costs about that."""
FLASH = "flash"
"""Part of the names of attention implementations that take ``cu_seq_lens``, the positions where rows end."""
SPARED = 64
"""Minimum number of prompt tokens that a separate pass over the common beginning must save."""


@dataclass(frozen=True, eq=False)
class Packing:
    """Positions of the tokens of a batch in its packed row."""

    source: Tensor
    """(packed tokens,): index of each packed token in the flattened batch."""
    common: int
    """Number of tokens in the common beginning of all rows; they are the first packed tokens."""
    shape: tuple[int, int]
    """(batch, tokens) after the common beginning, padding included."""
    filled: Tensor
    """(packed tokens − common,): index of each packed token in the flattened `shape`; the other indices are padding."""
    slots: Tensor
    """(batch · tokens,): index of the packed token at each position of `shape`, from the first after the common
    beginning; 0 for padding."""
    lengths: Tensor | None = None
    """(batch,): tokens of each row, if variable-length attention separates the rows; `common` is then 0."""
    weights: bool = False
    """Whether attention returns its weights, (batch, heads, tokens, tokens), if the implementation computes them."""
    masks: dict[Any, Tensor] = field(default_factory=dict, repr=False)
    """Cached results of `_causal`, shared by the layers of a pass."""

    def inputs(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Arguments of a packed pass: one row of tokens, and the position of each token in its original row."""
        row = {
            "input_ids": self.pack(input_ids).unsqueeze(0),
            "position_ids": (self.source % input_ids.shape[1]).unsqueeze(0),
        }
        # Given a 4-D mask, transformers does not create one; its mask for the packed row would be large and unused.
        return row if self.lengths is not None else {**row, "attention_mask": torch.zeros(1, 1, 1, 1)}

    def for_attention(self) -> dict[str, Any]:
        """The arguments of a packed pass for attention."""
        if self.lengths is None:
            return {"packing": self}
        ends = F.pad(self.lengths.cumsum(0), (1, 0)).int()
        longest = int(self.lengths.max())
        return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}

    def pack(self, values: Tensor) -> Tensor:
        """(batch, tokens) → (packed tokens,)."""
        return values.flatten()[self.source]

    def unpack(self, packed: Tensor) -> Tensor:
        """(1, packed tokens, …) → (batch, tokens, …); values at padding are meaningless."""
        batch, rest = self.shape
        places = torch.arange(self.common, device=self.slots.device).expand(batch, -1)
        places = torch.cat([places, (self.slots + self.common).view(batch, rest)], 1).to(packed.device)
        return packed[0].index_select(0, places.flatten()).unflatten(0, (batch, -1))


def packing_of(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    rows: Tensor,
    edited_alike: Tensor | None = None,
    *,
    variable_length: bool = False,
) -> Packing | None:
    """Compute the packing of a batch; None if it would not save enough, or if padding is on the left.

    Args:
        input_ids: (batch, tokens).
        attention_mask: (batch, tokens) or None.
        rows: (batch, tokens) of bool: positions of the logits. The common beginning ends before the first of them.
        edited_alike: (tokens,) of bool: columns in which all rows are edited in the same way; None means all columns.
            The common beginning ends before the first column that is not.
        variable_length: Whether variable-length attention separates the rows; they then share no beginning.
    """
    batch, tokens = input_ids.shape
    real = torch.ones_like(rows) if attention_mask is None else attention_mask == 1
    padded_left = not bool(real[:, 0].all()) or bool((real.int().diff(dim=1) > 0).any())
    if padded_left or bool((rows & ~real).any()):
        return None
    alike = (input_ids == input_ids[:1]).all(0) & real.all(0) & ~rows.any(0)
    if edited_alike is not None:
        alike &= edited_alike
    common = int(alike.int().cumprod(0).sum()) if batch > 1 and not variable_length else 0
    rest = real[:, common:]
    filled = rest.flatten().nonzero().flatten()
    if 1 - (common + len(filled)) / real.numel() < WORTH:
        return None
    own = real.clone()
    own[1:, :common] = False
    slots = torch.zeros_like(rest.flatten(), dtype=torch.long)
    slots[filled] = torch.arange(len(filled), device=filled.device)
    lengths = real.sum(1) if variable_length else None
    return Packing(own.flatten().nonzero().flatten(), common, (batch, tokens - common), filled, slots, lengths)


@dataclass(frozen=True, eq=False)
class Beginning:
    """The common beginning of prompts that are padded on the left, and the order of tokens that puts it first."""

    tokens: int
    """Number of tokens in the common beginning."""
    order: Tensor
    """(batch, tokens): index of the token for each position: first the beginning, then padding, then the rest."""


def beginning_of(input_ids: Tensor, attention_mask: Tensor) -> Beginning | None:
    """Find the common beginning of prompts; None if a separate pass over it would not save enough.

    Args:
        input_ids, attention_mask: (batch, tokens), padded on the left.
    """
    batch, tokens = input_ids.shape
    padding = (attention_mask.cumsum(1) == 0).sum(1, keepdim=True)
    places = torch.arange(tokens, device=input_ids.device).expand(batch, -1)
    shifted = input_ids.gather(1, (places + padding).clamp(max=tokens - 1))
    alike = (shifted == shifted[:1]).all(0).int().cumprod(0)
    # At least one token of every prompt must remain.
    count = min(int(alike.sum()), tokens - int(padding.max()) - 1)
    if count * (batch - 1) < SPARED or not bool((attention_mask == (places >= padding)).all()):
        return None
    beginning, pad = places < count, (places >= count) & (places < count + padding)
    order = torch.where(beginning, places + padding, torch.where(pad, places - count, places))
    return Beginning(count, order)


def can_share(base: PreTrainedModel) -> bool:
    """Whether prompts may have padding after a common beginning, and whether a pass over the beginning saves time.

    A sliding window would count the padding.
    """
    kinds = getattr(base.config, "layer_types", None) or ["full_attention"]
    windows = [getattr(base.config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return base.device.type == "cpu" and set(kinds) == {"full_attention"} and not any(windows)


def can_pack(base: PreTrainedModel) -> bool:
    """Whether a model may accept packed passes, and whether these save time.

    They save time on a CPU, where time is proportional to the number of tokens, and with variable-length attention.
    """
    parameters = inspect.signature(base.forward).parameters
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    ours = base.device.type == "cpu" and base.config._attn_implementation in _NAMES
    return "position_ids" in parameters and passes_on and (ours or has_variable_length_attention(base))


def is_packed_alike(base: PreTrainedModel, run: Callable[..., Tensor], run_packed: Callable[..., Tensor]) -> bool:
    """Whether packed and ordinary passes give the same logits for two short rows; custom attention may differ.

    Args:
        run: Computes the logits of a pass from its inputs, plan and rows.
        run_packed: Computes the logits of a packed pass from the token ids, plan, rows and packing.
    """
    if not can_pack(base):
        return False
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, 6, 5, 4]], device=base.device)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], device=base.device)
    rows = mask.cumsum(1).mul(mask).ge(4)
    packing = packing_of(ids, mask, rows, variable_length=has_variable_length_attention(base))
    if packing is None:
        return False
    # Weight edits with dropout may be applied here; this must not change the random numbers of a training.
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        expected = run({"input_ids": ids, "attention_mask": mask}, {}, rows).float()
        difference = run_packed(ids, {}, rows, packing).float() - expected
    return bool(difference.std() < 0.1 * expected.std())


def has_variable_length_attention(base: PreTrainedModel) -> bool:
    """Whether the attention implementation of the model takes the arguments of flash attention in transformers."""
    return FLASH in (base.config._attn_implementation or "")


def attention_in_float32(base: PreTrainedModel) -> str:
    """The attention implementation of a model; 'sdpa' in place of flash attention, which does not support float32."""
    return "sdpa" if has_variable_length_attention(base) else base.config._attn_implementation or "eager"


@contextmanager
def packed_attention(base: PreTrainedModel) -> Iterator[None]:
    """Let the model accept packed passes inside the block, with the arguments of `Packing.for_attention`."""
    if has_variable_length_attention(base):
        yield
        return
    with attention(base, _NAMES[base.config._attn_implementation or "eager"]):
        yield


@contextmanager
def attention(base: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Use another attention implementation inside the block, by its name in transformers."""
    before = base.config._attn_implementation or "eager"
    base.set_attn_implementation(implementation)
    try:
        yield
    finally:
        base.set_attn_implementation(before)


def _attention(
    kind: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    **arguments: Any,
) -> tuple[Tensor, Any]:
    """Attention function for transformers; in a packed pass, it attends within the original rows.

    Args:
        kind: The wrapped implementation.
        query, key, value: (1, heads, packed tokens, head_dim); key and value may have fewer heads than query.

    Returns:
        (1, packed tokens, heads, head_dim), and the weights of each row or None.
    """
    # In transformers, the file of each architecture defines its own eager attention.
    eager = kind == "eager"
    attend: Any = (
        sys.modules[type(module).__module__].eager_attention_forward if eager else ALL_ATTENTION_FUNCTIONS[kind]
    )
    if packing is None:
        return attend(module, query, key, value, attention_mask, **arguments)
    common, (batch, tokens) = packing.common, packing.shape
    groups = query.shape[1] // key.shape[1] if eager else 1
    if groups > 1:
        attend = partial(_attention_of_groups, attend)

    def causal(start: int, stop: int) -> Tensor:
        wanted = start, stop, arguments.get("sliding_window"), query.dtype, groups
        if wanted not in packing.masks:
            packing.masks[wanted] = _causal(*wanted)
        return packing.masks[wanted]

    def rest(packed: Tensor) -> Tensor:
        rows: Any = _Unpack.apply(packed[0, :, common:].transpose(0, 1), packing)
        return rows.unflatten(0, (batch, tokens)).transpose(1, 2)

    def whole(packed: Tensor) -> Tensor:
        return torch.cat([packed[:, :, :common].expand(batch, -1, -1, -1), rest(packed)], 2)

    outputs, weights = [], []
    if common:
        first = (packed[:, :, :common] for packed in (query, key, value))
        output, weight = attend(module, *first, causal(0, common), **arguments)
        outputs.append(output)
        if packing.weights:
            weights.append(F.pad(weight, (0, tokens)).expand(batch, -1, -1, -1))
    mask = causal(common, common + tokens)
    output, weight = attend(module, rest(query), whole(key), whole(value), mask, **arguments)
    outputs.append(_Pack.apply(output.flatten(0, 1), packing).unsqueeze(0))
    weights.append(weight)
    return torch.cat(outputs, 1), torch.cat(weights, 2) if packing.weights else None


class _WithoutGroups:
    """An attention module in which keys and values are not repeated."""

    num_key_value_groups = 1

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _attention_of_groups(
    attend: Any, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **arguments: Any
) -> tuple[Tensor, Tensor]:
    """Eager attention that treats the query heads that share keys and values as more queries of one head.

    Keys and values, and their gradients, are not repeated for each head. Arguments and results as in `_attention`, with
    one row in `mask` for each of these queries.
    """
    heads, tokens = query.shape[1:3]
    joined = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    output, weights = attend(_WithoutGroups(module), joined, key, value, mask, **arguments)
    output = output.unflatten(1, (-1, tokens)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    return output, weights.reshape(len(query), heads, tokens, -1)


class _Unpack(torch.autograd.Function):
    """(packed tokens after the common beginning, …) → (batch · tokens, …); values at padding are unused."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return packed.index_select(0, packing.slots)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # The backward pass of index_select adds up rows, which is slow; here every packed token has one position.
        return gradients[0].index_select(0, ctx.packing.filled), None


class _Pack(torch.autograd.Function):
    """The inverse of `_Unpack`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return rows.index_select(0, packing.filled)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient, slots = gradients[0], ctx.packing.slots
        rows = gradient.new_zeros(len(slots), *gradient.shape[1:])
        return rows.index_copy_(0, ctx.packing.filled, gradient), None


def _causal(start: int, stop: int, window: int | None, dtype: torch.dtype, groups: int) -> Tensor:
    """Causal mask, (1, 1, groups · (stop − start), stop), that is added to the attention scores."""
    query, key = torch.arange(start, stop).unsqueeze(1), torch.arange(stop)
    seen = key <= query if window is None else (key <= query) & (key > query - window)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    return mask.repeat(groups, 1)[None, None]


# A configuration may be copied during a packed pass, so in other passes both behave like the wrapped implementations,
# including their masks.
_NAMES = {"sdpa": "jola_packed_sdpa", "eager": "jola_packed_eager"}
for _kind, _name in _NAMES.items():
    AttentionInterface.register(_name, partial(_attention, _kind))
    AttentionMaskInterface.register(_name, ALL_MASK_ATTENTION_FUNCTIONS[_kind])


def chosen(activation: Tensor, rows: Tensor) -> Tensor:
    """The activations at the positions that are true in `rows`, on any device."""
    return activation[rows.to(activation.device)]


def spread(values: Tensor, rows: Tensor, shape: torch.Size) -> Tensor:
    """(chosen positions, width) → (*shape[:-1], width), with zeros at the other positions."""
    result = values.new_zeros(rows.numel(), values.shape[-1])
    result[rows.flatten().to(values.device)] = values
    return result.view(*shape[:-1], -1)


def is_greedy(arguments: Mapping[str, Any]) -> bool:
    """Whether these arguments of ``generate`` select the most likely token, regardless of token order in the prompt."""
    plain = {"do_sample": (False,), "num_beams": (1,), "repetition_penalty": (1.0,), "temperature": (None,)}
    plain |= {"top_k": (None,), "top_p": (None,), "use_cache": (True,)}
    free = {"max_new_tokens", "eos_token_id", "pad_token_id"}
    return all(name in free or value in plain.get(name, ()) for name, value in arguments.items()) and all(
        name in arguments for name in ("do_sample", "num_beams", "repetition_penalty")
    )
