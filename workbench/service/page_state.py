"""The choices of one page: the run, the edits that are on, their strength, and other runs to compare or stack.

The state belongs to the page and is passed with each call; it never changes a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jola.edits.masks import HeadMask, History
from jola.errors import InputError
from jola.runs.run import Run
from workbench.service.bench import Workbench, short_name
from workbench.service.session import Prompt, Use

if TYPE_CHECKING:
    from torch import Tensor

    from jola.edits.intervention import Intervention
    from jola.insight import EditEffects
    from workbench.service.answering import MaskTest
    from workbench.service.views import Likeliest

STRENGTH_LIMIT = 2.0
_MOST_OTHERS = 3


@dataclass(frozen=True)
class Column:
    """One column next to the base model: its heading, and its stack of adapters."""

    title: str
    stack: tuple[Use, ...]


@dataclass(frozen=True)
class PageState:
    """The choices of one page; immutable, every change creates a new state."""

    run: str = ""
    site: str = "heads"
    histories: Mapping[str, History] = field(default_factory=dict)
    """The mask of each site with its undo history."""
    seen: int = 0
    """Number of the last gesture on the map that the masks include."""
    revision: int = 0
    """Grows with every change, so that the page can ignore a mask that a later one has overtaken."""
    strength: float = 1.0
    remote: bool = False
    """Whether NDIF runs the model."""
    others: tuple[str, ...] = ()
    on_top: bool = False
    """Whether the other runs are applied on top of this one instead of in separate columns."""
    saved: str = ""
    """Name of the saved mask that was last applied or saved."""
    prompt: Prompt | None = None
    """The drawn example, while the text box shows it."""
    right: str = ""
    """Its right answer."""
    asked: tuple[str, str, str] = ("", "", "")
    """Prompt, its kind and the given answers that the views were last updated for."""
    likeliest: tuple[str, str] = ("", "")
    """Text of a prompt, and the one of the given answers that is most likely after it with the edits."""
    last: "tuple[tuple[str, Prompt], str, Likeliest] | None" = None
    """The last result: run and prompt, the edits as text, and the most likely next token with them."""
    effects: "EditEffects | None" = None
    tested: "MaskTest | None" = None
    """Test examples that were answered with the edits of this page."""
    cell: tuple[int, int] | None = None
    """The head whose card is open."""
    slid: bool = False
    """Whether the sliders of the card made the last change of the mask."""
    speaker: object = None
    """The view whose words the message of the page shows; None for other words."""
    answered: int = 0
    """Number of clicks that the message of the page has answered."""

    @property
    def history(self) -> History:
        return self.histories[self.site]

    @property
    def mask(self) -> HeadMask:
        return self.history.mask

    @property
    def key(self) -> str:
        """Key of the map: run and site."""
        return f"{self.run}/{self.site}" if self.run else ""

    def opened_after(self, before: "PageState") -> "PageState":
        """Return the state of a run that was just opened with the choices of the page that do not belong to a run."""
        others = tuple(id for id in before.others if id != self.run)
        return replace(self, remote=before.remote, others=others, on_top=before.on_top, answered=before.answered)

    def with_answer(self) -> "PageState":
        """Return the state after a click was answered in the message of the page: earlier views leave the answer."""
        return replace(self, speaker=None, answered=self.answered + 1)

    def with_history(self, history: History) -> "PageState":
        """Return the state with another history at the current site."""
        return replace(self, histories={**self.histories, self.site: history}, slid=False)

    def with_mask(self, mask: HeadMask) -> "PageState":
        """Return the state with another mask, which can be undone."""
        return self.with_history(self.history.done(mask))


def open_run(bench: Workbench, id: str | None, masks: str = "") -> PageState:
    """Return the initial state of a page for a run, with all edits on or with the masks in a text.

    Raises `InputError` if the run has no adapter, the adapter is damaged, or a mask does not fit the run.
    """
    run = chosen_run(bench, id)
    edits = edits_of(run)
    histories = {site: History(HeadMask.for_edits(own)) for site, own in edits.items()}
    state = PageState(run.id, next(iter(edits)), histories)
    if masks:
        for site, text in _split(masks, state.site).items():
            if site not in edits:
                raise InputError(f"The mask in the address is for the site '{site}', which this run does not edit.")
            own = edits[site]
            mask = HeadMask.from_text(text, own.layers, own.units, own.channels)
            state = replace(state, histories={**state.histories, site: histories[site].done(mask)})
    return state


def masks_text(state: PageState) -> str:
    """Return the masks of all sites as one text for an address; empty if all edits are as trained."""
    changed = {site: history.mask for site, history in state.histories.items() if history.mask.changed}
    return ",".join(f"{site}:{mask.to_text()}" for site, mask in changed.items())


def _split(text: str, site: str) -> dict[str, str]:
    parts = {}
    for part in text.split(","):
        name, colon, rest = part.partition(":")
        parts[name if colon else site] = rest if colon else name
    return parts


def chosen_run(bench: Workbench, id: str | None) -> Run:
    """Return the run with this id. Raises `InputError` if it does not exist or has no adapter yet."""
    run = bench.find(id)
    if run is None or not run.has_adapter:
        raise InputError("Choose a run that has edits; train or import one first.")
    return run


def edits_of(run: Run) -> "dict[str, Intervention]":
    """Read the edits of a run by site, without the model. Raises `InputError` if the adapter is missing or damaged."""
    weights = run.adapter_dir / "adapter_model.safetensors"
    try:
        return _edits_in(run.adapter_dir, weights.stat().st_mtime_ns)
    except OSError:
        raise InputError(run.why_no_adapter()) from None


@lru_cache(maxsize=8)
def _edits_in(folder: Path, _age: int) -> "dict[str, Intervention]":
    from jola.adapters.directory import read_edits  # imports PyTorch, which the page does not need at startup

    return {str(edits.site): edits for edits in read_edits(folder)}


def open_gates(state: PageState, bench: Workbench) -> dict[str, Any]:
    """Return which units of the shown site are edited, by channel: flags (layers, units)."""
    edits = edits_of(chosen_run(bench, state.run))[state.site]
    return {channel: values.numpy() for channel, values in edits.on().items()}


def gates_of_edits(edits: "Intervention") -> "dict[str, Tensor] | None":
    """Return the values of the gates by channel, (layers, units); None for edits without gates."""
    from jola.edits.gated import GatedEdits

    return edits.gate_values() if isinstance(edits, GatedEdits) and len(edits.gates) else None


def name_of_unit(edits: "Intervention", unit: int) -> str:
    """Return the name of a unit: ``head 3``, ``q_proj``."""
    name = edits.unit_names[unit]
    return f"head {name}" if edits.site == "heads" else name


def columns(bench: Workbench, state: PageState) -> list[Column]:
    """Return the columns that the page compares with the base model. Raises `InputError` for runs of other models."""
    run = chosen_run(bench, state.run)
    own = Use(run, {site: history.mask for site, history in state.histories.items()}, state.strength, state.remote)
    others = [Use(chosen_run(bench, id), remote=state.remote) for id in state.others[:_MOST_OTHERS]]
    if not others:
        return [Column("Edited", (own,))]
    for use in others:
        _check_same_model(bench, run, use.run)
    if state.on_top:
        return [Column(" + ".join(short_name(use.run) for use in (own, *others)), (own, *others))]
    titles = [short_name(use.run) for use in (own, *others)]
    return [
        Column(title if titles.count(title) == 1 else f"{title} ({use.run.id})", (use,))
        for title, use in zip(titles, (own, *others), strict=True)
    ]


def _check_same_model(bench: Workbench, run: Run, other: Run) -> None:
    (name, revision), (other_name, other_revision) = bench.session.model_of(run), bench.session.model_of(other)
    if (name, revision) != (other_name, other_revision):
        raise InputError(
            f"{short_name(other)} edits {_model_words(other_name, other_revision)} and {short_name(run)} edits "
            f"{_model_words(name, revision)}; choose runs of the same base model."
        )


def _model_words(name: str, revision: str | None) -> str:
    return f"{name} at {revision}" if revision else name
