"""Tasks: the sources of examples, sampling, and notes about both."""

import json
from collections import Counter
from pathlib import Path

import pytest

from jola.config import DataConfig
from jola.data import assets
from jola.data.tasks import REGISTRY, Task, load_task
from jola.data.tasks.sentiment import INSTRUCTION
from jola.errors import InputError


def write(path: Path, count: int, start: int = 0, answers: tuple[str, ...] = ("yes", "no")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"instruction": f"question {n}", "answer": answers[n % len(answers)]} for n in range(start, start + count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(task: Path | str, seed: int = 42, train: int = 20, validation: int = 5, test: int = 10) -> Task:
    return load_task(DataConfig(task=str(task), train_size=train, validation_size=validation, test_size=test), seed)


def prompts(part: tuple) -> list[str]:
    return [example.prompt[-1].content for example in part]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "quiz" / "train.jsonl", 60)
    write(tmp_path / "quiz" / "validation.jsonl", 20, 100)
    write(tmp_path / "quiz" / "test.jsonl", 30, 200)
    return tmp_path / "quiz"


class TestChoosing:
    def test_the_seed_chooses_training_examples_and_leaves_the_test_alone(self, folder: Path) -> None:
        first, again, other = load(folder, 42), load(folder, 42), load(folder, 43)
        assert first == again
        assert set(prompts(first.train)) != set(prompts(other.train))
        assert set(prompts(first.validation)) != set(prompts(other.validation))
        assert first.test == other.test
        assert first.fingerprint != other.fingerprint
        assert (first.name, first.labels, first.notes) == ("quiz", ("no", "yes"), ())

    def test_sampling_is_without_replacement_and_grows(self, folder: Path) -> None:
        small, large = load(folder, train=20), load(folder, train=40, test=20)
        assert len(set(prompts(large.train))) == 40
        assert set(prompts(small.train)) < set(prompts(large.train))
        assert small.test == large.test[:10]

    def test_the_order_of_the_test_file_does_not_matter(self, folder: Path) -> None:
        before = load(folder).test
        path = folder / "test.jsonl"
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
        assert load(folder).test == before

    def test_more_than_there_is_takes_all_and_says_so(self, folder: Path) -> None:
        task = load(folder, train=100, validation=0, test=31)
        assert (len(task.train), len(task.validation), len(task.test)) == (60, 20, 30)
        assert len(task.notes) == 2
        assert "100 training examples" in task.notes[0] and "60" in task.notes[0]
        assert "31 test examples" in task.notes[1]

    def test_repeated_prompts_are_reported(self, folder: Path) -> None:
        write(folder / "test.jsonl", 30, 40)
        task = load(folder, train=0, test=0)
        assert any("20 of the 30 test prompts" in note for note in task.notes)


class TestCarving:
    def test_a_folder_without_validation_and_test(self, tmp_path: Path) -> None:
        write(tmp_path / "train.jsonl", 60)
        task = load(tmp_path, train=0)
        parts = [set(prompts(part)) for part in (task.train, task.validation, task.test)]
        assert [len(part) for part in parts] == [45, 5, 10]
        assert len(set.union(*parts)) == 60
        assert "10 training examples" in task.notes[0] and "5 training examples" in task.notes[1]
        assert load(tmp_path, 43, train=0).test == task.test

    def test_one_file_is_split_and_small_data_keep_most_for_training(self, tmp_path: Path) -> None:
        task = load(write(tmp_path / "quiz.jsonl", 40), train=200, validation=100, test=500)
        assert (task.name, len(task.test), len(task.validation), len(task.train)) == ("quiz", 10, 6, 24)
        assert len(task.notes) == 3

    def test_identical_prompts_stay_together(self, tmp_path: Path) -> None:
        rows = [{"prompt": f"question {n % 12}", "completion": f"answer {n}"} for n in range(60)]
        path = tmp_path / "x.json"
        path.write_text(json.dumps(rows))
        task = load(path, train=0, validation=0, test=0)
        parts = [set(prompts(part)) for part in (task.train, task.validation, task.test)]
        assert all(parts) and sum(map(len, parts)) == 12

    def test_too_few_examples(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="too few"):
            load(write(tmp_path / "x.jsonl", 2))


class TestLabels:
    @pytest.mark.parametrize(
        ("answers", "labels"),
        [
            (("b", "a", "c"), ("a", "b", "c")),
            (tuple(f"label {n:02}" for n in range(21)), None),
            (tuple(f"answer {n}" for n in range(60)), None),
            (("yes", "a long sentence that nobody would take for the name of a class"), None),
            (("always",), None),
        ],
    )
    def test_a_small_closed_set_of_answers_is_recognised(
        self, folder: Path, answers: tuple[str, ...], labels: tuple[str, ...] | None
    ) -> None:
        for part, start in (("train", 0), ("validation", 60), ("test", 120)):
            write(folder / f"{part}.jsonl", 60, start, answers)
        assert load(folder, train=5).labels == labels

    def test_a_test_answer_outside_of_the_set_shows_that_it_is_not_closed(self, folder: Path) -> None:
        write(folder / "test.jsonl", 30, 200, ("yes", "perhaps"))
        assert load(folder).labels is None


