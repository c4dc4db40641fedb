"""The colors of the page have the contrast that WCAG requires, in light and dark mode."""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from workbench.figures.cells import INKS, inks
from workbench.figures.style import CIVIDIS, palette
from workbench.theme import STYLE
from workbench.ui.maps import SCRIPT

MODES = {"light": r":root \{(.*?)\}", "dark": r"\.dark \{(.*?)\}"}


def colours(mode: str) -> dict[str, str]:
    block = re.search(MODES[mode], STYLE, re.DOTALL)
    assert block is not None
    return dict(re.findall(r"--jw-([a-z-]+): (#[0-9a-f]{6})", block[1]))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ground", ["surface", "panel"])
def test_text_and_edges_stand_out(mode: str, ground: str) -> None:
    named = colours(mode)
    for text in ("text", "quiet", "accent", "error", "good"):
        assert contrast(named[text], named[ground]) >= 4.5, text
    for shape in ("edge", "train", "validation", "state-offset", "state-scale", "state-both", "bar"):
        assert contrast(named[shape], named[ground]) >= 3, shape


@pytest.mark.parametrize("mode", MODES)
def test_words_on_the_button_and_on_marks_are_readable(mode: str) -> None:
    named = colours(mode)
    assert contrast(named["on-accent"], named["accent"]) >= 4.5
    assert contrast(named["text"], named["mark"]) >= 4.5


def test_both_modes_name_the_same_colours() -> None:
    assert colours("light").keys() == colours("dark").keys()


def test_every_colour_used_is_named() -> None:
    assert set(re.findall(r"var\(--jw-([a-z-]+)\)", STYLE)) <= colours("light").keys()


def test_the_colour_scale_is_whole_and_rises_in_lightness() -> None:
    table = re.search(r"const CIVIDIS = \((.*?)\)", SCRIPT, re.DOTALL)
    assert table is not None
    digits = "".join(re.findall(r'"([0-9a-f]+)"', table[1]))
    scale = [f"#{digits[i : i + 6]}" for i in range(0, len(digits), 6)]
    assert len(scale) == 256
    assert (scale[0], scale[-1]) == ("#00224e", "#fee838")
    lightness = [luminance(colour) for colour in scale]
    rises = [after - before for before, after in pairwise(lightness)]
    assert min(rises) > -1e-4  # one step of an 8-bit colour


@pytest.mark.parametrize("ramp", [CIVIDIS, palette(False).diverging, palette(True).diverging])
def test_text_in_colored_cells_has_the_contrast(ramp: Sequence[str]) -> None:
    shares = np.linspace(0, 1, len(ramp))
    for colour, chosen in zip(ramp, inks(shares, ramp), strict=True):
        assert contrast(colour, INKS[chosen]) >= 4.5


@pytest.mark.parametrize("dark", [False, True])
def test_signs_of_states_have_the_contrast(dark: bool) -> None:
    colours = palette(dark)
    assert all(contrast(state, colours.surface) >= 3 for state in colours.states[1:])
