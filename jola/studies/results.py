"""A comparison of selectors on disk: a folder in which every result is saved as soon as it is computed.

    comparison.json               the settings, versions, and the names of the cells that were planned last
    scores/NAME.json              `HeadScores` of a selector for a seed (and K, where it depends on it)
    cells/NAME/result.json        one training with its test: a `Cell`
    cells/NAME/adapter/           its edits
    workers/PID.json              a process that is working on it: `jola.system.processes.at_work`

`Comparison` reads such a folder, also while another process writes it, and builds tables from it.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jola.errors import InputError
from jola.selectors.heads import Cost, HeadScores, HeadSet
from jola.studies.schema import FILE, FORMAT, CellFile, ComparisonFile, Protocol
from jola.studies.selector_grid import AUTO, cell_name
from jola.studies.statistics import accuracy_interval, holm_of_known, mean_of_known, mean_over_seeds, paired_bootstrap
from jola.system.files import json_bytes, make_folder, replace_file
from jola.system.typed_json import JsonFile, read_typed, read_valid_part, valid_part

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Cell:
    """One trained and tested choice of heads."""

    protocol: Protocol
    method: str
    k: str
    """As requested: a number, `AUTO` or `HALVES`; empty if there is none."""
    seed: int
    heads: HeadSet | None
    """Heads that are edited after training."""
    correct: tuple[bool, ...]
    """For each test example; the test examples and their order are the same in all cells."""
    training: Cost
    selection: Cost
    """Cost of the selection, in addition to the training."""
    open: Mapping[str, int] = field(default_factory=dict)
    """Number of open offsets and scales, by half; empty for results that do not record it."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return cell_name(self.protocol, self.method, self.k, self.seed)

    @property
    def accuracy(self) -> float:
        """Share of the test examples that were answered right."""
        return float(np.mean(self.correct))

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON values."""
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in ("protocol", "method", "k", "seed")},
            "accuracy": self.accuracy,
            "n": len(self.correct),
            "heads": self.heads.to_dict() if self.heads is not None else None,
            "training": dataclasses.asdict(self.training),
            "selection": dataclasses.asdict(self.selection),
            "open": dict(self.open),
            "correct": "".join("1" if right else "0" for right in self.correct),
        }

    @classmethod
    def from_dict(cls, content: Any) -> "Cell":
        """Create a cell from the result of `to_dict`. Raises `InputError` for anything else."""
        faults = valid_part(content, CellFile)[1] if isinstance(content, dict) else ["it is not a JSON object"]
        if faults:
            raise InputError(f"This is not a valid result of a comparison ({faults[0]}).")
        return cls(
            **{name: content[name] for name in ("protocol", "method", "k", "seed")},
            heads=HeadSet.from_dict(content["heads"]) if content["heads"] else None,
            correct=tuple(character == "1" for character in content["correct"]),
            training=Cost(**content["training"]),
            selection=Cost(**content["selection"]),
            open=content.get("open") or {},
        )


class Comparison:
    """The folder of a comparison."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @classmethod
    def open(cls, folder: Path | str) -> "Comparison":
        """Return the comparison in a folder. Raises `InputError` if there is none."""
        comparison = cls(folder)
        if comparison.settings().get("format") != FORMAT:
            raise InputError(f"{folder} contains no comparison of selectors; create one with `jola compare`.")
        return comparison

    def settings(self) -> dict[str, Any]:
        """Return the valid part of ``comparison.json``; empty if it does not exist."""
        return read_valid_part(self.folder / FILE, ComparisonFile)[0]

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Make the folder that of a comparison with these settings."""
        make_folder(self.folder)
        replace_file(self.folder / FILE, json_bytes({"format": FORMAT, **settings}, indent=2))

    def cell_folder(self, name: str) -> Path:
        """Return the path of the cell with this name, whether or not it exists."""
        return self.folder / "cells" / name

    def cell(self, name: str) -> Cell | None:
        """Return the result with this name; None if it does not exist."""
        path = self.cell_folder(name) / "result.json"
        content = read_typed(path, CellFile)
        return Cell.from_dict(content) if content else None

    def cells(self) -> list[Cell]:
        """Return all existing results, sorted by name."""
        found = (self.cell(path.parent.name) for path in sorted(self.folder.glob("cells/*/result.json")))
        return [cell for cell in found if cell is not None]

    def write_cell(self, cell: Cell) -> None:
        """Write a result atomically."""
        folder = self.cell_folder(cell.name)
        make_folder(folder)
        replace_file(folder / "result.json", json_bytes(cell.to_dict()))

    def scores(self, name: str) -> HeadScores | None:
        """Return the scores with this name; None if they do not exist or are damaged."""
        try:
            content = read_typed(self.folder / "scores" / f"{name}.json", JsonFile)
            return HeadScores.from_dict(content) if content else None
        except InputError:
            return None

    def all_scores(self, seed: int) -> dict[str, HeadScores]:
        """Return the scores of a seed by method; if they depend on K, those for the automatic K, else for the first."""
        found: dict[str, HeadScores] = {}
        for path in sorted(
            self.folder.glob(f"scores/*-seed{seed}.json"), key=lambda p: (f"-k{AUTO}-" not in p.name, p)
        ):
            scores = self.scores(path.stem)
            if scores is not None:
                found.setdefault(scores.provenance.method, scores)
        return found

    def write_scores(self, name: str, scores: HeadScores) -> None:
        """Write scores atomically."""
        folder = self.folder / "scores"
        make_folder(folder)
        replace_file(folder / f"{name}.json", json_bytes(scores.to_dict()))

    def head_sets(self, seed: int, k: str) -> dict[str, HeadSet]:
        """Return the heads that each method chooses with a seed and K, by method.

        For JoLA, these are the heads with the largest expected gates if K is a number, else all that it left open.
        """
        cells = [cell for cell in self.cells() if cell.seed == seed]
        sets = {c.method: c.heads for c in cells if c.protocol == "jola" or (c.protocol == "edit" and c.k == k)}
        if k.isdigit() and "jola" in sets and (scores := self.scores(f"jola-seed{seed}")) is not None:
            sets["jola"] = scores.top(int(k))
        return {method: heads for method, heads in sets.items() if heads is not None}

    def rows(self) -> "list[SelectorRow]":
        """Return one row for each protocol, method and K, over all seeds; see `summarise`."""
        return summarise(self.cells())

    def to_frame(self) -> "pd.DataFrame":
        """Return `rows` as a table."""
        import pandas as pd  # takes long to import

        return pd.DataFrame([dataclasses.asdict(row) for row in self.rows()])


@dataclass(frozen=True)
class SelectorRow:
    """A method with one K over all its seeds, compared with JoLA on the same seeds and test examples.

    Intervals are 95 % intervals. With several seeds they are Student's t over seeds, and describe what other seeds
    would give on the same test examples; with one seed they are over test examples. None if there is nothing to compare
    with, or if all seeds give the same.
    """

    protocol: str
    method: str
    k: str
    heads: float | None
    """Mean number of edited heads."""
    offsets: float | None
    """Mean number of open offsets; None for results that do not record it."""
    scales: float | None
    """Mean number of open scales; None for results that do not record it."""
    seeds: int
    items: int
    """Number of test examples."""
    accuracy: float
    """Mean over seeds."""
    low: float | None
    high: float | None
    by_seed: tuple[float, ...]
    """Accuracy of each seed, in the order of the seeds."""
    difference: float | None
    """Mean over the seeds shared with JoLA of the accuracy minus JoLA's."""
    difference_low: float | None
    difference_high: float | None
    pairs: int
    """Number of seeds shared with JoLA."""
    p_value: float | None
    """Two-sided p-value of the t-test paired by seed; None with fewer than two pairs."""
    p_holm: float | None
    """`p_value` adjusted for all rows (Holm, 1979)."""
    selection_seconds: float
    training_seconds: float
    cost_ratio: float | None
    """Mean time of the selection divided by that of JoLA's training."""
    processor_ratio: float | None
    """The same ratio of CPU times."""


