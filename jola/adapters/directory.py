"""Adapter directories: ``adapter_config.json``, ``adapter_model.safetensors``, and a ``README.md`` with a picture.

The layout is peft's; the tensors are JoLA's, which peft cannot load. The configuration says everything that would be
silently wrong when wrong: the base model and its shape, the place of the edit, the operation, the gates and how they
are evaluated. Loading refuses what does not fit, naming it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor

from jola.adapters.card import OPERATION, PICTURE_NAME, adapter_card, heads_picture
from jola.adapters.tensors import compacted, read_tensors, tensors_of
from jola.config import EditConfig, RunConfig
from jola.edits.gated import GatedEdits
from jola.edits.sites import Geometry, Site, sites_of
from jola.errors import InputError
from jola.system.files import disk_errors, replace_file

if TYPE_CHECKING:
    from jola.model.edited import EditedModel

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
SCHEMA_VERSION = 1
HOOK_POINTS = {
    Site.HEADS: "input of the attention output projection, split into query heads, at every position",
    Site.MLP: "output of the MLP sub-layer before the residual is added, at every position",
}
CONFIG_KEYS = frozenset(
    (
        "peft_type",
        "library_name",
        "schema_version",
        "task_type",
        "inference_mode",
        "base_model_name_or_path",
        "revision",
        "base_model_sample",
        "geometry",
        "operation",
        "hook_points",
        "layers",
        "dtype",
        "compact",
        "edits",
    )
)
"""What a configuration says, all of it; a key beyond them may mean something that would be computed wrongly."""
CONFIG_LIMIT = 1 << 20
"""Bytes of the configuration, which comes from strangers."""
WEIGHTS_LIMIT = 256 << 20
"""Bytes of the tensors that are fetched or unpacked."""
UNITS_LIMIT, NUMBERS_LIMIT = 1 << 20, 1 << 25
"""Units and numbers in one half of all edits of an adapter: at least ten times those of the largest models."""
SAMPLES = 64
"""Weights of the base model that are remembered, one from each of as many tensors, to tell it from its relatives."""


@dataclass(frozen=True)
class Adapter:
    """The content of an adapter directory, checked for what can be checked without its model."""

    folder: Path
    base_model: str
    revision: str | None
    edits: EditConfig
    geometry: Geometry
    base_sample: dict[str, float]
    tensors: dict[str, Tensor]
    """As in a whole file, also when it is compact."""


def save_adapter(
    model: "EditedModel", folder: Path | str, facts: Mapping[str, Any] | None = None, *, compact: bool = False
) -> Path:
    """Write the edits of a model; `facts` (name → text) are listed in the README.

    Args:
        compact: Leave out the vectors of closed gates, which nothing computes with; the gates stay.
    """
    folder = Path(folder)
    tensors = {
        name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors_of(model.gated_edits()).items()
    }
    if broken := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise InputError(
            f"The training diverged: {broken[0]} holds values that are not finite numbers. Start it anew with a lower "
            "--learning-rate."
        )
    if compact:
        tensors = compacted(model.gated_edits(), tensors)
    config = {
        "peft_type": "JOLA",
        "library_name": "jola-workbench",
        "schema_version": SCHEMA_VERSION,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": model.name,
        "revision": model.revision,
        "base_model_sample": _sample(model),
        "geometry": asdict(model.geometry),
        "operation": OPERATION,
        "hook_points": {e.site: HOOK_POINTS[e.site] for e in model.gated_edits()},
        "layers": {e.site: e.editable.any(-1).nonzero().flatten().tolist() for e in model.gated_edits()},
        "dtype": "float32",
        **({"compact": True} if compact else {}),
        "edits": asdict(model.edit_config),
    }
    card = adapter_card(model.gated_edits(), model.name, model.revision, facts)
    with disk_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"{folder} cannot be a folder: there is a file in its place; choose another.") from error
        replace_file(folder / WEIGHTS_NAME, save(tensors, metadata={"format": "pt"}))
        replace_file(folder / CONFIG_NAME, json.dumps(config, indent=2, ensure_ascii=False).encode())
        replace_file(folder / PICTURE_NAME, heads_picture(model.gated_edits()))
        replace_file(folder / "README.md", card.encode())
    return folder


def read_adapter(folder: Path | str) -> Adapter:
    """Read an adapter directory.

    Raises:
        InputError: A file is missing or too large or not what it should be; a tensor is missing, unknown, of the wrong
            shape or type, or not finite.
    """
    folder = Path(folder)
    config = _read_config(folder)
    try:
        geometry = _checked_geometry(config["geometry"])
        edits = EditConfig(**config["edits"])
        RunConfig(edits=edits).validate()
        sample = {str(name): float(value) for name, value in config["base_model_sample"].items()}
        if not sample:
            raise ValueError("base_model_sample is empty")
        for name, needs in (("operation", OPERATION), ("hook_points", {s: HOOK_POINTS[s] for s in sites_of(edits)})):
            if config[name] != needs:
                raise ValueError(f"{name} is {config[name]!r} where this version computes {needs!r}")
        base_model, revision = config["base_model_name_or_path"], config.get("revision")
        if not isinstance(base_model, str) or not base_model or not isinstance(revision, str | None):
            raise ValueError(f"its base model is {base_model!r} of revision {revision!r}")
        compact = config.get("compact", False)
        if not isinstance(compact, bool):
            raise ValueError(f"compact is {compact!r}; it is true or false")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{folder / CONFIG_NAME} is not a complete JoLA configuration ({error}).") from error
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise InputError(f"{folder} is not a complete adapter directory: it has no {WEIGHTS_NAME}.")
    # Before anything of the size that a configuration claims is made in memory.
    units = geometry.num_layers * sum(geometry.units(site)[0] for site in sites_of(edits))
    numbers = geometry.num_layers * sum(math.prod(geometry.units(site)) for site in sites_of(edits))
    if not compact and numbers > path.stat().st_size:
        raise InputError(f"{path} is smaller than its configuration says; the adapter is incomplete.")
    if units > UNITS_LIMIT or numbers > NUMBERS_LIMIT:
        raise InputError(f"{folder / CONFIG_NAME} describes {units:,} units, more than any model has.")
    try:
        expected = _expected_shapes(edits, geometry)
    except InputError as error:
        raise InputError(f"{folder / CONFIG_NAME} describes edits that its model cannot have ({error}).") from error
    tensors = read_tensors(path, expected, compact=compact)
    return Adapter(folder, base_model, revision, edits, geometry, sample, tensors)


def load_edits(folder: Path | str, model: "EditedModel") -> list[GatedEdits]:
    """The edits in an adapter directory, for a model that is loaded: `EditedModel.using` edits with them.

    They lie on the device of the model, in evaluation mode, and do not train.

    Raises:
        InputError: As `read_adapter`, or the adapter was trained on another model.
    """
    from jola.edits.gated import build_edits

    adapter = read_adapter(folder)
    _check_model(model, adapter)
    edits = build_edits(adapter.edits, adapter.geometry)
    _fill(edits, adapter)
    return [e.to(model.device).eval().requires_grad_(False) for e in edits]


def read_edits(folder: Path | str) -> list[GatedEdits]:
    """The edits in an adapter directory for looking at, without its model; they lie on the processor.

    Raises:
        InputError: As `read_adapter`.
    """
    from jola.edits.gated import build_edits

    adapter = read_adapter(folder)
    edits = build_edits(adapter.edits, adapter.geometry)
    _fill(edits, adapter)
    return [e.eval().requires_grad_(False) for e in edits]


def apply_adapter(model: "EditedModel", adapter: Adapter) -> None:
    """Put the edits of an adapter into a model that was built for them.

    Raises:
        InputError: The adapter was trained on another model.
    """
    _check_model(model, adapter)
    _fill(model.gated_edits(), adapter)


def _check_model(model: "EditedModel", adapter: Adapter) -> None:
    """Refuse a model of another shape or with other weights than the one that the adapter was trained on."""
    for field in fields(Geometry):
        has, needs = getattr(model.geometry, field.name), getattr(adapter.geometry, field.name)
        if has != needs:
            raise InputError(
                f"The adapter in {adapter.folder} was trained on {adapter.base_model} with {field.name} {needs}, but "
                f"{model.name} has {has}; load the model it was trained on."
            )
    weights = dict(model.base.named_parameters())
    for name, expected in adapter.base_sample.items():
        if name not in weights or not _near(_middle(weights[name]), expected):
            raise InputError(
                f"The adapter in {adapter.folder} was trained on {adapter.base_model}, and {model.name} has the same "
                f"shape but other weights (in {name}); load the model it was trained on."
            )


def _fill(edits: list[GatedEdits], adapter: Adapter) -> None:
    with torch.no_grad():
        for name, tensor in tensors_of(edits).items():
            tensor.copy_(adapter.tensors[name])


def _expected_shapes(edits: EditConfig, geometry: Geometry) -> dict[str, tuple[int, ...]]:
    from jola.edits.gated import build_edits

    return {name: tuple(tensor.shape) for name, tensor in tensors_of(build_edits(edits, geometry)).items()}


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise InputError(f"{folder} is not an adapter directory: it has no {CONFIG_NAME}.")
    if path.stat().st_size > CONFIG_LIMIT:
        raise InputError(f"{path} is larger than {CONFIG_LIMIT >> 20} MB, which no adapter configuration is.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(config, dict) or config.get("peft_type") != "JOLA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise InputError(f"{folder} is an adapter of type {kind or 'unknown'}, not JOLA; it cannot be loaded here.")
    if config.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path} has format {config.get('schema_version')!r}, and this version reads {SCHEMA_VERSION}; update "
            "jola-workbench."
        )
    if unknown := sorted(set(config) - CONFIG_KEYS):
        raise InputError(
            f"{path} says {', '.join(repr(name[:40]) for name in unknown[:3])}, which this version does not know and "
            "may compute wrongly; update jola-workbench, or take it out."
        )
    return config


def _checked_geometry(values: dict[str, Any]) -> Geometry:
    geometry = Geometry(**values)
    for name, value in asdict(geometry).items():
        if name != "architecture" and (type(value) is not int or value < 1):
            raise ValueError(f"{name} is {value!r}; it must be a whole number above 0")
    return geometry


def _sample(model: "EditedModel") -> dict[str, float]:
    parameters = list(model.base.named_parameters())
    step = max(1, len(parameters) // SAMPLES)
    return {name: _middle(tensor) for name, tensor in parameters[::step][:SAMPLES]}


def _middle(tensor: Tensor) -> float:
    return float(tensor.detach().flatten()[tensor.numel() // 2])


def _near(value: float, expected: float) -> bool:
    # Wide enough for the rounding between float32, bfloat16 and float16, too narrow for another training run.
    return abs(value - expected) <= 0.01 * abs(expected) + 1e-6
