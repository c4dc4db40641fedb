"""``jola train``."""

import os
import sys
from typing import Annotated, Any

from tyro.conf import arg

from jola.cli import console
from jola.cli.common import Json, quiet_libraries, run_config, settings_type
from jola.config import RunConfig
from jola.system.formatting import accuracy_text


def train(
    settings: Annotated[Any, arg(name="", constructor=settings_type(RunConfig()))],
    resume: Annotated[bool, arg(help="Resume the run in --output from its last checkpoint.")] = False,
    json: Json = False,
) -> None:
    """Train edits and gates on a task, save the adapter and test it."""
    config = run_config(settings)
    with console.ConsoleProgress() as progress:
        quiet_libraries()
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
            "closed": result.get("closed"),
            "seconds": round(result.get("seconds", 0.0), 1),
        }
        console.print_json(summary)
    else:
        console.print_text(f"run       {run.path}\nadapter   {run.adapter_dir}")
        if result.get("test"):
            console.print_text(f"accuracy  {accuracy_text(result['test'])}")
        if result.get("closed"):
            shares = result["closed"].items()
            closed = "  ".join(f"{half} {'not trained' if share is None else f'{share:.0%}'}" for half, share in shares)
            console.print_text(f"closed    {closed} of the gates are exactly 0")
    if run.state in ("cancelled", "paused"):
        what = "stopped" if run.state == "cancelled" else "paused"
        console.print_error(f"{what}; to continue: `jola train --resume --output {run.path}`")
        sys.exit(130)
