"""A batch in one row, with nothing in it twice: no padding, and once what all rows begin with.

A chat template and an instruction make the first tokens of every example the same, in short-text tasks about half of
what an example has. Attention is causal, so what a layer makes of them is the same in every row. In a packed pass each
layer sees one row: the common beginning, then the rest of each row, one after the other. Only attention has to know
which of them belong together. Outputs and gradients are those of the batch as it was.

With variable-length attention (flash attention), rows are joined without sharing their beginning.
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
"""Share of a batch's places that packing must spare: taking rows apart in every layer costs about as much."""
FLASH = "flash"
"""Part of the names of implementations of attention that take ``cu_seq_lens``, the places where rows end."""
SPARED = 64
"""Tokens of prompts that a pass over their common beginning must spare."""


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the tokens of a batch stand when it is packed."""

    source: Tensor
    """(packed tokens,): place of each in the flattened batch."""
    common: int
    """Tokens that all rows begin with; they are the first of the packed ones."""
    shape: tuple[int, int]
    """(batch, tokens) after the common beginning, padding included."""
    filled: Tensor
    """(packed tokens − common,): place of each in the flattened `shape`; the other places are padding."""
    slots: Tensor
    """(batch · tokens,): for each place of `shape` its packed token, counted after the common ones; 0 for padding."""
    lengths: Tensor | None = None
    """(batch,): tokens of each row, if variable-length attention keeps the rows apart; `common` is then 0."""
    weights: bool = False
    """Whether attention gives its weights, (batch, heads, tokens, tokens), where it has them."""
    masks: dict[Any, Tensor] = field(default_factory=dict, repr=False)
    """What `_causal` gave in this pass: layers share them."""

    def inputs(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Arguments of a packed pass: one row of tokens, and the position that each has in its own row."""
        row = {
            "input_ids": self.pack(input_ids).unsqueeze(0),
            "position_ids": (self.source % input_ids.shape[1]).unsqueeze(0),
        }
        # Given one with four axes, transformers makes no mask: that of the packed row would be large, and unused.
        return row if self.lengths is not None else {**row, "attention_mask": torch.zeros(1, 1, 1, 1)}

    def for_attention(self) -> dict[str, Any]:
        """What a packed pass hands on to attention."""
        if self.lengths is None:
            return {"packing": self}
        ends = F.pad(self.lengths.cumsum(0), (1, 0)).int()
        longest = int(self.lengths.max())
        return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}

    def pack(self, values: Tensor) -> Tensor:
        """(batch, tokens) → (packed tokens,)."""
        return values.flatten()[self.source]

    def unpack(self, packed: Tensor) -> Tensor:
        """(1, packed tokens, …) → (batch, tokens, …); what stands at padding means nothing."""
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
    """How to pack a batch; None where that would not pay, and for padding on the left.

    Args:
        input_ids: (batch, tokens).
        attention_mask: (batch, tokens) or None.
        rows: (batch, tokens) of bool: where logits are wanted. The common beginning ends before the first of them.
        edited_alike: (tokens,) of bool: columns in which all rows are edited in the same way; None is all of them. The
            common beginning ends before the first other one.
        variable_length: Whether variable-length attention keeps the rows apart; they share no beginning then.
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
    """What prompts that are padded on the left begin with, and where their tokens go when it comes first."""

    tokens: int
    """How many there are."""
    order: Tensor
    """(batch, tokens): the place from which each token is taken: the beginning, then padding, then the rest."""


def beginning_of(input_ids: Tensor, attention_mask: Tensor) -> Beginning | None:
    """What prompts begin with; None where a pass of its own would not pay.

    Args:
        input_ids, attention_mask: (batch, tokens), padded on the left.
    """
    batch, tokens = input_ids.shape
    padding = (attention_mask.cumsum(1) == 0).sum(1, keepdim=True)
    places = torch.arange(tokens, device=input_ids.device).expand(batch, -1)
    shifted = input_ids.gather(1, (places + padding).clamp(max=tokens - 1))
    alike = (shifted == shifted[:1]).all(0).int().cumprod(0)
    # Something has to be left of every prompt.
    count = min(int(alike.sum()), tokens - int(padding.max()) - 1)
    if count * (batch - 1) < SPARED or not bool((attention_mask == (places >= padding)).all()):
        return None
    beginning, pad = places < count, (places >= count) & (places < count + padding)
    order = torch.where(beginning, places + padding, torch.where(pad, places - count, places))
    return Beginning(count, order)


def can_share(base: PreTrainedModel) -> bool:
    """Whether prompts may have padding behind a common beginning, and are where that pays.

    A sliding window would count the padding.
    """
    kinds = getattr(base.config, "layer_types", None) or ["full_attention"]
    windows = [getattr(base.config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return base.device.type == "cpu" and set(kinds) == {"full_attention"} and not any(windows)


def can_pack(base: PreTrainedModel) -> bool:
    """Whether a model might take packed passes, and is where they pay.

    They do on a processor, which takes token by token, and with variable-length attention.
    """
    parameters = inspect.signature(base.forward).parameters
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    ours = base.device.type == "cpu" and base.config._attn_implementation in _NAMES
    return "position_ids" in parameters and passes_on and (ours or has_variable_length_attention(base))


def is_packed_alike(base: PreTrainedModel, run: Callable[..., Tensor], run_packed: Callable[..., Tensor]) -> bool:
    """Whether packed passes give what others give, seen on two short rows: attention may have ways of its own.

    Args:
        run: Gives the logits of a pass from its inputs, its plan and the rows wanted.
        run_packed: The same of a packed pass, from the token ids, the plan, the rows wanted and the packing.
    """
    if not can_pack(base):
        return False
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, 6, 5, 4]], device=base.device)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], device=base.device)
    rows = mask.cumsum(1).mul(mask).ge(4)
    packing = packing_of(ids, mask, rows, variable_length=has_variable_length_attention(base))
    if packing is None:
        return False
    # Edits of weights may be applied at this moment, with dropout: a training draws what it would draw anyway.
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        expected = run({"input_ids": ids, "attention_mask": mask}, {}, rows).float()
        difference = run_packed(ids, {}, rows, packing).float() - expected
    return bool(difference.std() < 0.1 * expected.std())


def has_variable_length_attention(base: PreTrainedModel) -> bool:
    """Whether the attention in use takes the arguments of transformers' flash attention."""
    return FLASH in (base.config._attn_implementation or "")


