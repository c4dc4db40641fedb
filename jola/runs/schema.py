"""Contents of the files of a run, declared once for reading, for importing and for the app.

Unknown members are kept, because other versions write more. `jola.system.typed_json` defines the bounds of the types.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from jola.system.typed_json import Count, JsonFile, Line, Number, Seconds, Share, Text, Time

FORMAT = "jola-run"
FORMAT_VERSION = 1
GATE_FIELDS = ("offset_gate", "scale_gate", "offset_open", "scale_open", "offset_norm", "scale_norm")
"""Fields recorded for each unit with gates: the value of each gate at evaluation, the probability that it is open in
training, and the L2 norm of the offset and of the scale."""
MOST_UNITS = 1 << 20
"""Maximum of layers × units of one site: at least ten times that of the largest models."""


class ModelSettings(JsonFile):
    """The part of `jola.config.ModelConfig` that is shown."""

    model: Line | None = None
    revision: Line | None = None


class DataSettings(JsonFile):
    """The part of `jola.config.DataConfig` that is shown."""

    task: Line | None = None
    train_size: Count | None = None


class TrainingSettings(JsonFile):
    """The part of `jola.config.TrainingConfig` that is shown."""

    epochs: Count | None = None
    seed: Count | None = None


class TaskFacts(JsonFile):
    """Facts about the examples of a run."""

    name: Line | None = None
    n_train: Count | None = None
    n_validation: Count | None = None
    n_test: Count | None = None
    labels: list[Line] | None = None
    notes: list[Line] | None = None
    fingerprint: Line | None = None
    revision: Line | None = None
    metrics: list[Line] | None = None


class ConfigFile(JsonFile):
    """``config.json``: the settings in their groups, and facts recorded when the run began."""

    model: ModelSettings | None = None
    edits: dict[str, Any] | None = None
    method: Line | None = None
    data: DataSettings | None = None
    training: TrainingSettings | None = None
    task: TaskFacts | None = None
    versions: dict[str, Line | Number | None] | None = None
    parameters: dict[str, Count] | None = None
    geometry: dict[str, Any] | None = None
    chosen_heads: Text | None = None
    """The heads that a selector chose, in the format of ``--heads``."""
    machine: Line | None = None
    device: Line | None = None
    created: Time | None = None
    imported: dict[str, Any] | None = None


class StatusFile(JsonFile):
    """``status.json``; its defaults are the status of a run that has not written one."""

    state: Literal["queued", "starting", "training", "evaluating", "paused", "finished", "cancelled", "failed"] = (
        "starting"
    )
    pid: Annotated[int, Field(gt=0, lt=2**31)] | None = None
    pid_created: Line | Time | None = None
    step: Count = 0
    total_steps: Count = 0
    stage: Line = ""
    device: Line = ""
    """Device that the app chose for the run; empty if the settings name it."""
    message: Text = ""
    warning: Text = ""
    queued: Time | None = None
    """When the run began to wait for its turn."""
    started: Time | None = None
    """When its process began; None while it waits."""
    updated: Time | None = None
    writes: Count = 0


class Accuracy(JsonFile):
    """A share of ``n`` examples with its 95 % interval."""

    accuracy: Share
    low: Share
    high: Share
    n: Count


class ScoreEntry(JsonFile):
    """A metric over ``n`` examples with its 95 % interval."""

    metric: Line
    title: Line | None = None
    signature: Line | None = None
    value: Number
    n: Count
    low: Number
    high: Number


class StageEntry(JsonFile):
    """Steps and time of one stage of a run with several stages."""

    name: Line = ""
    steps: Count = 0
    kept_step: Count = 0
    seconds: Seconds = 0.0


class MeanEntry(JsonFile):
    """A mean with its 95 % interval; a single observation has none."""

    value: Number
    low: Number | None = None
    high: Number | None = None


class SideEffectsEntry(JsonFile):
    """A `jola.evaluation.side_effects.SideEffects`; nats per token."""

    text: Line
    passages: Count
    tokens: Count
    base_cross_entropy: MeanEntry
    cross_entropy: MeanEntry
    change: MeanEntry
    kl: MeanEntry


class LayerChangesEntry(JsonFile):
    """A `jola.insight.LayerChanges`."""

    change: list[Number]
    low: list[Number] | None = None
    high: list[Number] | None = None
    n: Count
    tokens: Count


class ResultFile(JsonFile):
    """``result.json``: the result of a run."""

    metric: Line | None = None
    scores: list[ScoreEntry] | None = None
    validation: Accuracy | None = None
    validation_cross_entropy: Number | None = None
    test: Accuracy | None = None
    test_options: Accuracy | None = None
    closed: dict[str, Share | None] | None = None
    seconds: Seconds | None = None
    steps: Count | None = None
    kept_step: Count | None = None
    stages: list[StageEntry] | None = None
    n_train: Count | None = None
    peak_memory: Count | None = None
    side_effects: SideEffectsEntry | None = None
    layer_changes: LayerChangesEntry | None = None
    measure_seconds: Seconds | None = None


class MetricsRow(JsonFile):
    """One line of ``metrics.jsonl``."""

    step: Count = 0
    time: Time = 0
    epoch: Number | None = None
    stage: Line | None = None
    loss: Number | None = None
    cross_entropy: Number | None = None
    validation_cross_entropy: Number | None = None
    validation_accuracy: Number | None = None
    penalty: Number | None = None
    learning_rate: Number | None = None
    gate_learning_rate: Number | None = None
    l0_weight: Number | None = None
    expected_open: Number | None = None
    grad_norm: Number | None = None


class NotesFile(JsonFile):
    """``notes.json``; `jola.runs.notes` truncates longer texts."""

    label: Text = ""
    note: Text = ""


class GateHeader(JsonFile):
    """``gates/<site>.json``: the shape of one record."""

    layers: Annotated[int, Field(gt=0, le=MOST_UNITS)]
    units: Annotated[int, Field(gt=0, le=MOST_UNITS)]
    fields: Annotated[list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,63}$")]], Field(min_length=1, max_length=64)]
    unit_names: list[Line] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "GateHeader":
        if len(set(self.fields)) != len(self.fields):
            raise ValueError("a field is named twice")
        if not any(field.endswith("_norm") for field in self.fields):
            raise ValueError("no field is a norm")
        gates = [field for field in self.fields if field.endswith(("_gate", "_open"))]
        if gates and not set(GATE_FIELDS) <= set(self.fields):
            raise ValueError(f"it has the field {gates[0]} without the other fields of gates")
        if self.unit_names is not None and len(self.unit_names) != self.units:
            raise ValueError(f"it names {len(self.unit_names)} of {self.units} units")
        if self.layers * self.units > MOST_UNITS:
            raise ValueError(f"{self.layers} × {self.units} are more units than any model has")
        return self


class ArchiveFile(JsonFile):
    """``archive.json``: description of an exported run."""

    run: Line = ""
    state: Line = "finished"
    step: Count | None = None
    total_steps: Count | None = None
    created: Time | None = None
