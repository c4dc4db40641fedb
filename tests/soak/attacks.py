"""Random attacks with hypothesis; ``--examples`` sets their number."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workbench.runs.test_odd_files import ODD

JSON = st.recursive(ODD, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner))
"""Any JSON value, including odd ones."""
NAMES = st.one_of(
    st.sampled_from(
        ["../x", "/x", "a/../../x", "a\\b", "C:\\x", "a\0b", "", ".", "..", "adapter", "config.json", "~/x", "x" * 300,
         "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "gates/heads.json", "gates/heads.f32",
         "metrics.jsonl", "result.json", "notes.json", "archive.json", "adapter/x.bin", "nul", "\u202e.exe"]
    ),
    st.text(max_size=12),
)  # fmt: skip
"""Names of files and links."""


def attack(count: int, try_one: Callable[[Any], None]) -> None:
    """Call ``try_one`` with ``count`` random sources of values; pytest's ``--hypothesis-seed`` sets the seed."""

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def attacked(data: Any) -> None:
        try_one(data)

    attacked()


def damaged(data: Any, content: bytes) -> bytes:
    """Return damaged bytes: cut, with a flipped bit, zeroed bytes or inserted bytes, doubled, or replaced."""
    how = data.draw(st.sampled_from(["cut", "flip", "zero", "double", "replace", "insert"]))
    place = data.draw(st.integers(0, max(0, len(content) - 1)))
    if how == "cut":
        return content[:place]
    if how == "flip":
        return content[:place] + bytes([content[place] ^ 1 << data.draw(st.integers(0, 7))]) + content[place + 1 :]
    if how == "zero":
        length = data.draw(st.integers(1, 64))
        return content[:place] + bytes(len(content[place : place + length])) + content[place + length :]
    if how == "double":
        return content + content
    inserted = data.draw(st.binary(max_size=40))
    return inserted if how == "replace" else content[:place] + inserted + content[place:]
