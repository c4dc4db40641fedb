"""Adapter directories: ``adapter_config.json``, ``adapter_model.safetensors``, and a ``README.md`` with a picture.

The layout is that of peft; the tensors are those of JoLA, which peft cannot load. The configuration contains everything
that could cause wrong results without an error: the base model and its shape, the sites, the operation, the gates and
their estimator. Loading raises an error that names what does not match.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save
from torch import Tensor

from jola.adapters.card import PICTURE_NAME, adapter_card, heads_picture
from jola.adapters.tensors import compacted, read_tensors
from jola.config import RunConfig
from jola.edits.intervention import Intervention
from jola.edits.sites import Geometry, Site
from jola.errors import DIVERGED, InputError
from jola.methods import METHODS, Method
from jola.settings import check_revision
from jola.system.files import disk_errors, make_folder, replace_file
from jola.system.formatting import short

if TYPE_CHECKING:
    from jola.model.edited import EditedModel

CONFIG_NAME = "adapter_config.json"
DESCRIPTION_NAME = "jola_adapter.json"
"""Contains the configuration if ``adapter_config.json`` is in the format of another library."""
CONFIG_NAMES = (CONFIG_NAME, DESCRIPTION_NAME)
"""Files that name the base model; only some methods write the second."""
WEIGHTS_NAME = "adapter_model.safetensors"
SCHEMA_VERSION = 1
HOOK_POINTS = {
    Site.HEADS: "input of the attention output projection, split into query heads, at every position",
    Site.WEIGHTS: "weights of linear modules",
    Site.ATTENTION: "output of the attention output projection, at every position",
    Site.MLP: "output of the MLP sub-layer before the residual is added, at every position",
    Site.BLOCK: "residual stream after the layer",
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
        "base_quantization",
        "edits",
    )
)
"""All keys of a configuration. Other keys are refused, because ignoring them could give wrong results."""
CONFIG_LIMIT = 1 << 20
"""Maximum size of the configuration in bytes, because it may come from an untrusted source."""
WEIGHTS_LIMIT = 256 << 20
"""Maximum size in bytes of tensors that are downloaded or unpacked."""
UNITS_LIMIT, NUMBERS_LIMIT = 1 << 20, 1 << 25
"""Maximum units and numbers in one half of all edits of an adapter: at least ten times those of the largest models."""
SAMPLES = 64
"""Number of weights of the base model, each from another tensor, that are saved to recognize the base model."""


@dataclass(frozen=True)
class Adapter:
    """The content of an adapter directory, checked as far as possible without the model."""

    folder: Path
    base_model: str
    revision: str | None
    method: Method
    edits: Any
    """Settings of the method."""
    geometry: Geometry
    base_sample: dict[str, float]
    base_quantization: str
    """Quantization of the base model in training; 'none' if it was not quantized."""
    tensors: dict[str, Tensor]
    """The tensors of a whole file, even if the file is compact."""

    def rebuild(self) -> list[Intervention]:
        """Create the interventions without the model, for inspection, in evaluation mode on the CPU."""
        return [i.eval().requires_grad_(False) for i in self.method.rebuild(self.edits, self.geometry, self.tensors)]


def save_adapter(
    model: "EditedModel", folder: Path | str, facts: Mapping[str, Any] | None = None, *, compact: bool = False
) -> Path:
    """Write the edits of a model to an adapter directory.

    Args:
        facts: More lines for the README, name → text.
        compact: Leave out the vectors of closed gates, which are unused; the gates are saved.
    """
    folder = Path(folder)
    method, own = model.method, model.own_interventions()
    compact = compact or method.compact
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in method.tensors(own).items()}
    if broken := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise InputError(
            f"{DIVERGED}: {broken[0]} contains values that are not finite; train again with a lower --learning-rate."
        )
    if compact:
        tensors = compacted(own, tensors)
    config = {
        "peft_type": method.name.upper(),
        "library_name": "jola-workbench",
        "schema_version": SCHEMA_VERSION,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": model.name,
        "revision": model.revision,
        "base_model_sample": _sample(model),
        "geometry": asdict(model.geometry),
        "operation": method.formula,
        "hook_points": {i.site: HOOK_POINTS[i.site] for i in own},
        "layers": {i.site: i.edited_layers() for i in own},
        "dtype": "float32",
        **({"compact": True} if compact else {}),
        **({} if model.quantize == "none" else {"base_quantization": model.quantize}),
        "edits": asdict(model.edit_config),
    }
    card = adapter_card(own, model.name, model.revision, facts, method=method)
    foreign = method.foreign_config(model.edit_config, own, model.name)
    make_folder(folder)
    with disk_errors(folder):
        replace_file(folder / WEIGHTS_NAME, save(tensors, metadata={"format": "pt"}))
        if foreign is None:
            # The description of an adapter of another method in this folder would be read instead.
            (folder / DESCRIPTION_NAME).unlink(missing_ok=True)
            replace_file(folder / CONFIG_NAME, _json(config))
        else:
            replace_file(folder / DESCRIPTION_NAME, _json(config))
            replace_file(folder / CONFIG_NAME, _json(foreign))
        replace_file(folder / PICTURE_NAME, heads_picture(own))
        replace_file(folder / "README.md", card.encode())
    return folder


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode()


def read_adapter(folder: Path | str) -> Adapter:
    """Read an adapter directory.

    Raises:
        InputError: A file is missing, too large or invalid, or a tensor is missing, unknown, of the wrong shape or
            type, or not finite.
    """
    folder = Path(folder)
    config = _read_config(folder)
    try:
        geometry = _checked_geometry(config["geometry"])
        method = METHODS[config["peft_type"].lower()]
        edits = method.settings(**config["edits"])
        RunConfig(method=method.name, edits=edits).validate()
        sample = {str(name): float(value) for name, value in config["base_model_sample"].items()}
        if not sample:
            raise ValueError("base_model_sample is empty")
        if unusable := [name for name, value in sample.items() if not math.isfinite(value)]:
            raise ValueError(f"base_model_sample has no finite number for {unusable[0][:80]!r}")
        points = {site: HOOK_POINTS[Site(site)] for site in config["hook_points"]}
        for name, needs in (("operation", method.formula), ("hook_points", points)):
            if config[name] != needs:
                raise ValueError(f"{name} is {short(config[name])}, but this version supports only {needs!r}")
        base_model, revision = config["base_model_name_or_path"], config.get("revision")
        if not isinstance(base_model, str) or not base_model or not isinstance(revision, str | None):
            raise ValueError(f"the base model or its revision is invalid: {short(base_model)}, {short(revision)}")
        check_revision(revision, "revision")
        compact = config.get("compact", False)
        if not isinstance(compact, bool):
            raise ValueError(f"compact is {short(compact)}; it must be true or false")
        quantization = config.get("base_quantization", "none")
        if not isinstance(quantization, str):
            raise ValueError(f"base_quantization is {short(quantization)}; it must be text")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{_config_path(folder)} is not a complete JoLA configuration ({error}).") from error
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise InputError(f"{folder} is not a complete adapter directory: it has no {WEIGHTS_NAME}.")
    expected = _expected_shapes(folder, method, edits, geometry, None if compact else path.stat().st_size)
    if expected is None and path.stat().st_size > WEIGHTS_LIMIT:
        raise InputError(f"{path} is larger than {WEIGHTS_LIMIT >> 20} MB, the limit for an adapter of this method.")
    tensors = read_tensors(path, expected, compact=compact)
    return Adapter(folder, base_model, revision, method, edits, geometry, sample, quantization, tensors)


def method_of(folder: Path | str) -> Method:
    """The method of an adapter directory, without reading tensors. `InputError` if the configuration is damaged."""
    return METHODS[_read_config(Path(folder))["peft_type"].lower()]


def load_edits(folder: Path | str, model: "EditedModel") -> list[Intervention]:
    """Load the edits of an adapter directory for a loaded model; apply them with `EditedModel.using`.

    They are on the device of the model, in evaluation mode and frozen. Edits of weights add peft layers to the model;
    `EditedModel.detach` removes them.

    Raises:
        InputError: As for `read_adapter`, or the adapter was trained on another model.
    """
    adapter = read_adapter(folder)
    _check_model(model, adapter)
    edits = list(adapter.method.attach(model.traced, adapter.edits))
    try:
        _fill(edits, adapter)
    except InputError:
        model.detach(edits)
        raise
    return [model.traced.place(e).eval().requires_grad_(False) for e in edits]


def read_edits(folder: Path | str) -> list[Intervention]:
    """Read the edits of an adapter directory without the model, for inspection; they are on the CPU.

    Raises:
        InputError: As for `read_adapter`.
    """
    return read_adapter(folder).rebuild()


def apply_adapter(model: "EditedModel", adapter: Adapter) -> None:
    """Load the edits of an adapter into a model that was created with its settings.

    Raises:
        InputError: The adapter was trained on another model.
    """
    _check_model(model, adapter)
    _fill(model.own_interventions(), adapter)


def _check_model(model: "EditedModel", adapter: Adapter) -> None:
    """Raise `InputError` if the model differs in shape or weights from the one that the adapter was trained on."""
    for field in fields(Geometry):
        has, needs = getattr(model.geometry, field.name), getattr(adapter.geometry, field.name)
        if has != needs:
            raise InputError(
                f"The adapter in {adapter.folder} was trained on {adapter.base_model} with {field.name} {needs}, but "
                f"{model.name} has {has}; load the model it was trained on."
            )
    weights = model.frozen_parameters()
    for name, expected in adapter.base_sample.items():
        if name in weights and not weights.is_exact(name):
            continue  # the remaining weights, of norms and embeddings, also identify the model
        if name not in weights or not _near(weights.middle(name), expected):
            raise InputError(
                f"The adapter in {adapter.folder} was trained on {adapter.base_model}, and {model.name} has the same "
                f"shape but other weights (in {name}); load the model it was trained on."
            )


def _fill(edits: list[Intervention], adapter: Adapter) -> None:
    own = adapter.method.tensors(edits)
    if wrong := sorted(set(own) ^ set(adapter.tensors)) or sorted(
        name for name, tensor in own.items() if tensor.shape != adapter.tensors[name].shape
    ):
        raise InputError(
            f"The adapter in {adapter.folder} does not fit its model: {wrong[0][:100]!r} is missing, unknown or of "
            "another shape."
        )
    adapter.method.load(edits, adapter.tensors)


def _expected_shapes(
    folder: Path, method: Method, edits: Any, geometry: Geometry, size: int | None
) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes of the tensors; None if they depend on more than the geometry.

    The size in the configuration is checked against limits before memory of this size is allocated.

    Args:
        size: Bytes of a whole file; None for a compact one, which may be smaller than its tensors.
    """
    sites = method.sites(edits)
    if not sites:
        return None
    units = geometry.num_layers * sum(geometry.units(site)[0] for site in sites)
    width = sum(math.prod(geometry.units(site)) for site in sites)
    # Some methods do not have tensors for every layer, so this is only a lower bound.
    if size is not None and max(units, width) > size:
        raise InputError(f"{folder / WEIGHTS_NAME} is smaller than its configuration says; the adapter is incomplete.")
    if units > UNITS_LIMIT or geometry.num_layers * width > NUMBERS_LIMIT:
        raise InputError(f"{_config_path(folder)} describes {units:,} units, more than any model has.")
    try:
        shapes = method.shapes(edits, geometry)
    except InputError as error:
        raise InputError(
            f"{_config_path(folder)} describes edits that are impossible for its model ({error})."
        ) from error
    if size is not None and shapes is not None and sum(map(math.prod, shapes.values())) > size:
        raise InputError(f"{folder / WEIGHTS_NAME} is smaller than its configuration says; the adapter is incomplete.")
    return shapes


