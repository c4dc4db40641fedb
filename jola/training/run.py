"""One training run from settings to result: load, train, save the adapter, test.

The command line calls `run_training`, and the app starts the command line. All results are written to the directory of
the run immediately, so that other processes can follow the run.
"""

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from jola.config import RunConfig
from jola.data.examples import EncodedSet, Example, Template, encode_examples
from jola.data.tasks import Task, load_task
from jola.edits.names import HALVES
from jola.errors import InputError
from jola.evaluation.answering import answer_together, check_fits
from jola.evaluation.answers import check_installed, default_metrics, score_answers
from jola.evaluation.metrics import Score
from jola.evaluation.scoring import Accuracy
from jola.jola_model import JoLAModel
from jola.model.architectures import length_limit
from jola.model.edited import EditedModel
from jola.model.loading import pick_device
from jola.model.sharding import passes_together
from jola.runs.answers import TestAnswer
from jola.runs.history import truncate_history
from jola.runs.run import Run
from jola.runs.state import forget_pause
from jola.runs.store import RunStore
from jola.system.distributed import by_first, meet
from jola.system.files import disk_errors
from jola.system.formatting import is_share, score_fact
from jola.system.progress import Progress, Quiet, Stopped
from jola.system.signals import stop_on_signal
from jola.training.callbacks import AdapterKeeper, GateRecorder, gate_writers, publish_adapter
from jola.training.facts import chosen_heads, facts_of, parameters_of, with_heads
from jola.training.fit import Fit, check_tracker, fit, last_checkpoint, step_of
from jola.training.follower import RunFollower, peak_memory
from jola.training.material import Passes
from jola.training.resume import check_processes, settings_to_resume
from jola.training.stages import Stages
from jola.training.validation_warning import Expected, ValidationWarning, earlier_accuracies


def run_training(
    config: RunConfig,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    choose: "Callable[[RunConfig, Progress, threading.Event], str | None] | None" = None,
    measure: "Callable[[Prepared, Progress], Mapping[str, Any]] | None" = None,
) -> Run:
    """Train, save the adapter and test it.

    Under ``accelerate launch`` or ``torchrun``, every process calls this, trains on its share of each batch and tests
    its share of the examples; the first process writes the run and reports to `progress`.

    Args:
        config: All settings. ``training.output`` is the run directory; if empty, a directory in the run store is
            created.
        resume: Resume from the last checkpoint in ``training.output`` with the settings of that run; settings in
            `config` must be the same or the defaults, see `settings_to_resume`. A finished run stays as it is.
        progress: Receives progress and notes.
        choose: Called before the model is loaded, with an event that is set to stop the run; returns the heads to edit,
            or None for those of `config`. See `jola.selectors.choose.chosen_heads`.
        measure: Called after the test with the fitted model; its values are added to the result.

    Returns:
        The run, in state ``finished``, in state ``cancelled`` after SIGINT or SIGTERM, or in state ``paused`` after
        `request_pause`. The latter two stop at the next step with a checkpoint to resume from, and keep the edits
        selected by ``training.keep``.

    Raises:
        InputError: A setting, the model or the data cannot be used. If this is detected before training begins, no new
            run is created; otherwise, the run is ``failed`` with this message.
    """
    config.validate()
    if resume and not config.training.output:
        raise InputError("--resume needs --output, the directory of the run to continue.")
    check_tracker(config.training.report_to)
    check_processes(config)
    first = meet(lambda: pick_device(config.model.device).type == "cpu")
    progress = progress if progress and first else Quiet()

    new = False

    def create() -> tuple[Run, RunConfig, bool]:
        store, output = RunStore(), config.training.output
        path = Path(output) if output else store.root / store.new_id(config.data.task)
        nonlocal new
        with disk_errors(path):
            new = not output or not path.exists()
            used = settings_to_resume(path, config) if resume and (path / "config.json").is_file() else config
            check_processes(used)
            run = Run(path)
            if resume and run.state == "finished" and run.result():
                return run, used, True
            if run.is_run() and not run.alive:  # a run that is alive may have received a request to pause
                forget_pause(run)
            return Run.create(path, used, chosen_heads(run) if resume else None, resume=resume), used, False

    run, config, finished = by_first(create, first)
    if finished:
        progress.note(f"The run in {run.path} is finished and stays as it is.")
        return run
    with stop_on_signal() as stop:  # a signal must not end the process before it has written how the run ended
        try:
            if choose and not chosen_heads(run) and (heads := choose(config, progress, stop)):
                run.write_facts({"chosen_heads": heads})
            _train(run, config, resume, first, progress, stop, measure)
        except BaseException as error:
            sentence = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            if first and new and isinstance(error, InputError) and run.state == "starting":
                shutil.rmtree(run.path, ignore_errors=True)
            elif first:
                cancelled = isinstance(error, KeyboardInterrupt)
                _end(run, "cancelled" if cancelled else "failed", sentence)
            raise
    return run


