"""A page with only the map of edits, and the events that it sends to Python."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np

from jola.edits.masks import HeadMask, History
from jola.edits.names import HALVES
from tests.browser.conftest import PATIENCE, App, wait_for
from workbench.playground.edit_map import apply_edits, card_cell, edit_map, edit_map_mask, edit_map_value

KEY = "run/heads"


def gates(layers: int, units: int, seed: int = 3) -> dict[str, np.ndarray]:
    """Return gates as after training: many are closed, the open ones have various values. Layer 0 is closed."""
    rng = np.random.default_rng(seed)
    fields = {}
    for half, share in (("offset", 0.55), ("scale", 0.3)):
        gate = np.where(rng.random((layers, units)) < share, np.clip(rng.beta(2, 1, (layers, units)) + 0.05, 0, 1), 0)
        gate[0] = 0
        fields |= {f"{half}_gate": gate, f"{half}_norm": rng.gamma(2, 0.1, (layers, units))}
    return fields


def effects(fields: dict[str, np.ndarray], seed: int = 5) -> Any:
    """Return an effect of each open edit, with its interval."""
    rng = np.random.default_rng(seed)
    edits = [
        SimpleNamespace(site="heads", layer=int(layer), unit=int(unit), half=half)
        for half in HALVES
        for layer, unit in np.argwhere(fields[f"{half}_gate"] > 0)
    ]
    effect = rng.normal(0, 0.3, len(edits))
    return SimpleNamespace(edits=edits, effect=effect, low=effect - 0.1, high=effect + 0.1, n=20, measure="")


@dataclass
class Demo:
    """A page with a map, and the events that Python received from it."""

    fields: dict[str, np.ndarray]
    effects: Any = None
    start: HeadMask | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    """Payloads in order of arrival: requests can overtake each other."""
    cards: list[tuple[int, int]] = field(default_factory=list)
    mask: HeadMask | None = None
    seconds: float = 0.0
    lose: int = 0
    """Number of edits to ignore, as if their answers were lost."""
    answering: threading.Event = field(default_factory=threading.Event)
    """If cleared, edits wait for their answer."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.answering.set()

    @property
    def shape(self) -> tuple[int, int]:
        layers, units = self.fields["offset_gate"].shape
        return layers, units

    @property
    def made(self) -> list[dict[str, Any]]:
        """The events in the order in which their gestures were made."""
        return sorted(self.events, key=lambda event: event["gesture"])

    def all_arrived(self) -> bool:
        """Whether every gesture that an event has with it also arrived as an event of its own."""
        events = list(self.events)
        brought = {gesture["gesture"] for event in events for gesture in event["earlier"]}
        return brought <= {event["gesture"] for event in events}

    def open(self, half: str, layer: int, unit: int) -> bool:
        return bool(self.fields[f"{half}_gate"][layer, unit] > 0)

    def cells(self, half: str, *, open: bool = True) -> list[tuple[int, int]]:
        return [(int(a), int(b)) for a, b in np.argwhere((self.fields[f"{half}_gate"] > 0) == open)]

    def build(self) -> gr.Blocks:
        start = self.start or HeadMask.all(*self.shape)
        self.mask = start
        with gr.Blocks() as page:
            state = gr.State((History(start), 0))
            shown = edit_map(None)
            none = gr.Button("None", elem_id="none")
            other = gr.Button("Other edits", elem_id="other")

            def on_edit(held: tuple[History, int], event: gr.EventData) -> Any:
                payload = event._data
                with self.lock:
                    self.events.append(payload)
                    lost = self.lose > 0
                    self.lose -= lost
                if lost:
                    return held, gr.skip()
                time.sleep(self.seconds)
                self.answering.wait(PATIENCE / 1000)
                history, seen = held
                mask, seen = apply_edits(history.mask, payload, seen)
                return self.answer(history.done(mask), seen)

            def on_card(event: gr.EventData) -> None:
                layer, unit = card_cell(event._data, *self.shape)
                self.cards.append((layer, unit))

            def on_none(held: tuple[History, int]) -> Any:
                return self.answer(held[0].done(HeadMask.none(*self.shape)), held[1])

            def on_load(held: tuple[History, int]) -> Any:
                return edit_map_value(self.fields, held[0].mask, key=KEY, effects=self.effects)

            quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "multiple"}
            shown.edit(on_edit, state, [state, shown], concurrency_limit=1, concurrency_id="mask", **quiet)
            shown.card(on_card, None, None, **quiet)
            shown.undo(lambda held: self.answer(held[0].undone(), held[1]), state, [state, shown], **quiet)
            shown.redo(lambda held: self.answer(held[0].redone(), held[1]), state, [state, shown], **quiet)
            none.click(on_none, state, [state, shown], **quiet)
            other.click(lambda: edit_map_value(gates(5, 3), HeadMask.none(5, 3), key="other"), None, shown, **quiet)
            page.load(on_load, state, shown, **quiet).then(
                None, None, None, js="() => { document.documentElement.dataset.ready = '1'; }"
            )
        return page

    def answer(self, history: History, seen: int) -> Any:
        self.mask = history.mask
        return (history, seen), gr.HTML(mask=edit_map_mask(history.mask, key=KEY, seen=seen))


