"""Errors in a file are one line, whatever its keys are."""

import pytest

from jola.runs.schema import StatusFile
from jola.system.typed_json import valid_part


@pytest.mark.parametrize("key", ["a\nb", "x" * 1000, "\x1b[31m"])
def test_odd_keys_are_quoted(key: str) -> None:
    for content in ({key: 2**60}, {"status": {key: 2**60}}):
        valid, (fault,) = valid_part(content, StatusFile)
        assert valid == {}
        assert fault.isprintable() and len(fault) < 100 and fault.endswith("is a whole number of 2**53 or more")
