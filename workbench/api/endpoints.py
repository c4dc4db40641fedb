"""The endpoints of a running app for programs, used through `gradio_client`; all other events of the page are private.

    from gradio_client import Client

    app = Client("http://127.0.0.1:7860")
    run = app.predict(task="sentiment", api_name="/start")["run"]
    app.predict(run, api_name="/status")

Every endpoint takes and returns plain JSON, see `workbench.api.schema`. An error is one sentence.
"""

import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

import gradio as gr

from jola.config import RunConfig
from jola.errors import InputError
from jola.methods import method_named
from jola.runs.summary import RunSummary
from jola.settings import MAX_NUMBER
from workbench.api.schema import Answers, Effects, Gates, Job, Prediction, RunStatus, SiteName
from workbench.service import views
from workbench.service.bench import Workbench
from workbench.service.calls import Superseded
from workbench.service.page_state import STRENGTH_LIMIT, Column, PageState, columns, open_run
from workbench.service.session import Prompt
from workbench.ui import form

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")

ENDPOINTS = ("start", "status", "cancel", "runs", "gates", "predict", "generate", "effects")
"""Names of all endpoints; each is called with ``api_name="/name"``."""
MODEL_ENDPOINTS = frozenset({"predict", "generate", "effects"})
"""Endpoints that need the model."""

_MOST_TOKENS = 50
_AT_ONCE = 8
"""Maximum number of concurrent calls of programs; each occupies one of the threads that also serve pages."""
_EDIT_NAMES = frozenset({"site", "layer", "unit", "half", "effect"})


