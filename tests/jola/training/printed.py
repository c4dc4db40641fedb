"""The output of the processes of a launch."""

import json
from typing import Any


def summaries(output: str) -> list[dict[str, Any]]:
    """Return the JSON objects in an output, one per line; some versions of PyTorch print other lines between them."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]
