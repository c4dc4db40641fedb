"""The map on which edits are switched, in a page of its own: gestures, their order, the table, and what is drawn."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest

from jola.edits.masks import HeadMask, History
from jola.edits.names import HALVES
from tests.browser.conftest import PATIENCE, App, OpenPage
from workbench.playground import edit_map as component
from workbench.playground.edit_map import apply_edits, card_cell, edit_map, edit_map_mask, edit_map_value
from workbench.theme import STYLE, theme

KEY = "run/heads"


def gates(layers: int, units: int, seed: int = 3) -> dict[str, np.ndarray]:
    """Gates as after training: most of them closed, the open ones of all sizes. Layer 0 is closed."""
    rng = np.random.default_rng(seed)
    fields = {}
    for half, share in (("offset", 0.55), ("scale", 0.3)):
        gate = np.where(rng.random((layers, units)) < share, np.clip(rng.beta(2, 1, (layers, units)) + 0.05, 0, 1), 0)
        gate[0] = 0
        fields |= {f"{half}_gate": gate, f"{half}_norm": rng.gamma(2, 0.1, (layers, units))}
    return fields


def effects(fields: dict[str, np.ndarray], seed: int = 5) -> Any:
    """An effect of each open edit, with its interval."""
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
    """A page with a map, and what reached Python from it."""

    fields: dict[str, np.ndarray]
    effects: Any = None
    start: HeadMask | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    """Payloads as they came: requests can overtake each other on their way."""
    cards: list[tuple[int, int]] = field(default_factory=list)
    mask: HeadMask | None = None
    seconds: float = 0.0
    lose: int = 0
    """So many edits arrive without being done, as if their answers were lost."""
    answering: threading.Event = field(default_factory=threading.Event)
    """Cleared: edits arrive and wait for their answer."""
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


Serve = Callable[[Demo], App]


@pytest.fixture
def serve_demo(tmp_path: Path) -> Iterator[Serve]:
    pages = []

    def make(demo: Demo) -> App:
        page = demo.build()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        _, address, _ = page.launch(
            server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, ssr_mode=False,
            footer_links=[], run_history=False, theme=theme(), head=f"<style>{STYLE}{component.STYLE}</style>",
        )  # fmt: skip
        pages.append(page)
        return App(address.rstrip("/"), tmp_path)

    yield make
    for page in pages:
        page.close(verbose=False)


@dataclass
class Shown:
    """A page that shows a demo, with what tests ask of it."""

    demo: Demo
    page: Any

    def map(self, expression: str, *arguments: Any) -> Any:
        """The value of an expression in ``map``, the widget, and ``args``."""
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
        """Wait until every gesture has its answer, and the map says this of itself."""
        wanted = "".join(f'[data-{name}="{value}"]' for name, value in {"pending": 0, **facts}.items())
        self.page.wait_for_selector(f".em{wanted}", state="attached")

    def wait(self, done: Callable[[], Any]) -> None:
        """Wait until something has happened in Python."""
        end = time.monotonic() + PATIENCE / 1000
        while not done():
            assert time.monotonic() < end
            self.page.wait_for_timeout(20)

    def said(self) -> str:
        text = self.page.inner_text(".gm-say")
        assert isinstance(text, str)
        return text

    def colour(self, half: str, layer: int, unit: int, across: float = 0.5, down: float = 0.5) -> list[int]:
        """Red, green and blue at a place in a cell, from the canvas itself."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        box = self.map("map.cell(...args)", half, layer, unit)
        x, y = box["x"] + across * (box["width"] - 1), box["y"] + down * (box["height"] - 1)
        pixel = "Array.from(map.context.getImageData(...args.map(at => Math.round(at * devicePixelRatio)), 1, 1).data)"
        found = self.map(pixel, x, y)
        return list(found[:3])


Show = Callable[..., Shown]


@pytest.fixture
def show(serve_demo: Serve, open_page: OpenPage) -> Show:
    def make(demo: Demo | None = None, **options: Any) -> Shown:
        demo = demo or Demo(gates(8, 6))
        page = open_page(serve_demo(demo), **options)
        shown = Shown(demo, page)
        page.wait_for_selector(".em[data-open]", state="attached")
        return shown

    return make


def gesture(event: dict[str, Any]) -> tuple[str, list[list[int]], str]:
    return event["half"], event["cells"], event["action"]


