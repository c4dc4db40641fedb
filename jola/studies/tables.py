"""Tables of a grid as text, for all formats; needs no PyTorch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jola.studies.axes import short_names
from jola.studies.rows import BASELINE, Row
from jola.system.formatting import interval_text

if TYPE_CHECKING:
    from jola.studies.grid import Grid

Across = Literal["task", "train_size", "model"]
"""Field of a `Row` by which `pivot` arranges the columns."""


@dataclass(frozen=True)
class Table:
    """Column headings and rows of text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """Sentences that explain the numbers."""


SEEDS_NOTE = (
    "Means over seeds with 95 % intervals: Student's t over seeds, which describes other seeds on the same test "
    "examples; with one seed, over test examples; none if all seeds give the same result."
)


def results_table(rows: Sequence[Row]) -> Table:
    """Return a table of all numbers of the rows."""
    tasks, models = (short_names(list(dict.fromkeys(names))) for names in _names_of(rows))
    several = len(models) > 1
    with_paper = any(row.paper is not None for row in rows)
    with_text = any(row.text_kl is not None for row in rows)
    columns = ["arm", "task", "n train", *(["model"] if several else []), "metric", "score", "seeds", "n test"]
    columns += ["minus JoLA", "p (Holm)", "trained", "time", "memory"]
    columns += [*(["KL on text", "nats on text"] if with_text else []), *(["paper"] if with_paper else [])]

    def texts(row: Row) -> tuple[str, ...]:
        values = [_arm_text(row), tasks[row.task], size_text(row.train_size), *([models[row.model]] if several else [])]
        values += [row.metric or "", score_text(row), seeds_text(row), number_text(row.items, "{:,}")]
        values += [interval_text(row.difference, row.difference_low, row.difference_high, sign="+", digits=4)]
        values += [number_text(row.p_holm, "{:.3g}"), number_text(row.trainable, "{:,}")]
        values += [number_text(row.seconds, "{:.0f} s"), memory_text(row.peak_memory)]
        values += side_effect_texts(row) if with_text else ()
        return (*values, *([number_text(row.paper, "{:.4f}")] if with_paper else []))

    notes = (SEEDS_NOTE, *_baseline_notes(rows), *([text_note(rows)] if with_text else []))
    return Table(tuple(columns), tuple(map(texts, rows)), notes)


def _baseline_notes(rows: Sequence[Row]) -> list[str]:
    """Name the arms with which others are compared, unless that is JoLA with the shared settings."""
    names = list(dict.fromkeys(row.baseline for row in rows if row.baseline))
    return [f"minus JoLA: the difference to {' or '.join(names)}."] if set(names) - {BASELINE} else []


def text_note(rows: Sequence[Row]) -> str:
    """Return a note on the columns about side effects."""
    tokens = max(row.text_tokens or 0 for row in rows)
    return (
        f"KL on text: KL(base ‖ edited) per token of plain text; nats on text: change of the cross-entropy there; "
        f"{tokens:,} tokens. With one seed, intervals are over passages."
    )


def pivot(rows: Sequence[Row], across: Across) -> Table:
    """Return scores with a row for each arm and a column for each task, number of training examples or model.

    Scores that differ in anything else are in different rows.
    """
    names = list(dict.fromkeys(getattr(row, across) for row in rows))
    heads = {name: size_text(name) for name in names} if across == "train_size" else short_names(names)
    others = [name for name in ("task", "train_size", "model") if name != across]
    others = [name for name in others if len({getattr(row, name) for row in rows}) > 1]
    if across != "task" or len({row.metric for row in rows}) > 1:
        others.append("metric")
    lines: dict[tuple[Any, ...], dict[Any, Row]] = {}
    for row in rows:
        key = (_arm_text(row, with_settings=row.best_of == 1), *(getattr(row, name) for name in others))
        lines.setdefault(key, {})[getattr(row, across)] = row
    columns = ("arm", *(name.replace("train_size", "n train") for name in others), *(str(heads[n]) for n in names))
    short = {name: short_names(list(dict.fromkeys(getattr(row, name) for row in rows))) for name in ("task", "model")}

    def texts(key: tuple[Any, ...], found: Mapping[Any, Row]) -> tuple[str, ...]:
        labels = [short.get(name, {}).get(value, value) for name, value in zip(others, key[1:], strict=True)]
        entries = [_entry(found.get(name)) for name in names]
        return (key[0], *("" if label is None else str(label) for label in labels), *entries)

    items = sorted({row.items for row in rows if row.items})
    tested = " or ".join(f"{n:,}" for n in items) if len(items) < 4 else f"{items[0]:,} to {items[-1]:,}"
    notes = (
        "Each entry is a mean over seeds ± half of its 95 % interval (Student's t), or with one seed the 95 % interval "
        f"over test examples; then the number of seeds. Test examples: {tested or 'none yet'}.",
    )
    return Table(columns, tuple(texts(key, found) for key, found in lines.items()), notes)


