"""``jola train``."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from tyro.conf import arg

from jola.cli import console
from jola.cli.common import Json, check_flags, quiet_libraries, run_config, settings_type
from jola.config import RunConfig
from jola.methods import METHODS, method_named
from jola.system.formatting import score_text, score_title


def train_command(arguments: Sequence[str]) -> Callable[..., None]:
    """``jola train`` with the flags of one method.

    Args:
        arguments: Those of the command line, of which ``--method`` is read before all others are parsed.

    Raises:
        InputError: There is no such method, or a flag belongs to another one.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method", nargs="?", const=RunConfig.method, default=RunConfig.method)
    given = arguments[1:] if arguments[:1] == ["train"] else []
    chosen = method_named(parser.parse_known_args(given)[0].method).name
    check_flags(given, chosen)

    def train(
        settings: Annotated[Any, arg(name="", constructor=settings_type(RunConfig(method=chosen)))],
        method: Annotated[str, arg(metavar=f"{{{','.join(METHODS)}}}", help=_METHOD_HELP)] = chosen,
        resume: Annotated[bool, arg(help="Resume the run in --output from its last checkpoint.")] = False,
        json: Json = False,
    ) -> None:
        """Train edits on a task, save the adapter and test it."""
        _train(run_config(settings, method=method), resume, json)

    return train


_METHOD_HELP = "Method to train; give it before --help to see the flags of that method."


def _train(config: RunConfig, resume: bool, json: bool) -> None:
    with console.ConsoleProgress() as progress:
        quiet_libraries()
        from jola.runs.scores import own_score, scores_in
        from jola.training.run import run_training

        run = run_training(config, resume=resume, progress=progress)
    if int(os.environ.get("RANK", "0")):
        return
    result = run.result() or {}
    if json:
        summary = {
            "run": str(run.path),
            "task": config.data.task,
            "n_train": result.get("n_train"),
            "seed": config.training.seed,
            "test": result.get("test"),
            "scores": scores_in(result),
            "closed": result.get("closed"),
            "seconds": round(result.get("seconds", 0.0), 1),
        }
        console.print_json(summary)
    else:
        console.print_text(f"run       {run.path}\nadapter   {run.adapter_dir}")
        if score := own_score(result):
            name = "accuracy" if score["metric"] == "exact_match" else score_title(score)
            console.print_text(f"{name:<8}  {score_text(score)}")
        if result.get("closed"):
            shares = result["closed"].items()
            closed = "  ".join(f"{half} {'not trained' if share is None else f'{share:.0%}'}" for half, share in shares)
            console.print_text(f"closed    {closed} of the gates are exactly 0")
    if run.state in ("cancelled", "paused"):
        what = "stopped" if run.state == "cancelled" else "paused"
        console.print_error(f"{what}; to continue: `jola train --resume --output {run.path}`")
        sys.exit(130)
