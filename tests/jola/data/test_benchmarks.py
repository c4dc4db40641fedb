"""The 26 tasks of the paper: prompt, answer and score from a small table with the columns of the source."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from jola.config import DataConfig
from jola.data.records import Example
from jola.data.tasks import Task, gem, load_task, mmlu_pro
from jola.data.tasks.registry import GROUPS, REGISTRY, task_names
from jola.errors import InputError
from jola.evaluation.answers import metric_named

Tables = dict[str, list[Mapping[str, Any]]]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def choices(*texts: str, labels: str = "ABCDE") -> dict[str, list[str]]:
    return {"text": list(texts), "label": list(labels[: len(texts)])}


# (task, row, prompt, answer)
COMMONSENSE = [
    (
        "boolq",
        {"question": "is the moon a star", "passage": "not used", "answer": False},
        "Please answer the following question with true or false, question: is the moon a star?\n\n"
        "Answer format: true/false",
        "false",
    ),
    (
        "piqa",
        {"goal": "open a jar", "sol1": "Twist the lid.", "sol2": "Kick it.", "label": 0},
        "Please choose the correct solution to the question: open a jar\n\nSolution1: Twist the lid.\n\n"
        "Solution2: Kick it.\n\nAnswer format: solution1/solution2",
        "solution1",
    ),
    (
        "siqa",
        {
            "context": "Ada won.", "question": "How does she feel?", "answerA": "sad", "answerB": "glad",
            "answerC": "tired", "label": "2",
        },
        "Please choose the correct answer to the question: Ada won. How does she feel?\n\n"
        "Answer1: sad Answer2: glad Answer3: tired\n\nAnswer format: answer1/answer2/answer3",
        "answer2",
    ),
    (
        "hellaswag",
        {
            "activity_label": "Baking", "ctx": "[header] Bread [title] Mix. He", "label": "3", "ind": 4,
            "endings": ["sings.", "runs.", "naps.", "kneads."],
        },
        "Please choose the correct ending to complete the given sentence: Baking: [header] Bread [title] Mix. He\n\n"
        "Ending1: sings. Ending2: runs. Ending3: naps. Ending4: kneads.\n\n"
        "Answer format: ending1/ending2/ending3/ending4",
        "ending4",
    ),
    (
        "winogrande",
        {"sentence": "The tea beat the milk, as the _ was hot.", "option1": "tea", "option2": "milk", "answer": "1"},
        "Please choose the correct answer to fill in the blank to complete the given sentence: The tea beat the milk, "
        "as the _ was hot.\n\nOption1: tea Option2: milk Answer format: option1/option2",
        "option1",
    ),
    (
        "arc_easy",
        {"question": "What do bees make?", "choices": choices("wax", "tea", "oil", labels="123"), "answerKey": "1"},
        "Please choose the correct answer to the question: What do bees make?\n\n"
        "Answer1: wax Answer2: tea Answer3: oil\n\nAnswer format: answer1/answer2/answer3",
        "answer1",
    ),
    (
        "arc_challenge",
        {"question": "Which is a gas?", "choices": choices("ice", "tin", "sand", "jam", "air"), "answerKey": "E"},
        "Please choose the correct answer to the question: Which is a gas?\n\n"
        "Answer1: ice Answer2: tin Answer3: sand Answer4: jam Answer5: air\n\n"
        "Answer format: answer1/answer2/answer3/answer4/answer5",
        "answer5",
    ),
    (
        "obqa",
        {"question_stem": "Wool keeps", "choices": choices("cold", "loud", "warm", "wet"), "answerKey": "C"},
        "Please choose the correct answer to the question: Wool keeps\n\n"
        "Answer1: cold Answer2: loud Answer3: warm Answer4: wet\n\n"
        "Answer format: answer1/answer2/answer3/answer4",
        "answer3",
    ),
]  # fmt: skip

GEM = [
    (
        "common_gen",
        {"concepts": ["cat", "milk"], "target": "A cat drinks milk.", "references": ["Milk is for the cat."]},
        "Ignoring the order of the concepts: cat, milk; \nGenerate a sentence with all the concepts.",
        ("A cat drinks milk.", "Milk is for the cat."),
    ),
    (
        "e2e_nlg",
        {"meaning_representation": "name[Zoo], food[Thai]", "target": "Zoo serves Thai food.", "references": []},
        "Please generate a restaurant description from the information given below:\n\nname[Zoo], food[Thai]",
        ("Zoo serves Thai food.",),
    ),
    (
        "web_nlg",
        {
            "input": ["Oslo | country | Norway", "Oslo | mayor | Kim"],
            "target": "",
            "references": ["Oslo lies in Norway.", " Norway's Oslo has Kim. "],
        },
        "Take the following triple set as part of a Data-to-Text task: Oslo | country | Norway; Oslo | mayor | Kim. "
        "Make a lexicalization of the triple set into plain text.",
        ("Oslo lies in Norway.", "Norway's Oslo has Kim."),
    ),
    (
        "xsum",
        {"document": "It rained.\nThen it stopped.", "target": "Rain fell, then stopped.", "references": []},
        "First, please read the article below.\n\nIt rained.\nThen it stopped.\n\nNow, can you write me an extremely "
        "short abstract for it?",
        ("Rain fell, then stopped.",),
    ),
]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str | None], Tables]:
    """A Hub with the tables that a test adds, keyed by repository and configuration."""
    tables: dict[tuple[str, str | None], Tables] = {}

    def load_dataset(name: str, configuration: str | None, revision: str | None = None) -> datasets.DatasetDict:
        found = tables[name, configuration]
        folder = tmp_path / "cache" / COMMIT
        datasets.DatasetDict(
            {split: datasets.Dataset.from_list(list(rows)) for split, rows in found.items()}
        ).save_to_disk(str(folder))
        return datasets.DatasetDict.load_from_disk(str(folder))

    def snapshot_download(name: str, *, repo_type: str, revision: str, allow_patterns: list[str]) -> str:
        assert (repo_type, revision) == ("dataset", "refs/convert/parquet")
        folder = tmp_path / "snapshots" / COMMIT
        for (repo, configuration), splits in tables.items():
            for split, rows in splits.items():
                if repo == name and f"{configuration}/{split}/*.parquet" in allow_patterns:
                    file = folder / str(configuration) / split / "0000.parquet"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
        return str(folder)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return tables


def load(name: str) -> Task:
    return load_task(DataConfig(task=name, train_size=0, validation_size=0, test_size=0), seed=42)


def key(name: str) -> tuple[str, str | None]:
    source = REGISTRY[name].source
    assert source is not None
    return source.repo, source.configuration


def scored(example: Example, answer: str, metric: str) -> float:
    return metric_named(metric).score([answer], [example]).value


def test_there_are_26_in_three_groups() -> None:
    assert {group: len(names) for group, names in GROUPS.items()} == {"commonsense": 8, "mmlu-pro": 14, "gem": 4}
    assert task_names("gem") == ("common_gen", "e2e_nlg", "web_nlg", "xsum")
    assert task_names("mmlu_pro/law") == ("mmlu_pro/law",)
    with pytest.raises(InputError, match="no task or group 'glue'; `jola tasks` lists them"):
        task_names("glue")


@pytest.mark.parametrize(("name", "row", "prompt", "answer"), COMMONSENSE, ids=[case[0] for case in COMMONSENSE])
def test_commonsense(hub: dict, name: str, row: dict[str, Any], prompt: str, answer: str) -> None:
    first = next(
        column for column in ("question", "goal", "context", "ctx", "sentence", "question_stem") if column in row
    )
    held_out = name in ("boolq", "piqa", "siqa", "hellaswag", "winogrande")
    others = [row | {first: f"{row[first]} {number}"} for number in range(9)]
    hub[key(name)] = {"train": others, "validation": [row]} | ({} if held_out else {"test": [row]})
    task = load(name)
    (example,) = task.test
    assert example.prompt[-1].content == prompt
    assert (example.completion, len(example.prompt)) == (answer, 1)
    assert answer in example.options and (task.labels is None or example.options == task.labels)
    assert (len(task.train), len(task.validation)) == ((8, 1) if held_out else (9, 1))
    assert task.revision == COMMIT and task.max_new_tokens == 16
    wrong = next(option for option in example.options if option != answer)
    said = [
        answer,
        f" {answer}\n",
        f"The correct answer is {answer.capitalize()}.",
        wrong,
        f"{wrong}, not {answer}",
        "",
    ]
    assert [scored(example, text, "exact_match") for text in said] == [1, 1, 0, 0, 0, 0]
    assert [scored(example, text, "first_label") for text in said] == [1, 1, 1, 0, 0, 0]
    assert set(task.metrics) == {"exact_match", "options", "first_label"}


@pytest.mark.parametrize("name", GROUPS["mmlu-pro"])
def test_mmlu_pro(hub: dict, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(mmlu_pro, "TEST", 2)
    monkeypatch.setattr(mmlu_pro, "VALIDATION", 3)
    domain = name.removeprefix("mmlu_pro/").replace("_", " ")
    rows = [
        {
            "category": domain, "question": f"Which {number}?", "answer": "C", "answer_index": 2,
            "options": ["one", "two", "three", "four"][: 3 + number % 2],
        }
        for number in range(12)
    ]  # fmt: skip
    other = rows[0] | {"category": "astrology", "question": "Which sign?"}
    hub[key(name)] = {"test": [*rows, rows[0], other], "validation": [other]}
    task = load(name)
    assert (len(task.train), len(task.validation), len(task.test)) == (7, 3, 2)
    assert len({example.prompt for part in (task.train, task.validation, task.test) for example in part}) == 12
    short = next(e for e in (*task.train, *task.validation, *task.test) if e.prompt[-1].content.endswith("C. three"))
    number = short.prompt[-1].content.split("Question: Which ")[1].split("?")[0]
    assert short.prompt[-1].content == (
        f"The following are multiple choice questions (with answers) about {domain}. Please return the answer in the "
        f"format of [The answer is (X)] at the end. Question: Which {number}? Options: A. one B. two C. three"
    )
    assert short.completion == "The answer is (C)"
    assert short.options == ("The answer is (A)", "The answer is (B)", "The answer is (C)")
    assert task.labels is None and task.metrics[0] == "answer_letter" and task.revision == COMMIT
    right = ["The answer is (C)", "the answer is C.", "C", "**C**", "Out of these, C. three"]
    wrong = ["The answer is (B), not C", "B", "Clearly three", "c", "", "The answer is three", "(J)"]
    assert [scored(short, text, "answer_letter") for text in right] == [1] * len(right)
    assert [scored(short, text, "answer_letter") for text in wrong] == [0] * len(wrong)


@pytest.mark.parametrize(("name", "row", "prompt", "right"), GEM, ids=[case[0] for case in GEM])
def test_generation(hub: dict, name: str, row: dict[str, Any], prompt: str, right: tuple[str, ...]) -> None:
    column = next(iter(row))
    train = [row | {column: change(row[column], str(number))} for number in range(10)]
    hub[key(name)] = {"train": train, "validation": [row], "test": [row]}
    task = load(name)
    (example,) = task.test
    assert example.prompt[-1].content == prompt
    assert (example.completion, *example.references) == right
    assert example.options == () and task.labels is None
    assert task.revision == COMMIT and task.max_new_tokens == 64
    assert set(task.metrics) == {"bleu", "rouge_l"}
    for metric in task.metrics:
        assert [scored(example, text, metric) for text in right] == pytest.approx([1] * len(right), abs=0.3)
        assert scored(example, "", metric) == 0
        assert scored(example, "something else entirely here", metric) < 0.2
    assert scored(example, right[-1], "rouge_l") == 1


def change(value: Any, number: str) -> Any:
    return [*value, number] if isinstance(value, list) else f"{value}{number}"


def test_the_test_part_of_common_gen_is_gems_validation_part_and_concept_sets_stay_together(hub: dict) -> None:
    train = [
        {"concepts": order, "target": f"{number} {order[0]}", "references": []}
        for number in range(10)
        for order in (["a", f"b{number}"], [f"b{number}", "a"])
    ]
    hub[key("common_gen")] = {
        "train": train,
        "validation": [{"concepts": ["x", "y"], "target": "", "references": ["x y", "y x"]}],
        "test": [{"concepts": ["p", "q"], "target": "", "references": []}],
    }
    task = load("common_gen")
    assert [example.references for example in task.test] == [("y x",)]
    assert (len(task.train), len(task.validation)) == (16, 4)
    sets = [{gem.concept_set(example) for example in part} for part in (task.train, task.validation)]
    assert (len(sets[0]), len(sets[1])) == (8, 2) and not sets[0] & sets[1]


def test_e2e_rows_of_equal_meaning_are_one_test_example(hub: dict) -> None:
    def row(meaning: str, target: str) -> dict[str, Any]:
        return {"meaning_representation": meaning, "target": target, "references": [target]}

    first, second = "name[Zoo], near[The Mill, Ely]", "near[The Mill, Ely], name[Zoo]"
    test = [row(first, "Zoo."), row("name[Bar]", "Bar."), row(second, "The Zoo."), row(first, "Zoo.")]
    hub[key("e2e_nlg")] = {"train": [row(first, "Zoo!")], "validation": [row("name[Pub]", "Pub.")], "test": test}
    found = {example.completion: example.references for example in load("e2e_nlg").test}
    assert found == {"Zoo.": ("The Zoo.",), "Bar.": ()}


def test_a_sample_of_200_depends_on_the_seed_alone(hub: dict) -> None:
    rows = [{"question": f"is {number} even", "answer": number % 2 == 0} for number in range(1000)]
    hub[key("boolq")] = {"train": rows, "validation": rows[:5]}
    one, same, other = (load_task(DataConfig(task="boolq"), seed) for seed in (42, 42, 43))
    assert one == same and len(one.train) == 200
    assert one.fingerprint != other.fingerprint and one.test == other.test


def test_data_that_are_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise ConnectionError("no route\nto the host")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    for name in ("obqa", "mmlu_pro/law", "xsum"):
        with pytest.raises(
            InputError, match=rf"of {name} .* \(no route\); run `jola tasks fetch {name}` with a network"
        ):
            load(name)


def test_a_dataset_that_has_changed(hub: dict) -> None:
    hub[key("boolq")] = {"train": [{"text": "?"}], "validation": [{"text": "?"}]}
    with pytest.raises(InputError, match=r"Row 1 of google/boolq is not as expected \(KeyError"):
        load("boolq")
    hub[key("boolq")] = {"train": [{"question": "?", "answer": True}]}
    with pytest.raises(InputError, match="google/boolq has no split validation"):
        load("boolq")
    hub[key("piqa")] = {
        split: [{"goal": "?", "sol1": "a", "sol2": "b", "label": -1}] for split in ("train", "validation")
    }
    with pytest.raises(InputError, match="there is no option 0 of 2"):
        load("piqa")
    hub[key("xsum")] = {"train": [{"document": "a", "target": "", "references": [""]}]}
    with pytest.raises(InputError, match="xsum/validation does not exist"):
        load("xsum")
    hub[key("xsum")] |= dict.fromkeys(("validation", "test"), hub[key("xsum")]["train"])
    with pytest.raises(InputError, match="neither a target nor references"):
        load("xsum")


@pytest.mark.parametrize("name", [name for name in REGISTRY if name != "sentiment"])
def test_the_prompt_to_try_a_model_with_has_the_form_of_the_task(name: str) -> None:
    prompt = REGISTRY[name].prompt
    group = REGISTRY[name].group
    begin = {"commonsense": "Please ", "mmlu-pro": "The following are multiple choice questions", "gem": ""}[group]
    assert prompt.startswith(begin) and "{" not in prompt