def attention_in_float32(base: PreTrainedModel) -> str:
    """The attention of a model, or the fused one of PyTorch in place of flash attention, which has no float32."""
    return "sdpa" if has_variable_length_attention(base) else base.config._attn_implementation or "eager"


@contextmanager
def packed_attention(base: PreTrainedModel) -> Iterator[None]:
    """Inside the block the model accepts packed passes, with the arguments of `Packing.for_attention`."""
    if has_variable_length_attention(base):
        yield
        return
    with attention(base, _NAMES[base.config._attn_implementation or "eager"]):
        yield


@contextmanager
def attention(base: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Inside the block the model uses this implementation of attention, by its name in transformers."""
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
    """Attention as transformers calls it; in a packed pass, over the rows that the one row consists of.

    Args:
        kind: The implementation that is wrapped.
        query, key, value: (1, heads, packed tokens, head_dim); fewer heads for key and value than for query.

    Returns:
        (1, packed tokens, heads, head_dim), and the weights of each row or None.
    """
    # Every architecture of transformers has eager attention of its own, in its own file.
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
    """A module whose attention repeats no keys and values."""

    num_key_value_groups = 1

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _attention_of_groups(
    attend: Any, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **arguments: Any
) -> tuple[Tensor, Tensor]:
    """Eager attention in which the heads that share keys and values are queries of one head.

    The keys and values, and their gradients, are not repeated for each head. Arguments and results as in `_attention`,
    with one row in `mask` for each of these queries.
    """
    heads, tokens = query.shape[1:3]
    joined = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    output, weights = attend(_WithoutGroups(module), joined, key, value, mask, **arguments)
    output = output.unflatten(1, (-1, tokens)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    return output, weights.reshape(len(query), heads, tokens, -1)


class _Unpack(torch.autograd.Function):
    """(packed tokens after the common ones, …) → (batch · tokens, …); what stands at padding, nothing reads."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return packed.index_select(0, packing.slots)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # That of index_select would add up row by row, and slowly; here every packed token stands at one place.
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
    """(1, 1, groups · (stop − start), stop): added to the scores, so that positions see themselves and those before."""
    query, key = torch.arange(start, stop).unsqueeze(1), torch.arange(stop)
    seen = key <= query if window is None else (key <= query) & (key > query - window)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    return mask.repeat(groups, 1)[None, None]


# Outside packed passes both do what they wrap, masks included, in case a configuration is copied during one.
_NAMES = {"sdpa": "jola_packed_sdpa", "eager": "jola_packed_eager"}
for _kind, _name in _NAMES.items():
    AttentionInterface.register(_name, partial(_attention, _kind))
    AttentionMaskInterface.register(_name, ALL_MASK_ATTENTION_FUNCTIONS[_kind])


def chosen(activation: Tensor, rows: Tensor) -> Tensor:
    """What is at the positions that are true in `rows`, whichever device the layer is on."""
    return activation[rows.to(activation.device)]


def spread(values: Tensor, rows: Tensor, shape: torch.Size) -> Tensor:
    """(chosen positions, width) → (…, width) as `shape` begins, with zeros at the other positions."""
    result = values.new_zeros(rows.numel(), values.shape[-1])
    result[rows.flatten().to(values.device)] = values
    return result.view(*shape[:-1], -1)


def is_greedy(arguments: Mapping[str, Any]) -> bool:
    """Whether each new token is the likeliest one, whatever stands where in the prompt."""
    plain = {"do_sample": (False,), "num_beams": (1,), "repetition_penalty": (1.0,), "temperature": (None,)}
    plain |= {"top_k": (None,), "top_p": (None,)}
    free = {"max_new_tokens", "eos_token_id", "pad_token_id"}
    return all(name in free or value in plain.get(name, ()) for name, value in arguments.items()) and all(
        name in arguments for name in ("do_sample", "num_beams", "repetition_penalty")
    )
