"""What a command printed, the arguments of a quick training, and what a refusal looks like."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

QUICK = ["--epochs", "1", "--batch-size", "4", "--patience", "0", "--dtype", "float32", "--device", "cpu"]


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on standard output."""
        assert self.out.count("\n") == 1
        assert self.out.endswith("\n")
        return json.loads(self.out)


def lines(start: int, count: int) -> str:
    answers = {"fine": "good", "warm": "good", "sad": "bad", "poor": "bad"}
    words = [(list(answers)[i % 4], i) for i in range(start, start + count)]
    rows = [{"prompt": f"Is film {i}, a {word} one, good or bad?", "completion": answers[word]} for word, i in words]
    return "".join(json.dumps(row) + "\n" for row in rows)


def train(place: Path, *more: Any) -> list[Any]:
    """Arguments of a quick training; what is given later wins."""
    return ["train", "--model", place / "tiny", "--task", place / "task", *QUICK, *more]


def assert_refused(result: Result, sentence: str) -> None:
    """Exit code 2, nothing on standard output, and one sentence that begins with ``error:`` and ends the output."""
    assert result.code == 2
    assert result.out == ""
    assert "Traceback" not in result.err
    *before, last = result.err.splitlines()
    assert last.startswith("error: ")
    assert last.endswith((".", ".)"))
    assert re.search(sentence, last)
    assert not [
        line for line in before if not re.match(r"Loading model and data|note: |Training|Computing directions|$", line)
    ]