@dataclass
class Shown:
    """A page that shows a demo, with actions and queries of tests."""

    demo: Demo
    page: Any

    def map(self, expression: str, *arguments: Any) -> Any:
        """Return the value of an expression in ``map``, the widget, and ``args``."""
        find = "document.querySelector('.em').parentElement.editMap"
        return self.page.evaluate(f"(args) => {{ const map = {find}; return {expression}; }}", list(arguments))

    def place(self, half: str, layer: int, unit: int | None) -> tuple[float, float]:
        if unit is None:
            x, y = self.map("map.layerPosition(...args)", half, layer)
        else:
            x, y = self.map("map.position(...args)", half, layer, unit)
        return x, y

    def click(self, half: str, layer: int, unit: int | None, *modifiers: str, count: int = 1) -> None:
        for key in modifiers:
            self.page.keyboard.down(key)
        self.page.mouse.click(*self.place(half, layer, unit), click_count=count)
        for key in modifiers:
            self.page.keyboard.up(key)

    def drag(self, half: str, start: tuple[int, int], end: tuple[int, int]) -> None:
        self.page.mouse.move(*self.place(half, *start))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(half, *end), steps=4)
        self.page.mouse.up()

    def settle(self, **facts: Any) -> None:
        """Wait until every gesture has its answer, the map shows ``facts``, and no request is under way.

        A request also has the gestures of requests that it overtook, so these can be answered before they arrive.
        """
        wanted = "".join(f'[data-{name}="{value}"]' for name, value in {"pending": 0, **facts}.items())
        self.page.wait_for_selector(f".em{wanted}", state="attached")
        self.wait(self.demo.all_arrived)

    def wait(self, done: Callable[[], Any]) -> None:
        """Wait until ``done()`` is true in Python."""
        wait_for(self.page, done)

    def said(self) -> str:
        text = self.page.inner_text(".gm-say")
        assert isinstance(text, str)
        return text

    def colour(self, half: str, layer: int, unit: int, across: float = 0.5, down: float = 0.5) -> list[int]:
        """Return red, green and blue at a position in a cell, from the canvas itself."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        box = self.map("map.cell(...args)", half, layer, unit)
        x, y = box["x"] + across * (box["width"] - 1), box["y"] + down * (box["height"] - 1)
        pixel = "Array.from(map.context.getImageData(...args.map(at => Math.round(at * devicePixelRatio)), 1, 1).data)"
        found = self.map(pixel, x, y)
        return list(found[:3])


Serve = Callable[[Demo], App]
Show = Callable[..., Shown]


def gesture(event: dict[str, Any]) -> tuple[str, list[list[int]], str]:
    return event["half"], event["cells"], event["action"]
