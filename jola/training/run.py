"""One training run from settings to result: load, train, keep the adapter, test.

`run_training` is what the command line and, through it, the app run. Everything it learns on the way goes into the
run's directory at once, where any number of readers follow it.
"""

import errno
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer import TRAINER_STATE_NAME

from jola.config import GROUPS, RunConfig, flag
from jola.data.examples import EncodedSet, Example, Template, encode_examples
from jola.data.tasks import Task, load_task
from jola.edits.intervention import Intervention
from jola.edits.names import HALVES
from jola.edits.sites import Site
from jola.errors import InputError
from jola.evaluation.scoring import exact_match
from jola.jola_model import JoLAModel
from jola.model.edited import EditedModel
from jola.model.loading import pick_device
from jola.runs.history import truncate_history
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.system.distributed import by_first, meet, processes
from jola.system.files import disk_errors, read_json
from jola.system.processes import machine
from jola.system.progress import Progress, Quiet
from jola.training.follower import PAUSE_FILE, RunFollower, pause_requested, peak_memory, stop_on_signal
from jola.training.trainer import AdapterKeeper, CrossEntropyPatience, GateRecorder, JoLATrainer, publish_adapter

_DISK_FULL_SIGNS = (f"os error {errno.ENOSPC}", "PytorchStreamWriter", "inline_container.cc", "iostream error")

PACKAGES = ("jola-workbench", "torch", "transformers", "nnsight", "accelerate", "datasets")


def run_training(config: RunConfig, *, resume: bool = False, progress: Progress | None = None) -> Run:
    """Train, save the adapter and test it.

    Under ``accelerate launch`` or ``torchrun`` every process calls this and trains on its share of each batch; the
    first one writes the run, tells `progress` and tests.

    Args:
        config: All settings; ``training.output`` names the run directory, empty makes one in the run store.
        resume: Go on with the last checkpoint of ``training.output``, with the settings of that run; settings here may
            repeat them or be left at their defaults.
        progress: Told what happens.

    Returns:
        The run, in state ``finished``; or ``cancelled``, after SIGINT or SIGTERM, or ``paused``, after `request_pause`.
        Both stop at the next step, with a checkpoint to go on from, and keep what is asked for in ``training.keep``.

    Raises:
        InputError: A setting, the model or the data cannot be used. The run is then ``failed`` with that sentence.
    """
    config.validate()
    if resume and not config.training.output:
        raise InputError("--resume needs --output, the directory of the run to go on with.")
    _check_tracker(config.training.report_to)
    first = meet(lambda: pick_device(config.model.device).type == "cpu")
    progress = progress if progress and first else Quiet()

    def create() -> tuple[Run, RunConfig]:
        store, output = RunStore(), config.training.output
        path = Path(output) if output else store.root / store.new_id(config.data.task)
        used = _settings_to_resume(path, config) if resume and (path / "config.json").is_file() else config
        if not Run(path).alive:  # whoever made it for this process may have asked it to pause since
            (path / PAUSE_FILE).unlink(missing_ok=True)
        return Run.create(path, used, resume=resume), used

    run, config = by_first(create, first)
    try:
        with stop_on_signal() as stop:
            _train(run, config, resume, first, progress, stop)
    except BaseException as error:
        sentence = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        if first:
            run.write_status(state="cancelled" if isinstance(error, KeyboardInterrupt) else "failed", message=sentence)
        raise
    finally:
        if first:
            (run.path / PAUSE_FILE).unlink(missing_ok=True)
    return run


