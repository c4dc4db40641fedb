"""What the files of a comparison may hold; needs no PyTorch, as listing comparisons must not."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from jola.system.typed_json import Count, JsonFile, Line, Seconds

FORMAT = 1
FILE = "comparison.json"

Protocol = Literal["base", "jola", "edit", "swap"]
"""The model without edits, JoLA itself, select-then-edit, gate swap."""


class ComparisonFile(JsonFile):
    """``comparison.json``."""

    format: int | None = None
    settings: dict[str, dict[str, Any] | str] = Field(default_factory=dict)
    versions: dict[str, Line] = Field(default_factory=dict)
    planned: list[Line] = Field(default_factory=list)
    test_examples: Line = ""


class CostFile(JsonFile):
    """A `Cost` in a file."""

    model_config = ConfigDict(extra="forbid")

    steps: Count = 0
    forward: Count = 0
    backward: Count = 0
    seconds: Seconds = 0.0
    processor_seconds: Seconds = 0.0


class CellFile(JsonFile):
    """``cells/NAME/result.json``."""

    format: Literal[1]
    protocol: Protocol
    method: Line
    k: Line
    seed: Count
    heads: dict[str, Any] | None
    correct: Annotated[str, Field(pattern="^[01]+$")]
    training: CostFile
    selection: CostFile
