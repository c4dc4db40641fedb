"""Export of adapters for sharing: as a folder or a zip file, complete or compact (only open edits)."""

import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult
from safetensors.torch import save
from torch import Tensor

from jola.adapters.card import PICTURE_NAME, adapter_card, heads_picture, portable_name
from jola.adapters.directory import CONFIG_NAME, CONFIG_NAMES, WEIGHTS_NAME, method_of, read_adapter
from jola.adapters.tensors import compacted
from jola.edits.gated import GatedEdits
from jola.edits.hidden import CHANNEL, HiddenEdits
from jola.edits.weights import WeightEdits
from jola.errors import InputError
from jola.export.affine import factors
from jola.export.folders import new_file, new_folder, size_of
from jola.export.source import Source, source_of
from jola.methods import METHODS
from jola.runs.adapter_source import local_adapter
from jola.system.files import disk_errors, read_json
from jola.system.safe_zip import MAX_RATIO

if TYPE_CHECKING:
    from jola.model.edited import Masks

_EPOCH = (1980, 1, 1, 0, 0, 0)  # fixed timestamp, so that equal adapters give identical files


@dataclass(frozen=True)
class AdapterReport:
    """The exported adapter, and its size before the export."""

    path: str
    bytes: int
    bytes_before: int
    kept: int
    """Number of open edit halves, or of edits that are on if the method has no gates."""
    total: int
    method: str = "jola"

    def describe(self) -> str:
        """A one-line summary."""
        words = "edit halves are open" if METHODS[self.method].has_gates else "edits are on"
        sizes = f"{self.bytes:,} bytes ({self.bytes_before:,} before)"
        return f"adapter  {self.path}, {sizes}, {self.kept} of {self.total} {words}"


def export_adapter(
    adapter: Path | str,
    output: Path | str,
    *,
    compact: bool = True,
    mask: "Masks" = None,
    strength: float = 1.0,
    facts: Mapping[str, Any] | None = None,
    results: Iterable[EvalResult] = (),
) -> AdapterReport:
    """Write an adapter for sharing, without local folders in the name of its base model.

    Args:
        adapter: An adapter directory, a zip file, or "owner/name" on the Hub.
        output: A new folder, or a new file whose name ends in ``.zip``.
        compact: Leave out the vectors of closed gates (`jola.adapters.tensors`); the gates are included.
        mask: Switches and strengths of single edits, as for `EditedModel.forward`; they are applied to the vectors.
        strength: Factor on every edit.
        facts, results: Contents of the model card, from `jola.export.run_facts`. Without them, the existing card is
            kept, unless mask or strength change the edits.

    Raises:
        InputError: The adapter cannot be read, or the output already exists or cannot be written.
    """
    output = Path(output)
    with local_adapter(adapter) as folder:
        method_of(folder).refuse_export("adapter")
        source, read = source_of(folder, mask, strength), read_adapter(folder)
        method, (tensors, kept, total) = read.method, _tensors(read.tensors, source)
        before = size_of(folder)
        configs = {name: _config(folder / name) for name in CONFIG_NAMES if (folder / name).is_file()}
        own = folder / "README.md"
        changed = mask is not None or strength != 1.0
        card = own.read_text(encoding="utf-8", errors="replace") if own.is_file() and not (changed or facts) else None
    edits = list(source.interventions)
    method.load(edits, tensors)
    if compact and method.own_config:
        tensors, configs[CONFIG_NAME]["compact"] = compacted(edits, tensors), True
    if changed:
        facts = {
            **(facts or {}),
            "Modified edits": "exported with a mask or a strength; the results above were measured without them",
        }
    files = {
        **{name: json.dumps(config, indent=2, ensure_ascii=False).encode() for name, config in configs.items()},
        WEIGHTS_NAME: save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"format": "pt"}),
        "README.md": (
            card or adapter_card(edits, source.base_model, source.revision, facts, results, method=method)
        ).encode(),
        PICTURE_NAME: heads_picture(edits),
    }
    return AdapterReport(str(output), _written(files, output), before, kept, total, method.name)


def _config(path: Path) -> dict[str, Any]:
    """Read one of `CONFIG_NAMES`, for a whole file and without local folders in the name of the base model."""
    config = read_json(path)
    if config is None or not isinstance(config.get("base_model_name_or_path"), str):
        raise InputError(f"{path} is not the configuration of an adapter; it is damaged, so save the adapter again.")
    config.pop("compact", None)
    return config | {"base_model_name_or_path": portable_name(config["base_model_name_or_path"])}


def _written(files: Mapping[str, bytes], output: Path) -> int:
    """Write the files to a folder or a zip file; returns the size in bytes."""
    if output.suffix == ".zip":
        with new_file(output) as draft, disk_errors(output), zipfile.ZipFile(draft, "w", compresslevel=9) as archive:
            for name, data in files.items():
                _add(archive, name, data)
        return output.stat().st_size
    with new_folder(output) as draft, disk_errors(output):
        for name, data in files.items():
            (draft / name).write_bytes(data)
    return size_of(output)


def _tensors(tensors: dict[str, Tensor], source: Source) -> tuple[dict[str, Tensor], int, int]:
    """The tensors of an adapter with masks applied, the number of edits that are on, and the total number of edits."""
    result, kept, total = dict(tensors), 0, 0
    for edits, mask in zip(source.interventions, source.masks, strict=True):
        if isinstance(edits, WeightEdits):
            scaled = edits.scaled(mask, source.strength)
            result |= scaled
            suffix = list(edits.parts.values())[-1]
            kept += sum(bool((t != 0).any()) for name, t in scaled.items() if name.endswith(suffix))
            total += len(edits.path_of)
            continue
        if isinstance(edits, HiddenEdits):
            on = edits.on()[CHANNEL]
            if mask is not None or source.strength != 1.0:
                result |= edits.scaled(mask, source.strength)
                on = on & (edits.factors(mask, source.strength) != 0)
            kept, total = kept + int(on.sum()), total + len(edits.chosen)
            continue
        assert isinstance(edits, GatedEdits)
        for half in edits.halves:
            name = f"{edits.site}.{half}"
            factor = factors(edits, half, mask, source.strength)
            on = edits.gate_values()[half] * factor != 0
            result[name] = tensors[name].float() * factor.unsqueeze(-1)
            kept, total = kept + int(on.sum()), total + int(edits.editable.sum())
    return result, kept, total


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    # Data that compresses very well, such as zeros, is stored uncompressed; readers would reject it as a zip bomb.
    packs_too_well = len(zlib.compress(data, 9)) * MAX_RATIO < 2 * len(data)
    archive.writestr(info, data, zipfile.ZIP_STORED if packs_too_well else zipfile.ZIP_DEFLATED, compresslevel=9)
