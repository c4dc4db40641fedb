"""The Playground on a remote model: nnsight's simulation runs the requests."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jola.errors import InputError
from jola.methods.lora import LoRAConfig
from jola.remote import RemoteModel
from jola.runs.run import Run
from tests.workbench.edited import edited_run
from workbench.app import build
from workbench.playground.edits_panel import REMOTE
from workbench.service import answering, views
from workbench.service.bench import Workbench
from workbench.service.page_state import Column, columns, open_run
from workbench.service.session import Prompt
from workbench.settings import Settings

QUESTION = Prompt.of("A fine film about small things.")


@pytest.fixture
def bench() -> Iterator[Workbench]:
    bench = Workbench.from_settings(Settings())
    yield bench
    bench.session.close()


@pytest.fixture
def run(bench: Workbench, tiny_folder: Path) -> Run:
    return edited_run(bench.store.root / "one", tiny_folder)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    load = RemoteModel.from_pretrained.__func__
    monkeypatch.setattr(
        RemoteModel, "from_pretrained", classmethod(lambda cls, name, **rest: load(cls, name, simulate=True, **rest))
    )


def ways(bench: Workbench, run: Run, *, remote: bool) -> list[Column]:
    return columns(bench, replace(open_run(bench, run.id), strength=0.5, remote=remote))


def shown(bench: Workbench, stack: list[Column]) -> list[Any]:
    """Next tokens, given answers, the lens and written answers."""
    looked = views.next_tokens(
        stack, [ticket.result() for ticket in views.ask_next_tokens(bench.session, stack, QUESTION)]
    )
    scores = views.ask_answer_scores(bench.session, stack[0].stack, QUESTION, ["good", "bad"]).result()
    lens = views.ask_logit_lens(bench.session, stack[0].stack, QUESTION).result()
    *_, written = views.write_answers(bench.session, stack, QUESTION, 4)
    frames = [looked.to_frame().select_dtypes("number"), scores.to_frame().select_dtypes("number")]
    return [frame.to_numpy() for frame in [*frames, lens.to_frame().select_dtypes("number")]] + [written.texts]


@pytest.mark.usefixtures("simulated")
def test_equals_the_model_on_this_machine(bench: Workbench, run: Run) -> None:
    here, remote = ways(bench, run, remote=False), ways(bench, run, remote=True)
    *expected, texts = shown(bench, here)
    *found, remote_texts = shown(bench, remote)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    assert remote_texts == texts and all(texts)
    assert bench.session.is_loaded(run) and bench.session.is_loaded(run, remote=True)


@pytest.mark.usefixtures("simulated")
def test_what_needs_the_model_here_is_refused(bench: Workbench, run: Run, tiny_folder: Path) -> None:
    stack = ways(bench, run, remote=True)[0].stack
    for ask in (
        lambda: views.ask_token_scores(bench.session, stack, "A text."),
        lambda: views.ask_direct_effects(bench.session, stack, QUESTION, "good"),
        lambda: views.ask_edit_effects(bench.session, stack, QUESTION, "good", views.Progress()),
        lambda: views.ask_promoted_tokens(bench.session, stack, 0, 0, "heads"),
        lambda: views.ask_attention(bench.session, stack, QUESTION, 0, 0),
        lambda: next(answering.compare_stack(bench, run, stack, 2)),
    ):
        with pytest.raises(InputError, match="This needs the model on this machine"):
            ask()
    lora = edited_run(bench.store.root / "lora", tiny_folder, edits=LoRAConfig(rank=2))
    ticket = views.ask_next_tokens(bench.session, ways(bench, lora, remote=True), QUESTION)[0]
    with pytest.raises(InputError, match="LoRA cannot be used remotely"):
        ticket.result()


def test_without_a_key_there_is_no_choice(bench: Workbench, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def where() -> Any:
        page = build(bench)
        return next(block for block in page.blocks.values() if getattr(block, "elem_id", "") == "where")

    monkeypatch.setenv("NDIF_API_KEY", "a key")
    assert where().visible and REMOTE in dict(where().choices)
    assert "prompts and edits leave this machine" in where().info
    monkeypatch.delenv("NDIF_API_KEY")
    assert not where().visible
    ticket = views.ask_next_tokens(bench.session, ways(bench, run, remote=True), QUESTION)[0]
    with pytest.raises(InputError, match="Remote models need an API key"):
        ticket.result()