def _end(run: Run, state: str, message: str = "") -> None:
    """Write the last state of the process, without a request to pause: later ones are for the next process."""
    forget_pause(run)
    run.write_status(state=state, message=message)


@dataclass(frozen=True)
class Prepared:
    """The model with initialized interventions, and the examples of its task."""

    task: Task
    model: JoLAModel
    template: Template
    train: EncodedSet
    validation: EncodedSet | None


def prepare(config: RunConfig, progress: Progress) -> Prepared:
    """Load the task and the model, and encode the examples.

    Raises:
        InputError: The task or the model cannot be used, all examples are too long, or a test prompt is.
    """
    progress.phase("load")
    task = load_task(config.data, config.training.seed)
    check_installed(task.metrics)
    model = JoLAModel.from_pretrained(edits=config.edits, seed=config.training.seed, **asdict(config.model))
    template = Template(model.tokenizer, config.data.template)
    options = "options" in task.metrics
    check_fits(model, task.test, template, task.labels, options=options, max_new_tokens=task.max_new_tokens)
    train, validation = EncodedSet([], [], 0), None
    if config.tuning.trains:
        limit = length_limit(model.base, config.data.max_length)
        if limit != config.data.max_length:
            progress.note(f"Examples may have up to {limit:,} tokens, because the model has no more positions.")
        train = _encode(task.train, template, limit, "training", progress)
        validation = _encode(task.validation, template, limit, "validation", progress) if task.validation else None
    prompts = max((row.completion_start for row in train.rows), default=0)
    note = config.tuning.prompt_note(config.edits, prompts) if prompts else None
    for sentence in (*task.notes, *([note] if note else [])):
        progress.note(sentence)
    return Prepared(task, model, template, train, validation)


def _train(
    run: Run,
    config: RunConfig,
    resume: bool,
    first: bool,
    progress: Progress,
    stop: threading.Event,
    measure: "Callable[[Prepared, Progress], Mapping[str, Any]] | None",
) -> None:
    started = time.time()
    prepared = prepare(with_heads(config, **chosen_heads(run)), progress)
    if first:
        run.write_facts(facts_of(prepared.task, prepared.model, len(prepared.train.rows)))
    stages = Stages(run.checkpoints_dir, config, resume)
    checkpoint = last_checkpoint(stages.folder) if resume else None
    if first and resume:
        _rewind(run, config, stages.offset, step_of(checkpoint) if checkpoint else 0, progress)
    facts = {"Task": f"{prepared.task.name}, {len(prepared.train.rows)} training examples, {_seeds(config)}"}
    follower = RunFollower(run, progress, stop)
    fitted = _fit_stages(run, stages, prepared, follower, facts, checkpoint, first)
    seconds = time.time() - started
    follower.agree(prepared.model.device)
    answers = None if follower.ending else _test(run, config, prepared, follower, progress, first)
    # A request received by any process has ended the test in all processes.
    follower.agree(prepared.model.device)
    if not first:
        return
    run.write_status(step=fitted.steps)
    scores = score_answers(answers, default_metrics(answers, prepared.task.metrics)) if answers else []
    facts |= {score_fact(score.to_dict()): str(score) for score in scores[:1]}
    if stages.finished:  # the last stage trains other parameters than the first
        run.write_facts({"parameters": parameters_of(prepared.model)})
    if stages.has_edits:
        publish_adapter(prepared.model, run.adapter_dir, facts)
    if follower.pausing and not answers:
        _end(run, "paused")
        return
    if answers and not run.write_answers(answers):
        progress.note("The test answers are not saved, because they need more than 64 MB.")
    result = _result(prepared, fitted, stages, seconds, scores)
    run.write_result(result)
    if measure and not follower.ending:
        run.write_result({**result, **measure(prepared, progress)})
    cancelled = stop.is_set()
    _end(run, "cancelled" if cancelled else "finished", "Stopped on request." if cancelled else "")


