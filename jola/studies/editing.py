"""Two ways to use chosen heads, for the comparison with JoLA's own choice (docs/selectors.md).

Select-then-edit (`select_then_edit`) trains edits without gates on only the chosen heads, or with `select_halves`
offsets and scales on different numbers of heads. Gate swap (`gate_swap`) trains the edits of all heads with the mask of
DSP or PASS instead of JoLA's Hard-Concrete gates. Both are compared with `train_jola`. Model, examples, steps, learning
rates, schedule and test are the same in all of them: `jola.training.fit.fit` trains them with the same settings.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from jola.config import EditConfig, RunConfig
from jola.data.examples import Template, encode_examples
from jola.data.tasks import Task
from jola.edits.gated import GatedEdits
from jola.edits.gates import HardConcrete
from jola.edits.names import HALVES
from jola.evaluation.metrics import METRICS
from jola.evaluation.scoring import exact_match
from jola.jola_model import JoLAModel
from jola.model.architectures import length_limit
from jola.selectors import dsp, pass_
from jola.selectors.heads import Cost, HeadSet
from jola.selectors.protocol import gumbel
from jola.system.progress import Progress
from jola.training.fit import fit

SETTLED = 5.0
"""|φ| of a decided gate, whose test-time value is exactly 0 or 1."""

SwapMethod = Literal["dsp", "pass"]


class FixedGate(HardConcrete):
    """A gate with a fixed value, which is not trained: 1 where ``mask`` (layers, units) is true, 0 elsewhere."""

    def __init__(self, mask: Tensor) -> None:
        layers, units = mask.shape
        super().__init__(layers, units)
        self.log_alpha.requires_grad_(False)
        with torch.no_grad():
            self.log_alpha.copy_((2 * mask.float() - 1) * SETTLED)

    def forward(self, generator: torch.Generator | None = None) -> Tensor:
        """Return the value, also in training."""
        return self.value()


@dataclass(frozen=True)
class Outcome:
    """Results of edited heads on the test examples of a task."""

    correct: tuple[bool, ...]
    """For each test example, in the order of the task."""
    open: dict[str, int]
    """Number of units with an open gate, by half."""
    heads: HeadSet
    """Heads with an open gate of either half."""
    cost: Cost
    """Cost of the training."""


def fresh_model(model: JoLAModel, edits: EditConfig, seed: int) -> JoLAModel:
    """Return a model with new edits on the same frozen base, which is not copied."""
    return JoLAModel(
        model.base,
        model.tokenizer,
        edits,
        name=model.name,
        revision=model.revision,
        quantize=model.quantize,
        seed=seed,
    )


def train_jola(model: JoLAModel, task: Task, config: RunConfig, folder: Path, progress: Progress) -> Outcome:
    """Train JoLA itself: the edits and gates of `config`, on all heads."""
    edited = fresh_model(model, config.edits, config.training.seed)
    return _train_and_test(edited, task, config, folder, progress)


def select_then_edit(
    model: JoLAModel, heads: HeadSet, task: Task, config: RunConfig, folder: Path, progress: Progress
) -> Outcome:
    """Train edits without gates on only `heads`, with everything else as in `train_jola`.

    Args:
        model: Its frozen base is used; its own edits are not.
        folder: Folder of the adapter, and of checkpoints, which are removed.

    Raises:
        InputError: No head is chosen, or the heads are of another model.
    """
    edits = heads.edit_config(dataclasses.replace(config.edits, gates="none"))
    edited = fresh_model(model, edits, config.training.seed)
    return _train_and_test(edited, task, config, folder, progress)


def select_halves(
    model: JoLAModel,
    halves: Mapping[str, HeadSet],
    task: Task,
    config: RunConfig,
    folder: Path,
    progress: Progress,
) -> Outcome:
    """Train edits without trained gates, with separate sets of heads for offsets and scales.

    Args:
        model: Its frozen base is used; its own edits are not.
        halves: The heads of each half, by half; at least one head in total.
        folder: Folder of the adapter, and of checkpoints, which are removed.
    """
    chosen = HeadSet.from_array(np.any([heads.array() for heads in halves.values()], axis=0))
    edits = chosen.edit_config(dataclasses.replace(config.edits, gates="two", gate_estimator="test_time"))
    edited = fresh_model(model, edits, config.training.seed)
    for half in edited.edits.halves:
        gate = FixedGate(torch.from_numpy(halves[half].array()))
        edited.edits.gates[half] = gate.to(model.device).train(edited.training)
    return _train_and_test(edited, task, config, folder, progress, penalty=lambda edits, weight: torch.zeros(()))


def gate_swap(
    model: JoLAModel, method: SwapMethod, k: int, task: Task, config: RunConfig, folder: Path, progress: Progress
) -> Outcome:
    """Train edits of all heads with the gates of `method`; after training, `k` offsets and `k` scales are on.

    There are three differences from `train_jola`. The gates, their learning rate and their penalty are those of
    `method`. Gradients of edits and gates are clipped separately, because the weight of PASS's penalty can grow to 1e4
    and would otherwise shrink the steps of the edits. The edits of the last step are kept, because more than `k` are on
    before it.
    """
    clip = _ClipGroups(config.training.max_grad_norm)
    training = dataclasses.replace(
        config.training,
        keep="last",
        patience=0,
        gate_learning_rate=dsp.LEARNING_RATE,
        settle_ratio=0.0,  # these gates become discrete by schedules of their own
        max_grad_norm=0.0,
    )
    config = dataclasses.replace(
        config, edits=dataclasses.replace(config.edits, gates="two", gate_estimator="test_time"), training=training
    )
    edited = fresh_model(model, config.edits, training.seed)
    edits, generator = edited.edits, torch.Generator().manual_seed(training.seed + 1)
    for half in edits.halves:
        gate = SoftTopKGate(edits.layers, edits.units, k) if method == "dsp" else TopKGate(edits.layers, edits.units, k)
        gate.reset(generator)
        edits.gates[half] = gate.to(model.device)
    edited.eval()

    swapped: dict[str, Any] = {"callbacks": (clip,)}
    if method == "pass":
        schedules = _pass_schedules(edited, k, task, config)
        swapped |= {
            "penalty": lambda edits, weight: torch.stack([s.penalty() for s in schedules]).sum(),
            "before_step": _all(schedule.before_step for schedule in schedules),
            "constant_gate_rate": True,  # gates that are reopened late must close again
        }
    else:
        swapped |= {
            "penalty": lambda edits, weight: torch.zeros(()),
            "before_step": _all(gate.before_step for gate in _gates(edits) if isinstance(gate, SoftTopKGate)),
        }
    return _train_and_test(edited, task, config, folder, progress, **swapped)


class TopKGate(HardConcrete):
    """A Hard-Concrete gate whose evaluation value is 1 for the K largest φ of all layers, and 0 for the others."""

    def __init__(self, layers: int, units: int, k: int) -> None:
        super().__init__(layers, units)
        self.k = k

    def value(self) -> Tensor:
        """Return the final mask."""
        return dsp.hard_top_k(self.log_alpha, self.k)


class SoftTopKGate(TopKGate):
    """A gate drawn as in DSP: a relaxed sample of K units in training. ``log_alpha`` is DSP's w."""

    temperature = dsp.HOTTEST

    def reset(self, generator: torch.Generator | None = None, center: float = 0.0) -> None:
        """Draw w as the selector does, uniformly within ±√(6 / (layers + heads)) of `center`."""
        with torch.no_grad():
            nn.init.xavier_uniform_(self.log_alpha, generator=generator).add_(center)

    def before_step(self, step: int, total: int) -> None:
        """Lower the temperature."""
        self.temperature = dsp.temperature(step, total)

    def forward(self, generator: torch.Generator | None = None) -> Tensor:
        """Return the gates of one pass, float32."""
        if not self.training:
            return self.value()
        noise = gumbel(self.log_alpha.shape, generator or torch.default_generator)
        return dsp.soft_top_k(self.log_alpha, self.k, self.temperature, noise).float()


