"""Output of the command line: progress and notes on standard error, results on standard output."""

import json
import sys
import time
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # slow to import, and `jola --help` does not need it
    from rich.console import Console

PHASES = {"load": "Loading model and data", "train": "Training", "evaluate": "Testing"}
LINES = 20
"""Progress lines per phase if standard error is not a terminal."""

_FEW_ROWS = 200
WIDE = 10_000
"""A width in characters that no row of a table exceeds."""


@cache
def errors() -> "Console":
    """Return the console of standard error."""
    return _console(stderr=True)


@cache
def output() -> "Console":
    """Return the console of standard output."""
    return _console()


def _console(**options: Any) -> "Console":
    from rich.console import Console

    # Names and paths are printed as they are: not broken at the width of the terminal, and without emoji for ":name:".
    return Console(highlight=False, emoji=False, soft_wrap=True, **options)


class ConsoleProgress:
    """Progress of a run: a live bar in a terminal, occasional lines in a log file."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._live = errors().is_terminal
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=errors(),
            transient=True,
        )
        self._task: Any = None
        self._name, self._total, self._last = "", 0, 0
        self._since = time.monotonic()

    def __enter__(self) -> "ConsoleProgress":
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._bar.stop()

    def phase(self, name: str, total: int | None = None) -> None:
        """Begin a phase."""
        self._name, self._total, self._last = PHASES.get(name, name), total or 0, 0
        self._since = time.monotonic()
        if self._live:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(self._name, total=total, numbers="")
        else:
            errors().print(f"{self._name} …")

    def advance(self, done: int, **values: float) -> None:
        """Show how many steps of the phase are done, and numbers such as the loss."""
        numbers = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())
        if self._live:
            self._bar.update(self._task, completed=done, numbers=numbers)
        elif done == self._total or done - self._last >= max(1, self._total // LINES):
            self._last = done
            seconds = time.monotonic() - self._since
            share = f"{done} of {self._total}" if self._total else f"{done} done"
            errors().print(f"{self._name}: {share}  {numbers}  ({seconds:.0f} s)", markup=False)

    def note(self, sentence: str) -> None:
        """Print a note."""
        print_error(f"note: {sentence}")


def print_json(value: Any) -> None:
    """Print one JSON object on one line of standard output."""
    print_text(json.dumps(value, ensure_ascii=False))


def print_error(text: str) -> None:
    """Print an error or a note on standard error."""
    errors().print(text, markup=False)


def print_text(text: str) -> None:
    """Print text on standard output, unchanged; rich would expand its tabs."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_table(columns: list[str], rows: list[list[Any]]) -> None:
    """Print a plain table on standard output: as wide as needed in a file or a pipe, folded to fit in a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        # The first column names the row, and a name that is not broken can be copied.
        table.add_column(column, overflow="fold", no_wrap=column == columns[0])
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console = output() if output().is_terminal else Console(width=WIDE)
    console.print(table, soft_wrap=False)


def print_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of texts on standard output: with `print_table`, or, if it is long, as lines, which is faster."""
    if len(rows) <= _FEW_ROWS:
        print_table(list(columns), [list(row) for row in rows])
        return
    widths = [max(map(len, texts)) for texts in zip(columns, *rows, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in (columns, *rows))
    print_text("\n".join(line.rstrip() for line in lines))


def size(size: int) -> str:
    """Return bytes as megabytes."""
    return f"{size / 1e6:.1f} MB"
