"""Run one training of `benchmarks/training_experiments.py`, and score the parameters that it saved."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.training_experiments import BASELINE, Arm, Cell
from jola import JoLAModel
from jola.config import DataConfig, EditConfig, ModelConfig, RunConfig, TrainingConfig
from jola.data.examples import IGNORED, Encoded, Example, Template, collate, encode_examples
from jola.data.tasks import load_task
from jola.evaluation import exact_match
from jola.training import make_trainer

VALIDATION = 100
"""Number of validation examples, as in `jola train` by default; they are scored after every epoch."""
UNUSED = 200
"""Number of unused training examples that are held out, in addition to the rest of the validation part."""
MEAN = "mean"
"""Name of the mean of the parameters over the last half of the steps."""


def train(cell: Cell, arm: Arm, states: Path, model: str = "default") -> dict[str, Any]:
    """Train to the last step, and save the parameters after each epoch in the folder `states`.

    Returns:
        The result to store. In ``epochs`` and ``averages``, ``cross_entropy`` is the mean over the validation examples;
        ``nll`` (nats) and ``correct`` (1 or 0) have one entry per example.
    """
    started, processor = time.time(), time.process_time()
    config = config_of(cell, arm, model)
    examples, validation = examples_of(config.data, cell.data_seed)
    edited = JoLAModel.from_pretrained(edits=config.edits, seed=cell.seed, **asdict(config.model))
    template = Template(edited.tokenizer, config.data.template)
    rows = encode_examples(examples, template, config.data.max_length)
    validation_rows = encode_examples(validation[:VALIDATION], template, config.data.max_length).rows
    observer = Observer(edited, validation_rows, states, arm.clip, config.training.max_grad_norm)
    # The observer clips instead of Trainer, because arms clip differently, and it records the norms before clipping.
    unclipped = replace(config, training=replace(config.training, max_grad_norm=0.0))
    trainer = make_trainer(unclipped, edited, rows, None, states, [observer])
    trainer.args.save_strategy = "no"
    trainer.args.adam_beta1, trainer.args.adam_beta2, trainer.args.adam_epsilon = arm.adam
    weight = trainer.schedule.unit
    observer.penalty = lambda: float(trainer.penalty(edited.gated_edits(), weight).detach())
    trainer.train()
    return {
        **asdict(cell),
        "settings": dict(arm.settings),
        "levers": arm.levers(),
        "config": config.to_dict(),
        "n": {"train": len(rows.rows), "validation": len(validation_rows)},
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


def score_held_out(cell: Cell, arm: Arm, states: Path, names: Iterable[str], model: str = "default") -> dict[str, Any]:
    """Score each of the saved parameters `names` on held-out examples: accuracy and cross-entropy.

    These are the rest of the validation part and `UNUSED` examples of the training part, which training never saw.
    """
    data = config_of(cell, arm, model).data
    drawn, validation = examples_of(data, cell.data_seed)
    # A larger sample with the same seed contains the smaller one.
    more = load_task(replace(data, train_size=len(drawn) + UNUSED), cell.data_seed).train
    examples = [*validation[VALIDATION:], *(example for example in more if example not in drawn)]
    found = {}
    for name, edited, template in restored(cell, arm, states, names, model):
        rows = encode_examples(examples, template, data.max_length).rows
        nll, correct = score_answers(edited, rows)
        found[name] = {"correct": sum(correct), "n": len(rows), "cross_entropy": round(statistics.fmean(nll), 4)}
    return found


def score_test(cell: Cell, arm: Arm, states: Path, names: Iterable[str], model: str = "default") -> dict[str, Any]:
    """Score each of the saved parameters `names` on the test examples: exact match of generated answers."""
    examples = load_task(config_of(cell, arm, model).data, cell.data_seed).test
    found = {}
    for name, edited, template in restored(cell, arm, states, names, model):
        accuracy = exact_match(edited, examples, template).accuracy
        found[name] = {"correct": accuracy.correct, "n": accuracy.n}
    return found


def restored(
    cell: Cell, arm: Arm, states: Path, names: Iterable[str], model: str
) -> Iterator[tuple[str, JoLAModel, Template]]:
    """Yield the model with each of the saved parameters `names` in turn."""
    config = config_of(cell, arm, model)
    edited = JoLAModel.from_pretrained(edits=config.edits, **asdict(config.model))
    template = Template(edited.tokenizer, config.data.template)
    for name in names:
        edited.interventions.load_state_dict(load_file(states / f"{name}.safetensors"))
        yield name, edited, template


def config_of(cell: Cell, arm: Arm, model: str) -> RunConfig:
    """Return the settings of a cell's training; examples are drawn with the cell's data seed instead of ``seed``."""
    groups: list[Any] = [
        ModelConfig(model, dtype=cell.dtype),
        EditConfig(),
        DataConfig(task=cell.task),
        TrainingConfig(),
    ]
    changes = {**BASELINE, "seed": cell.seed, **arm.settings}
    for group in groups:
        for name in changes.keys() & vars(group).keys():
            setattr(group, name, changes[name])
    return RunConfig(*groups).validate()


def examples_of(data: DataConfig, seed: int) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return training examples, and the whole validation part: first what `jola train` draws, then the rest."""
    drawn = load_task(replace(data, validation_size=VALIDATION), seed)
    every = load_task(replace(data, validation_size=0), seed).validation
    return drawn.train, [*drawn.validation, *(example for example in every if example not in drawn.validation)]


