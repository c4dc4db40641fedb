"""The command line ``jola``, which mirrors the Python interface.

    jola train · evaluate · generate · export · runs · assets

The flags of ``jola train`` are the fields of the dataclasses in `jola.config`. Results go to standard output, progress
and errors to standard error; bad input is one sentence and exit code 2.
"""

import dataclasses
import os
import sys
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from jola.cli import console
from jola.cli.common import find_adapter, quiet_libraries
from jola.cli.export import Export, export
from jola.cli.runs import Json, Runs, accuracy_words, runs
from jola.cli.select import Compare, Select, compare, select
from jola.config import DataConfig, RunConfig
from jola.errors import InputError


def _train_flags() -> type:
    """One dataclass with the fields of all settings, their help lines, and the flags of the command itself."""
    fields: list[tuple[str, Any, Any]] = []
    for part in RunConfig().parts():
        hints = typing.get_type_hints(type(part))
        for field in dataclasses.fields(part):
            unit = field.metadata["unit"]
            help = field.metadata["help"] + (f" [{unit}]" if unit else "")
            fields.append((field.name, Annotated[hints[field.name], arg(help=help)], field.default))
    fields += [
        ("resume", Annotated[bool, arg(help="Go on with the last checkpoint of the run in --output.")], False),
        ("json", Annotated[bool, arg(help="End with one JSON object on standard output.")], False),
    ]
    return dataclasses.make_dataclass("TrainFlags", fields)


TrainFlags = _train_flags()
TrainFlags.__doc__ = "Train edits and gates on a task, keep the adapter and test it."

ModelName = Annotated[str | None, arg(help="Base model, when it is not where the adapter says.")]
Dtype = Annotated[Literal["auto", "float32", "bfloat16", "float16"], arg(help="Number format of the model.")]
Device = Annotated[str, arg(help="Device of the model.")]
AdapterName = Annotated[str, arg(help="Adapter directory, or the id or directory of a run.")]


@dataclass
class Evaluate:
    """Accuracy of an adapter on the test examples of a task, with n and a Wilson 95 % interval."""

    adapter: Positional[AdapterName]
    task: Annotated[str | None, arg(help="Task as for 'train'; default: the task of the run.")] = None
    test_size: Annotated[int, arg(help="Test examples to use; 0 takes all. [examples]")] = 500
    template: Annotated[Literal["auto", "chat", "plain"], arg(help="How a prompt is written.")] = "auto"
    base: Annotated[bool, arg(help="Measure the base model without edits as well.")] = False
    options: Annotated[bool, arg(help="Choose among the labels by likelihood as well, when they are known.")] = True
    model: ModelName = None
    dtype: Dtype = "auto"
    device: Device = "auto"
    json: Json = False


@dataclass
class Generate:
    """The model's answer to a prompt, with the edits and without."""

    prompt: Positional[Annotated[str, arg(help="The prompt; '-' reads it from standard input.")]]
    adapter: AdapterName
    show: Annotated[Literal["both", "edited", "base"], arg(help="Which answers to show.")] = "both"
    max_new_tokens: Annotated[int, arg(help="Longest answer. [tokens]")] = 64
    strength: Annotated[float, arg(help="Factor on every edit.")] = 1.0
    template: Annotated[Literal["auto", "chat", "plain"], arg(help="How the prompt is written.")] = "auto"
    model: ModelName = None
    dtype: Dtype = "auto"
    device: Device = "auto"
    json: Json = False


@dataclass
class AssetsShow:
    """What there is, its size and where it lies."""

    json: Json = False


@dataclass
class AssetsFetch:
    """Fetch the default model and data now, for use without a network."""

    name: Positional[Annotated[tuple[str, ...], arg(help="Names of assets; none fetches all.")]] = ()


@dataclass
class AssetsRemove:
    """Delete fetched assets; they are fetched again when they are needed."""

    name: Positional[Annotated[tuple[str, ...], arg(help="Names of assets; none removes all.")]] = ()


@dataclass
class Assets:
    """The default model and data: show, fetch, remove."""

    action: (
        Annotated[AssetsShow, subcommand("show")]
        | Annotated[AssetsFetch, subcommand("fetch")]
        | Annotated[AssetsRemove, subcommand("remove")]
    ) = dataclasses.field(default_factory=AssetsShow)


