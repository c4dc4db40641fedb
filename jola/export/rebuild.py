"""Build a plain transformers model from a frozen model and its edits, weight by weight."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from jola.edits.sites import Site
from jola.edits.weights import frozen_module, frozen_state
from jola.errors import InputError
from jola.export.affine import Affine, Place
from jola.export.foldable import Foldable
from jola.export.projections import projection, projection_path, target_of
from jola.model.packing import attention_in_float32
from jola.model.placement import refuse_spread
from jola.model.quantization import refuse_quantized


@torch.no_grad()
def rebuild(
    base: PreTrainedModel, edits: Foldable, dtype: torch.dtype, rounding: torch.dtype | None = None
) -> PreTrainedModel:
    """Create a new model with the edits folded in; the given model is not changed. Without edits, this is a copy.

    Folding is computed in float64, layer by layer, and every weight is rounded once.

    Args:
        dtype: Data type of the new model.
        rounding: Data type to which all weights are rounded first; None uses `dtype`. With `dtype` float32, this
            isolates the rounding of weights from the rounding of arithmetic.

    Raises:
        InputError: The edits cannot be folded into this architecture, the weights are not plain float numbers, or the
            data type cannot represent a folded weight.
    """
    refuse_spread(base, "A folded checkpoint")
    refuse_quantized(base, "A folded checkpoint")
    target = target_of(base, edits)
    frozen = frozen_state(base)
    state, known = _state(base, frozen, edits), set(frozen)
    rounding = rounding or dtype
    for name, tensor in state.items():
        rounded = tensor.to(rounding)
        if not bool(torch.isfinite(rounded).all()):
            raise InputError(
                f"{name} contains numbers that {_name(rounding)} cannot represent; export bfloat16 or float32, and "
                "check the edits if that fails too."
            )
        narrow = rounded.to(dtype)
        # `from_pretrained` uses the given tensors, so without a copy they would be shared with the frozen model.
        state[name] = narrow.clone() if narrow is tensor else narrow
    with torch.device("meta"):
        empty = target.kind(copy.deepcopy(target.config))
    for name, tensor in empty.state_dict().items():
        if name not in known and name not in state:
            # A switch for one bias also adds biases to other projections.
            if not name.endswith(".bias"):
                raise InputError(f"A plain {target.config.model_type} model needs {name}, which this model lacks.")
            state[name] = torch.zeros(tensor.shape, dtype=dtype)
    target.config.dtype = dtype
    loaded: Any = target.kind.from_pretrained(
        None,
        config=target.config,
        state_dict=state,
        dtype=dtype,
        attn_implementation=attention_in_float32(base),
        output_loading_info=True,
    )
    model, report = loaded
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, report[problem])):
            raise InputError(
                f"The weights of this {base.config.model_type} model do not match a plain {target.config.model_type} "
                f"model ({problem.replace('_', ' ')}: {', '.join(names[:3])}); export the adapter instead."
            )
    model.generation_config = copy.deepcopy(base.generation_config)
    return model.to(base.device).eval().requires_grad_(False)


def _state(base: PreTrainedModel, frozen: Mapping[str, Tensor], edits: Foldable) -> dict[str, Tensor]:
    """The weights by name, on the CPU, with folded ones in float64; a tied weight appears once."""
    state: dict[str, Tensor] = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, tensor in frozen.items():
        if not tensor.is_floating_point() or tensor.is_meta:
            raise InputError(
                f"{name} is not stored as plain float numbers; load the model without quantization and offloading, and "
                "export it again."
            )
        where = tensor.data_ptr(), tuple(tensor.shape)
        if where in seen and base.config.tie_word_embeddings:
            continue
        seen.add(where)
        state[name] = tensor.detach().cpu()
    for path, changes in edits.updates.items():
        weight = state[f"{path}.weight"].double()
        change = torch.stack([change.matrix() for change in changes]).sum(0)
        transposed = isinstance(frozen_module(base.get_submodule(path)), Conv1D)
        state[f"{path}.weight"] = weight + (change.T if transposed else change)
    for path, added in edits.biases.items():
        bias = torch.stack([each.cpu().double() for each in added]).sum(0)
        state[f"{path}.bias"] = bias + state[f"{path}.bias"].double() if f"{path}.bias" in state else bias
    for place, affine in edits.affines.items():
        path = projection_path(base, *place)
        module = projection(base, *place)
        weight, bias = _folded(
            state[f"{path}.weight"].double(),
            state[f"{path}.bias"].double() if f"{path}.bias" in state else None,
            place,
            affine,
            isinstance(module, Conv1D),
        )
        state[f"{path}.weight"] = weight
        if bias is not None:
            state[f"{path}.bias"] = bias
    return state


def _folded(
    weight: Tensor, bias: Tensor | None, place: Place, affine: Affine, transposed: bool
) -> tuple[Tensor, Tensor | None]:
    """W and b of a projection with the edit folded in.

    With y = W z + b, an edit of z gives W diag(s) and b + W c, with the original W; an edit of y gives diag(s) W and
    s ⊙ b + c. GPT-2 stores W transposed.
    """
    matrix = weight.T if transposed else weight
    if place[0] is Site.HEADS:
        folded, added, kept = matrix * affine.scale, matrix @ affine.offset, bias
    else:
        folded, added, kept = (
            affine.scale[:, None] * matrix,
            affine.offset,
            None if bias is None else affine.scale * bias,
        )
    if kept is not None or affine.offsets:
        kept = added if kept is None else kept + added
    return (folded.T if transposed else folded).contiguous(), kept


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
