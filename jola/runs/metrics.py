"""The metrics of a training, stored in ``metrics.jsonl``: one JSON object per line, `jola.runs.schema.MetricsRow`.

The writer may be killed at any time, so an incomplete last line is ignored.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jola.runs.schema import MetricsRow
from jola.system.files import append_whole, disk_errors, json_bytes, replace_file
from jola.system.typed_json import valid_part

METRICS_NAME = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of the run in ``folder``, oldest first, without incomplete and damaged lines."""
    return [entry for _, entry in _valid_lines(folder)]


def append_metrics(folder: Path, entry: Mapping[str, Any]) -> None:
    """Append one line. Raises `InputError` if the disk is full."""
    path = folder / METRICS_NAME
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        append_whole(descriptor, json_bytes(entry), path)
    finally:
        os.close(descriptor)


def truncate_metrics(folder: Path, step: int) -> None:
    """Drop the metrics after ``step``, and incomplete lines. Raises `InputError` if the disk is full."""
    if (folder / METRICS_NAME).exists():
        kept = [line for line, entry in _valid_lines(folder) if (entry.get("step") or 0) <= step]
        replace_file(folder / METRICS_NAME, b"".join(kept))


def _valid_lines(folder: Path) -> list[tuple[bytes, dict[str, Any]]]:
    try:
        data = (folder / METRICS_NAME).read_bytes()
    except OSError:
        return []
    entries = []
    for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and not valid_part(entry, MetricsRow)[1]:
            entries.append((line, entry))
    return entries
