"""``jola tasks``: the list, examples as a model sees them, and fetching."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jola.data.examples import PLAIN_PROMPT
from jola.data.records import Example, Message
from jola.data.tasks import REGISTRY
from jola.data.tasks.info import Parts
from tests.jola.cli.commands import Result, assert_refused

PLAIN = ["--template", "plain"]


@pytest.fixture
def arc(monkeypatch: pytest.MonkeyPatch) -> list[Example]:
    """The examples of the task arc_easy in this test."""
    examples = [
        Example((Message("user", f"Which, case {n}?"),), "answer1", ("a reference",), ("answer1", "answer2"))
        for n in range(9)
    ]
    parts = Parts(examples[:5], examples[5:7], examples[7:], revision="c0ffee")
    monkeypatch.setitem(REGISTRY, "arc_easy", replace(REGISTRY["arc_easy"], load=lambda: parts))
    return examples


def test_the_list(jola: Callable[..., Result]) -> None:
    header, *rows = jola("tasks").out.splitlines()
    assert header.split()[:3] == ["task", "group", "metric"]
    assert [row.split()[0] for row in rows] == list(REGISTRY)
    boolq = next(row for row in rows if row.startswith("boolq"))
    facts = ("commonsense", "exact_match", "9,427", "3,270", "CC BY-SA 3.0", "google/boolq")
    assert all(fact in boolq for fact in facts)
    content = jola("tasks", "--json").json
    assert len(content["tasks"]) == 27 and {name: len(names) for name, names in content["groups"].items()} == {
        "commonsense": 8, "mmlu-pro": 14, "gem": 4,
    }  # fmt: skip
    law = next(task for task in content["tasks"] if task["name"] == "mmlu_pro/law")
    assert law["source"]["url"] == "https://huggingface.co/datasets/TIGER-Lab/MMLU-Pro"
    assert (law["metrics"][0], law["n_test"], law["labels"]) == ("answer_letter", 100, None)


def test_examples_as_the_model_sees_them(jola: Callable[..., Result], arc: list[Example], place: Path) -> None:
    plain = jola("tasks", "show", "arc_easy", "--count", 2)
    assert plain.code == 0 and plain.out.count("options: answer1 · answer2") == 2
    content = jola("tasks", "show", "arc_easy", "--count", 2, "--json").json
    assert (content["task"], content["revision"], len(content["examples"])) == ("arc_easy", "c0ffee", 2)
    for shown in content["examples"]:
        question = shown["prompt"][0]["content"]
        assert question in {example.prompt[0].content for example in arc[:5]}
        assert shown["text"] == PLAIN_PROMPT.replace("{instruction}", question) + "answer1"
        assert shown["text"] in plain.out
    chat = jola("tasks", "show", "arc_easy", "--count", 1, "--model", place / "tiny", "--json").json["examples"][0]
    assert chat["text"].endswith("answer1<|im_end|>") and "### Instruction" not in chat["text"]


def test_all_turns_of_a_conversation_are_shown(jola: Callable[..., Result], place: Path, tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "One?"), ("assistant", "Yes."), ("user", "Two?"), ("assistant", "No.")]
    row = json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})
    other = json.dumps({"prompt": "Three?", "completion": "No."})
    (tmp_path / "talk.jsonl").write_text("\n".join([row, *(other.replace("Three", f"{n}") for n in range(9))]))
    plain = jola("tasks", "show", tmp_path / "talk.jsonl", "--count", 10)
    shown = jola("tasks", "show", tmp_path / "talk.jsonl", "--count", 10, "--model", place / "tiny", *PLAIN)
    talk = PLAIN_PROMPT.replace("{instruction}", "Be brief.\nuser: One?\nassistant: Yes.\nuser: Two?") + "No."
    assert talk in plain.out and f"{talk}<|im_end|>" in shown.out


def test_what_cannot_be_shown(jola: Callable[..., Result], arc: list[Example], tmp_path: Path) -> None:
    assert_refused(jola("tasks", "show", "arc_easy", "--count", 0), "--count is 0; it must be at least 1")
    assert_refused(jola("tasks", "show", "arc_easy", "--template", "chat"), "name one with --model")
    assert_refused(jola("tasks", "show", "nothing"), "There is no task, folder or file 'nothing'; `jola tasks` lists")
    assert_refused(jola("tasks", "show", "arc_easy", "--model", tmp_path), "is not a model: it has no config.json")


def test_fetch(jola: Callable[..., Result], arc: list[Example]) -> None:
    assert jola("tasks", "fetch", "arc_easy").out == "arc_easy  5 training, 2 validation, 2 test  c0ffee\n"
    assert_refused(jola("tasks", "fetch"), "Name the tasks or groups")
    assert_refused(jola("tasks", "fetch", "glue"), "no task or group 'glue'")
