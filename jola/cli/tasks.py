"""``jola tasks``: the built-in tasks, their data, and their examples."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from jola.cli import console
from jola.cli.common import Json, PromptFormat, importing_libraries
from jola.errors import InputError

if TYPE_CHECKING:
    from jola.data.records import Example
    from jola.data.tasks.registry import TaskInfo

tasks = SubcommandApp()


@tasks.command(name="list", is_default=True)
def list_tasks(json: Json = False) -> None:
    """List the built-in tasks by group, with their metric, sizes, license and source."""
    from jola.data.tasks.registry import GROUPS, REGISTRY

    if json:
        console.print_json({"groups": GROUPS, "tasks": [_facts(info) for info in REGISTRY.values()]})
        return
    rows = [
        [
            info.name,
            info.group or "–",
            info.metrics[0],
            *("–" if size is None else f"{size:,}" for size in info.sizes),
            info.licence,
            _source(info),
        ]
        for info in REGISTRY.values()
    ]
    console.print_table(["task", "group", "metric", "training", "test", "license of the data", "source"], rows)


@tasks.command
def show(
    name: Positional[Annotated[str, arg(metavar="NAME", help="Task, as for 'train'.")]],
    count: Annotated[int, arg(help="Examples to show.")] = 2,
    model: Annotated[
        str | None, arg(help="Model whose tokenizer formats the prompts; default: the plain format of the paper.")
    ] = None,
    template: PromptFormat = "auto",
    seed: Annotated[int, arg(help="Seed that chooses the training examples.")] = 42,
    json: Json = False,
) -> None:
    """Print training examples of a task as prompt and answer."""
    with importing_libraries():
        from jola.config import DataConfig, RunConfig
        from jola.data.tasks import load_task

    if count < 1:
        raise InputError(f"--count is {count}; it must be at least 1.")
    data = DataConfig(task=name, train_size=count)
    RunConfig(data=data).validate()
    task = load_task(data, seed)
    texts = _texts(task.train, model, template)
    if json:
        examples = [dataclasses.asdict(example) for example in task.train]
        shown = [found | {"text": "".join(text)} for found, text in zip(examples, texts, strict=True)]
        console.print_json({"task": task.name, "revision": task.revision, "metrics": task.metrics, "examples": shown})
        return
    for example, (prompt, answer) in zip(task.train, texts, strict=True):
        console.print_text(f"{prompt}{answer}\n")
        for words, others in (("options", example.options), ("references", example.references)):
            if others:
                console.print_text(f"{words}: {' · '.join(others)}\n")
        console.print_text("─" * 40)
    for sentence in task.notes:
        console.print_error(f"note: {sentence}")


@tasks.command
def fetch(
    name: Positional[Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]", help="Names of tasks or groups.")]],
) -> None:
    """Download the data of tasks or groups, for use without a network."""
    from jola.data.tasks.registry import REGISTRY, task_names

    if not name:
        raise InputError("Name the tasks or groups to fetch; `jola tasks` lists them.")
    for each in dict.fromkeys(task for group in name for task in task_names(group)):
        parts = REGISTRY[each].load()
        sizes = ", ".join(f"{len(rows):,} {part}" for part, rows in _sizes(parts).items())
        console.print_text(f"{each}  {sizes}" + (f"  {parts.revision}" if parts.revision else ""))


def _sizes(parts: Any) -> dict[str, list[Any]]:
    found = {"training": parts.train, "validation": parts.validation, "test": parts.test}
    return {name: rows for name, rows in found.items() if rows is not None}


def _texts(examples: "Sequence[Example]", model: str | None, template: PromptFormat) -> list[tuple[str, str]]:
    """Return prompt and answer of each example as the model sees them in training."""
    from jola.data.examples import Template, plain_prompt
    from jola.model.loading import load_tokenizer

    if model is not None:
        made = Template(load_tokenizer(model), template)
        return [made.render(example) for example in examples]
    if template == "chat":
        raise InputError("The chat template depends on the model; name one with --model.")
    return [(plain_prompt(example.prompt), example.completion) for example in examples]


def _facts(info: "TaskInfo") -> dict[str, Any]:
    source = info.source
    return {
        "name": info.name,
        "title": info.title,
        "description": info.description,
        "group": info.group or None,
        "metrics": info.metrics,
        "labels": info.labels,
        "n_train": info.sizes[0],
        "n_test": info.sizes[1],
        "licence": info.licence,
        "source": source and {"repo": source.repo, "configuration": source.configuration, "url": source.url},
    }


def _source(info: "TaskInfo") -> str:
    if info.source is None:
        return "package index"
    return info.source.repo + (f", {info.source.configuration}" if info.source.configuration else "")
