"""`fit`: train the interventions of a model with the settings of a run; used by runs and studies."""

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer import TRAINER_STATE_NAME

from jola.config import RunConfig
from jola.data.examples import EncodedSet
from jola.errors import InputError
from jola.evaluation.scoring import Accuracy
from jola.model.edited import EditedModel
from jola.system.distributed import processes
from jola.system.files import disk_errors, json_bytes, read_json, replace_file
from jola.system.threads import ThreadControl, fixed_by_user
from jola.training.callbacks import BeforeSteps, CrossEntropyPatience, FreeThreads
from jola.training.objective import Penalty
from jola.training.trainer import JoLATrainer

CRITERIA = {"best": "selection", "loss": "loss"}
"""Validation metric that chooses the epoch to keep, by the value of ``training.keep``."""

_DISK_FULL_SIGNS = (f"os error {errno.ENOSPC}", "PytorchStreamWriter", "inline_container.cc", "iostream error")


@dataclass(frozen=True)
class Fit:
    """The result of a training."""

    steps: int
    """Optimizer steps, including those before the checkpoint from which it resumed."""
    kept_step: int
    """The step whose edits were kept: the best one by validation, or the last."""
    examples: int
    """Training examples seen in these steps, with repetition."""
    validation: Accuracy | None
    """Validation accuracy of these edits; None if they were not validated."""
    validation_cross_entropy: float | None
    """Validation cross-entropy of these edits, nats."""
    seconds: float
    processor_seconds: float


def fit(
    config: RunConfig,
    model: EditedModel,
    train: EncodedSet,
    validation: EncodedSet | None,
    checkpoints: Path,
    callbacks: Sequence[TrainerCallback] = (),
    *,
    penalty: Penalty | None = None,
    constant_gate_rate: bool = False,
    before_step: Callable[[int, int], None] | None = None,
    resume_from: Path | None = None,
) -> Fit:
    """Train the interventions of `model`; afterwards, it has the edits that are kept and is in evaluation mode.

    Args:
        config: Settings, of which ``training`` is used.
        checkpoints: Folder for checkpoints.
        callbacks: Callbacks of transformers, called before those of the settings.
        penalty: Added to the cross-entropy instead of the penalty of ``training.objective``.
        constant_gate_rate: Keep the learning rate of the gates at its peak.
        before_step: Called before every step with its number, from 0, and the total.
        resume_from: Checkpoint from which to resume.

    Raises:
        InputError: The training diverged, or the disk is full.
    """
    more: list[TrainerCallback] = [BeforeSteps(before_step)] if before_step else []
    threads = thread_control(model.device)
    trainer = make_trainer(
        config,
        model,
        train,
        validation,
        checkpoints,
        [*callbacks, *more, *([FreeThreads(threads)] if threads else [])],
        penalty=penalty,
        constant_gate_rate=constant_gate_rate,
    )
    if resume_from:
        _find_best_checkpoint(resume_from)
    if resume_from and _patience_was_over(resume_from, config.training.patience):
        trainer.args.max_steps = step_of(resume_from)  # the training had ended: only load the edits
    started, busy = time.perf_counter(), time.process_time()
    try:
        with training_disk_errors(checkpoints.parent):
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    finally:
        if threads:
            threads.restore()
    seconds, processor_seconds = time.perf_counter() - started, time.process_time() - busy
    model.eval()
    found = _validation(trainer)
    return Fit(
        steps=trainer.state.global_step,
        kept_step=_kept_step(trainer),
        examples=_examples_seen(trainer, len(train.rows)),
        validation=Accuracy(round(found["eval_accuracy"] * len(validation.rows)), len(validation.rows))
        if validation and found
        else None,
        validation_cross_entropy=found.get("eval_loss"),
        seconds=seconds,
        processor_seconds=processor_seconds,
    )


def thread_control(device: torch.device) -> ThreadControl | None:
    """The control of the number of PyTorch threads for training on a device.

    None for an accelerator, and if the environment sets the number of threads.
    """
    if device.type != "cpu" or fixed_by_user():
        return None
    return ThreadControl(torch.get_num_threads(), torch.set_num_threads)