class TestFinding:
    def test_what_is_no_task(self, tmp_path: Path) -> None:
        for name in ("no-such-task", "", "a\0b", "x" * 5000, str(tmp_path / "missing.jsonl")):
            with pytest.raises(InputError, match="`jola tasks` lists the built-in tasks"):
                load(name)

    def test_a_folder_without_training_file(self, tmp_path: Path) -> None:
        write(tmp_path / "test.jsonl", 3)
        with pytest.raises(InputError, match="no training file"):
            load(tmp_path)

    def test_two_files_for_one_part(self, folder: Path) -> None:
        (folder / "train.csv").write_text("instruction,answer\na,b\n")
        with pytest.raises(InputError, match=r"train\.jsonl and train\.csv"):
            load(folder)

    @pytest.mark.parametrize("name", ["hf:", "hf:a/b/c", "hf:not a name"])
    def test_a_malformed_hub_name(self, name: str) -> None:
        with pytest.raises(InputError, match="write hf:owner/name"):
            load(name)

    def test_a_hub_dataset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        rows = [{"instruction": f"q {n}", "answer": "yes", "label": n} for n in range(20)]
        asked = []

        def load_dataset(name: str, configuration: str | None) -> datasets.DatasetDict:
            asked.append((name, configuration))
            part = datasets.Dataset.from_list(rows)
            return datasets.DatasetDict({"train": part, "validation": part})

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        task = load("hf:owner/name:small", train=0)
        assert asked == [("owner/name", "small")]
        assert (task.name, len(task.train), len(task.validation), len(task.test)) == (
            "hf:owner/name:small",
            15,
            5,
            5,
        )

    def test_a_hub_dataset_that_cannot_be_had(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        def load_dataset(name: str, configuration: str | None) -> None:
            raise ConnectionError("no route\nto the host")

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        with pytest.raises(InputError, match=r"owner/name could not be loaded: no route\.$"):
            load("hf:owner/name")


def ratings_table(per_label: int) -> str:
    """Return a table like the asset's: clear and unclear snippets, a duplicate, and one just below the threshold."""
    rows = []
    for n in range(per_label):
        rows += [
            (1.5, f"Fine film number {n}  with  gaps"),
            (-1.0, f"Poor film number {n}"),
            (0.9, f"Unclear {n}"),
        ]
    rows += [(2.0, "FINE film, number 0 with gaps!"), (-0.99, "Not quite bad")]
    return "".join(f"{n}\t{rating}\t{text}\r\n" for n, (rating, text) in enumerate(rows, start=1))


class TestSentiment:
    @pytest.fixture
    def reviews(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = tmp_path / assets.MOVIE_REVIEWS_FILE
        path.write_text(ratings_table(1600), encoding="utf-8", newline="")
        monkeypatch.setattr(assets, "ensure", lambda name: tmp_path)
        return path

    def test_clear_snippets_in_balanced_disjoint_parts(self, reviews: Path) -> None:
        parts = REGISTRY["sentiment"].load()
        assert parts.validation is not None and parts.test is not None
        texts = [set(prompts(tuple(part))) for part in (parts.train, parts.validation, parts.test)]
        assert [len(part) for part in texts] == [200, 1000, 2000]
        assert len(set.union(*texts)) == 3200
        for part in (parts.train, parts.validation, parts.test):
            counts = Counter(example.completion for example in part)
            assert counts["positive"] == counts["negative"]
            for example in part:
                assert example.prompt[0].content.startswith(f"{INSTRUCTION}\n")
                assert ("Fine" in example.prompt[0].content) == (example.completion == "positive")
                assert "  " not in example.prompt[0].content

    def test_the_parts_do_not_depend_on_the_order_of_the_table(self, reviews: Path) -> None:
        before = REGISTRY["sentiment"].load()
        # Without the duplicate, because the first of equal snippets is kept.
        rows = [row for row in reviews.read_text(encoding="utf-8").splitlines() if "FINE" not in row]
        reviews.write_text("\n".join(reversed(rows)), encoding="utf-8")
        assert REGISTRY["sentiment"].load() == before

    def test_the_default_configuration_loads_it(self, reviews: Path) -> None:
        task = load_task(DataConfig(), 42)
        assert (task.name, task.labels, task.notes) == ("sentiment", ("negative", "positive"), ())
        assert (len(task.train), len(task.validation), len(task.test)) == (200, 100, 500)

    def test_a_damaged_table(self, reviews: Path) -> None:
        reviews.write_text(ratings_table(3), encoding="utf-8")
        with pytest.raises(InputError, match="damaged"):
            REGISTRY["sentiment"].load()

    @pytest.mark.default_model
    def test_the_real_data(self, default_assets: Path) -> None:
        task = load_task(DataConfig(train_size=0, validation_size=0, test_size=0), 42)
        assert (len(task.train), len(task.validation), len(task.test)) == (6171, 1000, 2000)
        for part in (task.train, task.validation, task.test):
            share = Counter(example.completion for example in part)["positive"] / len(part)
            assert 0.49 < share < 0.51