def test_a_click_switches_one_half_of_a_head(show: Show) -> None:
    shown = show()
    layer, unit = shown.demo.cells("offset")[3]
    bright = shown.colour("offset", layer, unit, 0.2, 0.5)
    shown.click("offset", layer, unit)
    shown.settle()
    assert [gesture(event) for event in shown.demo.made] == [("offset", [[layer, unit]], "off")]
    assert shown.demo.made[0]["key"] == KEY
    assert shown.demo.mask == HeadMask.all(8, 6).toggled([(layer, unit)], "offset")
    total = len(shown.demo.cells("offset")) + len(shown.demo.cells("scale"))
    assert shown.page.get_attribute(".em", "data-on") == str(total - 1)
    shown.page.mouse.move(2, 2)
    assert sum(shown.colour("offset", layer, unit)) < 160, "the middle of a cross is dark"
    assert shown.colour("offset", layer, unit, 0.2, 0.5) != bright
    shown.click("offset", layer, unit)
    shown.settle(on=total)
    assert gesture(shown.demo.made[1]) == ("offset", [[layer, unit]], "on")
    shown.page.mouse.move(2, 2)
    assert shown.colour("offset", layer, unit, 0.2, 0.5) == bright


def test_a_closed_gate_is_not_switched(show: Show) -> None:
    shown = show()
    layer, unit = shown.demo.cells("offset", open=False)[0]
    assert shown.colour("offset", layer, unit) == [0, 34, 78]
    shown.click("offset", layer, unit)
    assert "closed" in shown.said()
    shown.click("offset", 0, None)
    open_cell = shown.demo.cells("scale")[0]
    shown.click("scale", *open_cell)
    shown.settle()
    assert [event["half"] for event in shown.demo.made] == ["scale"]


def test_shift_and_click_switches_both_halves(show: Show) -> None:
    shown = show()
    layer, unit = next(cell for cell in shown.demo.cells("offset") if shown.demo.open("scale", *cell))
    shown.click("scale", layer, unit, "Shift")
    shown.settle()
    assert gesture(shown.demo.made[0]) == ("both", [[layer, unit]], "off")
    assert shown.demo.mask == HeadMask.all(8, 6).toggled([(layer, unit)])


def test_dragging_switches_a_region(show: Show) -> None:
    shown = show()
    first, last = (6, 4), (2, 1)
    shown.drag("offset", first, last)
    shown.settle()
    inside = [[a, b] for a, b in shown.demo.cells("offset") if 2 <= a <= 6 and 1 <= b <= 4]
    assert [gesture(event) for event in shown.demo.made] == [("offset", inside, "off")]
    # One cell on again: a drag that begins in it switches off, one that begins elsewhere switches on.
    one, other = inside[0], inside[-1]
    shown.click("offset", *one)
    shown.drag("offset", (one[0], one[1]), (other[0], other[1]))
    shown.click("offset", *one)
    shown.drag("offset", (other[0], other[1]), (one[0], one[1]))
    shown.settle()
    assert [event["action"] for event in shown.demo.made] == ["off", "on", "off", "on", "on"]


def test_escape_gives_a_drag_up(show: Show) -> None:
    shown = show()
    shown.page.mouse.move(*shown.place("offset", 2, 1))
    shown.page.mouse.down()
    shown.page.mouse.move(*shown.place("offset", 5, 4), steps=3)
    assert "Layers 2–5, heads 1–4" in shown.page.inner_text(".gm-readout")
    shown.page.keyboard.press("Escape")
    shown.page.mouse.up()
    shown.click("offset", *shown.demo.cells("offset")[0])
    shown.settle()
    assert len(shown.demo.events) == 1


def test_a_number_switches_its_layer(show: Show) -> None:
    shown = show()
    shown.click("scale", 3, None)
    shown.settle()
    assert gesture(shown.demo.made[0]) == ("scale", [[a, b] for a, b in shown.demo.cells("scale") if a == 3], "off")
    shown.click("offset", 3, None, "Shift")
    shown.settle()
    half, cells, action = gesture(shown.demo.made[1])
    both = {tuple(cell) for name in HALVES for cell in shown.demo.cells(name) if cell[0] == 3}
    assert (half, action) == ("both", "off") and {(a, b) for a, b in cells} == both
    shown.click("offset", 3, None, "Shift")
    shown.settle()
    assert shown.demo.made[2]["action"] == "on"
    shown.page.mouse.move(*shown.place("offset", 3, None))
    count = sum(a == 3 for a, _ in shown.demo.cells("offset"))
    assert shown.page.inner_text(".gm-readout") == f"Layer 3, offset: {count} of {count} edits on"