def cells_table(grid: "Grid") -> Table:
    """Return every cell with its state, and its score or why it failed."""
    states = grid.states()

    def texts(name: str) -> tuple[str, ...]:
        result = grid.result(name)
        scores = result["scores"] if result else []
        what = f"{scores[0]['metric']} {scores[0]['value']:.4f}, n = {scores[0]['n']:,}" if scores else ""
        return name, states[name], what or (grid.cell(name).failure() or "" if states[name] == "failed" else "")

    return Table(("cell", "state", "result"), tuple(map(texts, grid.planned)))


TABLES: dict[str, Callable[[Sequence[Row]], Table]] = {
    "results": results_table,
    "tasks": lambda rows: pivot(rows, "task"),
    "sizes": lambda rows: pivot(rows, "train_size"),
    "models": lambda rows: pivot(rows, "model"),
}
"""Tables of rows by their names in ``jola grid show``."""


def _arm_text(row: Row, *, with_settings: bool = True) -> str:
    name = row.arm if with_settings else row.method
    return name if row.best_of == 1 else f"{name} (best of {row.best_of})"


def score_text(row: Row) -> str:
    """Return ``0.812 (0.771 to 0.853)``, or why there is no number."""
    if row.value is None:
        return "failed" if row.failed == row.planned else "no such metric" if row.seeds else "missing"
    return interval_text(row.value, row.low, row.high, digits=4)


def seeds_text(row: Row) -> str:
    """Return ``3``, or ``2 of 3, 1 failed`` if some are missing."""
    if row.seeds == row.planned:
        return str(row.seeds)
    return f"{row.seeds} of {row.planned}" + (f", {row.failed} failed" if row.failed else "")


def _entry(row: Row | None) -> str:
    if row is None:
        return ""
    if row.value is None:
        return f"{score_text(row)} ({seeds_text(row)})"
    if row.low is None or row.high is None:
        interval = ""
    elif row.interval == "seeds":
        interval = f" ± {row.high - row.value:.4f}"
    else:
        interval = f" [{row.low:.4f} to {row.high:.4f}]"
    return f"{row.value:.4f}{interval} ({seeds_text(row)})"


def side_effect_texts(row: Row) -> tuple[str, str]:
    """Return KL on plain text, and the change of the cross-entropy there: ``0.0123 (0.0101 to 0.0150)``."""
    change = interval_text(row.text_change, row.text_change_low, row.text_change_high, sign="+", digits=4)
    return interval_text(row.text_kl, row.text_kl_low, row.text_kl_high, digits=4), change


def _names_of(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    return [row.task for row in rows], [row.model for row in rows]


def size_text(size: int) -> str:
    """Return a number of training examples; ``all`` for 0."""
    return f"{size:,}" if size else "all"


def memory_text(size: int | None) -> str:
    """Return ``1,240 MB``; with two decimals below 10 MB, and empty if it is not known."""
    if size is None:
        return ""
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def number_text(value: float | None, form: str) -> str:
    """Return the value in a form such as ``{:,}``; empty if it is not known."""
    return "" if value is None else form.format(value)