@dataclass(frozen=True)
class Endpoints:
    """The endpoints; the docstring of each is its description in the API.

    List and dictionary defaults are shown in the API, and are never modified.
    """

    bench: Workbench

    def start(self, task: str = "sentiment", model: str = "default", settings: dict = {}) -> Job:  # noqa: B006
        """Start a training run, or put it in the queue.

        `settings` holds further settings by the names that `jola train --help` lists, with underscores, such as
        {"train_size": 200, "epochs": 8, "l0_weight": 0.002}.
        """
        if twice := {"task", "model"} & set(settings):
            raise InputError(f"Pass {' and '.join(sorted(twice))} as arguments of their own, not in settings.")
        run = self.bench.jobs.start(_config({**settings, "task": task, "model": model}))
        return {"run": run.id, "state": run.state}

    def status(self, run: str) -> RunStatus:
        """State and figures of a run."""
        found = self.bench.must_find(run)
        summary = found.summary()
        metrics = found.metrics()  # after the state, so that those of a finished run are complete
        return {
            **summary,
            "message": found.status()["message"],
            "before": self.bench.jobs.waiting.place(found.id),
            "metrics": metrics[-1] if metrics else None,
            "result": found.result(),
        }

    def cancel(self, run: str) -> Job:
        """Ask a run to stop at its next step and keep its best edits so far, or remove it from the queue."""
        found = self.bench.must_find(run)
        self.bench.jobs.cancel(found.id)
        return {"run": found.id, "state": found.state}

    def runs(self) -> list[RunSummary]:
        """All runs, newest first, one row each."""
        return self.bench.store.summaries()

    def gates(self, run: str, step: int = -1, site: SiteName = "heads") -> Gates:
        """Gates of a run at its last record up to `step`; -1 is the last record."""
        found = self.bench.must_find(run)
        _within("step", step, -1, MAX_NUMBER)
        if site not in (recorded := found.sites()):
            there = f"it has {', '.join(recorded)}" if recorded else "ask again after its first step"
            raise InputError(f"The run {run} has recorded no gates of the site {site}; {there}.")
        history = found.gates(site)
        if not len(history):
            raise InputError(f"The run {run} has recorded no gates yet; ask again after its first step.")
        if not history.has_gates:
            raise InputError(f"The run {run} has no gates: its method edits without them. Choose a run of JoLA.")
        fields = history.at(int(history.steps[-1]) if step < 0 else step)
        return {
            "site": site,
            "step": int(history.steps[-1]) if step < 0 else max(int(s) for s in history.steps if s <= step),
            "steps": history.steps.tolist(),
            "offset": _numbers(fields["offset_gate"].tolist()),
            "scale": _numbers(fields["scale_gate"].tolist()),
        }

    def predict(
        self,
        run: str,
        prompt: str,
        off: list[dict] = [],  # noqa: B006
        mask: str = "",
        strength: float = 1.0,
        count: int = 10,
        plain: bool = False,
    ) -> Prediction:
        """The most likely next tokens without and with the edits of a run.

        `off` lists edits to switch off: {"layer", "unit"}, with "half" and "site" to restrict them; rows of `effects`
        can be passed. `mask` is the text of a mask, as in the links that the Playground copies. `strength` is a factor
        on all edits, from -2 to 2. `plain` uses the prompt without a chat template.
        """
        _within("count", count, 1, _MOST_TOKENS)
        ways, asked = _ways(self.bench, run, off, mask, strength), Prompt.of(prompt, plain=plain)
        looked = [ticket.result() for ticket in views.ask_next_tokens(self.bench.session, ways, asked)]
        view = views.next_tokens(ways, looked, count)
        return {
            "tokens": [{"token": t.token, "base": t.base, "edited": t.edited[0]} for t in view.tokens],
            "kl": view.kl[0],
            "prompt_tokens": view.length,
        }

    def generate(
        self,
        run: str,
        prompt: str,
        off: list[dict] = [],  # noqa: B006
        mask: str = "",
        strength: float = 1.0,
        new_tokens: int = 48,
        plain: bool = False,
    ) -> Answers:
        """The answers without and with the edits of a run, decoded greedily.

        `off`, `mask`, `strength` and `plain` as for `predict`.
        """
        _within("new_tokens", new_tokens, 1, self.bench.settings.limits.new_tokens)
        ways, asked = _ways(self.bench, run, off, mask, strength), Prompt.of(prompt, plain=plain)
        *_, written = views.write_answers(self.bench.session, ways, asked, new_tokens)
        base, edited = written.texts
        return {"base": base or "", "edited": edited or ""}

    def effects(
        self,
        run: str,
        prompt: str,
        answer: str,
        off: list[dict] = [],  # noqa: B006
        mask: str = "",
        strength: float = 1.0,
        plain: bool = False,
        measure: views.MeasureName = "log_probability",
        wrong: str = "",
    ) -> Effects:
        """Effects of switching off each open edit while all others stay on: decreases of a measure, in nats.

        `measure` is `log_probability` of the answer, `logit_difference` between the answer and the answer `wrong`, or
        `kl`, the divergence of the next token from the one with all edits. `off`, `mask`, `strength` and `plain` as
        for `predict`.
        """
        ways, asked = _ways(self.bench, run, off, mask, strength), Prompt.of(prompt, plain=plain)
        if measure != "kl" and not answer.strip():
            raise InputError("The answer is empty; pass the answer whose probability is measured.")
        found = views.ask_edit_effects(
            self.bench.session,
            ways[0].stack,
            asked,
            answer.strip(),
            views.Progress(),
            measure=measure,
            wrong=[wrong.strip()] if wrong.strip() else [],
        ).result()
        rows: list[Any] = [
            {"site": str(e.site), "layer": e.layer, "unit": e.unit, "half": e.half, "effect": float(effect)}
            for e, effect in zip(found.edits, found.effect, strict=True)
        ]
        return {
            "effects": sorted(rows, key=lambda row: -abs(row["effect"])),
            "base": float(found.base),
            "edited": float(found.edited),
            "n": found.n,
            "seconds": found.seconds,
        }


def install(bench: Workbench) -> None:
    """Add the endpoints to the page that is being built."""
    endpoints = Endpoints(bench)
    for name in ENDPOINTS:
        endpoint = _in_words(_checked(getattr(endpoints, name)))
        group = "programs-model" if name in MODEL_ENDPOINTS else "programs"
        gr.api(endpoint, api_name=name, concurrency_limit=_AT_ONCE, concurrency_id=group)


# Reading the arguments


