"""``jola evaluate`` and ``jola generate``."""

import sys
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from jola.cli import console
from jola.cli.common import (
    AdapterName,
    BaseModel,
    Device,
    Dtype,
    Json,
    PromptFormat,
    Strength,
    find_adapter,
    quiet_libraries,
)
from jola.config import DataConfig, RunConfig
from jola.errors import InputError
from jola.system.formatting import accuracy_text


def evaluate(
    adapter: Positional[Annotated[AdapterName, arg(metavar="ADAPTER")]],
    task: Annotated[str | None, arg(help="Task, as for 'train'; default: the task of the run.")] = None,
    test_size: Annotated[int, arg(help="Test examples to use; 0 uses all. [examples]")] = 500,
    template: PromptFormat = "auto",
    base: Annotated[bool, arg(help="Also test the base model without edits.")] = False,
    options: Annotated[bool, arg(help="Do not score the labels by likelihood, even if the task has labels.")] = True,
    model: BaseModel = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Test accuracy of an adapter on a task, with n and a Wilson 95 % interval."""
    with console.ConsoleProgress() as progress:
        quiet_libraries()
        from jola import JoLAModel, Template, exact_match, load_task, option_likelihood

        folder, run = find_adapter(adapter)
        task_name = task or (run.config().get("data", {}).get("task") if run else None)
        if task_name is None:
            raise InputError("The adapter does not belong to a run; name the task with --task.")
        data = DataConfig(task=task_name, train_size=0, test_size=test_size, template=template)
        RunConfig(data=data).validate()
        progress.phase("load")
        loaded = load_task(data, seed=0)
        if not loaded.test:
            raise InputError(f"The task {loaded.name} has no test examples.")
        edited = JoLAModel.from_adapter(folder, model=model, dtype=dtype, device=device)
        prompts = Template(edited.tokenizer, template)
        result: dict[str, Any] = {"adapter": str(folder), "task": loaded.name}

        def advance(done: int, total: int) -> None:
            progress.advance(done)

        def measure(name: str) -> None:
            progress.phase(f"Testing {name}", len(loaded.test))
            match = exact_match(edited, loaded.test, prompts, progress=advance)
            result[name] = {"exact_match": match.accuracy.to_dict()}
            if loaded.labels and options:
                progress.phase(f"Scoring the labels, {name}", len(loaded.test))
                choice = option_likelihood(edited, loaded.test, loaded.labels, prompts, progress=advance)
                result[name]["options"] = choice.accuracy.to_dict()

        measure("edited")
        if base:
            with edited.disable_edits():
                measure("base")
    if json:
        console.print_json(result)
        return
    rows = [
        [name, kind.replace("_", " "), accuracy_text(value)]
        for name in ("edited", "base")
        for kind, value in result.get(name, {}).items()
    ]
    console.print_table(["model", "measure", "accuracy"], rows)


def generate(
    prompt: Positional[Annotated[str, arg(metavar="PROMPT", help="The prompt; '-' reads it from standard input.")]],
    adapter: AdapterName,
    show: Annotated[Literal["both", "edited", "base"], arg(help="Which answers to show.")] = "both",
    max_new_tokens: Annotated[int, arg(help="Maximum length of an answer. [tokens]")] = 64,
    strength: Strength = 1.0,
    template: PromptFormat = "auto",
    model: BaseModel = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Answer a prompt with and without the edits."""
    try:
        prompt = sys.stdin.read() if prompt == "-" else prompt
        prompt.encode("utf-8")
    except UnicodeError:
        raise InputError("The prompt is not UTF-8 text; write or convert it as UTF-8.") from None
    if not prompt.strip():
        raise InputError("The prompt is empty; write what the model should answer.")
    if max_new_tokens < 1:
        raise InputError(f"--max-new-tokens is {max_new_tokens}; it must be at least 1.")
    with console.ConsoleProgress() as progress:
        quiet_libraries()
        import torch

        from jola import Example, JoLAModel, Message, Template

        folder, _ = find_adapter(adapter)
        progress.phase("load")
        edited = JoLAModel.from_adapter(folder, model=model, dtype=dtype, device=device)
        prompts = Template(edited.tokenizer, template)
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
    if json:
        console.print_json({"prompt": prompt, **answers})
    elif len(answers) == 1:
        console.print_text(*answers.values())
    else:
        for name, text in answers.items():
            console.print_text(f"── {name}\n{text}")
