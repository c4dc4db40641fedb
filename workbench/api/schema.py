"""Types of the endpoints for programs: plain JSON, described so that `gradio_client` can show them."""

from typing import Any, Literal, TypedDict

from jola.runs.summary import RunSummary

SiteName = Literal["heads", "mlp"]
HalfName = Literal["offset", "scale"]


class Job(TypedDict):
    """A run that was started or asked to stop."""

    run: str
    state: str


class RunStatus(RunSummary):
    """A row of the table of runs, with the progress of the run."""

    message: str
    before: int | None
    """Number of runs ahead of it in the queue; null if it is not waiting."""
    metrics: dict[str, Any] | None
    """Numbers of the last recorded step."""
    result: dict[str, Any] | None
    """Scores on the test examples with n and interval, fractions of closed gates, steps, seconds."""


class Gates(TypedDict):
    """Values of the gates of one site at one step, in [0, 1]: layers × units; null if not trained."""

    site: SiteName
    step: int
    steps: list[int]
    """All recorded steps."""
    offset: list[list[float | None]]
    scale: list[list[float | None]]


class Token(TypedDict):
    """A possible next token and its probability without and with the edits."""

    token: str
    base: float
    edited: float


class Prediction(TypedDict):
    """The most likely next tokens of both; KL(edited ‖ base) over the whole vocabulary in nats."""

    tokens: list[Token]
    kl: float
    prompt_tokens: int


class Answers(TypedDict):
    """Answers of the model without and with the edits."""

    base: str
    edited: str


class Effect(TypedDict):
    """Effect of switching off one half of an edit, in nats."""

    site: SiteName
    layer: int
    unit: int
    half: HalfName
    effect: float


class Effects(TypedDict):
    """Effects of all open edits, the strongest first; the measure without and with the edits, in nats."""

    effects: list[Effect]
    base: float
    edited: float
    n: int
    """Number of prompts."""
    seconds: float
