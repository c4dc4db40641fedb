"""Drawing of the map: cells, colors, color schemes, and large models."""

import numpy as np
import pytest

from jola.edits.masks import HeadMask
from tests.browser.edit_map.demo import Demo, Show, effects, gates, gesture


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
    assert shown.page.inner_text(".gm-readout") == "Layer 0, head 0, offset, gate closed, cannot be switched"


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
    # Cells are drawn as one picture, and marks only for open edits.
    assert 0 < calls < 2 * 80 * 64
    assert shown.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert shown.map("map.canvas.width / map.canvas.clientWidth") == pytest.approx(2, abs=0.01)
    layer, unit = demo.cells("scale")[-1]
    shown.click("scale", layer, unit)
    shown.settle(on=1)
    assert gesture(demo.made[0]) == ("scale", [[layer, unit]], "on")
    shown.page.set_viewport_size({"width": 1440, "height": 900})
    shown.page.wait_for_function("innerWidth === 1440")
    shown.colour("offset", 0, 0)
    shown.click("scale", layer, unit)
    shown.settle(on=0)
    shown.page.click(".em-table summary")
    more = shown.page.locator(".em-more")
    more.wait_for()
    rows = shown.page.locator(".em-rows tbody tr").count()
    more.click()
    assert shown.page.locator(".em-rows tbody tr").count() == 2 * rows
