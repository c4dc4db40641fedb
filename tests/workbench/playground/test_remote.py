"""The Playground on a remote model: nnsight's simulation runs the requests."""

import inspect
import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from nnsight.intervention.backends.local import LocalSimulationBackend

from jola.errors import InputError
from jola.methods.lora import LoRAConfig
from jola.model.ndif import NdifBackend
from jola.remote import RemoteModel, RemotePasses
from jola.runs.run import Run
from tests.workbench.edited import edited_run
from workbench.app import build
from workbench.playground.edits_panel import HERE, ON_TOP, REMOTE
from workbench.playground.wiring import CHAT
from workbench.service import answering, views
from workbench.service.bench import Workbench
from workbench.service.calls import Superseded
from workbench.service.page_state import Column, columns, open_run
from workbench.service.session import Prompt

QUESTION = Prompt.of("A fine film about small things.")


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    load = RemoteModel.from_pretrained.__func__
    monkeypatch.setattr(
        RemoteModel, "from_pretrained", classmethod(lambda cls, name, **rest: load(cls, name, simulate=True, **rest))
    )
    # The simulation temporarily removes modules from sys.modules; meanwhile, other threads of the app cannot import
    # them. tests/jola/test_remote.py checks that requests do not need these modules.
    monkeypatch.setattr(LocalSimulationBackend, "_hide_local_modules", lambda self: {"modules": {}, "paths": []})


def ways(bench: Workbench, run: Run, *, remote: bool) -> list[Column]:
    return columns(bench, replace(open_run(bench, run.id), strength=0.5, remote=remote))


def shown(bench: Workbench, stack: list[Column]) -> list[Any]:
    """Return next tokens, scores of given answers, the lens and generated answers."""
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


class Asked:
    """A page whose listeners are called as by a browser, with a record of their calls of models."""

    def __init__(self, bench: Workbench) -> None:
        self.page = build(bench)
        self.remote: list[str] = []
        self.local: list[str] = []
        ask = bench.session.ask

        def noted(stack: Any, work: Any, *, kind: str = "", remote: bool = False, **rest: Any) -> Any:
            elsewhere = stack[0].remote if stack else remote
            (self.remote if elsewhere else self.local).append(kind)
            return ask(stack, work, kind=kind, remote=remote, **rest)

        bench.session.ask = noted

    def fire(self, id: str, event: str, *values: Any, payload: Any = None) -> str:
        """Call the listeners of an event and return everything that they show, as text."""
        (block,) = [each._id for each in self.page.blocks.values() if getattr(each, "elem_id", "") == id]
        listeners = [each.fn for each in self.page.fns.values() if (block, event) in each.targets and each.fn]
        assert listeners, f"{id} has no {event}"
        shown = []
        for listener in listeners:
            given, arguments = iter(values), []
            for parameter in inspect.signature(listener).parameters.values():
                if parameter.annotation is gr.Request:
                    arguments.append(SimpleNamespace(session_hash="a page"))
                elif parameter.annotation is gr.EventData:
                    arguments.append(SimpleNamespace(_data=payload))
                elif parameter.kind is parameter.VAR_POSITIONAL:
                    arguments.extend(given)
                else:
                    arguments.append(next(given))
            result = listener(*arguments)
            shown.extend(result if inspect.isgenerator(result) else [result])
        return str(shown)


ASKING = ("A film.", CHAT, "good\nbad")


