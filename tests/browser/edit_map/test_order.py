"""Gestures and their answers: quick gestures, late answers, and lost requests."""

from jola.edits.masks import HeadMask
from tests.browser.conftest import PATIENCE
from tests.browser.edit_map.demo import KEY, Demo, Show, gates
from workbench.playground.edit_map import edit_map_value


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
    shown.wait(lambda: demo.events)  # the second request could overtake the first one and be lost in its place
    shown.click("offset", *other)
    shown.settle()
    assert demo.mask == HeadMask.all(8, 6).toggled([one, other], "offset")
    # Without another gesture, the map sends the event again.
    demo.lose = 1
    shown.map(f"void Object.defineProperty(map, 'patience', {{ get: () => map.asked++ ? {PATIENCE} : 300 }})")
    shown.map("map.asked = 0")
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
    shown.wait(lambda: len(demo.events) == 4)  # including those that were under way when the page gave up


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


def test_an_earlier_value_does_not_bring_other_edits_back(show: Show) -> None:
    shown = show()
    shown.map("map.tell.differs = (told) => { map.told = told; }, null")
    earlier = edit_map_value(gates(5, 3), HeadMask.all(5, 3), key="earlier", revision=1)
    shown.map("map.setValue(args[0]), null", earlier)
    assert shown.map("[map.edits, map.frame.layers, map.told]") == [KEY, 8, {"key": KEY}]
    later = edit_map_value(gates(5, 3), HeadMask.all(5, 3), key="later")
    shown.map("map.setValue(args[0]), null", later)
    assert shown.map("[map.edits, map.frame.layers]") == ["later", 5]


def test_another_text_on_the_page_is_reported_once_it_has_settled(show: Show) -> None:
    shown = show()
    shown.map("map.told = 0, map.tell.differs = () => { map.told += 1; }, null")
    shown.map("map.base.text = 'all', null")
    shown.map("map.compare(() => 'all'), null")
    shown.page.wait_for_timeout(700)
    assert shown.map("map.told") == 0
    shown.map("map.compare(() => 'earlier'), map.compare(() => 'earlier'), null")
    shown.page.wait_for_function("() => document.querySelector('.em').parentElement.editMap.told === 1")
