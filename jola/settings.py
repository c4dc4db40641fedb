"""The groups of settings of a training run, declared once; `jola.config.RunConfig` puts them together.

The same dataclasses are the flags of ``jola train``, the form of the app, the ``config.json`` of a run and the
``edits`` part of an adapter's configuration. A field's ``metadata`` has its help text, its unit, its bounds, whether it
is one of the advanced settings, which the app folds away, and whether it only concerns methods with gates.
"""

import dataclasses
import math
import re
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from jola.errors import InputError
from jola.system.formatting import short

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
"""Device maps that accelerate computes from the free memory."""
DEVICE_VARIABLE = "JOLA_DEVICE"
"""Environment variable with the device for the setting 'auto', such as ``cuda:1``."""


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    advanced: bool = True,
    bounds: tuple[float, float] | None = None,
    gates: bool = False,
) -> Any:
    """Return a dataclass field with one line of help.

    Args:
        bounds: Smallest and largest number.
        gates: Whether the setting only concerns methods with gates.
    """
    return field(
        default=default,
        metadata={"help": help, "unit": unit, "advanced": advanced, "bounds": bounds, "gates": gates},
    )


@dataclass
class ModelConfig:
    """The language model and how it is loaded."""

    model: str = setting(
        "default",
        "Model to edit: 'default' (SmolLM2-135M-Instruct), a Hub id, a local folder or a GGUF file.",
        advanced=False,
    )
    revision: str | None = setting(None, "Branch, tag or commit of a Hub model.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "Data type of the frozen model; 'auto' uses bfloat16 where the processor supports it natively."
    )
    device: str = setting("auto", "Device of the model: 'auto', 'cpu', 'cuda', 'cuda:1', 'mps'.")
    device_map: str | None = setting(
        None,
        "Spread the layers over several devices, memory and disk, instead of --device: 'auto', 'balanced', "
        "'balanced_low_0', 'sequential', or a JSON file with the device of each module.",
    )
    quantize: Literal["none", "4bit", "8bit", "int8"] = setting(
        "none",
        "Store the weights of the frozen model in fewer bits: '4bit' (NF4) and '8bit' (LLM.int8) by bitsandbytes, or "
        "'int8' by torchao.",
    )
    shard_base: bool = setting(
        False,
        "Divide the weights of the frozen model among the processes that torchrun started, instead of keeping all of "
        "them in each.",
    )
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2"] = setting(
        "auto",
        "Attention implementation in transformers: 'eager', 'sdpa', or 'auto' for the faster one of these on this "
        "device. 'flash_attention_2' needs a GPU and the package flash-attn; the rows of a training batch are then "
        "joined without padding where that saves a tenth of the batch or more.",
    )


@dataclass
class EditConfig:
    """What is edited: sites, gates and operations (section 3 of the paper)."""

    sites: Literal["heads", "mlp", "both"] = setting(
        "heads", "Sites to edit: attention heads (as in the paper), MLP outputs, or both.", advanced=False
    )
    gates: Literal["two", "shared", "none"] = setting(
        "two",
        "Gates of an edit: one each for offset and scale (as in the paper), one shared by both, or none (always open).",
        advanced=False,
    )
    operation: Literal["both", "offset", "scale"] = setting(
        "both", "Operations to learn: an added offset and a multiplied scale, or only one of them.", advanced=False
    )
    layers: str = setting("all", "Layers that may be edited: 'all' or ranges such as '0-5,8'.")
    heads: str = setting(
        "all",
        "Heads that may be edited: 'all', layer:head pairs such as '3:0,3:7', or a selector and a number of heads such "
        "as 'dsp@32', which chooses them before the training.",
    )
    gate_estimator: Literal["test_time", "expectation"] = setting(
        "test_time",
        "Value of a gate after training: the published test-time estimate, or the exact expectation.",
    )
    gate_start: float = setting(
        2.0,
        "Initial mean of φ: a gate is open with probability 0.94 at 2, and 0.69 at 0 (published code).",
        bounds=(-50, 50),
    )
    gate_threshold: float = setting(
        0.0, "ε: gates with a value below this after training count as closed.", unit="0 to 1", bounds=(0, 1)
    )


@dataclass
class DataConfig:
    """The examples and how they are presented to the model."""

    task: str = setting(
        "sentiment",
        "A built-in task, a folder with train/validation/test files, a single file, or 'hf:owner/name'.",
        advanced=False,
    )
    train_size: int = setting(
        200, "Number of training examples; 0 uses all.", unit="examples", advanced=False, bounds=(0, math.inf)
    )
    validation_size: int = setting(
        100, "Number of validation examples; 0 uses all.", unit="examples", bounds=(0, math.inf)
    )
    test_size: int = setting(
        500, "Number of test examples; 0 uses all.", unit="examples", advanced=False, bounds=(0, math.inf)
    )
    data_seed: int | None = setting(
        None, "Seed of the examples drawn; the training seed if not given.", bounds=(0, 2**32 - 1)
    )
    template: Literal["auto", "chat", "plain"] = setting(
        "auto",
        "Prompt format: 'chat' uses the chat template, 'plain' the format of the paper, 'auto' chat if possible.",
    )
    beams: int = setting(1, "Number of beams for test answers; 1 is greedy decoding.", unit="beams", bounds=(1, 16))
    max_length: int = setting(
        512,
        "Maximum length of prompt plus answer; longer examples are skipped, and their number is reported.",
        unit="tokens",
        bounds=(8, math.inf),
    )


