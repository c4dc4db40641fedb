"""The stored answers of a run: written, read, limited in size, and refused if damaged."""

import json
from pathlib import Path

import pytest

from jola.data.records import Example, Message
from jola.errors import InputError
from jola.runs import answers as kept
from jola.runs.answers import ANSWERS_NAME, TestAnswer, read_answers, write_answers


def example(prompt: str = "Good or bad?", *references: str, options: tuple[str, ...] = ()) -> Example:
    return Example((Message("user", prompt),), "good", references, options)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    turns = (Message("system", "Be brief."), Message("user", "Wie heißt das?\u2028 \x85"))
    answers = [
        TestAnswer("a1", example(), "good"),
        TestAnswer("a2", Example(turns, "so", ("thus", "hence")), "", base_answer="I do not know."),
        TestAnswer(
            "a3", example(options=("good", "bad")), "bad", log_likelihoods=(-0.5, -1.25),
            base_log_likelihoods=(-3.0, -0.125),
        ),
    ]  # fmt: skip
    assert write_answers(tmp_path, answers)
    assert read_answers(tmp_path) == answers
    assert answers[1].expected == ("so", "thus", "hence")
    first = json.loads((tmp_path / ANSWERS_NAME).read_text().splitlines()[0])
    assert first == {"id": "a1", "prompt": "Good or bad?", "completion": "good", "answer": "good"}


def test_a_run_without_answers_has_none(tmp_path: Path) -> None:
    assert read_answers(tmp_path) == []


def test_prompts_are_shortened_until_the_file_is_small_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "begin " + "x" * 5000 + " end"
    answers = [TestAnswer(str(number), example(long), "good") for number in range(10)]
    monkeypatch.setattr(kept, "SIZE_LIMIT", 30_000)
    assert write_answers(tmp_path, answers)
    (prompt,) = {turn.content for answer in read_answers(tmp_path) for turn in answer.example.prompt}
    assert prompt.startswith("begin x") and prompt.endswith("x end") and len(prompt) <= 2000
    monkeypatch.setattr(kept, "SIZE_LIMIT", 1000)
    (tmp_path / ANSWERS_NAME).unlink()
    assert not write_answers(tmp_path, answers) and not (tmp_path / ANSWERS_NAME).exists()


GOOD = {"id": "a", "prompt": "?", "completion": "good", "answer": "bad"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[]", "Line 2 of .* is not a JSON object"),
        ('{"id": "a", "prompt": "?"', "Line 2 of .* is not a JSON object"),
        (json.dumps(GOOD | {"answer": 7}), "Line 2 of .* is not valid: answer is 7"),
        (json.dumps({"id": "a", "prompt": "?", "completion": "good"}), "answer is missing"),
        (json.dumps(GOOD | {"options": ["good", "bad"], "log_likelihoods": [-1.0]}), "1 log-likelihoods for 2 options"),
        (json.dumps(GOOD | {"options": ["good", "bad"], "log_likelihoods": [-1.0, 1e308]}), "log_likelihoods"),
        (json.dumps(GOOD | {"prompt": [{"role": "nobody", "content": "?"}]}), "Line 2 of .*nobody"),
        (json.dumps(GOOD | {"completion": " "}), "Line 2 of .*answer is empty"),
    ],
)
def test_a_damaged_line_is_one_sentence(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / ANSWERS_NAME).write_text(f"{json.dumps(GOOD)}\n{line}\n")
    with pytest.raises(InputError, match=reason):
        read_answers(tmp_path)


def test_a_folder_or_a_huge_file_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ANSWERS_NAME).mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read_answers(tmp_path)
    (tmp_path / ANSWERS_NAME).rmdir()
    (tmp_path / ANSWERS_NAME).write_text(f"{json.dumps(GOOD)}\n" * 10)
    monkeypatch.setattr(kept, "SIZE_LIMIT", 100)
    with pytest.raises(InputError, match="is larger than"):
        read_answers(tmp_path)
