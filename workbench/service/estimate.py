"""Cost of a run before it starts: steps, time and memory, without importing PyTorch.

Time is estimated from earlier runs of the same model on this machine. Memory is the peak of such runs, or else counted:
weights, optimizer state, and the activations that a backward pass keeps (Korthikanti et al., "Reducing Activation
Recomputation in Large Transformer Models", 2022, equation 2).
"""

import json
import math
import os
import statistics
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path

from jola.config import DataConfig, RunConfig
from jola.data import assets
from jola.data.tasks import REGISTRY, load_task
from jola.edits.sites import Geometry
from jola.errors import InputError
from jola.methods.base import LinearShape
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.system.files import read_json
from jola.system.formatting import duration_text
from jola.system.processes import machine

_LOOKED_AT = 60
"""Number of newest runs that are searched for runs of the same model."""
_COMPARED = 5
"""Number of earlier runs whose speed is used."""
_PROCESS_BYTES = 600e6
"""Python with PyTorch and transformers, before any model."""
_OPTIMISER_BYTES = 16
"""Bytes per trainable number: its value, its gradient and the two moments of AdamW, in float32."""
_HEADER_LIMIT = 100_000_000
_TEMPLATE_TOKENS = 48
"""Tokens that a template adds to a prompt and its answer."""
_MOST_TOKENS = 4096


@dataclass(frozen=True)
class ModelFacts:
    """Facts read from the files of a model without loading it; ``parameters`` is None if they are not on this disk."""

    parameters: int | None
    geometry: Geometry
    vocabulary: int
    linear: tuple[LinearShape, ...] = ()
    """The weight matrices in the layers, if the files contain them."""


@dataclass(frozen=True)
class Estimate:
    """Cost of a run.

    ``steps`` is None if the number of examples is not known. ``seconds`` is the shortest and the longest training
    time at the speed of ``paced_by`` earlier runs, None without such runs. ``memory`` is in bytes: the peak of earlier
    runs if ``measured``, otherwise an upper bound, and None if the size of the model is not known.
    """

    examples: int | None
    steps: int | None
    epoch_steps: int | None
    seconds: tuple[float, float] | None = None
    paced_by: int = 0
    memory: float | None = None
    measured: bool = False
    parts: tuple[tuple[str, float], ...] = ()
    """Parts of the memory, in bytes."""
    edits_counted: bool = True
    """Whether `memory` includes the trainable numbers."""


@dataclass(frozen=True)
class DataFacts:
    """Number of training examples, and upper bounds for the tokens of the longest example and the longest answer."""

    examples: int
    tokens: int
    answer_tokens: int


def look_at_data(config: RunConfig) -> DataFacts | None:
    """Count the training examples on this disk; None if they would have to be fetched or cannot be read.

    Tokens are estimated as a third of the characters, which overestimates them for most texts.
    """
    data, seed = config.data, config.data.data_seed
    seed = config.training.seed if seed is None else seed
    if data.task.startswith("hf:"):
        return None
    if data.task in REGISTRY and REGISTRY[data.task].source is not None:
        return None
    if data.task in REGISTRY and not all(status.ready for status in assets.status() if status.kind == "data"):
        return None
    path = Path(os.path.expanduser(data.task))
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
        marks = tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
        return _look_at_data((data.task, data.train_size, data.validation_size, data.test_size, seed), marks)
    except (InputError, OSError, ValueError):
        return None


