"""The command line ``jola``.

    jola train · methods · tasks · evaluate · generate · select · compare · grid · export · runs · assets

Each command is a function: its parameters are the flags, its docstring is the help. Results go to standard output,
progress and errors to standard error; bad input is one sentence and exit code 2.
"""

import errno
import sys

import tyro
from tyro.extras import SubcommandApp

from jola.cli import console
from jola.cli.assets import assets
from jola.cli.evaluate import evaluate, generate
from jola.cli.export import export
from jola.cli.grid import grid
from jola.cli.methods import methods_command
from jola.cli.runs import runs
from jola.cli.selectors import compare_command, select
from jola.cli.tasks import tasks
from jola.cli.train import train_command
from jola.errors import InputError

MARKERS = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command line; exits with 0, with 2 for bad input, with 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    app = SubcommandApp()
    try:
        app.command(train_command(arguments))
        app.command(methods_command(arguments))
        for command in (evaluate, generate, select, compare_command(arguments)):
            app.command(command)
        app.command(grid, name="grid", help="Train many methods on many tasks, with several seeds, and compare them.")
        app.command(export, name="export", help="Write edits in another form.")
        app.command(runs, name="runs", help="Manage the runs on this machine; without a subcommand, list them.")
        app.command(tasks, name="tasks", help="List tasks, show their examples, and fetch their data.")
        app.command(assets, name="assets", help="Manage the default model and data; without a subcommand, list them.")
        app.cli(
            prog="jola",
            description="Joint Localization and Activation Editing: train, inspect and use edits of attention heads.",
            args=arguments,
            config=MARKERS,
        )
    except InputError as error:
        console.print_error(f"error: {error}")
        sys.exit(2)
    except OSError as error:
        # Any argument may be looked up as a path.
        if error.errno != errno.ENAMETOOLONG:
            raise
        console.print_error(f"error: {error.filename} is too long for the file system; choose a shorter name.")
        sys.exit(2)
    except KeyboardInterrupt:
        console.print_error("interrupted")
        sys.exit(130)
