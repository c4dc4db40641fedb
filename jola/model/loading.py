"""Load the frozen language model: resolve its name, data type and device, and explain errors."""

import os
import shutil
import tempfile
import textwrap
import weakref
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import find_adapter_config_file, is_flash_attn_2_available

from jola.data.assets import ModelSource, resolve_model
from jola.data.catalogue import ASSETS, DEFAULT_MODEL, gguf_options
from jola.errors import InputError
from jola.model.architectures import ARCHITECTURES, architecture_of
from jola.model.placement import DISK, DeviceMap, check_device_map, read_device_map
from jola.model.quantization import quantization_config, settle
from jola.model.sharding import check_sharding, shard
from jola.settings import DEVICE_VARIABLE, check_revision
from jola.system.distributed import meet
from jola.system.formatting import error_words
from jola.system.hub import hub_or_cache

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The data types of a frozen model by their names in settings."""


def load_base(
    model: str,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str = "auto",
    attn_implementation: str = "auto",
    device_map: DeviceMap = None,
    quantize: str = "none",
    shard_base: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """Load a model; return it with its tokenizer and the name to save in adapters.

    Args:
        device_map: Devices of the modules, only with `device` 'auto'; see `jola.model.placement`. Weights on disk are
            read from the files of the model, or from a temporary folder that is deleted with the model.
        quantize: 'none' or one of `jola.model.quantization.PACKAGES`.
        shard_base: Divide the weights among the processes of a launch; see `jola.model.sharding`.

    Raises:
        InputError: The model or the device does not exist, the architecture is unknown, the map does not fit the model,
            or the weights cannot be divided.
    """
    if shard_base:
        check_sharding(quantize=quantize, device_map=device_map)
        meet(lambda: pick_device(device).type == "cpu")
    source = resolve_model(model)
    if device_map is not None and device != "auto":
        raise InputError(f"--device is {device!r} and there is a --device-map; leave one of them out.")
    placed = None if device_map is None else read_device_map(device_map)
    place = pick_device(device)
    form = pick_dtype(dtype, place)
    if attn_implementation == "flash_attention_2":
        places = {str(where) for where in placed.values()} if isinstance(placed, dict) else {place.type}
        check_flash_attention(places, form)
    quantized = {} if quantize == "none" else {"quantization_config": quantization_config(quantize, form)}
    if quantized and source.gguf_file:
        raise InputError("A GGUF file is already quantized; leave --quantize out.")
    where = _where(source, revision)
    spread: dict[str, Any] = {}
    try:
        config = _read_config(source, where)
        _refuse_adapter(source, revision)
        if shard_base and getattr(config, "quantization_config", None):
            raise InputError(
                f"{source.display} is quantized (quantization_config in its config.json), and --shard-base does not "
                "divide quantized weights; leave out --shard-base, or use a model that is not quantized."
            )
        if isinstance(placed, dict):
            with torch.device("meta"):
                empty = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
            check_device_map(placed, empty, architecture_of(empty).layers)
        if placed is None and quantized:
            placed = {"": str(place)}
        if placed is not None:
            spread = {"device_map": placed, "offload_folder": tempfile.mkdtemp(prefix="jola-offload-")}
        tokenizer = AutoTokenizer.from_pretrained(source.path_or_id, **where)
        # Only safetensors: other weight files are pickles, which may run code.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.path_or_id,
            dtype=form,
            attn_implementation=pick_attention(attn_implementation, config, place),
            **(gguf_options() if source.gguf_file else {"use_safetensors": True}),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **spread,
            **quantized,
            **where,
        )
        base, report = loaded
        # Transformers only logs weights that are missing or have another shape, and fills them with random numbers.
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"{len(missing)} weights are missing from its files, beginning with {missing[0]}")
        if mismatched := sorted(report["mismatched_keys"]):
            name, has, needs = mismatched[0]
            raise ValueError(f"{name} has shape {tuple(has)}, but {tuple(needs)} is needed")
    except BaseException as error:
        if spread:
            shutil.rmtree(spread["offload_folder"], ignore_errors=True)
        if isinstance(error, InputError) or not isinstance(error, Exception):
            raise
        # Three libraries raise various errors for damaged files; a list of types would not be complete.
        raise _cannot_load(source, error) from error
    if spread:
        weakref.finalize(base, shutil.rmtree, spread["offload_folder"], ignore_errors=True)
        # Pipelines of transformers use the first entry as the device, so 'disk' must not be first. With one device,
        # transformers sets no map.
        placed = getattr(base, "hf_device_map", {"": str(base.device)})
        base.hf_device_map = dict(sorted(placed.items(), key=lambda item: (item[1] == DISK, item[1] == "cpu")))
    if quantized:
        settle(base)
    if shard_base:
        return shard(base, place), tokenizer, _lasting_name(model, source)
    return base if spread else base.to(place), tokenizer, _lasting_name(model, source)


def empty_model(model: str, *, revision: str | None = None) -> tuple[PreTrainedModel, str]:
    """Create a model without weights, on the meta device; return it and its name.

    Args:
        model: As for `load_base`, or the ``config.json`` of a model.

    Raises:
        InputError: The model or configuration does not exist, or its architecture is unknown.
    """
    given = Path(model).expanduser()
    is_config = given.suffix == ".json"
    if is_config and not given.is_file():
        raise InputError(f"There is no file {model}; give the config.json of a model, a folder, or a model name.")
    source = ModelSource(str(given), None, str(given)) if is_config else resolve_model(model)
    try:
        config = _read_config(source, _where(source, revision))
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, attn_implementation="eager"), source.display
    except InputError:
        raise
    except Exception as error:  # see `load_base`
        raise _cannot_load(source, error) from error


def _where(source: ModelSource, revision: str | None) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that select the files to read. `InputError` for an invalid revision."""
    check_revision(revision)
    where = {"revision": revision, "gguf_file": source.gguf_file, "trust_remote_code": False}
    return {key: value for key, value in where.items() if value is not None}