def _config_path(folder: Path) -> Path:
    """The file with the configuration; there may be none."""
    # os.path returns False for strings that cannot be paths, where pathlib raises.
    description = folder / DESCRIPTION_NAME
    return description if os.path.isfile(description) else folder / CONFIG_NAME


def _read_config(folder: Path) -> dict[str, Any]:
    path = _config_path(folder)
    if not os.path.isfile(path):
        raise InputError(f"{folder} is not an adapter directory: it has no {CONFIG_NAME}.")
    if path.stat().st_size > CONFIG_LIMIT:
        raise InputError(f"{path} is larger than {CONFIG_LIMIT >> 20} MB, the limit for an adapter configuration.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}).") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    method = METHODS.get(kind.lower()) if isinstance(kind, str) else None
    if method is None or (path.name == CONFIG_NAME) != method.own_config:
        words = (kind[:40] if isinstance(kind, str) else short(kind)) if kind else "unknown"
        raise InputError(f"{folder} is an adapter of type {words}, not one of JoLA Workbench; it cannot be loaded.")
    if config.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path} has format version {short(config.get('schema_version'))}, but this version reads "
            f"{SCHEMA_VERSION}; update jola-workbench."
        )
    if unknown := sorted(set(config) - CONFIG_KEYS):
        raise InputError(
            f"{path} contains {', '.join(repr(name[:40]) for name in unknown[:3])}, which this version does not know; "
            "ignoring it could give wrong results, so update jola-workbench, or remove it."
        )
    return config


def _checked_geometry(values: dict[str, Any]) -> Geometry:
    geometry = Geometry(**values)
    if not isinstance(geometry.architecture, str):
        raise ValueError(f"architecture is {short(geometry.architecture)}; it must be text")
    for name, value in asdict(geometry).items():
        if name != "architecture" and (type(value) is not int or value < 1):
            raise ValueError(f"{name} is {short(value)}; it must be a whole number above 0")
    return geometry


def _sample(model: "EditedModel") -> dict[str, float]:
    weights = model.frozen_parameters()
    names = [name for name in weights if weights.is_exact(name)]
    count = min(SAMPLES, len(names))
    # From the first to the last, because models that were trained further may differ only in their last layers.
    chosen = [names[i * (len(names) - 1) // max(1, count - 1)] for i in range(count)]
    return {name: weights.middle(name) for name in chosen}


def _near(value: float, expected: float) -> bool:
    # The tolerance covers rounding between float32, bfloat16 and float16, but not another training run.
    return abs(value - expected) <= 0.01 * abs(expected) + 1e-6
