"""Gestures on the map: clicks, drags, keys, and the table."""

from jola.edits.masks import HeadMask
from jola.edits.names import HALVES
from tests.browser.edit_map.demo import KEY, Show, gesture


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
    # One cell is on again: a drag that begins in it switches off, a drag that begins elsewhere switches on.
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
    shown.wait(lambda: len(shown.demo.cards) == 1)
    closed = shown.demo.cells("offset", open=False)[4]
    shown.page.mouse.dblclick(*shown.place("offset", *closed))
    shown.wait(lambda: len(shown.demo.cards) == 2)
    shown.page.click(".em-table summary")
    shown.page.get_by_role("button", name="Layer 1, head", exact=False).first.click()
    shown.wait(lambda: len(shown.demo.cards) == 3)
    assert shown.demo.cards[:2] == [(layer, unit), closed] and shown.demo.cards[2][0] == 1
    assert shown.demo.mask == HeadMask.all(8, 6)


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
