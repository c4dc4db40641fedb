"""What the processes of a launch print."""

import json
from typing import Any


def summaries(output: str) -> list[dict[str, Any]]:
    """The JSON objects in an output, one in a line; some versions of PyTorch print lines of their own between them."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]
