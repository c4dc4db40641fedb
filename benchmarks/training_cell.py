"""One training of `benchmarks/training_experiments.py`, with what is changed and what is looked at."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from jola import JoLAModel
from jola.config import DataConfig, EditConfig, ModelConfig, RunConfig, TrainingConfig
from jola.data.examples import IGNORED, Encoded, Example, Template, collate, encode_examples
from jola.data.tasks import load_task
from jola.evaluation import exact_match
from jola.training import make_trainer
from jola.training.objective import L0Schedule

if TYPE_CHECKING:
    from benchmarks.training_experiments import Arm, Cell

CHOOSE = 100
"""Validation examples that may choose an epoch, as many as `jola train` draws by default."""
MEASURE = 200
"""Examples of the training part that are not trained on and measure what is kept, beside the other validation ones."""
TAIL = "tail-50"
"""Name of the mean of the parameters over the last half of the steps."""


def train(cell: "Cell", arm: "Arm", states: Path, model: str = "default") -> dict[str, Any]:
    """Train to the last step; the parameters after each epoch go into the folder `states`.

    Returns:
        What is stored of the training. Under ``epochs`` and ``averages``, ``cross_entropy`` is the mean over the
        validation examples, ``nll`` and ``right`` have one entry for each.
    """
    started, processor = time.time(), time.process_time()
    config = settings_of(cell, arm, model)
    examples, validation = examples_of(config.data, cell.data_seed)
    edited = JoLAModel.from_pretrained(edits=config.edits, seed=cell.seed, **asdict(config.model))
    template = Template(edited.tokenizer, config.data.template)
    rows = encode_examples(examples, template, config.data.max_length)
    looked_at = encode_examples(validation[:CHOOSE], template, config.data.max_length).rows
    observer = Observer(edited, looked_at, states, arm.clip, config.training.max_grad_norm)
    # The observer clips in place of Trainer: how is one of the levers, and the norms before it are kept.
    config.training.max_grad_norm = 0.0
    trainer = make_trainer(config, edited, rows, None, states, [observer])
    trainer.args.save_strategy = "no"
    trainer.args.adam_beta1, trainer.args.adam_beta2, trainer.args.adam_epsilon = arm.adam
    weight = trainer.schedule.unit
    observer.penalty = lambda: float(trainer.penalty(edited.gated_edits(), weight).detach())
    if arm.l0_starts:
        trainer.schedule = LateL0(weight, trainer.schedule.total_steps, arm.l0_starts)
    trainer.train()
    return {
        **asdict(cell),
        "settings": dict(arm.settings),
        "levers": arm.levers(),
        "n": {"train": len(rows.rows), "choose": len(looked_at)},
        "steps": trainer.state.global_step,
        "seconds": round(time.time() - started),
        "processor_seconds": round(time.process_time() - processor),
        "threads": torch.get_num_threads(),
        "averages": observer.averages(),
        "phi": {
            half: [round(value, 2) for value in gate.log_alpha.detach().flatten().tolist()]
            for half, gate in edited.edits.gates.items()
        },
        "epochs": observer.epochs,
    }


def measure(cell: "Cell", arm: "Arm", states: Path, names: Iterable[str], model: str = "default") -> dict[str, Any]:
    """Right answers and cross-entropy of each of the parameters `names` on examples that had no part in the training.

    They are the validation examples that may not choose an epoch, and `MEASURE` unused examples of the training part.
    """
    data = settings_of(cell, arm, model).data
    drawn, validation = examples_of(data, cell.data_seed)
    # A larger sample of a seed contains the smaller one.
    more = load_task(replace(data, train_size=len(drawn) + MEASURE), cell.data_seed).train
    examples = [*validation[CHOOSE:], *(example for example in more if example not in drawn)]
    found = {}
    for name, edited, template in restored(cell, arm, states, names, model):
        rows = encode_examples(examples, template, data.max_length).rows
        nll, right = look(edited, rows)
        found[name] = {"correct": sum(right), "n": len(rows), "cross_entropy": round(statistics.fmean(nll), 4)}
    return found


def test(cell: "Cell", arm: "Arm", states: Path, names: Iterable[str], model: str = "default") -> dict[str, Any]:
    """Right answers to the test examples, by generation, with each of the parameters `names`."""
    examples = load_task(settings_of(cell, arm, model).data, cell.data_seed).test
    found = {}
    for name, edited, template in restored(cell, arm, states, names, model):
        accuracy = exact_match(edited, examples, template).accuracy
        found[name] = {"correct": accuracy.correct, "n": accuracy.n}
    return found


def restored(
    cell: "Cell", arm: "Arm", states: Path, names: Iterable[str], model: str
) -> Iterator[tuple[str, JoLAModel, Template]]:
    """The model with each of the parameters `names` in the folder `states`, one after the other."""
    config = settings_of(cell, arm, model)
    edited = JoLAModel.from_pretrained(edits=config.edits, **asdict(config.model))
    template = Template(edited.tokenizer, config.data.template)
    for name in names:
        edited.interventions.load_state_dict(load_file(states / f"{name}.safetensors"))
        yield name, edited, template


def settings_of(cell: "Cell", arm: "Arm", model: str) -> RunConfig:
    """The settings of `jola train` that a cell is trained with; the seed of its examples apart."""
    groups: list[Any] = [
        ModelConfig(model, dtype=cell.dtype),
        EditConfig(),
        DataConfig(task=cell.task),
        TrainingConfig(),
    ]
    changes = {"seed": cell.seed, **arm.settings}
    for group in groups:
        for name in changes.keys() & vars(group).keys():
            setattr(group, name, changes[name])
    return RunConfig(*groups).validate()


def examples_of(data: DataConfig, seed: int) -> tuple[Sequence[Example], Sequence[Example]]:
    """Training examples, and validation examples: first those that `jola train` draws, then all others."""
    drawn = load_task(replace(data, validation_size=CHOOSE), seed)
    every = load_task(replace(data, validation_size=0), seed).validation
    return drawn.train, [*drawn.validation, *(example for example in every if example not in drawn.validation)]


class LateL0(L0Schedule):
    """A constant λ from the share `start` of the steps on, 0 before."""

    def __init__(self, unit: float, total_steps: int, start: float) -> None:
        super().__init__("constant", unit, total_steps)
        self.start = start

    def value(self, step: int) -> float:
        """λ for the training step with this number, counted from 0."""
        return super().value(step) if step >= self.start * self.total_steps else 0.0


class Observer(TrainerCallback):
    """Clip gradients, average parameters, and look at the validation examples after each epoch.

    Args:
        model: The model that trains.
        rows: The validation examples.
        folder: Where the parameters after each epoch are written.
        clip: 'together' or 'apart'.
        max_norm: Norm to clip to; 0 does not clip.
    """

    def __init__(self, model: JoLAModel, rows: Sequence[Encoded], folder: Path, clip: str, max_norm: float) -> None:
        self.model, self.rows, self.folder = model, rows, folder
        edits = [p for e in model.gated_edits() for p in e.edit_parameters()]
        gates = [p for e in model.gated_edits() for p in e.gate_parameters()]
        self.groups = {"edits": edits, "gates": gates}
        self.clipped = [edits + gates] if clip == "together" else [edits, gates]
        self.max_norm = max_norm
        self.norms: dict[str, list[float]] = {"edits": [], "gates": []}
        self.epochs: list[dict[str, Any]] = []
        self.mean: list[Tensor] = []
        self.count = 0
        self.penalty: Callable[[], float] = float

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the norm of each group, and clip."""
        for name, group in self.groups.items():
            if group:
                self.norms[name].append(float(nn.utils.get_total_norm([p.grad for p in group if p.grad is not None])))
        for group in self.clipped:
            if group and self.max_norm:
                nn.utils.clip_grad_norm_(group, self.max_norm)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the parameters into the mean of the last half of the steps."""
        if 2 * state.global_step <= state.max_steps:
            return
        values = [p.detach() for p in self.model.parameters()]
        self.mean = self.mean or [value.clone() for value in values]
        self.count += 1
        for mean, value in zip(self.mean, values, strict=True):
            mean.lerp_(value, 1 / self.count)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the validation examples."""
        found = {"step": state.global_step, **self._look(f"epoch-{len(self.epochs) + 1}")}
        found["gradient_norm"] = {
            name: round(float(torch.tensor(values).median()), 2) for name, values in self.norms.items() if values
        }
        self.epochs.append(found)
        self.norms = {"edits": [], "gates": []}

    @torch.no_grad()
    def averages(self) -> dict[str, Any]:
        """What the mean of the parameters gives; the parameters are those of the last step afterwards."""
        last = [p.clone() for p in self.model.parameters()]
        self._set(self.mean)
        found = {TAIL: self._look(TAIL)}
        self._set(last)
        return found

    def _set(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.model.parameters(), values, strict=True):
            parameter.copy_(value)

    def _look(self, name: str) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(self.model.interventions.state_dict()), self.folder / f"{name}.safetensors")
        nll, right = look(self.model, self.rows)
        gates = self.model.edits.gate_values() if self.groups["gates"] else {}
        return {
            "penalty": round(self.penalty(), 4),
            "open": {half: int((values > 0).sum()) for half, values in gates.items()},
            "cross_entropy": round(statistics.fmean(nll), 4),
            "nll": [round(value, 2) for value in nll],
            "right": "".join("01"[one] for one in right),
        }


@torch.no_grad()
def look(model: JoLAModel, rows: Sequence[Encoded], batch_size: int = 32) -> tuple[list[float], list[bool]]:
    """Of each row: −ln p(answer), and whether greedy decoding would give exactly that answer.

    It would if each token of the answer, the end token included, is the likeliest after those before it: one pass gives
    both.
    """
    training = model.training
    model.eval()
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].input_ids))
    nll, right = torch.zeros(len(rows)), torch.ones(len(rows), dtype=torch.bool)
    for start in range(0, len(rows), batch_size):
        chosen = order[start : start + batch_size]
        batch = collate([rows[index] for index in chosen], model.tokenizer.pad_token_id)
        logits = model(**batch).logits.float()
        targets = batch["labels"][:, 1:]
        answers = targets != IGNORED
        row = torch.tensor(chosen)[answers.nonzero()[:, 0]]
        nll.index_add_(0, row, F.cross_entropy(logits, targets[answers], reduction="none"))
        right[row[logits.argmax(-1) != targets[answers]]] = False
    model.train(training)
    return nll.tolist(), right.tolist()