class Observer(TrainerCallback):
    """Clip gradients, average the parameters, and score the validation examples after each epoch.

    Args:
        model: The model that trains.
        rows: The validation examples.
        folder: Folder of the saved parameters.
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
        """Record the gradient norms of edits and gates, then clip."""
        for name, group in self.groups.items():
            if group:
                self.norms[name].append(float(nn.utils.get_total_norm([p.grad for p in group if p.grad is not None])))
        for group in self.clipped:
            if group and self.max_norm:
                nn.utils.clip_grad_norm_(group, self.max_norm)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Update the mean of the parameters over the last half of the steps."""
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
        """Score the validation examples."""
        found = {"step": state.global_step, **self._score(f"epoch-{len(self.epochs) + 1}")}
        found["gradient_norm"] = {
            name: round(float(torch.tensor(values).median()), 2) for name, values in self.norms.items() if values
        }
        self.epochs.append(found)
        self.norms = {"edits": [], "gates": []}

    @torch.no_grad()
    def averages(self) -> dict[str, Any]:
        """Return the scores of the averaged parameters, and restore the parameters of the last step."""
        last = [p.clone() for p in self.model.parameters()]
        self._set(self.mean)
        found = {MEAN: self._score(MEAN)}
        self._set(last)
        return found

    def _set(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.model.parameters(), values, strict=True):
            parameter.copy_(value)

    def _score(self, name: str) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(self.model.interventions.state_dict()), self.folder / f"{name}.safetensors")
        nll, correct = score_answers(self.model, self.rows)
        gates = self.model.edits.gate_values() if self.groups["gates"] else {}
        return {
            "penalty": round(self.penalty(), 4),
            "open": {half: int((values > 0).sum()) for half, values in gates.items()},
            "cross_entropy": round(statistics.fmean(nll), 4),
            "nll": [round(value, 2) for value in nll],
            "correct": "".join("01"[one] for one in correct),
        }


@torch.no_grad()
def score_answers(model: JoLAModel, rows: Sequence[Encoded], batch_size: int = 32) -> tuple[list[float], list[bool]]:
    """Return −ln p(answer) of each row, and whether greedy decoding would produce exactly this answer.

    It would if each token of the answer, including the end token, is the most likely one after the preceding tokens, so
    a single pass is enough.
    """
    training = model.training
    model.eval()
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].input_ids))
    nll, correct = torch.zeros(len(rows)), torch.ones(len(rows), dtype=torch.bool)
    for start in range(0, len(rows), batch_size):
        chosen = order[start : start + batch_size]
        batch = collate([rows[index] for index in chosen], model.tokenizer.pad_token_id)
        logits = model(**batch).logits.float()
        targets = batch["labels"][:, 1:]
        answers = targets != IGNORED
        row = torch.tensor(chosen)[answers.nonzero()[:, 0]]
        nll.index_add_(0, row, F.cross_entropy(logits, targets[answers], reduction="none"))
        correct[row[logits.argmax(-1) != targets[answers]]] = False
    model.train(training)
    return nll.tolist(), correct.tolist()
