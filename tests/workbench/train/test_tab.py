"""Actions of the Train tab, without a browser."""

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gradio as gr
import pytest

from jola.config import RunConfig
from jola.errors import InputError
from jola.methods import METHODS
from jola.runs.run import Run
from jola.system.paths import cache_home, runs_home
from tests.workbench.recorded import Recorder
from workbench.service.bench import Workbench, describe_run
from workbench.service.jobs import Jobs
from workbench.settings import Settings
from workbench.train import tab as train
from workbench.ui import form

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]
ROWS = '{"prompt": "Good or bad? Fine.", "completion": "good"}\n' * 3


@pytest.fixture
def bench(bench: Workbench) -> Workbench:
    return replace(bench, jobs=Jobs(bench.store, SLEEPS))


def test_start_gives_the_run_others_wait_and_cancel_ends_them(bench: Workbench) -> None:
    id, sentence = train.start(bench, {"epochs": 2, "model": "default"})
    assert sentence == ""
    assert id is not None and bench.store.get(id).state == "starting"
    second, words = train.start(bench, {})
    assert second is not None and words.startswith("Queued: it starts after the running training")
    third, words = train.start(bench, {})
    assert third is not None and "after 2 runs" in words
    with patch.object(bench.studies, "working", return_value=True):
        assert train.waiting_words(bench, second).startswith("Queued: it starts after the running study")
    assert train.cancel(bench, third) == train.cancel(bench, second) == "The run was removed from the queue."
    assert "stops" in train.cancel(bench, id)
    assert bench.jobs.wait(id, 300)


def test_restarts_are_runs_with_other_training_seeds_on_the_same_examples(bench: Workbench) -> None:
    id, words = train.start(bench, {"seed": 7}, 2)
    assert id is not None and words.startswith("3 training runs") and "validation accuracy" in words
    runs = list(reversed(bench.store.list()))
    configs = [run.run_config() for run in runs]
    assert [config.training.seed for config in configs] == [7, 8, 9]
    assert [config.data.data_seed for config in configs] == [None, 7, 7]
    assert [run.notes().label for run in runs] == ["1 of 3, seed 7", "2 of 3, seed 8", "3 of 3, seed 9"]
    assert len({config.training.output for config in configs}) == 3
    assert train.start(bench, {}, 100) == (None, "Restarts is 100; it must be from 0 to 99.")
    assert len(bench.store.list()) == 3
    for run in runs[::-1]:
        train.cancel(bench, run.id)
    assert bench.jobs.wait(id, 300)


def test_restarts_that_cannot_all_start_are_told_and_kept(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    start_run = bench.jobs.start

    def start(config: RunConfig) -> Run:
        if len(bench.store.list()) == 2:
            raise InputError("The disk is full.")
        return start_run(config)

    monkeypatch.setattr(bench.jobs, "start", start)
    id, words = train.start(bench, {"seed": 7}, 3)
    runs = list(reversed(bench.store.list()))
    assert [run.notes().label for run in runs] == ["1 of 4, seed 7", "2 of 4, seed 8"]
    assert id is not None and id == runs[0].id and words == "Only 2 of 4 training runs were started. The disk is full."
    for run in runs[::-1]:
        train.cancel(bench, run.id)
    assert bench.jobs.wait(id, 300)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "validation accuracy, and use the one in which it is highest"),
        ({"task": "e2e_nlg"}, "validation cross-entropy, and use the one in which it is lowest"),
        ({"method": "zero-shot"}, "if this page is closed."),
    ],
)
def test_restarts_are_chosen_by_what_they_have(bench: Workbench, changes: dict[str, Any], words: str) -> None:
    id, found = train.start(bench, changes, 1)
    assert id is not None and words in found and ("validation" in words) == ("validation" in found)
    for run in bench.store.list():
        train.cancel(bench, run.id)
    assert bench.jobs.wait(id, 300)


def test_pause_and_resume_say_what_happens(bench: Workbench) -> None:
    run = Recorder(runs_home() / "one", steps=4, layers=2, units=2).until(2).run
    assert "pauses at its next step" in train.pause(bench, "one")
    assert (run.path / "pause").exists()
    assert train.resume(bench, "one") == "The run one is training; only interrupted runs can be resumed."
    run.write_status(state="paused")
    assert train.resume(bench, "one") == ""
    assert run.state == "starting" and not (run.path / "pause").exists()
    bench.jobs.cancel("one")
    assert bench.jobs.wait("one", 300)
    assert "no run" in train.pause(bench, "none").lower()


def test_the_cost_is_told_before_the_start(bench: Workbench, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(ROWS.replace("Fine", "Fine <b>") + "".join(ROWS.replace("Fine", f"Film {n}") for n in range(20)))
    html = train.cost(bench, {"task": str(file), "model": "/no <i>model", "epochs": 2, "batch_size": 4})
    assert "steps, time known after the first steps, memory unknown" in html and "<i>" not in html
    assert "Epochs is 0; it must be at least 1." in train.cost(bench, {"epochs": 0})


def test_the_preview_shows_escaped_examples_with_what_bears_the_loss(
    bench: Workbench, tmp_path: Path, tiny_folder: Path
) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(ROWS.replace("Fine", f"<img src=x> {n}") for n in range(20)))
    html, sentence = train.preview(bench, {"task": str(file), "model": str(tiny_folder)})
    assert sentence == ""
    assert "<img" not in html and "&lt;" in html
    assert html.count("<li>") == 10
    assert "bear the loss" in html and '<b class="pv-token pv-loss">' in html
    html, sentence = train.preview(bench, {"task": "/no/such/file", "model": str(tiny_folder)})
    assert html == "" and "/no/such/file" in sentence


