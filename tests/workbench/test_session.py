"""The door to loaded models: one thread, limits, and answers that are the model's own."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from jola.config import ModelConfig, RunConfig
from jola.errors import InputError
from jola.examples import Template
from jola.model import JoLAModel
from jola.records import Example, Message
from jola.runs import Run
from workbench.session import Loaded, Session, load_run
from workbench.settings import Limits

QUESTION = Example((Message("user", "A fine film about small things."),), "")


class Loader:
    """Loads tiny models, and remembers when and where."""

    def __init__(self, tiny: Callable[..., JoLAModel], tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = tiny()
        self.template = Template(tokenizer)
        self.loaded: list[str] = []
        self.threads: set[int] = set()

    def __call__(self, run: Run) -> Loaded:
        self.loaded.append(run.id)
        self.threads.add(threading.get_ident())
        return Loaded(self.model, self.template)


@pytest.fixture
def loader(tiny: Callable[..., JoLAModel], tokenizer: PreTrainedTokenizerFast) -> Loader:
    return Loader(tiny, tokenizer)


@pytest.fixture
def session(loader: Loader) -> Iterator[Session]:
    session = Session(Limits(prompt_tokens=64, new_tokens=12), loader)
    yield session
    session.close()


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    found = []
    for name in ("one", "two", "three"):
        run = Run.create(tmp_path / name, RunConfig())
        run.adapter_dir.mkdir()
        (run.adapter_dir / "adapter_model.safetensors").touch()
        found.append(run)
    return found


def plain_answer(loader: Loader, count: int, *, edited: bool) -> str:
    ids = torch.tensor([loader.template.encode_prompt(QUESTION)])
    options = {"max_new_tokens": count, "do_sample": False, "eos_token_id": loader.template.end_token_ids}
    if edited:
        full = loader.model.generate(ids, **options)
    else:
        full = loader.model.base.generate(ids, pad_token_id=0, **options)
    return loader.model.tokenizer.decode(full[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("edited", [False, True])
def test_the_streamed_answer_is_the_model_s_own(
    session: Session, loader: Loader, runs: list[Run], edited: bool
) -> None:
    texts = list(session.generate(runs[0], QUESTION, edited=edited, new_tokens=10))
    assert texts[-1] == plain_answer(loader, 10, edited=edited)
    assert all(texts[-1].startswith(text) for text in texts)


def test_edits_change_the_answer(session: Session, runs: list[Run]) -> None:
    answers = [list(session.generate(runs[0], QUESTION, edited=e, new_tokens=10))[-1] for e in (False, True)]
    assert answers[0] != answers[1]


def test_next_tokens_are_the_likeliest_of_either_side(session: Session, loader: Loader, runs: list[Run]) -> None:
    changes = session.next_tokens(runs[0], QUESTION, 10)
    ids = torch.tensor([loader.template.encode_prompt(QUESTION)])
    with torch.no_grad():
        edited = loader.model.forward(ids).logits[0, -1].softmax(-1)
        base = loader.model.base(ids).logits[0, -1].softmax(-1)
    assert len(changes) == 10
    assert changes[0].token == loader.model.tokenizer.decode([int(torch.maximum(base, edited).argmax())])
    assert max(change.edited for change in changes) == pytest.approx(float(edited.max()), abs=1e-5)
    assert max(change.base for change in changes) == pytest.approx(float(base.max()), abs=1e-5)
    larger = [max(change.base, change.edited) for change in changes]
    assert larger == sorted(larger, reverse=True)


def test_an_answer_is_never_longer_than_the_limit(session: Session, loader: Loader, runs: list[Run]) -> None:
    texts = list(session.generate(runs[0], QUESTION, edited=False, new_tokens=10_000))
    assert texts[-1] == plain_answer(loader, 12, edited=False)


def test_a_long_prompt_is_refused_with_its_length(session: Session, runs: list[Run]) -> None:
    long = Example((Message("user", "film " * 100),), "")
    with pytest.raises(InputError, match=r"at most 64 are taken; shorten it"):
        list(session.generate(runs[0], long, edited=True, new_tokens=4))
    with pytest.raises(InputError, match="shorten it"):
        session.next_tokens(runs[0], long)


def test_a_run_without_an_adapter_is_refused(session: Session, runs: list[Run]) -> None:
    (runs[0].adapter_dir / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="no adapter"):
        session.prepare(runs[0])


def test_models_load_when_needed_and_the_oldest_goes(session: Session, loader: Loader, runs: list[Run]) -> None:
    assert loader.loaded == []
    for run in (runs[0], runs[1], runs[0], runs[2], runs[0], runs[1]):
        session.prepare(run).result()
    assert loader.loaded == ["one", "two", "three", "two"]
    assert not session.is_loaded(runs[2])


def test_an_adapter_that_was_written_again_is_loaded_again(session: Session, loader: Loader, runs: list[Run]) -> None:
    session.prepare(runs[0]).result()
    os.utime(runs[0].adapter_dir / "adapter_model.safetensors", ns=(1, 1))
    session.prepare(runs[0]).result()
    assert loader.loaded == ["one", "one"]


def test_what_loading_raises_reaches_the_caller(runs: list[Run]) -> None:
    def refuse(run: Run) -> Loaded:
        raise InputError("The adapter belongs to another model.")

    with pytest.raises(InputError, match="another model"):
        Session(Limits(), refuse).next_tokens(runs[0], QUESTION)


def test_many_callers_get_their_own_answers_from_one_thread(session: Session, loader: Loader, runs: list[Run]) -> None:
    expected = {edited: plain_answer(loader, 6, edited=edited) for edited in (False, True)}

    def ask(number: int) -> bool:
        edited = bool(number % 2)
        texts = list(session.generate(runs[0], QUESTION, edited=edited, new_tokens=6))
        return texts[-1] == expected[edited]

    with ThreadPoolExecutor(8) as users:
        assert all(users.map(ask, range(16)))
    assert len(loader.threads) == 1
    assert loader.loaded == ["one"]


def test_a_stopped_answer_ends_as_it_is(loader: Loader, runs: list[Run]) -> None:
    session = Session(Limits(new_tokens=100_000, generation_seconds=600), loader)
    loader.template._end_token_ids = [299]
    stop, texts = threading.Event(), []
    for text in session.generate(runs[0], QUESTION, edited=False, new_tokens=100_000, stop=stop):
        texts.append(text)
        stop.set()
    assert texts[-1].startswith(texts[0])
    session.close()


def test_closing_the_stream_stops_the_generation(loader: Loader, runs: list[Run]) -> None:
    session = Session(Limits(new_tokens=100_000, generation_seconds=600), loader)
    loader.template._end_token_ids = [299]
    stream = session.generate(runs[0], QUESTION, edited=False, new_tokens=100_000)
    next(stream)
    stream.close()
    session.prepare(runs[0]).result(timeout=30)  # the worker is free again
    session.close()


def test_closing_the_session_ends_the_answer_that_is_being_written(loader: Loader, runs: list[Run]) -> None:
    session = Session(Limits(new_tokens=100_000, generation_seconds=600), loader)
    loader.template._end_token_ids = [299]
    stream = session.generate(runs[0], QUESTION, edited=False, new_tokens=100_000)
    next(stream)
    begin = time.monotonic()
    session.close()
    list(stream)
    assert time.monotonic() - begin < 30


def test_cores_are_left_to_a_run_that_trains(loader: Loader, runs: list[Run]) -> None:
    training, threads = [False], []

    def load(run: Run) -> Loaded:
        threads.append(torch.get_num_threads())
        return loader(run)

    session = Session(Limits(loaded_models=1), load, training=lambda: training[0])
    session._threads = 4
    for run, busy in zip(runs, (False, True, False), strict=True):
        training[0] = busy
        session.prepare(run).result()
    assert threads == [4, 1, 4]
    session.close()


def test_time_ends_an_answer(loader: Loader, runs: list[Run]) -> None:
    session = Session(Limits(new_tokens=100_000, generation_seconds=0), loader)
    texts = list(session.generate(runs[0], QUESTION, edited=False, new_tokens=100_000))
    assert texts[-1] == plain_answer(loader, 1, edited=False)
    session.close()


def test_a_run_s_own_adapter_and_model_are_loaded(
    tmp_path: Path, tiny_folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    config = RunConfig(model=ModelConfig(model=str(tiny_folder), dtype="float32"))
    trained = JoLAModel.from_pretrained(str(tiny_folder), dtype="float32", edits=config.edits, seed=3)
    run = Run.create(tmp_path / "run", config)
    trained.save_pretrained(run.adapter_dir)
    loaded = load_run(run)
    ids = torch.tensor([loaded.template.encode_prompt(QUESTION)])
    with torch.no_grad():
        assert torch.equal(loaded.model.eval().forward(ids).logits, trained.eval().forward(ids).logits)
    assert loaded.template.kind == "chat"