def test_everything_is_done_by_keys(show: Show) -> None:
    shown = show()
    layer, unit = next(cell for cell in shown.demo.cells("offset") if shown.demo.open("scale", *cell) and cell[1] < 4)
    press = shown.page.keyboard.press
    shown.page.focus(".gm-canvas")
    for key in [*["ArrowDown"] * layer, *["ArrowRight"] * unit]:
        press(key)
    assert shown.said().startswith(f"Offset. Layer {layer}, head {unit}, offset, gate ")
    press(" ")
    press("s")
    assert shown.said().startswith(f"Scale. Layer {layer}, head {unit}, scale, gate ")
    press("Space")
    press("b")
    press("Enter")
    press("o")
    press("Shift+ArrowDown")
    press("Shift+ArrowRight")
    assert f"Layers {layer}–{layer + 1}, heads {unit}–{unit + 1}" in shown.said()
    press("Enter")
    press("Escape")
    press("l")
    press("i")
    shown.settle()
    found = [gesture(event) for event in shown.demo.made]
    head = [[layer, unit]]
    region = [[a, b] for a, b in shown.demo.cells("offset") if a - layer in (0, 1) and b - unit in (0, 1)]
    row = [[a, b] for a, b in shown.demo.cells("offset") if a == layer + 1]
    assert found[:4] == [
        ("offset", head, "off"),
        ("scale", head, "off"),
        ("both", head, "on"),
        ("offset", region, "off"),
    ]
    assert found[4][:2] == ("offset", row)
    shown.wait(lambda: shown.demo.cards)
    assert shown.demo.cards == [(layer + 1, unit + 1)]


def test_moving_stays_inside_the_map(show: Show) -> None:
    shown = show()
    shown.page.focus(".gm-canvas")
    for key in ("ArrowUp", "ArrowLeft", "End", "ArrowRight", "PageDown", "PageDown", "ArrowDown"):
        shown.page.keyboard.press(key)
    assert "Layer 7, head 5" in shown.said()
    shown.page.keyboard.press("Home")
    shown.page.keyboard.press("m")
    assert shown.said().startswith("Scale. Layer 7, head 0")


def test_a_head_is_opened(show: Show) -> None:
    shown = show()
    layer, unit = shown.demo.cells("scale")[2]
    shown.click("scale", layer, unit, "Alt")
    closed = shown.demo.cells("offset", open=False)[4]
    shown.page.mouse.dblclick(*shown.place("offset", *closed))
    shown.page.click(".em-table summary")
    shown.page.get_by_role("button", name="Layer 1, head", exact=False).first.click()
    shown.wait(lambda: len(shown.demo.cards) == 3)
    assert shown.demo.cards[:2] == [(layer, unit), closed] and shown.demo.cards[2][0] == 1
    assert shown.demo.mask == HeadMask.all(8, 6)


def test_quick_gestures_all_count_in_their_order(show: Show) -> None:
    demo = Demo(gates(8, 6), seconds=0.15)
    shown = show(demo)
    cells = demo.cells("offset")[:7]
    clicks = [*cells, cells[0], cells[3], cells[0], *cells[4:6]]
    for cell in clicks:
        shown.click("offset", *cell)
    wanted = HeadMask.all(8, 6)
    for cell in clicks:
        wanted = wanted.toggled([cell], "offset")
    total = len(demo.cells("offset")) + len(demo.cells("scale"))
    shown.settle(on=total - sum(not on for on in wanted.on["offset"].ravel()))
    assert demo.mask == wanted
    assert [event["cells"] for event in demo.made] == [[list(cell)] for cell in clicks]
    assert len({event["gesture"] for event in demo.events}) == len(clicks)


def test_the_mark_does_not_wait_for_the_answer(show: Show) -> None:
    demo = Demo(gates(8, 6))
    demo.answering.clear()
    shown = show(demo)
    layer, unit = demo.cells("scale")[1]
    before = int(shown.page.get_attribute(".em", "data-on"))
    shown.click("scale", layer, unit)
    shown.page.wait_for_selector(f'.em[data-pending="1"][data-on="{before - 1}"]', state="attached")
    assert shown.map("map.isOn(1, args[0])", {"layer": layer, "unit": unit}) is False
    assert demo.mask == HeadMask.all(8, 6), "Python has not answered yet"
    demo.answering.set()
    shown.settle(on=before - 1)
    assert demo.mask == HeadMask.all(8, 6).toggled([(layer, unit)], "scale")