def test_a_page_that_others_reach_reads_no_file_of_this_computer(tmp_path: Path) -> None:
    file = tmp_path / "secret.jsonl"
    file.write_text(ROWS)
    bench = Workbench.from_settings(Settings(host="0.0.0.0", auth="me:secret"))
    values = {"task": str(file)}
    for answer in (train.start(bench, values), train.preview(bench, values)):
        assert "not allowed for this page" in " ".join(filter(None, answer))
    assert "not allowed for this page" in train.cost(bench, values)
    assert bench.store.list() == []
    kept, _ = train.accept_upload(str(file))
    assert "not allowed" not in train.cost(bench, {"task": kept})


def test_start_with_a_bad_value_is_a_sentence_and_no_run(bench: Workbench) -> None:
    id, sentence = train.start(bench, {"batch_size": 0})
    assert id is None
    assert sentence == "Batch size is 0; it must be at least 1."
    assert bench.store.list() == []


def test_cancel_of_an_unknown_run_is_a_sentence(bench: Workbench) -> None:
    assert "no run" in train.cancel(bench, "nothing").lower()


def test_an_upload_is_checked_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "my data (1).jsonl"
    file.write_text(ROWS)
    kept, sentence = train.accept_upload(str(file))
    assert sentence == "my data (1).jsonl: 3 examples."
    assert kept is not None
    file.unlink()
    assert Path(kept).read_text() == ROWS
    assert Path(kept).is_relative_to(cache_home())


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("broken.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": \n', "2"),
        ("empty.jsonl", b"", "empty"),
        ("latin.csv", "prompt,completion\né,b\n".encode("latin-1"), "UTF-8"),
        ("columns.csv", b"question,label\na,b\n", "question"),
    ],
)
def test_a_broken_upload_is_a_sentence_with_the_file_s_name(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    kept, sentence = train.accept_upload(str(file))
    assert kept is None
    assert name in sentence and words in sentence
    assert str(tmp_path) not in sentence


def test_the_run_to_show(bench: Workbench) -> None:
    assert bench.choose_run("", None) is None
    old = Recorder(runs_home() / "old", steps=2, layers=2, units=2).until(1)
    old.run.write_status(started=1.0)
    new = Recorder(runs_home() / "new", steps=2, layers=2, units=2).until(2).finish()

    def chosen(asked: str | None = None, remembered: str | None = None) -> str | None:
        run = bench.choose_run(asked, remembered)
        return run and run.id

    assert chosen("new", "old") == "new"
    assert chosen("../old", "old") == "old"
    assert chosen("gone", "gone too") == "old"  # the running one
    old.finish("cancelled")
    assert chosen() == bench.store.list()[0].id
    assert new.id in [id for _, id in bench.run_choices()]


def test_a_run_in_a_list_tells_its_outcome() -> None:
    run = Recorder(runs_home() / "one", steps=2, layers=2, units=2).until(1)
    assert describe_run(run.run).startswith("sentiment · training · ")
    assert describe_run(run.finish()).startswith("sentiment · 86.0 % · ")


@pytest.mark.parametrize(
    ("values", "edits"),
    [
        (
            {"method": "lora", "lora.rank": 4},
            {"rank": 4, "alpha": 16.0, "dropout": 0.05, "target_modules": "all-linear"},
        ),
        ({"method": "red", "red.layers": "0-1", "sites": "heads"}, {"layers": "0-1"}),
    ],
)
def test_a_run_of_another_method_is_started_with_its_settings(
    bench: Workbench, values: dict[str, Any], edits: dict[str, Any]
) -> None:
    id, sentence = train.start(bench, values)
    assert sentence == "" and id is not None
    config = bench.store.get(id).raw_config()
    assert (config["method"], config["edits"]) == (values["method"], edits)
    train.cancel(bench, id)
    assert bench.jobs.wait(id, 300)


def test_what_a_form_shows_follows_the_method(bench: Workbench) -> None:
    with gr.Blocks() as page:
        train.build(bench, gr.BrowserState("", storage_key="test", secret="test"))
    answer = next(
        function.fn for function in page.fns.values() if function.fn is not None and function.fn.__name__ == "on_method"
    )

    def visible(updates: list[Any]) -> list[bool]:
        return [update["visible"] if isinstance(update, dict) else update.visible for update in updates]

    summary, rate, *updates = answer("lora", 5e-3)
    assert "low-rank" in summary and rate == gr.update(value=1e-3, visible=True)
    boxes = [len({f.metadata["advanced"] for f in fields(method.settings)}) for method in METHODS.values()]
    assert sum(visible(updates[: sum(boxes)])) == 2, "its few settings and the rest of them"
    shown = sum(s.group == "training" and s.name not in METHODS["lora"].unused_settings for s in form.settings())
    assert sum(visible(updates[sum(boxes) :])) == shown - 1, "the rate aside, and nothing about gates"
    _, kept, *updates = answer("jola", 0.02)
    assert kept == gr.update(visible=True), "a rate that was typed stays"
    assert visible(updates).count(False) == sum(boxes[1:]), "those of the other methods"
    _, rate, *updates = answer("zero-shot", 5e-3)
    assert rate == gr.update(visible=False) and sum(visible(updates)) == 1, "only the seed"