def _read_config(source: ModelSource, where: dict[str, Any]) -> PretrainedConfig:
    """The configuration of a model. `InputError` if its architecture is unknown."""
    _check_architecture(source, where)
    return AutoConfig.from_pretrained(source.path_or_id, **where)


def _check_architecture(source: ModelSource, where: dict[str, Any]) -> None:
    """Raise `InputError` if the architecture of a model is unknown; reads its ``config.json`` as plain data.

    Transformers chooses the code that interprets a configuration by its ``model_type``, and some of that code loads
    other models that the configuration names. None of it must run before the type is checked.
    """
    with hub_or_cache(source.path_or_id):
        content, _ = PretrainedConfig.get_config_dict(source.path_or_id, **where)
    kind, inner = content.get("model_type"), content.get("text_config")
    if isinstance(kind, str) and kind in ARCHITECTURES:
        return
    shown = textwrap.shorten(repr(kind), 80, placeholder=" …")
    # A multi-modal configuration contains the configuration of its language model.
    part = inner.get("model_type") if isinstance(inner, dict) else None
    if isinstance(part, str) and part in ARCHITECTURES:
        raise InputError(
            f"{source.display} is a multi-modal model of architecture {shown}; only text-only language models "
            f"can be loaded, so give its language model, {part!r}, as a separate model."
        )
    if "auto_map" in content:
        raise InputError(
            f"{source.display} brings its own code for its architecture {shown}, which is never run, for security; "
            f"supported architectures are {', '.join(sorted(ARCHITECTURES))}."
        )
    raise InputError(
        f"{source.display} is a model of architecture {shown}, which is not supported; supported architectures are "
        f"{', '.join(sorted(ARCHITECTURES))}. To add one, add a row to jola/model/architectures.py."
    )