def _rewind(run: Run, config: RunConfig, offset: int, trained: int, progress: Progress) -> None:
    """Truncate the files of an interrupted run to its checkpoint.

    Args:
        offset: Number of steps of the finished stages.
        trained: Number of steps of the current stage at its checkpoint; 0 without a checkpoint.
    """
    interrupted = bool(run.metrics())  # empty if the run was only queued
    step = offset + trained
    run.truncate_after(step)
    if trained % config.training.record_every:
        # The interrupted run recorded its last step, which an uninterrupted run would not have recorded.
        for site in run.sites():
            truncate_history(run.gates_dir, site, step - 1)
    if step:
        progress.note(f"Resuming from step {step}.")
    elif interrupted:
        progress.note("No checkpoint yet: starting from the beginning.")


def _fit_stages(
    run: Run,
    stages: Stages,
    prepared: Prepared,
    follower: RunFollower,
    facts: Mapping[str, str],
    checkpoint: Path | None,
    first: bool,
) -> Fit:
    """Fit the remaining stages; only the last one has edits to keep. A request to stop ends any stage."""
    model, seed = prepared.model, stages.config().training.seed
    if not model.method.trains:
        follower.progress.note(f"{model.method.title} trains nothing; the unchanged base model is tested.")
        return Fit(0, 0, 0, validation=None, validation_cross_entropy=None, seconds=0.0, processor_seconds=0.0)
    if stages.finished:
        model.replace_edits(stages.settings, seed)
    while True:
        follower.begin(stages)
        if stages.left[0].computed:
            return _compute(run, stages, prepared, follower, first)
        fitted = _fit(run, stages, prepared, follower, facts, checkpoint, first)
        stages.has_edits = len(stages.left) == 1
        follower.agree(model.device)
        if follower.ending or stages.has_edits:
            return stages.total(fitted)
        settings = model.method.next_settings(stages.settings, model.own_interventions())
        stages.finish(fitted, settings, write=first)
        model.replace_edits(settings, seed)
        checkpoint = None


def _fit(
    run: Run,
    stages: Stages,
    prepared: Prepared,
    follower: RunFollower,
    facts: Mapping[str, str],
    checkpoint: Path | None,
    first: bool,
) -> Fit:
    """Fit one stage and write the records of the run; only the first process writes files."""
    config, (stage, *later) = stages.config(), stages.left
    if config.training.keep == "best" and not is_share({"metric": prepared.task.metrics[0]}):
        # Generated texts are rarely exactly right, so accuracy says little about an epoch.
        config = replace(config, training=replace(config.training, keep="loss"))
    with gate_writers(run, prepared.model, first) as writers:
        return fit(
            config,
            prepared.model,
            prepared.train,
            prepared.validation,
            stages.folder,
            [
                GateRecorder(writers, config.training.record_every, stages.offset),
                follower,
                *([] if later else _validation_warning(run, config, prepared, follower.progress)),
                *([] if later else [AdapterKeeper(run.adapter_dir, facts)]),
            ],
            penalty=stage.penalty,
            resume_from=checkpoint,
        )


