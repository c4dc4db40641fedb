"""What a page shows after it has opened another run or another site, or was changed in two places."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from jola.config import EditConfig
from jola.edits.masks import HeadMask
from jola.errors import InputError
from jola.runs.run import Run
from tests.workbench.edited import edited_run
from workbench.playground.edits_events import EditsEvents
from workbench.playground.edits_panel import run_updates
from workbench.playground.effects_panel import EffectsEvents
from workbench.playground.head_panel import followed, with_strength
from workbench.playground.pages import Pages
from workbench.playground.wiring import CHAT, Wiring
from workbench.service.bench import Workbench
from workbench.service.page_state import PageState, open_run
from workbench.service.session import Desk, Use

REQUEST: Any = SimpleNamespace(session_hash="page")
UNUSED: Any = None
CELL = (0, 1)


@pytest.fixture
def wiring(bench: Workbench) -> Wiring:
    with gr.Blocks(analytics_enabled=False):
        prompt, kind, answers = gr.Textbox(), gr.Radio([CHAT]), gr.Textbox()
        return Wiring(bench, Pages(), prompt, kind, answers, gr.HTML(), gr.Checkbox())


def opened(wiring: Wiring, id: str) -> PageState:
    return wiring.pages.change("page", lambda _: open_run(wiring.bench, id))


@pytest.mark.parametrize("other", ["two", "one"])
def test_effects_are_only_shown_for_the_run_they_were_measured_on(
    wiring: Wiring, run: Run, tiny_folder: Path, other: str
) -> None:
    edited_run(wiring.bench.store.root / "two", tiny_folder, seed=2)
    opened(wiring, run.id)
    begun, door = threading.Event(), threading.Event()

    def work(desk: Desk) -> None:
        begun.set()
        door.wait(300)

    busy = wiring.bench.session.ask([Use(run)], work)
    assert begun.wait(300)
    events = EffectsEvents(wiring, UNUSED, UNUSED, UNUSED)
    measured: Iterator[Any] = events.on_effects("A film", CHAT, "", "good", "", "log_probability", False, REQUEST)
    next(measured)
    opened(wiring, other)
    door.set()
    shown = [value for values in measured for value in values]
    busy.result()
    is_same = other == run.id
    assert any("<table" in str(value) for value in shown) == is_same
    assert (wiring.pages.get("page").effects is not None) == is_same


def test_results_for_a_run_go_when_another_one_is_opened(wiring: Wiring, run: Run) -> None:
    state = opened(wiring, run.id)
    wiring.empty.update({"table": "", "tools": None})
    assert run_updates(wiring, state, "")[-2:] == ("", None)
    assert run_updates(wiring, state, "", opened=False)[-2:] == (gr.skip(), gr.skip())


def test_a_slider_of_the_card_leaves_the_other_half_alone(bench: Workbench, run: Run) -> None:
    state = replace(open_run(bench, run.id), cell=CELL)
    state = state.with_mask(state.mask.switched([CELL], "offset", False))  # on the map, after the card was opened
    assert followed(state) == [0.0, 1.0]
    moved = with_strength(state, 1, 0.5)
    assert [float(factors[CELL]) for factors in moved.mask.factors.values()] == [0.0, 0.5]
    assert followed(moved) == [gr.skip(), gr.skip()], "the slider may still be moving"
    assert followed(moved.with_history(moved.history.undone())) == [0.0, 1.0]


def test_the_card_of_another_site_changes_nothing(wiring: Wiring, tiny_folder: Path) -> None:
    edited_run(wiring.bench.store.root / "both", tiny_folder, edits=EditConfig(sites="both"))
    opened(wiring, "both")
    wiring.pages.change("page", lambda state: replace(state, cell=(0, 0)))
    EditsEvents(wiring, UNUSED, UNUSED, lambda id: "").on_site("mlp", REQUEST)
    state = wiring.pages.get("page")
    assert state.site == "mlp"
    with pytest.raises(InputError, match="Open the card"):
        with_strength(state, 0, 0.5)
    assert state.mask == HeadMask.all(*state.mask.shape, state.mask.channels)


def test_a_page_without_a_run_has_nothing_to_show_again(wiring: Wiring, run: Run) -> None:
    panel: Any = SimpleNamespace(run_outputs=lambda _: [object()] * 13)
    events = EditsEvents(wiring, panel, UNUSED, lambda id: f"About {id}.")
    wiring.pages.change("page", lambda _: PageState())
    assert list(events.on_differs("A film", CHAT, "", REQUEST)) == [(gr.skip(),) * 18]
    state = opened(wiring, run.id)
    first = next(events.on_differs("A film", CHAT, "", REQUEST))
    assert len(first) == 18 and first[2] == f"About {run.id}."
    assert first[8].value["key"] == state.key and first[8].value["revision"] > state.revision