def test_a_lost_request_loses_nothing(show: Show) -> None:
    demo = Demo(gates(8, 6), lose=1)
    shown = show(demo)
    one, other = demo.cells("offset")[:2]
    shown.click("offset", *one)
    shown.click("offset", *other)
    shown.settle()
    assert demo.mask == HeadMask.all(8, 6).toggled([one, other], "offset")
    # Without another gesture it is told again by itself.
    demo.lose = 1
    shown.map("map.patience = 300")
    shown.click("offset", *one)
    shown.settle()
    assert demo.mask == HeadMask.all(8, 6).toggled([other], "offset")
    assert [event["cells"] for event in demo.made[-2:]] == [[list(one)]] * 2


def test_without_any_answer_the_map_goes_back(show: Show) -> None:
    demo = Demo(gates(8, 6), lose=10)
    shown = show(demo)
    before = shown.page.get_attribute(".em", "data-on")
    shown.map("map.patience = 150")
    shown.click("offset", *demo.cells("offset")[0])
    shown.page.wait_for_function("() => document.querySelector('.gm-say').textContent.includes('did not answer')")
    shown.settle(on=before)
    shown.wait(lambda: len(demo.events) == 4)  # also those that were under way when the page gave up


def test_the_answer_has_the_last_word(show: Show) -> None:
    shown = show()
    total = shown.page.get_attribute(".em", "data-open")
    shown.click("offset", *shown.demo.cells("offset")[0])
    shown.settle()
    shown.page.click("#none")
    shown.settle(on=0)
    shown.page.focus(".gm-canvas")
    shown.page.keyboard.press("Control+z")
    shown.settle(on=int(total) - 1)
    shown.page.keyboard.press("Control+z")
    shown.settle(on=total)
    shown.page.keyboard.press("Control+Shift+z")
    shown.page.keyboard.press("Control+y")
    shown.settle(on=0)


def test_other_edits_take_the_place_of_these(show: Show) -> None:
    demo = Demo(gates(8, 6), lose=100)
    shown = show(demo)
    shown.click("offset", *demo.cells("offset")[-1])
    shown.page.click("#other")
    shown.settle(key="other", on=0)
    assert shown.map("[map.frame.layers, map.frame.units, map.cursor.layer]") == [5, 3, 0]
    (layer, unit), *_ = Demo(gates(5, 3)).cells("offset")
    shown.click("offset", layer, unit)
    shown.page.wait_for_selector('.em[data-pending="1"]', state="attached")
    shown.wait(lambda: len(demo.events) == 2)
    assert demo.made[1]["key"] == "other" and demo.made[1]["earlier"] == []


def test_pointing_at_a_cell_reads_it(show: Show) -> None:
    fields = gates(8, 6)
    layer, unit = next((int(a), int(b)) for a, b in np.argwhere(fields["scale_gate"] > 0))
    measured = effects(fields)
    start = HeadMask.all(8, 6).with_strength([(layer, unit)], "scale", -1.5)
    shown = show(Demo(fields, measured, start))
    shown.page.mouse.move(*shown.place("scale", layer, unit))
    shown.page.wait_for_function("() => !document.querySelector('.gm-tip').hidden")
    read = shown.page.inner_text(".gm-readout")
    assert read.startswith(f"Layer {layer}, head {unit}, scale, gate {fields['scale_gate'][layer, unit]:.2f}, norm 0.")
    place = [(edit.half, edit.layer, edit.unit) for edit in measured.edits].index(("scale", layer, unit))
    assert ", on, strength −1.5, effect " in read and read.endswith(", n = 20)")
    effect = read.split("effect ")[1].split(" nats")[0].replace("−", "-")
    assert float(effect) == pytest.approx(measured.effect[place], rel=0.06, abs=0.006)
    assert read == shown.page.inner_text(".gm-tip").replace("\n", ", ")
    shown.page.mouse.move(*shown.place("offset", 0, 0))
    assert shown.page.inner_text(".gm-readout") == "Layer 0, head 0, offset, gate closed, nothing to switch"


