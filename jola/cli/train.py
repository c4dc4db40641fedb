"""``jola train``."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from jola.cli import console
from jola.cli.common import Json, check_flags, importing_libraries, run_config, settings_type
from jola.config import RunConfig
from jola.methods import METHODS, method_named
from jola.recipes import RECIPES
from jola.recipes import recipe as recipe_named
from jola.system.formatting import score_text, score_title

if TYPE_CHECKING:
    from jola.runs.run import Run


def train_command(arguments: Sequence[str]) -> Callable[..., None]:
    """Return ``jola train`` with the flags of one method.

    Args:
        arguments: Arguments of the command line; ``--method`` and ``--recipe`` are read before all others are parsed.

    Raises:
        InputError: There is no such method, or a flag belongs to another one.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method", nargs="?", const=RunConfig.method, default=RunConfig.method)
    parser.add_argument("--recipe", nargs="?", const=_DEFAULT, default=_DEFAULT)
    given = arguments[1:] if arguments[:1] == ["train"] else []
    early = parser.parse_known_args(given)[0]
    chosen = method_named(early.method).name
    defaults = recipe_named(early.recipe, chosen)
    check_flags(given, chosen)

    def train(
        settings: Annotated[Any, arg(name="", constructor=settings_type(defaults))],
        method: Annotated[str, arg(metavar=f"{{{','.join(METHODS)}}}", help=_METHOD_HELP)] = chosen,
        recipe: Annotated[str, arg(metavar=f"{{{','.join(RECIPES)}}}", help=_RECIPE_HELP)] = early.recipe,
        restarts: Annotated[int, arg(help=_RESTARTS_HELP)] = 0,
        resume: Annotated[bool, arg(help="Resume the run in --output from its last checkpoint.")] = False,
        json: Json = False,
    ) -> None:
        """Train edits on a task, save the adapter and test it."""
        _train(run_config(settings, method=method), restarts, resume, json)

    return train


_DEFAULT = "default"

_METHOD_HELP = "Method to train; give it before --help to see the flags of that method."
_RECIPE_HELP = (
    "Defaults of all settings: those of JoLA Workbench, of the paper, or of its code; other flags override them."
)
_RESTARTS_HELP = (
    "Train this many more times, with the next training seeds on the same examples, and choose the run with the "
    "highest validation accuracy, or for generation tasks the lowest validation cross-entropy."
)


def _train(config: RunConfig, restarts: int, resume: bool, json: bool) -> None:
    with console.ConsoleProgress() as progress:
        with importing_libraries():
            from jola.runs.restarts import best_by_validation
            from jola.runs.run import Run
            from jola.selectors.choose import chosen_heads
            from jola.training.restarts import train_with_restarts

        if resume and config.training.output:
            Run.open(config.training.output)  # a mistyped folder must not start another run
        runs = train_with_restarts(config, restarts, resume=resume, progress=progress, choose=chosen_heads)
    if int(os.environ.get("RANK", "0")):
        return
    chosen = best_by_validation(runs) or runs[-1]
    if json:
        console.print_json(_summary(chosen) | ({"runs": [_summary(run) for run in runs]} if restarts else {}))
    else:
        for run in runs if restarts else ():
            _print_attempt(run, chosen)
        _print_run(chosen)
    last = runs[-1]
    if last.state in ("cancelled", "paused"):
        what = "stopped" if last.state == "cancelled" else "paused"
        more = f" --restarts {restarts}" if restarts else ""
        console.print_error(f"{what}; to continue: `jola train --resume --output {runs[0].path}{more}`")
        sys.exit(130)


def _summary(run: "Run") -> dict[str, Any]:
    from jola.runs.scores import scores_in

    result, config = run.result() or {}, run.run_config()
    return {
        "run": str(run.path),
        "task": config.data.task,
        "n_train": result.get("n_train"),
        "seed": config.training.seed,
        "validation": result.get("validation"),
        "test": result.get("test"),
        "scores": scores_in(result),
        "closed": result.get("closed"),
        "seconds": round(result.get("seconds") or 0.0, 1),
    }


def _print_attempt(run: "Run", chosen: "Run") -> None:
    from jola.runs.restarts import validation_text

    found = validation_text(run.result() or {})
    mark = "  (chosen)" if run.path == chosen.path and found else ""
    seed = run.run_config().training.seed
    console.print_text(f"seed {seed:<5}{f'validation {found}' if found else run.state}{mark}")


def _print_run(run: "Run") -> None:
    from jola.runs.scores import own_score

    result = run.result() or {}
    console.print_text(f"run       {run.path}")
    if run.run_config().tuning.trains:
        console.print_text(f"adapter   {run.adapter_dir}")
    if score := own_score(result):
        name = "accuracy" if score["metric"] == "exact_match" else score_title(score)
        console.print_text(f"{name:<8}  {score_text(score)}")
    if result.get("closed"):
        shares = result["closed"].items()
        closed = "  ".join(f"{half} {'not trained' if share is None else f'{share:.0%}'}" for half, share in shares)
        console.print_text(f"closed    {closed} of the gates are exactly 0")