def _refuse_adapter(source: ModelSource, revision: str | None) -> None:
    """Raise `InputError` if the folder contains an adapter: transformers would load it and the model that it names."""
    if find_adapter_config_file(source.path_or_id, revision=revision) is not None:
        raise InputError(
            f"{source.display} contains an adapter (adapter_config.json), not only a model; give the base model, "
            "without the adapter."
        )


def _cannot_load(source: ModelSource, error: Exception) -> InputError:
    reason = error_words(error, 300)
    what_to_do = (
        "check the files of the folder"
        if Path(source.path_or_id).exists()
        else "check the name and the network, or give a local folder or a GGUF file, or use --model default"
    )
    return InputError(f"The model {source.display} cannot be loaded ({reason}); {what_to_do}.")


def load_tokenizer(model: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model without its weights.

    Raises:
        InputError: The model does not exist, or its tokenizer cannot be loaded.
    """
    source = resolve_model(model, progress=False)
    where = _where(source, revision)
    try:
        _check_architecture(source, where)
        return AutoTokenizer.from_pretrained(source.path_or_id, **where)
    except InputError:
        raise
    except Exception as error:  # see `load_base`
        reason = error_words(error)
        raise InputError(
            f"The tokenizer of {source.display} cannot be loaded ({reason}); check the name and the network, or give "
            "a local folder."
        ) from error


def _lasting_name(model: str, source: ModelSource) -> str:
    """A name that works from any folder: the name of an asset, a Hub id or an absolute path."""
    if model == "default":
        return DEFAULT_MODEL
    if model in ASSETS:
        return model
    return str(Path(source.path_or_id) / source.gguf_file) if source.gguf_file else source.path_or_id


def pick_device(device: str) -> torch.device:
    """The device with this name. For 'auto', the one in `DEVICE_VARIABLE` if set, else the best one available."""
    if device == "auto":
        device = os.environ.get(DEVICE_VARIABLE) or "auto"
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"There is no device {device!r} on this machine; use --device auto or cpu.") from error
    return place


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The PyTorch data type for a name; a data type of PyTorch is checked and returned.

    'auto' is bfloat16 where the hardware multiplies in it, float32 elsewhere. On a processor without such instructions,
    bfloat16 is emulated and slower than float32.
    """
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if dtype != "auto":
        if dtype not in DTYPES:
            raise InputError(f"dtype is {dtype!r}; choose 'auto' or one of {', '.join(DTYPES)}.")
        return DTYPES[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and _cpu_multiplies_bfloat16():
        return torch.bfloat16
    return torch.float32


def pick_attention(implementation: str, config: PretrainedConfig, device: torch.device) -> str:
    """The name of the attention implementation; 'auto' is PyTorch's fused one where it helps and is supported.

    On a processor, the backward pass of fused attention is slower than that of eager attention for short examples. The
    implementation is always passed explicitly, because a configuration file must not choose code to run.
    """
    if implementation != "auto":
        return implementation
    if device.type == "cpu":
        return "eager"
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return "sdpa" if getattr(architecture, "_supports_sdpa", False) else "eager"


def check_flash_attention(places: Collection[str], dtype: torch.dtype) -> None:
    """Raise `InputError` unless flash attention supports all devices of the layers and the format of the weights."""
    if others := sorted(place for place in places if not place.isdigit() and not place.startswith("cuda")):
        lack = f"all layers on a GPU that the package flash-attn supports, but they are on {', '.join(others)}"
    elif dtype not in (torch.bfloat16, torch.float16):
        lack = f"weights in bfloat16 or float16, not {str(dtype).removeprefix('torch.')}"
    elif not is_flash_attn_2_available():  # transformers would download code from the Hub
        lack = "the package flash-attn"
    else:
        return
    raise InputError(f"--attn-implementation flash_attention_2 needs {lack}; leave it out, or choose 'sdpa'.")


def _cpu_multiplies_bfloat16() -> bool:
    # Older releases of PyTorch do not report this; float32 works everywhere.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