@lru_cache(maxsize=16)
def _look_at_data(key: tuple[str, int, int, int, int], marks: object) -> DataFacts:
    task, train, validation, test, seed = key
    data = DataConfig(task=task, train_size=train, validation_size=validation, test_size=test)
    examples = load_task(data, seed).train
    answers = [len(example.completion) for example in examples]
    lengths = [
        sum(len(message.content) for message in example.prompt) + answer
        for example, answer in zip(examples, answers, strict=True)
    ]
    return DataFacts(len(examples), max(lengths) // 3 + _TEMPLATE_TOKENS, max(answers) // 3 + 4)


def estimate(config: RunConfig, store: RunStore) -> Estimate:
    """Estimate the cost of a training from the data, the model and earlier runs on this disk."""
    training = config.training
    data = look_at_data(config)
    count = data.examples if data is not None else config.data.train_size or None
    batches = math.ceil(count / training.batch_size) if count else 0
    epoch = math.ceil(batches / training.gradient_accumulation) or None
    trainings = sum(not stage.computed for stage in config.tuning.stages(config.edits))
    steps = epoch * training.epochs * trainings if epoch and trainings else None
    earlier = list(islice(_earlier_runs(config, store), _COMPARED))
    paces = [pace for run in earlier if _same_work(run, config) and (pace := seconds_per_example(run)) is not None]
    seconds = None
    if steps and paces:
        per_step = training.batch_size * training.gradient_accumulation
        seconds = (min(paces) * per_step * steps, max(paces) * per_step * steps)
    peaks = [peak for run in earlier if (peak := _measured_peak(run, config)) is not None]
    if peaks:
        return Estimate(count, steps, epoch, seconds, len(paces), max(peaks), measured=True)
    facts = find_model(config.model.model, config.model.revision)
    trained = trainable(config, facts) if facts is not None else None
    parts = _memory(config, facts, trained, data, earlier)
    memory = sum(size for _, size in parts) if parts else None
    return Estimate(
        count,
        steps,
        epoch,
        seconds,
        len(paces),
        memory,
        parts=parts,
        edits_counted=facts is None or trained is not None,
    )


# Earlier runs


def _earlier_runs(config: RunConfig, store: RunStore) -> Iterable[Run]:
    """Return the runs of the same model on this machine, those of the same method and the same task first."""
    here, found = machine(), []
    for run in store.list()[:_LOOKED_AT]:
        known = run.raw_config()
        model, data = known.get("model"), known.get("data")
        if known.get("machine") != here or not isinstance(model, dict) or not isinstance(data, dict):
            continue
        if all(model.get(name) == getattr(config.model, name) for name in ("model", "dtype", "device")):
            found.append((not _same_work(run, config), data.get("task") != config.data.task, run))
    return [run for *_, run in sorted(found, key=lambda entry: entry[:2])]


def _same_work(run: Run, config: RunConfig) -> bool:
    """Whether a run trained with the same method, and kept or recomputed activations as `config` does."""
    known, name = run.raw_config(), "gradient_checkpointing"
    same = (known.get("training") or {}).get(name, False) == config.training.gradient_checkpointing
    return same and known.get("method", RunConfig.method) == config.method


def seconds_per_example(run: Run) -> float | None:
    """Return the training time per example in seconds, including validation; None before the third step."""
    training = run.raw_config().get("training") or {}
    size = training.get("batch_size", 0) * training.get("gradient_accumulation", 0)
    times = [m["time"] for m in run.metrics() if "loss" in m and isinstance(m.get("time"), int | float)]
    gaps = [after - before for before, after in pairwise(times)]
    if len(gaps) < 2 or not size:
        return None
    # Leave out pauses, keep validations.
    usual = statistics.median(gaps)
    steps = [gap for gap in gaps if 0 <= gap <= 30 * usual + 60]
    return statistics.fmean(steps) / size if steps else None


def _measured_peak(run: Run, config: RunConfig) -> float | None:
    """Return a run's peak memory in bytes; None unless method, checkpointing, batch size, length and task agree."""
    known, peak = run.raw_config(), (run.result() or {}).get("peak_memory")
    same = _same_work(run, config)
    same = same and (known.get("training") or {}).get("batch_size") == config.training.batch_size
    same = same and (known.get("data") or {}).get("max_length") == config.data.max_length
    same = same and (known.get("data") or {}).get("task") == config.data.task
    return float(peak) if same and isinstance(peak, int | float) and peak > 0 else None


# Memory


def find_model(name: str, revision: str | None = None) -> ModelFacts | None:
    """Read facts about a model on this disk; None if it is missing or cannot be read."""
    folder = _folder_of(name, revision)
    config = read_json(folder / "config.json") if folder is not None else None
    if folder is None or config is None:
        return None
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config

    def number(*names: str) -> int:
        return next((int(config[n]) for n in names if isinstance(config.get(n), int)), 0)

    layers, hidden = number("num_hidden_layers", "n_layer"), number("hidden_size", "n_embd")
    heads, vocabulary = number("num_attention_heads", "n_head"), number("vocab_size")
    if not (layers and hidden and heads):
        return None
    shapes = _weight_shapes(folder)
    return ModelFacts(
        parameters=_count_parameters(shapes),
        geometry=Geometry(
            architecture=str(config.get("model_type", "")),
            num_layers=layers,
            num_heads=heads,
            head_dim=number("head_dim") or hidden // heads,
            hidden_size=hidden,
        ),
        vocabulary=vocabulary,
        linear=_linear_modules(shapes),
    )


def _folder_of(name: str, revision: str | None) -> Path | None:
    if name == "default":
        name = assets.DEFAULT_MODEL
    if name in assets.ASSETS:
        found = next(status for status in assets.status() if status.name == name)
        return found.folder if found.ready else None
    path = Path(os.path.expanduser(name))
    try:
        if path.is_dir():
            return path
    except (OSError, ValueError):
        return None
    if path.suffix.lower() == ".gguf":
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.utils import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
    except (HFValidationError, ValueError):
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def _weight_shapes(folder: Path) -> dict[str, list[int]] | None:
    """Read the shapes of the tensors in a folder from the headers of safetensors files; None if one is unreadable."""
    shapes: dict[str, list[int]] = {}
    for path in folder.glob("*.safetensors"):
        try:
            with open(path, "rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length)) if length <= _HEADER_LIMIT else {}
            shapes |= {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
            return None
    return shapes


def _count_parameters(shapes: dict[str, list[int]] | None) -> int | None:
    return sum(math.prod(shape) for shape in shapes.values()) or None if shapes else None


def _linear_modules(shapes: dict[str, list[int]] | None) -> tuple[LinearShape, ...]:
    """Return path and shape of each weight matrix inside numbered layers."""
    return tuple(
        (name.removesuffix(".weight"), shape[0], shape[1])
        for name, shape in (shapes or {}).items()
        if len(shape) == 2 and name.endswith(".weight") and any(part.isdigit() for part in name.split("."))
    )


def _memory(
    config: RunConfig, facts: ModelFacts | None, trained: int | None, data: DataFacts | None, earlier: list[Run]
) -> tuple[tuple[str, float], ...]:
    """Return the memory in bytes by purpose; empty if the size of the model is not known."""
    known = [(run.raw_config().get("parameters") or {}).get("frozen") for run in earlier]
    frozen = (facts.parameters if facts else None) or next((n for n in known if isinstance(n, int)), None)
    if frozen is None:
        return ()
    width = _bytes_of(config.model.dtype)
    parts = [("Python and its libraries", _PROCESS_BYTES), ("weights", frozen * width)]
    if facts is not None:
        sizes, limit = facts.geometry, config.data.max_length or sys.maxsize
        tokens = min(data.tokens if data else limit, limit, _MOST_TOKENS)
        answers = min(data.answer_tokens if data else tokens, tokens)
        batch = config.training.batch_size
        layer = batch * tokens * (17 * sizes.hidden_size + 2.5 * sizes.num_heads * tokens) * width
        logits = batch * answers * facts.vocabulary * (width + 8)
        if trained is not None:
            parts.append(("edits", _OPTIMISER_BYTES * trained))
        kept = sizes.num_layers * layer
        if config.training.gradient_checkpointing:  # all inputs of layers, the last layer, and a recomputed one
            kept = min(kept, sizes.num_layers * batch * tokens * sizes.hidden_size * width + 2 * layer)
        parts.append(("activations", kept + logits))
    return tuple(parts)


def trainable(config: RunConfig, facts: ModelFacts) -> int | None:
    """Count the trainable parameters; None if the known facts about the model do not suffice."""
    try:
        return config.tuning.count(config.edits, facts.geometry, facts.linear)
    except InputError:  # settings that do not fit this model; the training refuses them
        return None


def _bytes_of(dtype: str) -> int:
    """Bytes of a weight; 'auto' counts as float32, since its meaning is only known with PyTorch."""
    return 2 if dtype in ("bfloat16", "float16") else 4


# In words


def describe(cost: Estimate) -> list[tuple[str, str, str]]:
    """Return (quantity, amount, source of the estimate) for the page."""
    steps = (
        (f"{cost.steps:,} steps", f"{cost.epoch_steps:,} per epoch, with at most {cost.examples:,} training examples")
        if cost.steps and cost.epoch_steps and cost.examples
        else ("number of steps unknown", "the training examples have not been counted")
    )
    if cost.seconds is None:
        time = (
            "time known after the first steps",
            "there is no earlier run of this model on this computer to estimate it from",
        )
    else:
        runs = f"{cost.paced_by} earlier run{'s' if cost.paced_by > 1 else ''}"
        time = (span(*cost.seconds), f"of training, at the speed of {runs} of this model on this computer")
    if cost.memory is None:
        memory = ("memory unknown", "the model is not on this computer, or its files do not contain its size")
    elif cost.measured:
        memory = (f"{_size(cost.memory)} of memory", "the peak of earlier runs like this one")
    else:
        named = ", ".join(f"{name} {_size(size)}" for name, size in cost.parts if size >= 5e7)
        known = "calculated, not measured" if cost.edits_counted else "counted without the trainable parameters"
        memory = (f"up to {_size(cost.memory)} of memory", f"{known}: {named}")
    rows = {"Steps": steps, "Time": time, "Memory": memory}
    return [(what, much, why) for what, (much, why) in rows.items()]


def span(low: float, high: float) -> str:
    shortest, longest = duration_text(low), duration_text(high)
    if shortest == longest:
        return f"about {longest}"
    number, unit = shortest.split(" ")
    return f"{number} to {longest}" if longest.endswith(f" {unit}") else f"{shortest} to {longest}"


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"
