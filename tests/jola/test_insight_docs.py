"""The code in docs/insight.md, run from its first block to its last on a tiny model."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jola.model import JoLAModel
from tests.conftest import spread_edits

PAGE = Path(__file__).resolve().parents[2] / "docs" / "insight.md"


def test_the_code_of_the_page_runs(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = JoLAModel.from_pretrained(str(tiny_folder), dtype="float32")
    spread_edits(model)
    model.eval().save_pretrained("runs/my-run/adapter")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)  # the page is a file of this repository
    assert len(blocks) == PAGE.read_text("utf-8").count("```python") > 5
    effects, direct, lens = (names[name] for name in ("effects", "direct", "lens"))
    assert len(effects.edits) > 10 and effects.edits == direct.edits == names["mean"].edits
    assert effects.times_faster > 0 and names["mean"].n == 3
    assert len(lens.layers) == 4 and np.isfinite(lens.kl).all()
    assert names["pattern"].edited.shape == names["pattern"].base.shape
