"""What one page has chosen: whose edits, which of them are on, how strongly, and beside or on top of which others.

The state belongs to the page and goes with each call; no model knows of it.
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
    """One way of answering that is shown beside the base model: its heading, and the adapters on top of each other."""

    title: str
    stack: tuple[Use, ...]


@dataclass(frozen=True)
class PageState:
    """The choices of one page; immutable, every change gives a new one."""

    run: str = ""
    site: str = "heads"
    histories: Mapping[str, History] = field(default_factory=dict)
    """The mask of each site with what can be undone."""
    seen: int = 0
    """Number of the last gesture on the map that the masks contain."""
    strength: float = 1.0
    remote: bool = False
    """Whether NDIF runs the model."""
    others: tuple[str, ...] = ()
    on_top: bool = False
    """Whether the other runs edit what this one has left, instead of answering beside it."""
    prompt: Prompt | None = None
    """The example that was drawn, as long as the box shows it."""
    right: str = ""
    """Its right answer."""
    likeliest: tuple[str, str] = ("", "")
    """A prompt's text, and which of the given answers the edited model found likeliest there."""
    last: "tuple[tuple[str, Prompt], str, Likeliest] | None" = None
    """The last look: run and prompt, the text of the edits, and the likeliest next token with them."""
    effects: "EditEffects | None" = None
    tested: "MaskTest | None" = None
    """Test examples that were answered with the edits of this page."""
    cell: tuple[int, int] | None = None
    """The head whose card is open."""

    @property
    def history(self) -> History:
        return self.histories[self.site]

    @property
    def mask(self) -> HeadMask:
        return self.history.mask

    @property
    def key(self) -> str:
        """What the map belongs to."""
        return f"{self.run}/{self.site}" if self.run else ""

    def with_history(self, history: History) -> "PageState":
        """With another mask at the present site."""
        return replace(self, histories={**self.histories, self.site: history})

    def with_mask(self, mask: HeadMask) -> "PageState":
        """With another mask, which can be undone."""
        return self.with_history(self.history.done(mask))


def open_run(bench: Workbench, id: str | None, masks: str = "") -> PageState:
    """The state of a page that begins with a run: all of its edits on, or those of a mask's text.

    `InputError` when the run has no adapter, when that is damaged, or when the mask is not one of this run.
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
    """The masks of all sites as one text for an address; empty when everything is as it was trained."""
    changed = {site: history.mask for site, history in state.histories.items() if history.mask.changed}
    return ",".join(f"{site}:{mask.to_text()}" for site, mask in changed.items())


def _split(text: str, site: str) -> dict[str, str]:
    parts = {}
    for part in text.split(","):
        name, colon, rest = part.partition(":")
        parts[name if colon else site] = rest if colon else name
    return parts


def chosen_run(bench: Workbench, id: str | None) -> Run:
    """The run with this id. `InputError` when there is none or it has no adapter yet."""
    run = bench.find(id)
    if run is None or not run.has_adapter:
        raise InputError("Choose a run that has edits; train or import one first.")
    return run


def edits_of(run: Run) -> "dict[str, Intervention]":
    """The edits of a run by site, read without the model. `InputError` when the adapter is missing or damaged."""
    weights = run.adapter_dir / "adapter_model.safetensors"
    try:
        return _edits_in(run.adapter_dir, weights.stat().st_mtime_ns)
    except OSError:
        raise InputError(run.why_no_adapter()) from None


@lru_cache(maxsize=8)
def _edits_in(folder: Path, _age: int) -> "dict[str, Intervention]":
    from jola.adapters.directory import read_edits  # which imports PyTorch, and the page begins without it

    return {str(edits.site): edits for edits in read_edits(folder)}


def open_gates(state: PageState, bench: Workbench) -> dict[str, Any]:
    """Which cells of the shown site edit anything, by channel: flags (layers, units)."""
    edits = edits_of(chosen_run(bench, state.run))[state.site]
    return {channel: values.numpy() for channel, values in edits.on().items()}


def gates_of_edits(edits: "Intervention") -> "dict[str, Tensor] | None":
    """The values of the gates by channel, (layers, units); None for edits without gates."""
    from jola.edits.gated import GatedEdits

    return edits.gate_values() if isinstance(edits, GatedEdits) and len(edits.gates) else None


def name_of_unit(edits: "Intervention", unit: int) -> str:
    """What a unit is called: ``head 3``, ``q_proj``."""
    name = edits.unit_names[unit]
    return f"head {name}" if edits.site == "heads" else name


def columns(bench: Workbench, state: PageState) -> list[Column]:
    """The ways of answering that the page compares with the base model. `InputError` for runs of different models."""
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
