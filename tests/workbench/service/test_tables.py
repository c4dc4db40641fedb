"""Tables of a run for a spreadsheet."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.history import GATE_FIELDS
from jola.system import spreadsheet
from tests.workbench.recorded import MODULES, MethodRecorder, Recorder, gate_values
from workbench.service import tables


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@A1", "'@A1"), ("\t=1", "'\t=1"), ("\n=1", "'\n=1"),
        ("＝1", "'＝1"), ("＋1", "'＋1"), ("－1", "'－1"), ("＠A1", "'＠A1"), ("  =1", "'  =1"),
        ("plain", "plain"), ("", ""), (-1.5, -1.5), (math.nan, ""), (None, ""), (3, 3),
    ],
)  # fmt: skip
def test_a_text_is_never_a_formula(value: Any, expected: Any) -> None:
    assert spreadsheet.cell(value) == expected


def test_the_gates_are_a_long_table(tmp_path: Path) -> None:
    run = Recorder(tmp_path / "=cmd", steps=10, layers=3, units=2).until(4).run
    text, more = tables.gates_csv(run, "heads")
    assert more is None
    table = pd.read_csv(io.StringIO(text))
    assert list(table.columns) == ["run", "site", "step", "layer", "unit", *GATE_FIELDS, "state"]
    assert len(table) == 5 * 3 * 2
    assert set(table["run"]) == {"'=cmd"}
    row = table[(table.step == 3) & (table.layer == 2) & (table.unit == 1)].iloc[0]
    expected = gate_values(3, 10, 3, 2)
    for name, values in expected.items():
        assert row[name] == pytest.approx(values[2, 1], rel=1e-6)
    assert row["state"] in ("none", "offset", "scale", "both")
    with pytest.raises(InputError, match="mlp"):
        tables.gates_csv(run, "mlp")


def test_a_long_history_comes_in_pieces_that_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Recorder(tmp_path / "run", steps=10, layers=3, units=2).until(10).run
    whole, _ = tables.gates_csv(run, "heads")
    monkeypatch.setattr(tables, "_CELLS", 3 * 6 * (6 + len(GATE_FIELDS)))
    pieces, start = [], 0
    while start is not None:
        piece, start = tables.gates_csv(run, "heads", start)
        pieces.append(piece)
    assert len(pieces) == 4
    assert "".join(pieces) == whole


def test_what_is_not_trained_is_empty(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", steps=2, layers=1, units=1)
    values = gate_values(0, 2, 1, 1)
    with recorder.run.gate_writer("heads", 1, 1) as writer:
        writer.append(0, {name: v * np.nan if name.startswith("scale") else v for name, v in values.items()})
    row = next(csv.DictReader(io.StringIO(tables.gates_csv(recorder.run, "heads")[0])))
    assert row["scale_gate"] == row["scale_norm"] == "" != row["offset_gate"]
    assert row["state"] == "offset"


def test_the_metrics_have_every_number(tmp_path: Path) -> None:
    run = Recorder(tmp_path / "run", steps=8, layers=2, units=2).until(8).run
    run.append_metrics({"step": 9, "note": "=HYPERLINK(1)"})
    table = pd.read_csv(io.StringIO(tables.metrics_csv(run)))
    assert table["note"].iloc[-1] == "'=HYPERLINK(1)"
    assert table["loss"].notna().sum() == 8
    assert table["validation_cross_entropy"].notna().sum() == 8


def test_modules_are_rows_with_their_names_and_no_state(tmp_path: Path) -> None:
    run = MethodRecorder(tmp_path / "one", RunConfig(method="lora"), layers=2).until(1).run
    text, more = tables.gates_csv(run, "weights")
    table = pd.read_csv(io.StringIO(text))
    assert more is None
    assert list(table.columns) == ["run", "site", "step", "layer", "unit", "unit_name", "update_norm"]
    assert table["unit_name"].tolist() == [*MODULES] * 4
    assert table[(table.layer == 1) & (table.unit_name == "v_proj")]["update_norm"].isna().all()