def _config(values: Mapping[str, Any]) -> RunConfig:
    """Build a checked configuration from settings by name. Raises `InputError`, which uses the same names."""
    method = method_named(values.get("method", RunConfig.method))
    groups: dict[str, Any] = {"method": method.name}
    known = {setting.name: setting.group for setting in form.settings(method.name)}
    for name, value in values.items():
        if name == "method":
            continue
        if name not in known:
            raise InputError(f"There is no setting {name[:80]!r}; `jola train --help` lists them.")
        groups.setdefault(known[name], {})[name] = value
    try:
        return RunConfig.from_dict(groups)
    except InputError as error:
        raise InputError(re.sub(r"--[a-z0-9-]+", lambda f: f[0][2:].replace("-", "_"), str(error))) from error


def _ways(bench: Workbench, run: str, off: Sequence[Any], mask: str, strength: float) -> list[Column]:
    _within("strength", strength, -STRENGTH_LIMIT, STRENGTH_LIMIT)
    bench.must_find(run)
    state = open_run(bench, run, mask)
    for edit in off:
        state = _switched_off(bench, state, edit)
    return columns(bench, replace(state, strength=float(strength)))


def _switched_off(bench: Workbench, state: PageState, edit: Any) -> PageState:
    """Return the state with one more edit switched off. Raises `InputError` if the edit does not exist."""
    if not isinstance(edit, dict) or not {"layer", "unit"} <= set(edit) <= _EDIT_NAMES:
        raise InputError(
            f"off contains {str(edit)[:80]}; write {{'layer': 3, 'unit': 0}}, with 'half' and 'site' where needed."
        )
    site, half = edit.get("site", state.site), edit.get("half", "both")
    if not isinstance(site, str) or site not in state.histories:
        raise InputError(f"The run edits no site {str(site)[:80]!r}; it has {', '.join(state.histories)}.")
    mask = state.histories[site].mask
    if half not in (*mask.channels, "both"):
        channels = ", ".join(map(repr, mask.channels))
        raise InputError(f"half is {str(half)[:80]!r}; it must be {channels} or 'both'.")
    for name, value, size in (("layer", edit["layer"], mask.layers), ("unit", edit["unit"], mask.units)):
        if type(value) is not int:
            raise InputError(f"{name} is {str(value)[:80]!r}; it must be a whole number.")
        _within(name, value, 0, size - 1)
    history = state.histories[site].done(mask.switched([(edit["layer"], edit["unit"])], half, False))
    return replace(state, histories={**state.histories, site: history})


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        bounds = f"at least {low:g}" if high == MAX_NUMBER else f"from {low:g} to {high:g}"
        raise InputError(f"{name} is {'too large' if abs(value) > MAX_NUMBER else value}; it must be {bounds}.")


def _numbers(rows: list[list[float]]) -> list[list[float | None]]:
    return [[None if value != value else round(value, 6) for value in row] for row in rows]


# Wrappers of all endpoints


_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a text"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    dict: ((dict,), "an object of names and values"),
    list: ((list,), "a list"),
}


def _checked(endpoint: Callable[Parameters, Answer]) -> Callable[Parameters, Answer]:
    """Wrap an endpoint to refuse values of other types than it declares, because a client can send any JSON."""
    signature, hints = inspect.signature(endpoint), typing.get_type_hints(endpoint)

    @wraps(endpoint)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Answer:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            origin = typing.get_origin(hints[name])
            if origin is Literal:
                if value not in (choices := typing.get_args(hints[name])):
                    raise InputError(f"{name} is {str(value)[:80]!r}; it must be {' or '.join(map(repr, choices))}.")
                continue
            types, words = _KINDS[origin or hints[name]]
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise InputError(f"{name} is {str(value)[:80]!r}; it must be {words}.")
        return endpoint(*args, **kwargs)

    return call


def _in_words(endpoint: Callable[Parameters, Answer]) -> Callable[Parameters, Answer]:
    """Wrap an endpoint to raise our errors as `gr.Error`, whose text reaches the client unchanged."""

    @wraps(endpoint)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Answer:
        try:
            return endpoint(*args, **kwargs)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Superseded:
            message = "The app is shutting down; try again after it has restarted."
            raise gr.Error(message, print_exception=False) from None

    return call
