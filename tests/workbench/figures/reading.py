"""Functions with which tests read values from figures."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from jola.runs.history import GATE_FIELDS, GateHistory
from workbench.figures import Figure

STEPS = 40

EMPTY = GateHistory("heads", np.arange(0), {name: np.empty((0, 6, 4), dtype=np.float32) for name in GATE_FIELDS})


def traces(figure: Figure, kind: str) -> list[Any]:
    return [trace for trace in figure.data if trace.type == kind]


def heatmaps(figure: Figure) -> list[np.ndarray]:
    """Return the maps in the order of their panels, without the frames of empty panels."""
    return [np.asarray(trace.z, dtype=float) for trace in traces(figure, "heatmap") if trace.hoverinfo != "skip"]


def words(figure: Figure) -> str:
    """Return all text that a figure shows without hovering, without its tags."""
    found = [figure.layout.title.text or "", *(entry.text or "" for entry in figure.layout.annotations)]
    found += [trace.name or "" for trace in figure.data]
    return " ".join(re.sub(r"<[^<>]*>", " ", " | ".join(found)).split())


def strings(value: Any) -> Iterator[str]:
    """Yield every string in a figure, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list | tuple | np.ndarray):
        for part in value:
            yield from strings(part)