def _compute(run: Run, stages: Stages, prepared: Prepared, follower: RunFollower, first: bool) -> Fit:
    """Fit a computed stage and write the records of the run; if it is stopped, a resumed run starts it again."""
    model, seed, found = prepared.model, stages.config().training.seed, []
    started, busy = time.perf_counter(), time.process_time()

    def advance(done: int) -> None:
        follower.progress.advance(done)
        follower.look_for_pause()
        if follower.ending:
            raise Stopped

    def measured(numbers: dict[str, Any]) -> None:
        found.append(numbers)
        if first:
            run.append_metrics({"step": len(found), "time": time.time(), **numbers})

    kept = [prepared.task.train[index] for index in prepared.train.kept]
    passes = Passes(model, prepared.template, kept, prepared.validation, prepared.task.labels, seed, advance, measured)
    follower.progress.phase(stages.left[0].title)
    if first:
        run.write_status(state="training", stage=stages.left[0].title)
    measured_with: dict[str, Any] = {}
    with suppress(Stopped), passes_together(model.base):
        settings, tensors = model.method.compute(stages.settings, model.geometry, passes)
        model.replace_edits(settings, seed)
        model.method.load(model.own_interventions(), tensors)
        stages.has_edits = True
        measured_with = passes.found_with(settings)
        with gate_writers(run, model, first) as writers:
            for i in model.own_interventions() if first else ():
                writers[i.site].append(0, {name: values.cpu().numpy() for name, values in i.record().items()})
    n = len(passes.validation)
    return Fit(
        steps=0,
        kept_step=0,
        examples=passes.seen,
        validation=Accuracy(round(measured_with["validation_accuracy"] * n), n) if measured_with else None,
        validation_cross_entropy=measured_with.get("validation_cross_entropy"),
        seconds=time.perf_counter() - started,
        processor_seconds=time.process_time() - busy,
    )


def _validation_warning(run: Run, config: RunConfig, prepared: Prepared, progress: Progress) -> list[ValidationWarning]:
    """The callback that warns of a bad training, in the status of the run and once through `progress`."""
    if not prepared.validation:
        return []
    task = prepared.task
    earlier = earlier_accuracies(RunStore(), config.method, config.model.model, task.fingerprint)
    said: list[str] = []

    def say(sentence: str) -> None:
        run.write_status(warning=sentence)
        if sentence and not said:
            progress.note(sentence)
            said.append(sentence)

    return [ValidationWarning(Expected.of(task.validation, earlier), len(prepared.validation.rows), say)]


def _test(
    run: Run, config: RunConfig, prepared: Prepared, follower: RunFollower, progress: Progress, first: bool
) -> list[TestAnswer] | None:
    """The answers to the test examples; None without examples, or if the run is stopped or paused during the test."""
    task = prepared.task
    if not task.test:
        return None
    options = "options" in task.metrics

    def advance(done: int, total: int) -> None:
        progress.advance(done)
        follower.look_for_pause()
        if follower.ending and done < total:
            raise Stopped

    if first:
        run.write_status(state="evaluating")
    progress.phase("evaluate", len(task.test) * (1 + options))
    return answer_together(
        prepared.model,
        task.test,
        prepared.template,
        task.labels,
        options=options,
        max_new_tokens=task.max_new_tokens,
        beams=config.data.beams,
        progress=advance,
    )


def _result(prepared: Prepared, fitted: Fit, stages: Stages, seconds: float, scores: Sequence[Score]) -> dict[str, Any]:
    """Content of ``result.json``; `seconds` include loading."""
    exact = next((score for score in scores if score.metric == "exact_match"), None)
    return {
        "closed": closed_fractions(prepared.model),
        "seconds": seconds,
        "steps": fitted.steps,
        "kept_step": fitted.kept_step,
        **({"stages": stages.to_dicts(fitted)} if stages.several else {}),
        "n_train": len(prepared.train.rows),
        "peak_memory": peak_memory(prepared.model.device),
        "validation": fitted.validation.to_dict() if fitted.validation else None,
        "validation_cross_entropy": fitted.validation_cross_entropy,
        "test": Accuracy(round(exact.value * exact.n), exact.n).to_dict() if exact else None,
        "metric": prepared.task.metrics[0],
        "scores": [score.to_dict() for score in scores],
    }


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


def _seeds(config: RunConfig) -> str:
    data, training = config.data.data_seed, config.training.seed
    return f"seed {training}" if data in (None, training) else f"training seed {training}, data seed {data}"


def _encode(examples: Sequence[Example], template: Template, limit: int, part: str, progress: Progress) -> EncodedSet:
    encoded = encode_examples(examples, template, limit)
    if encoded.dropped:
        progress.note(
            f"{encoded.dropped} of {len(examples)} {part} examples are longer than {limit} tokens and are left out."
        )
    return encoded