@dataclass
class TrainingConfig:
    """How the edits and gates are trained (sections 3.2 and 4.3 of the paper)."""

    epochs: int = setting(8, "Passes over the training examples.", unit="epochs", advanced=False, bounds=(1, math.inf))
    batch_size: int = setting(4, "Examples per batch.", unit="examples", advanced=False, bounds=(1, math.inf))
    gradient_accumulation: int = setting(
        1, "Batches accumulated per optimizer step.", unit="batches", bounds=(1, math.inf)
    )
    learning_rate: float | None = setting(
        None,
        "Peak learning rate of the edits; the default depends on the method.",
        unit="per step",
        advanced=False,
        bounds=(0, 1e3),
    )
    gate_learning_rate: float = setting(
        0.15,
        "Peak learning rate of the gates, which need a larger one to close within a few hundred steps.",
        unit="per step",
        advanced=False,
        bounds=(0, 1e3),
        gates=True,
    )
    l0_weight: float = setting(
        2e-3,
        "λ: weight of the expected number of open gates in the loss; larger values close more gates.",
        unit="nats per gate",
        advanced=False,
        bounds=(0, 1e6),
        gates=True,
    )
    l0_schedule: Literal["constant", "late", "linear", "cyclic", "performance", "exponential"] = setting(
        "constant",
        "How λ changes during training; 'late' is 0 for the first quarter of the steps, then constant.",
        gates=True,
    )
    settle_ratio: float = setting(
        0.0,
        "Fraction of the steps, at the end of training, in which gates stay at their evaluation values and only the "
        "edits train.",
        unit="of all steps",
        bounds=(0, 1),
        gates=True,
    )
    objective: Literal["paper", "reference"] = setting(
        "paper", "Loss: as published (one λ, sum over gates), or weighted as in the reference code.", gates=True
    )
    loss_reduction: Literal["token", "answer"] = setting(
        "answer", "Cross-entropy: averaged over answer tokens, or summed within each answer and averaged over answers."
    )
    warmup_ratio: float = setting(
        0.1, "Fraction of the steps during which the learning rates rise from zero.", unit="of all steps", bounds=(0, 1)
    )
    weight_decay: float = setting(0.0, "AdamW weight decay of the offsets and scales.", bounds=(0, 1e3))
    max_grad_norm: float = setting(
        1.0, "Gradients are clipped to this norm; 0 disables clipping.", unit="L2 norm", bounds=(0, 1e9)
    )
    patience: int = setting(
        0,
        "Stop after this many epochs without a lower validation cross-entropy; 0 disables early stopping.",
        unit="epochs",
        bounds=(0, math.inf),
    )
    keep: Literal["best", "loss", "last"] = setting(
        "best",
        "Edits to keep: 'best' are those of the epoch with the highest validation accuracy, the latest in a tie (for "
        "generation tasks, the same as 'loss'); 'loss', those with the lowest validation cross-entropy; 'last', those "
        "of the last step.",
    )
    seed: int = setting(
        42,
        "Training seed: the initial edits, the order of the examples, the gate noise, and the examples drawn if "
        "--data-seed is not given.",
        advanced=False,
        bounds=(0, 2**32 - 1),
    )
    gradient_checkpointing: bool = setting(
        False,
        "Compute the activations of each layer again in the backward pass instead of keeping them: less memory for "
        "long texts, slower steps.",
    )
    record_every: int = setting(1, "Steps between records of the gates.", unit="steps", bounds=(1, math.inf))
    report_to: str = setting("none", "Experiment tracker: 'none', 'wandb', 'tensorboard', 'trackio' …")
    output: str = setting(
        "", "Run directory; if empty, one is created in the run store, which `jola runs` and the app list."
    )


def flag(name: str) -> str:
    """The command-line flag of a setting: ``l0_weight`` → ``--l0-weight``."""
    return "--" + name.replace("_", "-")


def check_settings(settings: Any) -> None:
    """Refuse the first setting of a group that has the wrong type or is out of bounds.

    Raises:
        InputError: The message names the setting by its flag.
    """
    hints = typing.get_type_hints(type(settings))
    for field_ in dataclasses.fields(settings):
        _check_type(field_.name, getattr(settings, field_.name), hints[field_.name])
    for field_ in dataclasses.fields(settings):
        value, bounds = getattr(settings, field_.name), field_.metadata.get("bounds")
        if bounds and value is not None and not bounds[0] <= value <= bounds[1]:
            bound = f"at least {bounds[0]:.12g}" if value < bounds[0] else f"at most {bounds[1]:.12g}"
            raise InputError(f"{flag(field_.name)} is {value}; it must be {bound}.")


