"""``jola evaluate`` and ``jola generate``."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from jola.cli import console
from jola.cli.changes import Place, show_changes, show_reading
from jola.cli.common import (
    BY_DEFAULT,
    AdapterName,
    Json,
    Loading,
    LoadingFlags,
    PromptFormat,
    Strength,
    find_adapter,
    find_run,
    importing_libraries,
    load_tested,
    test_data,
)
from jola.errors import InputError
from jola.system.formatting import is_share
from jola.system.processes import launched

if TYPE_CHECKING:
    from jola.evaluation.metrics import Score
    from jola.insight.predictions import NextTokens
    from jola.runs.answers import TestAnswer
    from jola.runs.run import Run


def evaluate(
    adapter: Positional[Annotated[AdapterName, arg(metavar="ADAPTER")]],
    task: Annotated[str | None, arg(help="Task, as for 'train'; default: the task of the run.")] = None,
    test_size: Annotated[
        int | None, arg(help="Test examples to use; 0 uses all; default: as many as the run, or 500. [examples]")
    ] = None,
    template: PromptFormat = "auto",
    base: Annotated[bool, arg(help="Also test the base model without edits.")] = False,
    options: Annotated[
        bool,
        arg(
            help="Skip scoring the options by likelihood.",
            help_behavior_hint="(default: scored if the task has options)",
        ),
    ] = True,
    metrics: Annotated[
        tuple[str, ...],
        arg(
            metavar="METRIC [METRIC ...]",
            help="Compute these metrics from the stored answers of the run, without its model, and add them to its "
            "result: exact_match, options, first_label, answer_letter, bleu, rouge_l, bertscore, "
            "bertscore:ENCODER@LAYER.",
        ),
    ] = (),
    first_reference: Annotated[bool, arg(help="Let only the first reference of each example count.")] = False,
    side_effects: Annotated[
        tuple[str, ...] | None,
        arg(
            metavar="[FILE]",
            help="Instead of testing, measure what the edits change on plain text: cross-entropy and KL(base || "
            "edited) per token. FILE has passages separated by empty lines; without it, a built-in text is used.",
        ),
    ] = None,
    layers: Annotated[
        bool,
        arg(help="Instead of testing, measure how much the residual stream changes after each layer, on test prompts."),
    ] = False,
    reading: Annotated[
        bool,
        arg(help="For RePE: choose among the options by projection on its directions, without editing the model."),
    ] = False,
    loading: LoadingFlags = BY_DEFAULT,
    json: Json = False,
) -> None:
    """Test an adapter on a task: the scores of the metrics of the task, with n and 95 % interval.

    Under torchrun or accelerate launch, each process answers its share of the examples.
    """
    if loading.remote and (side_effects is not None or layers or reading or metrics):
        raise InputError(
            "--remote tests an adapter on a task; leave it out with --side-effects, --layers, --reading and --metrics."
        )
    if metrics and (loading.shard_base or launched() > 1):
        raise InputError(
            "--metrics scores stored answers in one process, without a model; leave out --shard-base, and start jola "
            "without a launcher."
        )
    if loading.shard_base:
        from jola.model.sharding import check_sharding

        check_sharding(quantize=loading.quantize or "none", device_map=loading.device_map)
    if side_effects is not None or layers or reading:
        if metrics or base or (reading and (layers or side_effects is not None)):
            raise InputError(
                "--side-effects and --layers can be combined with each other, but not with --reading, --metrics or "
                "--base; use separate commands."
            )
        if launched() > 1:
            raise InputError(
                "--side-effects, --layers and --reading run in one process; start jola without a launcher."
            )
        place = Place(adapter, loading, task, test_size, template)
        if reading:
            show_reading(place, json)
        else:
            show_changes(place, side_effects, layers, json)
        return
    if metrics:
        if task is not None:
            raise InputError("--metrics scores the stored answers of a run; leave --task out.")
        _score_kept(find_run(adapter), metrics, base, first_reference, json)
        return
    with console.ConsoleProgress() as shown:
        with importing_libraries():
            from jola import Template
            from jola.evaluation.answering import answer_together
            from jola.evaluation.answers import check_installed, default_metrics, score_answers
            from jola.model.loading import pick_device
            from jola.system.distributed import SINGLE_PROCESS, meet
            from jola.system.progress import Quiet

        if loading.device_map and launched() > 1:
            raise InputError(SINGLE_PROCESS)
        first = meet(lambda: pick_device(loading.device).type == "cpu")
        progress = shown if first else Quiet()
        folder, run = find_adapter(adapter)
        settings = run.config().get("data", {}) if run else {}
        own_template = settings.get("template", "auto")
        data = test_data(run, task, test_size, template)
        template = data.template
        loaded = load_tested(data, 0, progress, run)
        check_installed(loaded.metrics)
        edited = loading.load(folder, progress)
        prompts = Template(edited.tokenizer, template)
        scored = options and all(example.options or loaded.labels for example in loaded.test)
        names = dict.fromkeys([*loaded.metrics, "options"])
        result: dict[str, Any] = {"adapter": str(folder), "task": loaded.name}
        found: dict[str, list[Score]] = {}
        answers: dict[str, list[TestAnswer]] = {}

        def measure(name: str) -> None:
            progress.phase(f"Testing {name}", len(loaded.test) * (1 + scored))
            kept = answer_together(
                edited,
                loaded.test,
                prompts,
                loaded.labels,
                options=scored,
                max_new_tokens=loaded.max_new_tokens,
                beams=settings.get("beams", 1),
                progress=lambda done, total: progress.advance(done),
            )
            if kept is None or not first:
                return
            answers[name] = kept
            found[name] = score_answers(kept, default_metrics(kept, list(names)), first_reference=first_reference)
            result[name] = {score.metric: _plain(score) for score in found[name]}

        measure("edited")
        if base:
            with edited.disable_edits():
                measure("base")
            as_tested = task is None and loading.model is None and template == own_template
            if first and run and as_tested:
                if others := _other_computation(run, loading):
                    progress.note(f"The answers without edits are not stored with the run, {others}.")
                elif _keep_base(run, answers):
                    progress.note("The answers without edits are now stored with the run.")
    if first:
        _show(result, found, json)


def _score_kept(run: "Run", metrics: Sequence[str], base: bool, first_reference: bool, json: bool) -> None:
    """Score the stored answers of a run, and add the scores of the edited model to its result."""
    with importing_libraries():
        from jola.evaluation.answers import score_answers

    kept = run.answers()
    if not kept:
        raise InputError(f"The run {run.id} has no stored answers; leave --metrics out to test it with its model.")
    if run.alive:
        raise InputError(f"The run {run.id} has not ended ({run.state}); wait until it has.")
    found = {
        name: score_answers(kept, metrics, base=name == "base", first_reference=first_reference)
        for name in ("edited", *(["base"] if base else []))
    }
    before = run.result() or {}
    scores = {score["metric"]: score for score in before.get("scores") or ()}
    scores |= {score.metric: score.to_dict() for score in found["edited"]}
    run.write_result(before | {"scores": list(scores.values())})
    result: dict[str, Any] = {"run": run.id, "adapter": str(run.adapter_dir)}
    _show(result | {name: {s.metric: _plain(s) for s in scored} for name, scored in found.items()}, found, json)


def _other_computation(run: "Run", loading: Loading) -> str:
    """Return why a model loaded in this way answers otherwise than the model of a run did; empty if it does not."""
    from jola.model.loading import pick_device, pick_dtype

    own = run.config().get("model", {})
    dtype, quantize = own.get("dtype", "auto"), own.get("quantize", "none")
    if loading.remote:
        return "because its own answers were computed on this machine"
    device = pick_device(loading.device)
    if pick_dtype(loading.dtype, device) != pick_dtype(dtype, device) or loading.quantize not in (None, quantize):
        return f"whose own answers were computed with --dtype {dtype} --quantize {quantize}"
    return ""


def _keep_base(run: "Run", answers: Mapping[str, Sequence["TestAnswer"]]) -> bool:
    """Add the answers without edits to those stored with a run, if the examples are equal; return whether it did."""
    edited, base = ({answer.id: answer for answer in answers[name]} for name in ("edited", "base"))
    kept = run.answers()
    if not kept or run.alive or any(answer.id not in base for answer in kept):
        return False
    return run.write_answers(
        [
            replace(
                answer,
                base_answer=base[answer.id].answer,
                log_likelihoods=answer.log_likelihoods or edited[answer.id].log_likelihoods,
                base_log_likelihoods=base[answer.id].log_likelihoods,
            )
            for answer in kept
        ]
    )


def _plain(score: "Score") -> dict[str, Any]:
    """Return a share of right answers as an accuracy, and another score as in ``result.json``."""
    found = score.to_dict()
    return {"accuracy": score.value, "n": score.n, "low": score.low, "high": score.high} if is_share(found) else found


def _show(result: Mapping[str, Any], found: Mapping[str, Sequence["Score"]], json: bool) -> None:
    if json:
        console.print_json(result)
        return
    rows = [[name, score.metric.replace("_", " "), str(score)] for name, scores in found.items() for score in scores]
    console.print_table(["model", "measure", "score"], rows)


def generate(
    prompt: Positional[Annotated[str, arg(metavar="PROMPT", help="The prompt; '-' reads it from standard input.")]],
    adapter: AdapterName,
    show: Annotated[Literal["both", "edited", "base"], arg(help="Which answers to show.")] = "both",
    max_new_tokens: Annotated[int, arg(help="Maximum length of an answer. [tokens]")] = 64,
    next_tokens: Annotated[
        int | None,
        arg(metavar="N", help="Instead of answering, show the N most likely next tokens, with and without the edits."),
    ] = None,
    strength: Strength = 1.0,
    template: PromptFormat = "auto",
    loading: LoadingFlags = BY_DEFAULT,
    json: Json = False,
) -> None:
    """Answer a prompt with and without the edits."""
    if max_new_tokens < 1:
        raise InputError(f"--max-new-tokens is {max_new_tokens}; it must be at least 1.")
    if next_tokens is not None and next_tokens < 1:
        raise InputError(f"--next-tokens is {next_tokens}; it must be at least 1.")
    with console.ConsoleProgress() as shown:
        with importing_libraries():
            import torch

            from jola import Example, Message, Template
            from jola.model.loading import pick_device
            from jola.system.distributed import by_first, meet
            from jola.system.progress import Quiet

        first = meet(lambda: pick_device(loading.device).type == "cpu")
        prompt = by_first(lambda: _read_prompt(prompt), first)
        progress = shown if first else Quiet()
        folder, _ = find_adapter(adapter)
        progress.phase("load")
        edited = loading.load(folder, progress)
        prompts = Template(edited.tokenizer, template)
        if next_tokens is not None:
            from jola.insight import next_tokens as look

            progress.phase("Looking at the next token")
            found = look(edited, prompt, next_tokens, strength=strength, template=prompts)
            if first:
                _show_next_tokens(prompt, found, json)
            return
        ids = torch.tensor([prompts.encode_prompt(Example((Message("user", prompt),), ""))])

        def answer() -> str:
            tokens = edited.generate(
                ids,
                strength=strength,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=prompts.end_token_ids,
            )
            return str(edited.tokenizer.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True)).strip()

        answers: dict[str, str] = {}
        if show != "edited":
            progress.phase("Answering without edits")
            with edited.disable_edits():
                answers["base"] = answer()
        if show != "base":
            progress.phase("Answering with edits")
            answers["edited"] = answer()
    if not first:
        return
    if json:
        console.print_json({"prompt": prompt, **answers})
    elif len(answers) == 1:
        console.print_text(*answers.values())
    else:
        for name, text in answers.items():
            console.print_text(f"── {name}\n{text}")


def _read_prompt(given: str) -> str:
    """Return the prompt, read from standard input if `-` is given."""
    try:
        prompt = sys.stdin.read() if given == "-" else given
        prompt.encode("utf-8")
    except UnicodeError:
        raise InputError("The prompt is not UTF-8 text; write or convert it as UTF-8.") from None
    if not prompt.strip():
        raise InputError("The prompt is empty; write what the model should answer.")
    return prompt


def _show_next_tokens(prompt: str, found: "NextTokens", json: bool) -> None:
    if json:
        console.print_json(
            {"prompt": prompt, "next_tokens": [asdict(token) for token in found.tokens], "kl_nats": found.kl}
        )
        return
    rows = [[repr(token.token), f"{token.base:.4f}", f"{token.edited:.4f}"] for token in found.tokens]
    console.print_table(["next token", "p, base", "p, edited"], rows)
    console.print_text(f"KL(edited || base) = {found.kl:.4f} nats")