@pytest.fixture
def asked(bench: Workbench, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """The page with two runs."""
    monkeypatch.setenv("NDIF_API_KEY", "a key")
    data = tmp_path / "data"
    data.mkdir()
    for part in ("train", "validation", "test"):
        row = {"prompt": f"Good or bad? {part}", "completion": "good"}
        (data / f"{part}.jsonl").write_text("\n".join([json.dumps(row)] * 4))
    for seed, name in enumerate(("one", "two")):
        edited_run(bench.store.root / name, tiny_folder, seed=seed, task=str(data))
    return Asked(bench)


@pytest.mark.usefixtures("simulated")
def test_prompts_are_sent_only_when_a_button_is_pressed(asked: Asked) -> None:
    asked.fire("where", "input", *ASKING, REMOTE)  # before a run exists
    says = "Press Answer to send the prompt to NDIF"
    for id, event, *values in (
        ("playground-run", "input", *ASKING, "one"),
        ("where", "input", *ASKING, REMOTE),
        ("prompt", "input", *ASKING),
        ("prompt-kind", "input", *ASKING),
        ("given-answers", "input", *ASKING),
        ("strength", "input", *ASKING, 0.5),
        ("mask-invert", "click", *ASKING),
        ("mask-undo", "click", *ASKING),
        ("mask-strongest", "click", *ASKING, 2),
        ("other-runs", "input", *ASKING, ["two"], ON_TOP),
        ("example", "click", *ASKING[1:]),
        ("playground-run", "input", *ASKING, "two"),
    ):
        assert says in asked.fire(id, event, *values), id
    assert (asked.remote, asked.local) == ([], [])

    shown = asked.fire("answer", "click", *ASKING[:2], 3, ASKING[2])
    assert asked.remote == ["answer", "answer", "next 0", "shares 0"] and not asked.local
    assert says not in shown and "good" in shown
    asked.fire("lens", "click", *ASKING[:2], False)
    assert asked.remote[4:] == ["lens"]
    asked.fire("where", "input", *ASKING, HERE)
    assert asked.local == ["next 0", "shares 0"] and len(asked.remote) == 5


def test_a_model_that_is_not_here_is_not_fetched_unasked(
    asked: Asked, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.session._loader, "is_here", lambda run: False)
    says = "The model is not on this machine. Press Answer to download it, or choose Remote"
    assert says in asked.fire("playground-run", "input", *ASKING, "one")
    assert says in asked.fire("strength", "input", *ASKING, 0.5)
    assert not asked.local
    asked.fire("answer", "click", *ASKING[:2], 3, ASKING[2])
    assert asked.local == ["answer", "answer", "next 0", "shares 0"]
    assert says not in asked.fire("strength", "input", *ASKING, 0.7)  # it is loaded now
    monkeypatch.delenv("NDIF_API_KEY")
    assert says not in asked.fire("playground-run", "input", *ASKING, "two")
    assert not asked.remote


@pytest.mark.parametrize(
    ("model", "here"), [("default", True), ("owner/absent", False), ("owner/name", True), ("not a: name", False)]
)
def test_where_a_model_is(
    bench: Workbench, run: Run, model: str, here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "models--owner--name"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc" / "model.safetensors.index.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert bench.session.is_here(run)
    monkeypatch.setattr(bench.session._loader, "_model_name", lambda run: model)
    assert bench.session.is_here(run) is here


class Silent(NdifBackend):
    """A server that never answers."""

    sent = threading.Event()

    def exchange(self, request: bytes, over: threading.Event) -> Any:
        self.sent.set()
        over.wait()
        raise InputError("ended")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that is set once a request has been sent to a server that never answers."""
    Silent.sent.clear()
    monkeypatch.setattr(
        RemotePasses, "_backend", lambda self: Silent("a model", {}, stop=self.stop, seconds=self.seconds)
    )
    return Silent.sent


@pytest.mark.usefixtures("simulated")
def test_a_remote_request_holds_up_nobody_and_can_be_stopped(
    bench: Workbench, run: Run, silent: threading.Event
) -> None:
    remote, here = ways(bench, run, remote=True), ways(bench, run, remote=False)
    writing = bench.session.generate(remote[0].stack, QUESTION, new_tokens=3, page="one", kind="answer")
    assert silent.wait(300)
    assert views.ask_next_tokens(bench.session, here, QUESTION)[0].result().length
    assert not writing.ticket.future.done()
    writing.ticket.give_up()
    with pytest.raises(Superseded):
        list(writing.texts())
    silent.clear()
    again = views.ask_next_tokens(bench.session, remote, QUESTION)[0]
    assert silent.wait(300)
    bench.session.close()
    with pytest.raises(Superseded):
        again.result()


@pytest.mark.usefixtures("simulated")
def test_stop_ends_what_a_page_has_sent(asked: Asked, silent: threading.Event) -> None:
    asked.fire("where", "input", *ASKING, REMOTE)
    asked.fire("playground-run", "input", *ASKING, "one")
    shown: list[str] = []
    for id, values in (("answer", (*ASKING[:2], 3, ASKING[2])), ("lens", (*ASKING[:2], False))):
        silent.clear()
        answering = threading.Thread(
            target=lambda id, values: shown.append(asked.fire(id, "click", *values)), args=(id, values)
        )
        answering.start()
        assert silent.wait(300)
        asked.fire("stop", "click")
        answering.join(300)
        assert not answering.is_alive()
    assert asked.remote == ["answer", "lens"] and len(shown) == 2


@pytest.mark.usefixtures("simulated", "silent")
def test_a_remote_request_has_a_deadline(bench: Workbench, run: Run) -> None:
    bench.session.limits = replace(bench.session.limits, remote_seconds=0.2)
    ticket = views.ask_next_tokens(bench.session, ways(bench, run, remote=True), QUESTION)[0]
    with pytest.raises(InputError, match=r"did not answer within 0\.2 seconds"):
        ticket.result()