def _check_type(name: str, value: Any, annotation: Any) -> None:
    """Refuse a value of another type, for instance from a hand-edited file, in one sentence."""
    if typing.get_origin(annotation) is Literal:
        if value not in typing.get_args(annotation):
            raise InputError(f"{flag(name)} is {short(value)}; choose one of {', '.join(typing.get_args(annotation))}.")
        return
    accepted = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    number_as_float = float in accepted and isinstance(value, int) and not isinstance(value, bool)
    if not number_as_float and type(value) not in accepted:
        wanted = " or ".join(t.__name__ for t in accepted if t is not type(None))
        raise InputError(f"{flag(name)} is {short(value)}; it must be of type {wanted}.")
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise InputError(f"{flag(name)} has more than 15 digits; give a smaller number.")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{flag(name)} is {value}; it must be a finite number.")


def check_revision(revision: str | None, name: str = "--revision") -> None:
    """Refuse a text that cannot be a branch, tag or commit: it becomes part of an address and of a path in the cache.

    Raises:
        InputError: The message names the setting ``name``.
    """
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise InputError(
            f"{name} is {revision[:80]!r}; it must be a branch, tag or commit: at most 200 letters, digits and "
            "characters of '._-/', without '..'."
        )


_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}")

MAX_NUMBER = 10**15
"""Largest whole number of a setting: exact in JSON, in the browser and in float64."""

# At most five digits: no model has more layers, and a range of that length is still quick to expand.
_LAYERS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_HEAD = re.compile(r"([0-9]{1,5}):([0-9]{1,5})")
_CHOSEN = re.compile(r"([^@]*)@(.*)")
SELECTOR_NAMES = (
    "smp", "dsp", "pass", "dsp_tuned", "pass_tuned", "random", "gradient", "offset", "lofit", "ablation", "jola"
)  # fmt: skip
"""Keys of `jola.selectors.SELECTORS`, which needs PyTorch."""


def parse_layers(text: str, num_layers: int | None) -> list[int]:
    """Layers named by 'all' or by ranges such as ``'0-5,8'``; bounds are checked when `num_layers` is known."""
    if text.strip() == "all":
        return list(range(num_layers or 0))
    layers: set[int] = set()
    for part in text.split(","):
        numbers = _LAYERS.fullmatch(part.strip())
        first, last = (int(numbers[1]), int(numbers[2] or numbers[1])) if numbers else (1, 0)
        if first > last:
            raise InputError(f"--layers is {text!r}; write 'all' or ranges such as '0-5,8'.")
        layers.update(range(first, last + 1))
    if num_layers is not None and max(layers) >= num_layers:
        raise InputError(f"--layers names layer {max(layers)}, but the model has layers 0 to {num_layers - 1}.")
    return sorted(layers)


def chosen_by(heads: str) -> tuple[str, int] | None:
    """Return the selector and the number of heads in ``--heads SELECTOR@K``; None if heads are listed instead.

    Raises:
        InputError: There is no such selector, it needs a trained adapter, or K is 0.
    """
    parts = _CHOSEN.fullmatch(heads.strip())
    if not parts:
        return None
    selector, k = parts[1], int(parts[2]) if re.fullmatch("[0-9]{1,10}", parts[2]) else 0
    usable = [name for name in SELECTOR_NAMES if name != "jola"]
    if selector not in usable or not k:
        raise InputError(
            f"--heads is {heads!r}; in SELECTOR@K, SELECTOR is one of {', '.join(usable)}, and K a number of heads."
        )
    return selector, k


def parse_heads(text: str, num_layers: int | None, num_heads: int | None) -> list[tuple[int, int]] | None:
    """(layer, head) pairs named by text such as ``'3:0,3:7'``; None for 'all'."""
    if text.strip() == "all":
        return None
    if chosen_by(text):
        raise InputError(
            f"--heads is {text!r}, but selectors are supported only in `jola train` and grids; list the heads as "
            "printed by `jola select`."
        )
    pairs: set[tuple[int, int]] = set()
    for part in text.split(","):
        numbers = _HEAD.fullmatch(part.strip())
        if not numbers:
            raise InputError(f"--heads is {text!r}; write 'all' or layer:head pairs such as '3:0,3:7'.")
        pairs.add((int(numbers[1]), int(numbers[2])))
    for layer, head in sorted(pairs):
        if num_layers is not None and num_heads is not None and (layer >= num_layers or head >= num_heads):
            raise InputError(
                f"--heads names {layer}:{head}, but the model has {num_layers} layers of {num_heads} heads, "
                "both counted from 0."
            )
    return sorted(pairs)