def _train(run: Run, config: RunConfig, resume: bool, first: bool, progress: Progress, stop: threading.Event) -> None:
    started = time.time()
    progress.phase("load")
    task = load_task(config.data, config.training.seed)
    model = JoLAModel.from_pretrained(edits=config.edits, seed=config.training.seed, **asdict(config.model))
    template = Template(model.tokenizer, config.data.template)
    train = _encode(task.train, template, config, "training", progress)
    validation = _encode(task.validation, template, config, "validation", progress) if task.validation else None
    for sentence in task.notes:
        progress.note(sentence)
    checkpoint = last_checkpoint(run.checkpoints_dir) if resume else None
    step = _step_of(checkpoint) if checkpoint else 0
    if first:
        Run.create(run.path, config, _facts(task, train, model), resume=True)
    if first and resume:
        interrupted = bool(run.metrics())  # and not only queued
        run.truncate_after(step)
        if step % config.training.record_every:
            # The end of the interrupted run was recorded, and an unbroken run would not have recorded this step.
            for site in run.sites():
                truncate_history(run.gates_dir, site, step - 1)
        if step:
            progress.note(f"Going on from step {step}.")
        elif interrupted:
            progress.note("No checkpoint yet: starting from the beginning.")
    with ExitStack() as stack:
        writers = {
            str(i.site): stack.enter_context(
                run.gate_writer(i.site, i.layers, i.units, tuple(i.record()), _column_names(i))
            )
            for i in (model.own_interventions() if first else ())
        }
        follower = RunFollower(run, progress, stop)
        facts = {"Task": f"{task.name}, {len(train.rows)} training examples, seed {config.training.seed}"}
        callbacks: list[TrainerCallback] = [
            GateRecorder(writers, config.training.record_every),
            follower,
            AdapterKeeper(run.adapter_dir, facts),
        ]
        if config.training.patience and validation:
            callbacks.append(CrossEntropyPatience(config.training.patience))
        trainer = make_trainer(config, model, train, validation, run.checkpoints_dir, callbacks)
        progress.phase("train", trainer._total_steps())
        if checkpoint and _patience_was_over(checkpoint, config.training.patience):
            trainer.args.max_steps = step  # it had been trained to its end, and only the test is missing
        with training_disk_errors(run.path):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    model.eval()
    if not first:
        return
    trained = time.time() - started
    run.write_status(step=trainer.state.global_step)
    if follower.paused and not stop.is_set():
        publish_adapter(model, run.adapter_dir, facts)
        run.write_status(state="paused")
        return
    result: dict[str, Any] = {
        "closed": closed_fractions(model),
        "seconds": trained,
        "steps": trainer.state.global_step,
        "kept_step": kept_step(trainer),
        "n_train": len(train.rows),
        "peak_memory": peak_memory(model.device),
        "test": None,
    }

    def advance(done: int, total: int) -> None:
        progress.advance(done)
        follower.paused = follower.paused or pause_requested(run)
        if (stop.is_set() or follower.paused) and done < total:
            raise _Stopped

    if task.test and not stop.is_set():
        run.write_status(state="evaluating")
        progress.phase("evaluate", len(task.test))
        with suppress(_Stopped):
            match = exact_match(model, task.test, template, progress=advance)
            result["test"] = match.accuracy.to_dict()
            facts["Test accuracy (exact match)"] = str(match.accuracy)
    publish_adapter(model, run.adapter_dir, facts)
    if follower.paused and not stop.is_set() and result["test"] is None:
        run.write_status(state="paused")
        return
    run.write_result(result)
    cancelled = stop.is_set()
    run.write_status(state="cancelled" if cancelled else "finished", message="Stopped on request." if cancelled else "")


