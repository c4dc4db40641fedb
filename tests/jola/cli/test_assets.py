"""``jola assets``."""

from collections.abc import Callable

import pytest

from tests.jola.cli.commands import Result, assert_refused


class TestAssets:
    def test_what_there_is(self, jola: Callable[..., Result]) -> None:
        result = jola("assets")
        assert result.code == 0
        assert "smollm2-135m-instruct" in result.out
        assert result.out.count("not fetched") == 3
        assets = jola("assets", "show", "--json").json["assets"]
        assert {asset["name"]: asset["ready"] for asset in assets} == {
            "smollm2-135m-instruct": False,
            "movie-reviews": False,
            "all-minilm-l6-v2": False,
        }

    def test_removing_what_is_not_there(self, jola: Callable[..., Result]) -> None:
        result = jola("assets", "remove", "movie-reviews")
        assert (result.code, result.out) == (0, "movie-reviews  0.0 MB freed\n")

    @pytest.mark.parametrize("action", ["fetch", "remove"])
    def test_names_that_are_none(self, jola: Callable[..., Result], action: str) -> None:
        assert_refused(jola("assets", action, "nothing"), "There is no asset 'nothing'; known are")
