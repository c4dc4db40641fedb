"""The answers to the test examples of a run, stored in ``answers.jsonl``: one JSON object per line and example.

A line has the columns of an example (``prompt``, ``completion``, ``references``, ``options``) and the model's answers::

    id                     hash of the example, the same in every run
    answer                 of the edited model
    base_answer            of the base model, if it was tested
    log_likelihoods        ln p(option | prompt) of the edited model, in the order of ``options``, if computed
    base_log_likelihoods   the same of the base model

Metrics are computed from these answers, so one can be added to a run without its model. Exported runs do not include
the file, because it contains texts of the data.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from jola.data.records import Example, parse_rows
from jola.errors import InputError
from jola.system.files import json_bytes, replace_file
from jola.system.typed_json import JsonFile, Line, Number, valid_part

ANSWERS_NAME = "answers.jsonl"
SIZE_LIMIT = 64 << 20
"""Maximum bytes of the file. Prompts are shortened in the middle if it would be larger."""
PROMPT_LENGTHS = (20_000, 2_000, 200)
"""Maximum characters of one turn of a prompt; the next smaller number is used if the file would be too large."""
_CUT = " […] "

LogLikelihoods = tuple[float, ...]


class AnswerRow(JsonFile):
    """One line of ``answers.jsonl``."""

    id: Line
    prompt: str | list[dict[str, str]]
    completion: str
    references: list[str] = Field(default_factory=list)
    options: list[str] = Field(default_factory=list)
    answer: str
    base_answer: str | None = None
    log_likelihoods: list[Number] | None = None
    base_log_likelihoods: list[Number] | None = None

    @model_validator(mode="after")
    def _one_for_each_option(self) -> "AnswerRow":
        for values in (self.log_likelihoods, self.base_log_likelihoods):
            if values is not None and len(values) != len(self.options):
                raise ValueError(f"it has {len(values)} log-likelihoods for {len(self.options)} options")
        return self


@dataclass(frozen=True)
class TestAnswer:
    """Answers of a run to one test example.

    Args:
        id: Hash of the example: equal ids in two runs are the same example.
        example: The prompt, whose long turns may be shortened, the expected answer, its references, and the options in
            the order of the log-likelihoods.
        answer: Answer of the edited model.
        base_answer: Answer of the base model; None if it was not tested.
        log_likelihoods: ln p(option | prompt) of the edited model, in nats; None if not computed.
        base_log_likelihoods: The same of the base model.
    """

    __test__ = False  # not a test case, despite its name

    id: str
    example: Example
    answer: str
    base_answer: str | None = None
    log_likelihoods: LogLikelihoods | None = None
    base_log_likelihoods: LogLikelihoods | None = None

    @property
    def expected(self) -> tuple[str, ...]:
        """The answers that count as right."""
        return self.example.completion, *self.example.references

    def to_dict(self, length: int | None = None) -> dict[str, Any]:
        """Return the line of the file; each turn of the prompt is shortened to at most ``length`` characters."""
        turns = [{"role": turn.role, "content": _shortened(turn.content, length)} for turn in self.example.prompt]
        one_turn = len(turns) == 1 and turns[0]["role"] == "user"
        row = {
            "id": self.id,
            "prompt": turns[0]["content"] if one_turn else turns,
            "completion": self.example.completion,
            "references": list(self.example.references),
            "options": list(self.example.options),
            "answer": self.answer,
            "base_answer": self.base_answer,
            "log_likelihoods": self.log_likelihoods,
            "base_log_likelihoods": self.base_log_likelihoods,
        }
        return {name: value for name, value in row.items() if value not in (None, [])}


def write_answers(folder: Path, answers: Sequence[TestAnswer]) -> bool:
    """Write the answers to a run's directory atomically.

    Returns:
        False, without writing a file, if even shortened prompts would exceed `SIZE_LIMIT`.

    Raises:
        InputError: The disk is full or read-only.
    """
    for length in PROMPT_LENGTHS:
        data = b"".join(json_bytes(answer.to_dict(length)) for answer in answers)
        if len(data) <= SIZE_LIMIT:
            replace_file(folder / ANSWERS_NAME, data)
            return True
    return False


def read_answers(folder: Path) -> list[TestAnswer]:
    """Read the answers in a run's directory, in the order of the test examples; empty if none were stored.

    Raises:
        InputError: The file cannot be read, or a line is damaged; the message names the line.
    """
    path = folder / ANSWERS_NAME
    try:
        with open(path, "rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    if len(data) > SIZE_LIMIT:
        raise InputError(f"{path} is larger than {SIZE_LIMIT >> 20} MB, the limit for this file.")
    return [_answer(line, f"line {number} of {path}") for number, line in enumerate(data.splitlines(), 1)]


def _answer(line: bytes, where: str) -> TestAnswer:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise InputError(f"{where[0].upper()}{where[1:]} is not a JSON object; test the run again.")
    _, faults = valid_part(row, AnswerRow)
    if faults:
        raise InputError(f"{where[0].upper()}{where[1:]} is not valid: {faults[0]}.")
    (example,) = parse_rows([(where, row)])
    scores = {name: tuple(row[name]) for name in ("log_likelihoods", "base_log_likelihoods") if row.get(name)}
    return TestAnswer(row["id"], example, row["answer"], row.get("base_answer"), **scores)


def _shortened(text: str, length: int | None) -> str:
    """Return the text without its middle if it is longer than ``length`` characters."""
    if length is None or len(text) <= length:
        return text
    half = (length - len(_CUT)) // 2
    return f"{text[:half]}{_CUT}{text[-half:]}"