def make_trainer(
    config: RunConfig,
    model: JoLAModel,
    train: EncodedSet,
    validation: EncodedSet | None,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> JoLATrainer:
    """The trainer that settings ask for; its checkpoints go into `folder`."""
    settings = config.training
    batches = -(-len(train.rows) // (settings.batch_size * processes()))
    steps = -(-batches // settings.gradient_accumulation) * settings.epochs
    best = settings.keep == "best" and validation is not None
    args = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=max(16, settings.batch_size),
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
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
        load_best_model_at_end=best,
        metric_for_best_model="objective" if validation else None,
        greater_is_better=False if validation else None,
        restore_callback_states_from_checkpoint=True,
        report_to=settings.report_to,
        run_name=folder.parent.name,
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        use_cpu=model.device.type == "cpu",
        dataloader_pin_memory=model.device.type == "cuda",
        remove_unused_columns=False,
    )
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
        callbacks=list(callbacks),
    )
    # It prints every log on standard output, which belongs to the result.
    trainer.remove_callback(PrinterCallback)
    return trainer


def kept_step(trainer: JoLATrainer) -> int:
    """The step whose edits the model has after training: the best one by validation, or the last."""
    best = trainer.state.best_global_step
    return best if trainer.args.load_best_model_at_end and best else trainer.state.global_step


def closed_fractions(model: EditedModel) -> dict[str, float | None]:
    """Share of the gates of each half whose evaluation value is exactly 0, over all editable units of all sites.

    None for a half that is not trained; empty for a method without gates.
    """
    if not model.method.has_gates:
        return {}
    fractions: dict[str, float | None] = {}
    for half in HALVES:
        closed = [(e.gate_values()[half] == 0)[e.editable].float() for e in model.gated_edits() if half in e.halves]
        fractions[half] = float(torch.cat(closed).mean()) if closed else None
    return fractions


def _column_names(intervention: Intervention) -> tuple[str, ...] | None:
    """Names of the columns of a history; heads are numbered and need none."""
    return intervention.unit_names if intervention.site is Site.WEIGHTS else None


def _check_tracker(name: str) -> None:
    """Refuse an experiment tracker that is not there before anything is loaded."""
    installed = ["none", "all", *get_available_reporting_integrations()]
    if name not in installed:
        raise InputError(f"--report-to is {name!r}, which is not installed here; choose one of {', '.join(installed)}.")


def _encode(
    examples: Sequence[Example], template: Template, config: RunConfig, part: str, progress: Progress
) -> EncodedSet:
    encoded = encode_examples(examples, template, config.data.max_length)
    if encoded.dropped:
        progress.note(
            f"{encoded.dropped} of {len(examples)} {part} examples are longer than {config.data.max_length} tokens and "
            "left out."
        )
    return encoded


def _facts(task: Task, train: EncodedSet, model: JoLAModel) -> dict[str, Any]:
    return {
        "versions": {name: _version(name) for name in PACKAGES},
        "machine": machine(),
        "task": {
            "name": task.name,
            "n_train": len(train.rows),
            "n_validation": len(task.validation),
            "n_test": len(task.test),
            "labels": task.labels,
            "notes": task.notes,
            "fingerprint": task.fingerprint,
        },
        "geometry": asdict(model.geometry),
        "parameters": dict(zip(("trainable", "frozen"), model.trainable_parameters(), strict=True)),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ImportError:
        return None


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`; None when there is none.

    Trainer writes its state last, so a checkpoint without one was being written when the process was killed.
    """
    found = [path for path in folder.glob("checkpoint-*") if read_json(path / TRAINER_STATE_NAME)]
    return max(found, key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _patience_was_over(checkpoint: Path, patience: int) -> bool:
    """Whether early stopping had ended the training at this checkpoint."""
    saved = (read_json(checkpoint / TRAINER_STATE_NAME) or {})["stateful_callbacks"].get(CrossEntropyPatience.__name__)
    return saved is not None and saved["attributes"]["waited"] >= patience


def _settings_to_resume(path: Path, config: RunConfig) -> RunConfig:
    """The settings of the run in `path`; those of `config` that are neither the default nor the same are refused."""
    stored = Run.open(path).run_config()
    if config.method not in (stored.method, RunConfig.method):
        raise InputError(
            f"--method is {config.method}, but the run in {path} was started with {stored.method}; resume it with its "
            "own settings, or choose another --output."
        )
    usual = RunConfig(method=config.method)
    groups = zip(GROUPS, config.parts(), stored.parts(), usual.parts(), strict=True)
    for group, part, stored_part, usual_part in groups:
        if group == "edits" and config.method != stored.method:
            continue
        for setting in fields(part):
            value, before = getattr(part, setting.name), getattr(stored_part, setting.name)
            if setting.name != "output" and value not in (before, getattr(usual_part, setting.name)):
                raise InputError(
                    f"{flag(setting.name)} is {value}, but the run in {path} was started with {before}; resume it "
                    "with its own settings, or choose another --output."
                )
    stored.training.output = config.training.output
    return stored


@contextmanager
def training_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk into an InputError that names `path`, whichever library met it."""
    try:
        with disk_errors(path):
            yield
    except InputError:
        raise
    except Exception as error:
        # safetensors and PyTorch write in their own languages and report a full disk as a text.
        if any(sign in str(error) for sign in _DISK_FULL_SIGNS):
            raise InputError(f"There is no space left on the disk for {path}; free some, then resume.") from error
        raise


class _Stopped(Exception):
    """Testing was cut short on request."""