Command = (
    Annotated[TrainFlags, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Generate, subcommand("generate")]
    | Annotated[Select, subcommand("select")]
    | Annotated[Compare, subcommand("compare")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Runs, subcommand("runs")]
    | Annotated[Assets, subcommand("assets")]
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command line; exits with 0, with 2 for bad input, with 130 when interrupted."""
    # A union of annotated types, which tyro takes and type checkers have no word for.
    kinds: Any = Command
    command: Any = tyro.cli(
        kinds,
        prog="jola",
        description="Joint Localization and Activation Editing: train edits of attention heads, see and use them.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )
    try:
        _COMMANDS[type(command)](command)
    except InputError as error:
        console.errors.print(f"error: {error}", markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        console.errors.print("interrupted", markup=False)
        sys.exit(130)


def _train(flags: Any) -> None:
    given = dataclasses.asdict(flags)
    config = RunConfig.from_dict(
        {
            group.name: {field.name: given[field.name] for field in dataclasses.fields(part)}
            for group, part in zip(dataclasses.fields(RunConfig), RunConfig().parts(), strict=True)
        }
    )
    with quiet_libraries(), console.ConsoleProgress() as progress:
        from jola.training.run import run_training

        run = run_training(config, resume=flags.resume, progress=progress)
    if int(os.environ.get("RANK", "0")):
        return
    result = run.result() or {}
    if flags.json:
        summary = {
            "run": str(run.path),
            "task": config.data.task,
            "n_train": result.get("n_train"),
            "seed": config.training.seed,
            "test": result.get("test"),
            "closed": result.get("closed"),
            "seconds": round(result.get("seconds", 0.0), 1),
        }
        console.print_json(summary)
    else:
        console.output.print(f"run       {run.path}\nadapter   {run.adapter_dir}", markup=False)
        if result.get("test"):
            console.output.print(f"accuracy  {accuracy_words(result['test'])}", markup=False)
        if result.get("closed"):
            shares = result["closed"].items()
            closed = "  ".join(f"{half} {'not trained' if share is None else f'{share:.0%}'}" for half, share in shares)
            console.output.print(f"closed    {closed} of the gates are exactly 0", markup=False)
    if run.state in ("cancelled", "paused"):
        what = "stopped" if run.state == "cancelled" else "paused"
        console.errors.print(f"{what}; `jola train --resume --output {run.path}` goes on", markup=False)
        sys.exit(130)


def _evaluate(command: Evaluate) -> None:
    with quiet_libraries(), console.ConsoleProgress() as progress:
        from jola import JoLAModel, Template, exact_match, load_task, option_likelihood

        folder, run = find_adapter(command.adapter)
        task_name = command.task or (run.config().get("data", {}).get("task") if run else None)
        if task_name is None:
            raise InputError("The adapter does not belong to a run; name the task with --task.")
        data = DataConfig(task=task_name, train_size=0, test_size=command.test_size, template=command.template)
        RunConfig(data=data).validate()
        progress.phase("load")
        task = load_task(data, seed=0)
        if not task.test:
            raise InputError(f"The task {task.name} has no test examples.")
        model = JoLAModel.from_adapter(folder, model=command.model, dtype=command.dtype, device=command.device)
        template = Template(model.tokenizer, command.template)
        result: dict[str, Any] = {"adapter": str(folder), "task": task.name}

        def measure(name: str) -> None:
            progress.phase(f"Testing {name}", len(task.test))
            match = exact_match(model, task.test, template, progress=lambda done, total: progress.advance(done))
            result[name] = {"exact_match": match.accuracy.to_dict()}
            if task.labels and command.options:
                progress.phase(f"Comparing the labels, {name}", len(task.test))
                choice = option_likelihood(
                    model, task.test, task.labels, template, progress=lambda done, total: progress.advance(done)
                )
                result[name]["options"] = choice.accuracy.to_dict()

        measure("edited")
        if command.base:
            with model.disable_edits():
                measure("base")
    if command.json:
        console.print_json(result)
        return
    rows = [
        [name, kind.replace("_", " "), accuracy_words(value)]
        for name in ("edited", "base")
        for kind, value in result.get(name, {}).items()
    ]
    console.print_table(["model", "measure", "accuracy"], rows)


def _generate(command: Generate) -> None:
    try:
        prompt = sys.stdin.read() if command.prompt == "-" else command.prompt
        prompt.encode("utf-8")
    except UnicodeError:
        raise InputError("The prompt is not UTF-8 text; write or convert it as UTF-8.") from None
    if not prompt.strip():
        raise InputError("The prompt is empty; write what the model should answer.")
    if command.max_new_tokens < 1:
        raise InputError(f"--max-new-tokens is {command.max_new_tokens}; it must be at least 1.")
    with quiet_libraries(), console.ConsoleProgress() as progress:
        import torch

        from jola import Example, JoLAModel, Message, Template

        folder, _ = find_adapter(command.adapter)
        progress.phase("load")
        model = JoLAModel.from_adapter(folder, model=command.model, dtype=command.dtype, device=command.device)
        template = Template(model.tokenizer, command.template)
        ids = torch.tensor([template.encode_prompt(Example((Message("user", prompt),), ""))])

        def answer() -> str:
            tokens = model.generate(
                ids,
                strength=command.strength,
                max_new_tokens=command.max_new_tokens,
                do_sample=False,
                eos_token_id=template.end_token_ids,
            )
            return str(model.tokenizer.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True)).strip()

        answers: dict[str, str] = {}
        if command.show != "edited":
            progress.phase("Answering without edits")
            with model.disable_edits():
                answers["base"] = answer()
        if command.show != "base":
            progress.phase("Answering with edits")
            answers["edited"] = answer()
    if command.json:
        console.print_json({"prompt": prompt, **answers})
    elif len(answers) == 1:
        console.print_text(*answers.values())
    else:
        for name, text in answers.items():
            console.print_text(f"── {name}\n{text}")


def _assets(command: Assets) -> None:
    from jola.data import assets

    action = command.action
    if isinstance(action, AssetsFetch):
        for name in action.name or tuple(assets.ASSETS):
            console.output.print(f"{name}  {assets.ensure(name)}", markup=False, soft_wrap=True)
    elif isinstance(action, AssetsRemove):
        for name in action.name or tuple(assets.ASSETS):
            console.output.print(f"{name}  {assets.remove(name) / 1e6:.1f} MB freed", markup=False)
    elif action.json:
        found = [dataclasses.asdict(status) | {"folder": str(status.folder)} for status in assets.status()]
        console.print_json({"assets": found})
    else:
        rows = [
            [s.name, s.title, s.licence, s.version, f"{s.size / 1e6:.1f} MB" if s.ready else "not fetched"]
            for s in assets.status()
        ]
        console.print_table(["asset", "what it is", "licence", "version", "size"], rows)


_COMMANDS: dict[type, Any] = {
    TrainFlags: _train,
    Evaluate: _evaluate,
    Generate: _generate,
    Select: select,
    Compare: compare,
    Export: export,
    Runs: runs,
    Assets: _assets,
}
