"""Contents of the files of comparisons and grids; imports no PyTorch, so that listing them is fast."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field

from jola.runs.schema import LayerChangesEntry, SideEffectsEntry
from jola.settings import MAX_NUMBER
from jola.system.typed_json import Count, JsonFile, Line, Number, Seconds, Text, Time

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
    label: Line = ""
    note: Text = ""


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
    open: dict[Literal["offset", "scale"], Count] = Field(default_factory=dict)


GRID_FILE = "grid.json"


class ArmFile(JsonFile):
    """An arm of a grid: a method with its settings."""

    settings: dict[str, dict[str, Any] | str]


Value = TypeVar("Value")
Axis = Annotated[list[Value], Field(min_length=1)]


class AxesFile(JsonFile):
    """The axes of one plan of a grid."""

    model_config = ConfigDict(extra="forbid")

    arms: Axis[Line]
    tasks: Axis[Line]
    train_sizes: Axis[Annotated[int, Field(ge=0, le=MAX_NUMBER)]]
    seeds: Axis[Annotated[int, Field(ge=0, lt=2**32)]]
    models: Axis[Line]


class GridFile(JsonFile):
    """``grid.json``."""

    format: Literal[1]
    settings: dict[str, dict[str, Any]]
    neutral: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, Line | None] = Field(default_factory=dict)
    arms: dict[str, ArmFile]
    plans: Axis[AxesFile]


class CellScore(JsonFile):
    """The mean of a metric over ``n`` test examples, with an interval over these."""

    metric: Line
    value: Number
    n: Count
    low: Number | None = None
    high: Number | None = None


class GridResultFile(JsonFile):
    """``cells/NAME/result.json`` of a grid."""

    format: Literal[1]
    scores: list[CellScore]
    trainable: Count
    frozen: Count
    seconds: Seconds
    sessions: Count
    peak_memory: Count
    adapter_bytes: Count
    n_train: Count
    validation: Number | None = None
    validation_accuracy: Number | None = None
    test_examples: Line
    side_effects: SideEffectsEntry | None = None
    layer_changes: LayerChangesEntry | None = None
    machine: Line | None = None
    versions: dict[str, Line | None] = Field(default_factory=dict)


class FailureFile(JsonFile):
    """``cells/NAME/failed.json``."""

    format: Literal[1]
    message: Text
    time: Time


class SessionsFile(JsonFile):
    """``cells/NAME/sessions.json``: seconds of the interrupted sessions by their start times."""

    __pydantic_extra__: dict[str, Seconds]


class TestExamplesFile(JsonFile):
    """``tasks/NAME.json``: the examples that all cells of a task are tested on."""

    task: Line
    test_examples: Line
    n_test: Count
