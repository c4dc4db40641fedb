"""The output of a command, the arguments of a quick training, and the check of a refusal."""

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
        """The only JSON object on standard output."""
        assert self.out.count("\n") == 1
        assert self.out.endswith("\n")
        return json.loads(self.out)


def lines(start: int, count: int) -> str:
    answers = {"fine": "good", "warm": "good", "sad": "bad", "poor": "bad"}
    words = [(list(answers)[i % 4], i) for i in range(start, start + count)]
    rows = [{"prompt": f"Is film {i}, a {word} one, good or bad?", "completion": answers[word]} for word, i in words]
    return "".join(json.dumps(row) + "\n" for row in rows)


def train(place: Path, *more: Any) -> list[Any]:
    """Return the arguments of a quick training; arguments in `more` override earlier ones."""
    return ["train", "--model", place / "tiny", "--task", place / "task", *QUICK, *more]


def assert_refused(result: Result, sentence: str) -> None:
    """Assert exit code 2, an empty standard output, and one sentence beginning with ``error:`` as the last line."""
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
