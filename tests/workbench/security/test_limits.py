"""Threats in SECURITY.md: limits of what one user can request."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from fastapi import HTTPException
from gradio_client import Client
from gradio_client.exceptions import AppError

from jola.errors import InputError
from tests.workbench.coroutines import finish
from tests.workbench.served import Served, write_task
from workbench.api.endpoints import Endpoints
from workbench.service import views
from workbench.service.bench import Workbench
from workbench.service.calls import Ticket
from workbench.service.page_state import Column
from workbench.service.processes import wait_until
from workbench.service.session import Prompt, Use
from workbench.train.run_view import run_view

# The two apps are started once, in one worker.
pytestmark = pytest.mark.xdist_group("security")


HUGE = 10**400


class TestLimits:
    """Limits of what one user can request."""

    def test_prompts_answers_and_time_have_a_limit(self, app: Served) -> None:
        client = Client(app.address, verbose=False)
        with pytest.raises(AppError, match="at most 1,024 are allowed"):
            client.predict("one", "film " * 2000, api_name="/predict")
        with pytest.raises(AppError, match="from 1 to 256"):
            client.predict("one", "film", new_tokens=100_000, api_name="/generate")
        assert app.bench.settings.limits.generation_seconds <= 120

    def test_an_answer_counts_as_the_prompt_does(self, app: Served) -> None:
        client = Client(app.address, verbose=False)
        with pytest.raises(AppError, match="at most 1,024 are allowed"):
            client.predict("one", "film", "film " * 3000, api_name="/effects")

    @pytest.mark.parametrize("long", ["prompt", "answer", "both"])
    @pytest.mark.parametrize("ask", ["next", "answers", "effects", "direct", "text"])
    def test_characters_are_counted_before_anything_is_tokenized(
        self, bench: Workbench, monkeypatch: pytest.MonkeyPatch, ask: str, long: str
    ) -> None:
        run, text = bench.store.get("one"), "x" * 20_000_000
        stack, session = [Use(run)], bench.session
        session.prepare(run).result()
        prompt = Prompt.of(text if long != "answer" or ask in ("next", "text") else "film")
        answer = "good" if long == "prompt" else text
        tokenizer = type(next(iter(session._local.bases.values())).model.tokenizer)
        monkeypatch.setattr(tokenizer, "__call__", lambda *_, **__: pytest.fail("tokenized"))
        tickets: dict[str, Callable[[], Ticket[Any]]] = {
            "next": lambda: views.ask_next_tokens(session, [Column("", tuple(stack))], prompt)[0],
            "answers": lambda: views.ask_answer_scores(session, stack, prompt, ["good", answer]),
            "effects": lambda: views.ask_edit_effects(session, stack, prompt, answer, views.Progress()),
            "direct": lambda: views.ask_direct_effects(session, stack, prompt, answer),
            "text": lambda: views.ask_token_scores(session, stack, prompt.text),
        }
        with pytest.raises(InputError, match=r"characters, but at most 100,000 are allowed"):
            tickets[ask]().result()

    @pytest.mark.parametrize(
        ("endpoint", "values"),
        [
            ("predict", {"count": HUGE}),
            ("predict", {"strength": HUGE}),
            ("predict", {"off": [{"layer": HUGE, "unit": 0}]}),
            ("predict", {"off": [{"layer": 0, "unit": -HUGE}]}),
            ("generate", {"new_tokens": HUGE}),
            ("gates", {"step": HUGE}),
            ("gates", {"step": -HUGE}),
        ],
    )
    def test_huge_numbers_are_one_sentence(self, bench: Workbench, endpoint: str, values: dict[str, Any]) -> None:
        given = {"prompt": "film"} if endpoint != "gates" else {}
        with pytest.raises(InputError, match="too large; it must be") as raised:
            getattr(Endpoints(bench), endpoint)("one", **given, **values)
        assert len(str(raised.value)) < 200

    @pytest.mark.parametrize("name", ["epochs", "train_size", "max_length", "batch_size", "learning_rate", "seed"])
    def test_huge_settings_are_one_sentence(self, bench: Workbench, name: str) -> None:
        with pytest.raises(InputError, match=f"{name} has more than 15 digits"):
            Endpoints(bench).start(settings={name: HUGE})

    @pytest.mark.parametrize("number", [HUGE, -1, 0.5, "x", None, True])
    @pytest.mark.parametrize("question", ["frame", "frame_at", "gates_table"])
    def test_server_functions_take_counts_only(self, bench: Workbench, question: str, number: object) -> None:
        with gr.Blocks():
            view = run_view(bench.followers)
        ask = next(function for function in view.server_fns if function.__name__ == question)
        assert finish(ask(["one", "heads", 0])) is not None
        if type(number) is int:
            assert finish(ask(["one", "heads", number])) is None
        else:
            with pytest.raises(HTTPException, match=r"takes a list of 3 values: str, str, int\."):
                finish(ask(["one", "heads", number]))

    def test_a_full_queue_is_a_sentence_and_empties_again(self, app: Served) -> None:
        def work(ticket: Ticket[None]) -> None:
            while not ticket.stop.wait(0.05):
                pass

        held = app.bench.session._local.calls.submit(work)
        call, body = f"{app.address}/gradio_api/call/predict", {"data": ["one", "A film", [], "", 1.0, 1, True]}
        waiting: list[str] = []
        try:
            with httpx.Client(timeout=300) as http:
                for _ in range(200):
                    answer = http.post(call, json=body)
                    if answer.status_code != 200:
                        break
                    waiting.append(answer.json()["event_id"])
                assert answer.status_code == 503 and "Queue is full" in answer.text
                # Requests that need no model are still answered.
                page = http.get(app.address)
                assert page.status_code == 200
        finally:
            held.give_up()
        for id in waiting:
            assert "event: complete" in httpx.get(f"{call}/{id}", timeout=300).text

    def test_one_run_trains_and_cancelling_twice_is_the_same(self, app: Served, tmp_path: Path) -> None:
        client = Client(app.address, verbose=False)
        task = str(write_task(tmp_path / "task"))
        settings = {"epochs": 5000, "patience": 0, "dtype": "float32"}
        ids = [client.predict(task, str(app.model), settings, api_name="/start")["run"] for _ in range(3)]
        assert len(app.bench.jobs.running()) == 1
        for id in [*reversed(ids), *ids]:
            client.predict(id, api_name="/cancel")
        # A process that ends before it can write its state is "killed" until the app writes "cancelled".
        assert wait_until(lambda: {app.bench.store.get(id).state for id in ids} == {"cancelled"}, 300)