def make_trainer(
    config: RunConfig,
    model: EditedModel,
    train: EncodedSet,
    validation: EncodedSet | None,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    *,
    penalty: Penalty | None = None,
    constant_gate_rate: bool = False,
) -> JoLATrainer:
    """Create the trainer for some settings, with checkpoints in `folder`. Other arguments as for `fit`."""
    settings = config.training
    model.gradient_checkpointing = settings.gradient_checkpointing
    batches = -(-len(train.rows) // (settings.batch_size * processes()))
    steps = -(-batches // settings.gradient_accumulation) * settings.epochs
    chosen_by = None if validation is None else CRITERIA.get(settings.keep)
    args = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=max(16, settings.batch_size),
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate or 0.0,  # `RunConfig` has filled in the default of the method
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup_ratio * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        data_seed=settings.seed,
        logging_steps=1,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="epoch" if validation else "no",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=chosen_by is not None,
        metric_for_best_model=chosen_by,
        greater_is_better=None if chosen_by is None else chosen_by != "loss",
        restore_callback_states_from_checkpoint=True,
        report_to=settings.report_to,
        run_name=folder.parent.name,
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        use_cpu=model.device.type == "cpu",
        dataloader_pin_memory=model.device.type == "cuda",
        remove_unused_columns=False,
    )
    patience = [CrossEntropyPatience(settings.patience)] if settings.patience and validation else []
    trainer = JoLATrainer(
        model,
        args,
        train.rows,
        validation.rows if validation else None,
        gate_learning_rate=settings.gate_learning_rate,
        l0_weight=settings.l0_weight,
        l0_schedule=settings.l0_schedule,
        objective=settings.objective,
        loss_reduction=settings.loss_reduction,
        settle_ratio=settings.settle_ratio,
        penalty=penalty,
        constant_gate_rate=constant_gate_rate,
        callbacks=[*callbacks, *patience],
    )
    # This callback prints every log to standard output, which is reserved for the result.
    trainer.remove_callback(PrinterCallback)
    return trainer


def check_tracker(name: str) -> None:
    """Raise `InputError` if an experiment tracker is not installed; called before anything is loaded."""
    installed = ["none", "all", *get_available_reporting_integrations()]
    if name not in installed:
        raise InputError(f"--report-to is {name!r}, which is not installed here; choose one of {', '.join(installed)}.")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`; None if there is no complete one.

    Trainer writes its state last. A checkpoint without a state is incomplete, because the process was killed.
    """
    found = [path for path in folder.glob("checkpoint-*") if read_json(path / TRAINER_STATE_NAME)]
    return max(found, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The training step of a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


@contextmanager
def training_disk_errors(path: Path) -> Iterator[None]:
    """Raise an `InputError` that names `path` if the disk is full, whichever library reports it."""
    try:
        with disk_errors(path):
            yield
    except InputError:
        raise
    except Exception as error:
        # safetensors and PyTorch report a full disk only in the text of an error.
        if any(sign in str(error) for sign in _DISK_FULL_SIGNS):
            raise InputError(f"There is no space left on the disk for {path}; free some space, then resume.") from error
        raise


def _kept_step(trainer: JoLATrainer) -> int:
    best, kept = trainer.state.best_global_step, trainer.state.best_model_checkpoint
    return best if trainer.args.load_best_model_at_end and best and kept else trainer.state.global_step


def _validation(trainer: JoLATrainer) -> dict[str, float]:
    """Metrics of the validation of the kept edits; empty if they were not validated."""
    step = _kept_step(trainer)
    found = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry and entry["step"] == step]
    return found[-1] if found else {}


def _examples_seen(trainer: JoLATrainer, rows: int) -> int:
    """Training examples seen in whole epochs and in the batches of an incomplete epoch."""
    args, steps = trainer.args, trainer.state.global_step
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    epochs, rest = divmod(steps, -(-rows // batch))
    return epochs * rows + min(rest * batch, rows)


def _find_best_checkpoint(checkpoint: Path) -> None:
    """Correct the path of the best checkpoint in the state of a checkpoint if their folder was moved.

    Trainer writes an absolute path, and would keep the edits of the last step if the path does not exist.
    """
    path = checkpoint / TRAINER_STATE_NAME
    state = read_json(path) or {}
    best = state.get("best_model_checkpoint")
    if not isinstance(best, str) or Path(best).is_dir():
        return
    here = checkpoint.parent / Path(best).name
    if here.is_dir():
        replace_file(path, json_bytes(state | {"best_model_checkpoint": str(here)}, indent=2))


def _patience_was_over(checkpoint: Path, patience: int) -> bool:
    """Whether early stopping had ended the training at this checkpoint."""
    saved = (read_json(checkpoint / TRAINER_STATE_NAME) or {})["stateful_callbacks"].get(CrossEntropyPatience.__name__)
    return saved is not None and saved["attributes"]["waited"] >= patience
