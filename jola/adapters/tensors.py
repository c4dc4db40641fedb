"""The tensors of an adapter as a safetensors file: whole, or compact with only the vectors of open edits.

A whole file contains every parameter of the edits as ``<site>.<name>``. A compact file contains all gates, but for each
half (`offset`, `scale`) only the vectors that the model uses::

    heads.offset        (open units, width)   the vectors
    heads.offset.units  (open units)          int64, layer · units + unit, ascending

Reading gives the same tensors from both, with zeros for the vectors that a compact file leaves out.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jola.edits.gated import GatedEdits
from jola.edits.intervention import Intervention
from jola.edits.names import HALVES
from jola.errors import InputError

HEADER_LIMIT = 1 << 20
"""Maximum size of the header of the file in bytes, because the file may come from an untrusted source."""
_UNITS = ".units"

Shapes = Mapping[str, tuple[int, ...]]


@torch.no_grad()
def compacted(edits: Iterable[Intervention], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the tensors of a whole file to those of a compact one, with only the vectors of open gates."""
    result = dict(tensors)
    for e in edits:
        if not isinstance(e, GatedEdits):
            continue
        gates = e.gate_values()
        for half in e.halves:
            name = f"{e.site}.{half}"
            vectors = tensors[name].flatten(0, 1)
            on = (gates[half].flatten().cpu() > 0) & (vectors != 0).any(-1).cpu()
            units = on.nonzero().flatten()
            result[name], result[name + _UNITS] = vectors[units].contiguous(), units
    return result


def read_tensors(path: Path, expected: Shapes | None, *, compact: bool) -> dict[str, Tensor]:
    """Read a whole or a compact file; return the tensors of a whole file.

    Args:
        expected: Names and shapes of the tensors of a whole file; None accepts those of the file.

    Raises:
        InputError: The file is not readable, or a tensor is missing, unknown, of the wrong shape or type, or not
            finite; the message names the first.
    """
    vectors = [name for name in expected or () if name.rpartition(".")[2] in HALVES] if compact else []
    names = {*(expected or ()), *(name + _UNITS for name in vectors)}
    try:
        with open(path, "rb") as file:
            if int.from_bytes(file.read(8), "little") > HEADER_LIMIT:
                raise InputError(f"{path} is not a readable safetensors file (its header is too large).")
        with safe_open(path, framework="pt") as file:
            found = set(file.keys())
            if expected is None:
                expected = {name: tuple(file.get_slice(name).get_shape()) for name in found}
                names = found
            if missing := sorted(names - found):
                raise InputError(f"{path} lacks the tensor {', '.join(missing)}; the adapter is incomplete.")
            if extra := sorted(found - names):
                raise InputError(
                    f"{path} contains {_listed(extra)}, which its configuration does not describe; the adapter is "
                    "damaged."
                )
            for name, shape in expected.items():
                has = tuple(file.get_slice(name).get_shape())
                needed = (*has[:1], *shape[2:]) if name in vectors else shape
                if has != needed or not has:
                    raise InputError(f"Tensor {name} in {path} has shape {has}; it must be {needed}.")
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}).") from error
    for name in expected:
        if not tensors[name].is_floating_point() or not bool(torch.isfinite(tensors[name].float()).all()):
            raise InputError(f"Tensor {name} in {path} contains values that are not finite.")
    for name in vectors:
        tensors[name] = _expanded(tensors[name], tensors[name + _UNITS], expected[name], name, path)
    return {name: tensors[name] for name in expected}


def _expanded(vectors: Tensor, units: Tensor, shape: tuple[int, ...], name: str, path: Path) -> Tensor:
    layers, count, width = shape
    fits = units.dtype == torch.int64 and units.shape == vectors.shape[:1]
    rising = fits and bool((units.diff() > 0).all())
    if not rising or (len(units) and not 0 <= int(units[0]) <= int(units[-1]) < layers * count):
        raise InputError(
            f"Tensor {name}{_UNITS} in {path} does not say which of the {layers * count} units its vectors belong to."
        )
    whole = torch.zeros(layers * count, width)
    whole[units] = vectors.float()
    return whole.view(shape)


def _listed(names: list[str]) -> str:
    """The first names, shortened and without unprintable characters."""
    return ", ".join("".join(c if c.isprintable() else "?" for c in name[:60]) for name in names[:3])
