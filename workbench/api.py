"""What programs may ask of a running app, through `gradio_client`; everything else that the page does is private.

    from gradio_client import Client

    app = Client("http://127.0.0.1:7860")
    run = app.predict("sentiment", api_name="/start")["run"]
    app.predict(run, api_name="/status")

Every endpoint takes and gives plain JSON. What cannot be done is an error of one sentence.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import gradio as gr

from jola.errors import InputError
from workbench import form
from workbench.bench import Workbench
from workbench.calls import Superseded
from workbench.playground import views
from workbench.playground.state import Column, PageState, columns, open_run
from workbench.playground.wiring import CHAT, PLAIN, prompt_of
from workbench.session import Prompt

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")

ENDPOINTS = ("start", "status", "cancel", "runs", "gates", "predict", "generate", "effects")
_MOST_TOKENS = 50


def install(bench: Workbench) -> None:
    """Add the endpoints to the page that is being built."""

    def start(task: str = "sentiment", model: str = "default", settings: dict = {}) -> dict:  # noqa: B006  # read alone
        """Start a training run, or put it in the queue: {"run", "state"}.

        `settings` holds further settings by the names that `jola train --help` lists, with underscores, such as
        {"train_size": 200, "epochs": 8, "l0_weight": 0.002}.
        """
        known = {setting.name: setting.default for setting in form.settings()}
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise InputError(f"There is no setting {', '.join(unknown)}; `jola train --help` lists them.")
        config = form.read_form({**known, **settings, "task": task, "model": model})
        bench.settings.check_sources(config)
        run = bench.jobs.start(config)
        return {"run": run.id, "state": run.state}

    def status(run: str) -> dict:
        """State and figures of a run: its row in the table of runs, with "message" and the last "metrics"."""
        found = bench.must_find(run)
        metrics = found.metrics()
        return {
            **found.summary(),
            "message": found.status()["message"],
            "metrics": metrics[-1] if metrics else None,
            "result": found.result(),
        }

    def cancel(run: str) -> dict:
        """Ask a run to stop at its next step, keeping its best edits so far: {"run", "state"}."""
        bench.jobs.cancel(bench.must_find(run).id)
        return {"run": run, "state": bench.must_find(run).state}

    def runs() -> list[dict]:
        """All runs, newest first, one row each."""
        return [dict(run.summary()) for run in bench.store.list()]

    def gates(run: str, step: int = -1, site: str = "heads") -> dict:
        """Gates of a run at its last record that is not after `step`; -1 is the last one.

        {"site", "step", "steps", "offset", "scale"}: expected gates in [0, 1] as lists, layers × units, null where a
        half is not trained; "steps" are all recorded ones.
        """
        history = bench.must_find(run).gates(site)
        if not len(history):
            raise InputError(f"The run {run} has recorded no gates yet; ask again after its first step.")
        at = int(history.steps[-1]) if step < 0 else step
        fields = history.at(at)
        return {
            "site": site,
            "step": max(int(s) for s in history.steps if s <= at),
            "steps": history.steps.tolist(),
            **{half: _numbers(fields[f"{half}_gate"].tolist()) for half in ("offset", "scale")},
        }

    def predict(
        run: str, prompt: str, mask: str = "", strength: float = 1.0, count: int = 10, plain: bool = False
    ) -> dict:
        """The likeliest next tokens without and with the edits of a run.

        `mask` switches single edits, as in the links that the Playground copies; empty is as trained. `plain` takes
        the prompt as it is, without a chat template. {"tokens": [{"token", "base", "edited"}], "kl", "prompt_tokens"}.
        """
        ways, asked = _ways(bench, run, mask, strength), _prompt(prompt, plain)
        looked = [ticket.result() for ticket in views.ask_next_tokens(bench.session, ways, asked)]
        view = views.next_tokens(ways, looked, max(1, min(count, _MOST_TOKENS)))
        return {
            "tokens": [{"token": t.token, "base": t.base, "edited": t.edited[0]} for t in view.tokens],
            "kl": view.kl[0],
            "prompt_tokens": view.length,
        }

    def generate(
        run: str, prompt: str, mask: str = "", strength: float = 1.0, new_tokens: int = 48, plain: bool = False
    ) -> dict:
        """Both answers, always the likeliest token: {"base", "edited"}."""
        ways, asked = _ways(bench, run, mask, strength), _prompt(prompt, plain)
        *_, written = views.write_answers(bench.session, ways, asked, new_tokens)
        return {"base": written.texts[0], "edited": written.texts[1]}

    def effects(run: str, prompt: str, answer: str, mask: str = "", strength: float = 1.0, plain: bool = False) -> dict:
        """What switching off each open edit takes from ln p(answer), in nats, all others staying on.

        {"effects": [{"site", "layer", "unit", "half", "effect"}], "base", "edited", "n", "seconds"}, the strongest
        first; "base" and "edited" are ln p(answer) without and with the edits.
        """
        ways, asked = _ways(bench, run, mask, strength), _prompt(prompt, plain)
        ticket = views.ask_edit_effects(bench.session, ways[0].stack, asked, answer, views.Progress())
        found = ticket.result()
        rows = [
            {"site": str(e.site), "layer": e.layer, "unit": e.unit, "half": e.half, "effect": float(effect)}
            for e, effect in zip(found.edits, found.effect, strict=True)
        ]
        rows.sort(key=lambda row: -abs(row["effect"]))
        return {
            "effects": rows,
            "base": float(found.base),
            "edited": float(found.edited),
            "n": found.n,
            "seconds": found.seconds,
        }

    endpoints: list[Callable[..., Any]] = [start, status, cancel, runs, gates, predict, generate, effects]
    for endpoint in endpoints:
        gr.api(_in_words(endpoint), api_name=endpoint.__name__, concurrency_limit=None)


def _ways(bench: Workbench, run: str, mask: str, strength: float) -> list[Column]:
    if not -2 <= strength <= 2:
        raise InputError(f"The strength is {strength:g}; it must be from -2 to 2.")
    return columns(bench, replace(open_run(bench, run, mask), strength=float(strength)))


def _prompt(text: str, plain: bool) -> Prompt:
    return prompt_of(PageState(), text, PLAIN if plain else CHAT)


def _numbers(rows: list[list[float]]) -> list[list[float | None]]:
    return [[None if value != value else round(value, 6) for value in row] for row in rows]


def _in_words(endpoint: Callable[Parameters, Answer]) -> Callable[Parameters, Answer]:
    """The endpoint with our errors as gradio's, which reach the client as they are."""

    @wraps(endpoint)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Answer:
        try:
            return endpoint(*args, **kwargs)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Superseded:
            raise gr.Error("The app is closing.", print_exception=False) from None

    return call