class _Follow(TrainerCallback):
    """Report the steps of a training."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.progress.phase("train", state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.progress.advance(state.global_step)


class _ClipGroups(TrainerCallback):
    """Clip the gradient of each parameter group to a norm of its own; 0 disables clipping."""

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.max_norm > 0:
            for group in kwargs["optimizer"].param_groups:
                nn.utils.clip_grad_norm_(group["params"], self.max_norm)


def _all(functions: Iterable[Callable[[int, int], None]]) -> Callable[[int, int], None]:
    """Return a function that calls all of them."""
    listed = list(functions)

    def call(step: int, total: int) -> None:
        for function in listed:
            function(step, total)

    return call


def _pass_schedules(model: JoLAModel, k: int, task: Task, config: RunConfig) -> list[pass_.PassSchedule]:
    """Return a schedule for each half, which keeps K offsets or K scales."""
    longest = length_limit(model.base, config.data.max_length)
    rows = encode_examples(task.train, Template(model.tokenizer, config.data.template), longest).rows
    rows = rows[: pass_.CONFIDENCE_EXAMPLES]

    def confidence() -> Tensor:
        training = model.training
        model.eval()
        measured = pass_.attention_confidence(model, rows, model.in_use, config.training.batch_size)
        model.train(training)
        return measured

    generator = torch.Generator().manual_seed(config.training.seed + 2)
    return [
        pass_.PassSchedule(gate.log_alpha, k, concentrate=False, confidence=confidence, generator=generator)
        for gate in _gates(model.edits)
    ]


def _gates(edits: GatedEdits) -> "list[TopKGate]":
    return [gate for gate in edits.gates.values() if isinstance(gate, TopKGate)]


def _settle(edits: GatedEdits) -> None:
    """Replace gates of other kinds by Hard-Concrete gates of the same value, so that the adapter is an ordinary one."""
    for name, gate in list(edits.gates.items()):
        if isinstance(gate, TopKGate | FixedGate):
            plain = HardConcrete(gate.log_alpha.shape[0], gate.log_alpha.shape[1]).to(gate.log_alpha.device)
            with torch.no_grad():
                plain.log_alpha.copy_((2 * gate.value() - 1) * SETTLED)
            edits.gates[name] = plain.train(gate.training)


def _train_and_test(
    model: JoLAModel,
    task: Task,
    config: RunConfig,
    folder: Path,
    progress: Progress,
    callbacks: Sequence[TrainerCallback] = (),
    **swapped: Any,
) -> Outcome:
    """Train with `fit`, called with the arguments `swapped`, and test."""
    template = Template(model.tokenizer, config.data.template)
    longest = length_limit(model.base, config.data.max_length)
    train = encode_examples(task.train, template, longest)
    validation = encode_examples(task.validation, template, longest) if task.validation else None
    checkpoints = folder / "checkpoints"
    shutil.rmtree(checkpoints, ignore_errors=True)  # of an interrupted attempt
    fitted = fit(config, model, train, validation, checkpoints, [_Follow(progress), *callbacks], **swapped)
    shutil.rmtree(checkpoints, ignore_errors=True)
    _settle(model.edits)
    progress.phase("evaluate", len(task.test))
    beams = config.data.beams
    right = right_answers(model, task, template, lambda done, total: progress.advance(done), beams=beams)
    model.save_pretrained(folder / "adapter")
    values = model.edits.gate_values()
    return Outcome(
        correct=right,
        open={half: int((values[half] > 0).sum()) for half in HALVES},
        heads=HeadSet.from_array((model.edits.states() > 0).cpu().numpy()),
        cost=Cost(fitted.steps, fitted.examples, fitted.examples, fitted.seconds, fitted.processor_seconds),
    )


def right_answers(
    model: JoLAModel, task: Task, template: Template, progress: Callable[[int, int], None], *, beams: int = 1
) -> tuple[bool, ...]:
    """Return whether the model answers each test example right, by the task's metric, which must be a share."""
    tested = exact_match(model, task.test, template, max_new_tokens=task.max_new_tokens, beams=beams, progress=progress)
    return tuple(value == 1 for value in METRICS[task.metrics[0]].values(tested.answers, task.test, task.labels))