def test_colour_means_what_is_chosen(show: Show) -> None:
    fields = gates(8, 6)
    shown = show(Demo(fields, effects(fields)))
    layer, unit = shown.demo.cells("offset")[0]
    seen = [shown.colour("offset", layer, unit, 0.2)]
    for name in ("Norm", "Effect"):
        shown.page.get_by_label(name).check(force=True)
        seen.append(shown.colour("offset", layer, unit, 0.2))
    assert len({tuple(colour) for colour in seen}) == 3
    assert "nats" in shown.page.inner_text(".gm-legend")
    without = show(Demo(fields))
    assert not without.page.get_by_label("Effect").is_visible()


def test_the_table_does_the_same(show: Show) -> None:
    shown = show()
    assert shown.page.locator(".em-rows input").count() == 0, "filled when it is opened"
    shown.page.click(".em-table summary")
    boxes = shown.page.locator(".em-rows input")
    total = len(shown.demo.cells("offset")) + len(shown.demo.cells("scale"))
    shown.page.wait_for_function("n => document.querySelectorAll('.em-rows input:checked').length === n", arg=total)
    assert boxes.count() == total
    layer, unit = shown.demo.cells("scale")[-1]
    box = shown.page.get_by_role("checkbox", name=f"Layer {layer}, head {unit}, scale")
    box.focus()
    shown.page.keyboard.press("Space")
    shown.settle(on=total - 1)
    assert gesture(shown.demo.made[0]) == ("scale", [[layer, unit]], "off")
    assert box.evaluate("box => box === document.activeElement && !box.checked")
    assert box.evaluate("box => box.closest('td').nextSibling.textContent") == "off"
    box.check()
    shown.settle(on=total)
    shown.page.click("#none")
    shown.settle(on=0)
    assert shown.page.locator(".em-rows input:checked").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_map_follows_the_colour_scheme(show: Show, scheme: str) -> None:
    shown = show(color_scheme=scheme)

    def ink() -> float:
        return float(
            shown.map(
                "(data => data.reduce((sum, value, index) => index % 4 === 3 || !data[index - index % 4 + 3] ? sum : "
                "sum + value, 0) / data.filter((value, index) => index % 4 === 3 && value).length / 3)"
                "(map.context.getImageData(0, 0, 150 * devicePixelRatio, 22 * devicePixelRatio).data)"
            )
        )

    shown.colour("offset", 0, 0)
    title = ink()
    assert title > 128 if scheme == "dark" else title < 128
    shown.page.evaluate("() => document.body.classList.toggle('dark')")
    shown.colour("offset", 0, 0)
    assert ink() < 128 if scheme == "dark" else ink() > 128


def test_a_large_map_is_drawn_with_fewer_calls_than_cells_and_fits(show: Show) -> None:
    demo = Demo(gates(80, 64), start=HeadMask.none(80, 64))
    shown = show(demo, viewport={"width": 1024, "height": 768}, device_scale_factor=2)
    calls = shown.map(
        """(() => {
          const kind = CanvasRenderingContext2D.prototype;
          const methods = Object.entries(Object.getOwnPropertyDescriptors(kind)).filter(([, { value }]) => value?.call);
          let calls = 0;
          for (const [name, { value }] of methods) {
            kind[name] = function (...given) { calls++; return value.apply(this, given); };
          }
          map.refresh();
          map.draw();
          for (const [name, { value }] of methods) kind[name] = value;
          return calls;
        })()"""
    )
    # Cells come as one picture, and marks where an edit is open.
    assert 0 < calls < 2 * 80 * 64
    assert shown.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert shown.map("map.canvas.width / map.canvas.clientWidth") == pytest.approx(2, abs=0.01)
    layer, unit = demo.cells("scale")[-1]
    shown.click("scale", layer, unit)
    shown.settle(on=1)
    assert gesture(demo.made[0]) == ("scale", [[layer, unit]], "on")
    shown.page.set_viewport_size({"width": 1440, "height": 900})
    shown.colour("offset", 0, 0)
    shown.click("scale", layer, unit)
    shown.settle(on=0)
    shown.page.click(".em-table summary")
    more = shown.page.locator(".em-more")
    more.wait_for()
    rows = shown.page.locator(".em-rows tbody tr").count()
    more.click()
    assert shown.page.locator(".em-rows tbody tr").count() == 2 * rows