def summarise(cells: Iterable[Cell]) -> list[SelectorRow]:
    """Return one row for each protocol, method and K, in the order: base, JoLA, then by protocol, method and K."""
    groups: dict[tuple[str, str, str], dict[int, Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.protocol, cell.method, cell.k), {})[cell.seed] = cell
    order = {"base": 0, "jola": 1, "edit": 2, "swap": 3}
    jola = groups.get(("jola", "jola", ""), {})
    rows = [_row(key, own, jola) for key, own in sorted(groups.items(), key=lambda g: (order[g[0][0]], *g[0][1:]))]
    adjusted = holm_of_known([row.p_value for row in rows])
    return [dataclasses.replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]


def _row(key: tuple[str, str, str], own: dict[int, Cell], jola: dict[int, Cell]) -> SelectorRow:
    cells = [own[seed] for seed in sorted(own)]
    accuracy, low, high = accuracy_interval([cell.correct for cell in cells])
    # The base model does not depend on the seed, so it is compared with every run of JoLA.
    paired = dict.fromkeys(jola, cells[0]) if key[0] == "base" else own
    shared = sorted(paired.keys() & jola.keys()) if key[0] != "jola" else []
    difference = _difference([(paired[seed], jola[seed]) for seed in shared])
    shared_jola = [jola[seed] for seed in shared] if key[0] == "edit" else []
    return SelectorRow(
        *key,
        heads=mean_of_known(len(cell.heads) for cell in cells if cell.heads is not None),
        offsets=mean_of_known(cell.open.get("offset", 0) for cell in cells if cell.open),
        scales=mean_of_known(cell.open.get("scale", 0) for cell in cells if cell.open),
        seeds=len(cells),
        items=len(cells[0].correct),
        accuracy=accuracy,
        low=low,
        high=high,
        by_seed=tuple(cell.accuracy for cell in cells),
        difference=difference[0],
        difference_low=difference[1],
        difference_high=difference[2],
        pairs=len(shared),
        p_value=difference[3],
        p_holm=None,
        selection_seconds=_mean(cell.selection.seconds for cell in cells),
        training_seconds=_mean(cell.training.seconds for cell in cells),
        cost_ratio=_ratio([c.selection.seconds for c in cells], [c.training.seconds for c in shared_jola]),
        processor_ratio=_ratio(
            [c.selection.processor_seconds for c in cells], [c.training.processor_seconds for c in shared_jola]
        ),
    )


def _difference(
    pairs: Sequence[tuple[Cell, Cell]],
) -> tuple[float | None, float | None, float | None, float | None]:
    """Return the mean difference of accuracies, its interval, and a p-value."""
    if not pairs:
        return None, None, None, None
    if len(pairs) == 1:
        (mine, theirs) = pairs[0]
        one = paired_bootstrap(mine.correct, theirs.correct)
        # Two training runs say nothing about the methods in general, so there is no p-value.
        return one.difference, one.low, one.high, None
    found = mean_over_seeds([mine.accuracy - theirs.accuracy for mine, theirs in pairs])
    return found.mean, found.low, found.high, found.p_value


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _ratio(values: Sequence[float], others: Sequence[float]) -> float | None:
    """Return the ratio of two means; None if there is nothing to divide by."""
    whole = _mean(others) if others else 0.0
    return _mean(values) / whole if whole else None
