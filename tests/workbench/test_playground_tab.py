"""What the buttons of the Playground do, without a browser."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from jola.config import DataConfig, RunConfig
from jola.errors import InputError
from jola.examples import Template
from jola.model import JoLAModel
from jola.paths import runs_home
from jola.runs import Run
from tests.workbench.recorded import Recorder
from workbench.bench import Workbench
from workbench.session import Loaded, Session
from workbench.settings import Limits, Settings
from workbench.tabs import playground


@pytest.fixture
def bench(tiny: Callable[..., JoLAModel], tokenizer: PreTrainedTokenizerFast) -> Iterator[Workbench]:
    loaded = Loaded(tiny(), Template(tokenizer))

    def load(run: Run) -> Loaded:
        time.sleep(0.7)
        return loaded

    session = Session(Limits(), load)
    yield replace(Workbench.from_settings(Settings()), session=session)
    session.close()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    data = tmp_path / "data"
    data.mkdir()
    for part, count in (("train", 12), ("validation", 4), ("test", 1)):
        rows = [{"prompt": f"Good or bad? {part} {number}", "completion": "good"} for number in range(count)]
        (data / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = RunConfig(data=DataConfig(task=str(data)))
    return Recorder(runs_home() / "one", steps=2, layers=2, units=2, config=config).until(2).finish()


def test_both_answers_are_written_one_after_the_other(bench: Workbench, run: Run) -> None:
    example = playground.prompt_for("A fine film.", None)
    views = list(playground.compare(bench, run.id, example, 8, threading.Event()))
    assert any("Loading the model" in view.message for view in views)
    assert len(views[-1].tokens) == 10
    last = views[-1]
    assert last.writing == "" and last.base and last.edited and last.base != last.edited
    order = [view.writing for view in views if view.writing]
    assert order == sorted(order)  # base first
    again = list(playground.compare(bench, run.id, example, 8, threading.Event()))
    assert not any(view.message for view in again)
    assert (again[-1].base, again[-1].edited) == (last.base, last.edited)


def test_stop_ends_both_answers_and_keeps_what_is_written(bench: Workbench, run: Run) -> None:
    stop = threading.Event()
    views = []
    for view in playground.compare(bench, run.id, playground.prompt_for("A fine film.", None), 256, stop):
        views.append(view)
        if view.base:
            stop.set()
    assert views[-1].writing == "" and views[-1].base and views[-1].edited is None


def test_a_page_stops_its_own_answer_alone() -> None:
    answering = playground.Answering()
    one, other = answering.begin("one"), answering.begin("other")
    answering.stop("one")
    answering.stop("one")
    assert one.is_set() and not other.is_set()
    again = answering.begin("other")
    assert other.is_set() and not again.is_set()


@pytest.mark.parametrize("id", [None, "", "gone", "../one"])
def test_without_a_finished_run_there_is_a_sentence(bench: Workbench, id: str | None) -> None:
    with pytest.raises(InputError, match="Choose a run"):
        list(playground.compare(bench, id, playground.prompt_for("x", None), 4, threading.Event()))
    with pytest.raises(InputError, match="Choose a run"):
        playground.draw_example(bench, id)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="prompt is empty"):
        playground.prompt_for("  \n", None)


def test_an_example_comes_with_its_right_answer(bench: Workbench, run: Run) -> None:
    drawn = playground.draw_example(bench, run.id)
    assert drawn.shown == "Good or bad? test 0"
    assert drawn.right == "good"


def test_a_drawn_conversation_is_used_until_the_box_changes() -> None:
    turns = (("system", "Be brief."), ("user", "Good or bad?"))
    drawn = playground.Drawn("Good or bad?", turns, "good")
    assert [message.role for message in playground.prompt_for("Good or bad?", drawn).prompt] == ["system", "user"]
    assert [message.content for message in playground.prompt_for("Why?", drawn).prompt] == ["Why?"]


def test_data_that_is_gone_is_a_sentence(bench: Workbench, run: Run, tmp_path: Path) -> None:
    for file in (tmp_path / "data").iterdir():
        file.unlink()
    with pytest.raises(InputError):
        playground.draw_example(bench, run.id)


def test_only_runs_with_an_adapter_are_offered(bench: Workbench, run: Run) -> None:
    Recorder(runs_home() / "training", steps=2, layers=2, units=2).until(1)
    dropdown, about = playground.offer(bench, None, "training")
    assert [id for _, id in dropdown.choices] == ["one"]
    assert dropdown.value == "one"
    assert "86.0 % (95 % interval" in about


def test_with_no_run_it_says_what_to_do(bench: Workbench) -> None:
    dropdown, about = playground.offer(bench, None, "")
    assert dropdown.choices == [] and dropdown.value is None
    assert "Train one first" in about


def test_differences_are_marked_when_both_answers_are_there() -> None:
    writing = playground.Comparison(base="good film", edited="bad", writing="edited")
    assert "<mark>" not in playground.answers_html(writing)
    assert "<mark>bad</mark>" in playground.answers_html(replace(writing, writing="", edited="bad film"))
