"""The plan of a comparison of selectors: its methods in words, its flags for ``jola compare``, and its size.

This module does not import PyTorch, so that the page can be built and comparisons listed without it. A test compares
the words with `jola.selectors.SELECTORS`.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jola.config import RunConfig, flag
from jola.errors import InputError
from jola.studies.selector_grid import CELL, SelectorGrid, cell_name
from jola.system.formatting import counted
from workbench.service.estimate import span

_OF_A_RUN = frozenset({"seed", "output", "report_to", "record_every"})
LEFT_OUT = _OF_A_RUN | {"sites", "layers", "heads"}
"""Settings of a run that a comparison lacks or has in another form."""
MOST_CELLS = 500
MOST_NAMED = 4
"""Maximum number of methods that `Plan.words` names."""
_MOST_CHARACTERS = 400


@dataclass(frozen=True)
class SelectorInfo:
    """A selector of heads in words, with the properties that determine its cost."""

    title: str
    line: str
    by_k: bool = False
    """Whether it selects again for every K."""
    work: Literal["none", "pass", "training"] = "training"
    """Cost of a selection: nothing, one pass over the examples, or about as much as training JoLA."""


METHODS: dict[str, SelectorInfo] = {
    "jola": SelectorInfo("JoLA's gates", "The heads that JoLA's own gates leave open.", work="none"),
    "dsp": SelectorInfo("DSP", "A relaxed sample of K heads, trained.", by_k=True),
    "pass": SelectorInfo("PASS", "Gates trained towards exactly K open heads.", by_k=True),
    "dsp_tuned": SelectorInfo("DSP, tuned base", "DSP after training edits of all heads. Slow.", by_k=True),
    "pass_tuned": SelectorInfo("PASS, tuned base", "PASS after training edits of all heads. Slow.", by_k=True),
    "smp": SelectorInfo("SMP", "A small network that looks at the attention maps."),
    "lofit": SelectorInfo("LoFiT scaling norm", "Size of a scale trained on every head."),
    "gradient": SelectorInfo("Gradient importance", "How much the loss reacts to a head. Quick.", work="pass"),
    "offset": SelectorInfo("Offset saliency", "How much the loss reacts to an offset. Quick.", work="pass"),
    "ablation": SelectorInfo("Ablation effect", "What switching a head off costs. Slow."),
    "random": SelectorInfo("Random", "Chance, to see what the choice is worth.", work="none"),
}
"""Selectors by their names on the command line, in the order of the form."""
SWAPS: dict[str, SelectorInfo] = {
    "dsp": SelectorInfo("DSP", "Edits trained jointly with DSP's mask."),
    "pass": SelectorInfo("PASS", "Edits trained jointly with PASS's mask."),
}
DEFAULT_SELECTORS = ("jola", "gradient", "offset", "random")
"""Preselected in the form: selectors with low cost, so that most of the time is training."""


def title_of(name: str) -> str:
    """Return the title of a selector, or its name if the selector no longer exists."""
    return METHODS[name].title if name in METHODS else name


@dataclass(frozen=True)
class Plan(SelectorGrid):
    """The selectors, gate swaps, Ks and seeds of a comparison, with their form and their description on the page."""

    selectors: tuple[str, ...] = DEFAULT_SELECTORS

    @classmethod
    def read(cls, selectors: Iterable[str], swaps: Iterable[str], ks: str, seeds: str) -> "Plan":
        """Read the plan from the form. Raises `InputError`, which names the field by its label."""
        words = _words(seeds, "Seeds")
        if bad := [word for word in words if not (word.isascii() and word.isdigit() and len(word) <= 10)]:
            raise InputError(f"Seeds names {bad[0]!r}; give whole numbers separated by commas, such as 42,43.")
        if not words:
            raise InputError("Seeds is empty; give at least one whole number, such as 42.")
        numbers = _words(ks, "K")
        if not numbers:
            raise InputError(
                "K is empty; give 'auto', 'halves' or numbers of heads, separated by commas, such as auto,16."
            )
        chosen, swapped = set(selectors), set(swaps)
        plan = cls(
            # In the order of the form, so that equal choices give equal commands.
            tuple(name for name in METHODS if name in chosen) + tuple(sorted(chosen - set(METHODS))),
            tuple(name for name in SWAPS if name in swapped) + tuple(sorted(swapped - set(SWAPS))),
            numbers,
            tuple(dict.fromkeys(int(word) for word in words)),
        )
        if len(plan.cells()) > MOST_CELLS:
            raise InputError(
                f"This requires {len(plan.cells()):,} training runs, but a comparison may have at most {MOST_CELLS}; "
                "choose fewer selectors, K or seeds."
            )
        return plan

    @classmethod
    def of_cells(cls, names: Iterable[Any]) -> "Plan | None":
        """Return the plan with the cells of these names; None if a name is invalid or no cell has a selection."""
        found: dict[str, dict[Any, None]] = {"edit": {}, "swap": {}, "k": {}, "seed": {}}
        for name in names:
            match = CELL.fullmatch(str(name))
            if match is None:
                return None
            found["seed"][int(match["seed"])] = None
            if match["protocol"] != "jola":
                found[match["protocol"]][match["method"]] = None
                found["k"][match["k"]] = None
        if not (found["edit"] or found["swap"]):
            return None
        return cls(tuple(found["edit"]), tuple(found["swap"]), tuple(found["k"]), tuple(found["seed"]))

    @classmethod
    def from_dict(cls, content: Any) -> "Plan":
        """Read the JSON of `dataclasses.asdict`. Raises `InputError` for other content."""
        try:
            selectors, swaps, ks = (tuple(map(str, content[part])) for part in ("selectors", "swaps", "ks"))
            return cls(selectors, swaps, ks, tuple(int(seed) for seed in content["seeds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                "The plan of this comparison is damaged; delete the comparison and start another one."
            ) from error

    def missing(self, done: Collection[str] = ()) -> list[str]:
        """Return the names of the training runs that are not in ``done``."""
        return [name for name in self.cell_names() if name not in done]

    def selections(self, work: str = "", done: Collection[str] = ()) -> int:
        """Return the number of missing selections of heads, or only of those with this ``work``.

        A selection exists if a training with it is in ``done``.
        """
        count = 0
        for name in self.selectors:
            method = METHODS.get(name)
            if method is None or (method.work != work if work else method.work == "none"):
                continue
            for seed in self.seeds:
                made = [cell_name("edit", name, k, seed) in done for k in self.ks]
                count += made.count(False) if method.by_k else not any(made)
        return count

    def flags(self) -> list[str]:
        """Return the flags of ``jola compare``."""
        swaps = ["--swaps", ",".join(self.swaps)] if self.swaps else []
        return [
            "--selectors", ",".join(self.selectors), *swaps, "--k", ",".join(self.ks),
            "--seeds", ",".join(map(str, self.seeds)),
        ]  # fmt: skip

    def check(self, config: RunConfig, heads: int | None = None) -> None:
        """Raise `InputError` if the plan is invalid; ``heads`` is the number of heads of the model, if known."""
        if not (self.selectors or self.swaps):
            raise InputError("No selector is chosen; tick at least one, or a gate swap.")
        self.validate(heads)
        if config.edits.gates == "none":
            raise InputError("Gates is 'none', but the comparison is about JoLA's gates; choose 'two' or 'shared'.")

    def names(self) -> list[str]:
        """Return the titles of all methods that are compared with JoLA."""
        names = [title_of(name) for name in self.selectors]
        return names + [f"{SWAPS[name].title if name in SWAPS else name} gates" for name in self.swaps]

    def words(self) -> str:
        """Describe the plan in one line: the methods, or their number if there are many, then K and seeds."""
        names = self.names()
        if len(names) > MOST_NAMED:
            counts = ((self.selectors, "selector"), (self.swaps, "gate swap"))
            names = [joined([counted(len(given), noun) for given, noun in counts if given])]
        seeds = f"seed {self.seeds[0]}" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        return f"{', '.join(names)} · K {', '.join(self.ks)} · {seeds}"


def _words(text: Any, field: str) -> tuple[str, ...]:
    text = str(text or "")
    if len(text) > _MOST_CHARACTERS:
        raise InputError(f"{field} is longer than {_MOST_CHARACTERS} characters; give fewer values.")
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def cell_words(name: str, *, seeds: bool = False) -> str:
    """Return the name of a cell in words: ``edit-dsp-k16-seed42`` is ``DSP, K 16``."""
    match = CELL.fullmatch(name)
    if match is None:
        return name
    if match["protocol"] == "jola":
        words = "JoLA"
    else:
        method = METHODS.get(match["method"] or "")
        words = f"{method.title if method else match['method']}{' gates' if match['protocol'] == 'swap' else ''}"
        words += f", K {match['k']}"
    return f"{words}, seed {match['seed']}" if seeds else words


def compare_flags(config: RunConfig, plan: Plan, output: str) -> list[str]:
    """Return the flags of ``jola compare`` for the plan and for all settings that differ from the defaults."""
    flags = ["--output", output, *plan.flags()]
    for part in config.parts():
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name not in LEFT_OUT and value != field.default:
                name, text = flag(field.name), str(value)
                # A value that begins with a dash would be parsed as the next flag.
                flags += [f"{name}={text}"] if text.startswith("-") else [name, text]
    return flags


def config_of(settings: Mapping[str, Any]) -> RunConfig:
    """Convert the settings of a comparison to those of a run. Raises `InputError` if they are damaged."""
    return RunConfig.from_dict({name: values for name, values in settings.items() if isinstance(values, dict)})


def shared_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings that all training runs of a comparison share, without which results are not comparable."""
    parts = (dataclasses.asdict(part) for part in config.parts())
    return {name: value for part in parts for name, value in part.items() if name not in _OF_A_RUN}


def cost_words(
    plan: Plan, seconds: tuple[float, float] | None, epochs: int, done: Collection[str] = ()
) -> tuple[str, str]:
    """Return (cost of a comparison in one line, source of the estimate).

    ``seconds`` is the range for one training, None if unknown; training runs in ``done`` cost nothing.
    """
    trainings = len(plan.missing(done))
    short = counted(trainings, "training run")
    if selections := plan.selections(done=done):
        short += f" and {counted(selections, 'selection')}"
    if seconds is None:
        return f"{short}, time known after the first training run", (
            "there is no earlier run of this model on this computer to estimate it from"
        )
    # A selection with one pass over the examples costs about one epoch of a training.
    effort = trainings + plan.selections("training", done) + plan.selections("pass", done) / max(1, epochs)
    return f"{short}, {span(seconds[0] * effort, seconds[1] * effort)}", (
        "at the speed of earlier runs of this model on this computer, without tests of the edits"
    )


def joined(names: Sequence[str]) -> str:
    """Return ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))
