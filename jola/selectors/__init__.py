"""Selectors: methods that choose which heads to edit.

    from jola.selectors import SELECTORS

    scores = SELECTORS["dsp"]()(model, task.train, k=32, seed=42)
    scores.top(32).to_text()  # for `jola train --heads … --gates none`

docs/selectors.md describes the methods and how they are compared with JoLA.
"""

from jola.selectors.controls import Ablation, GradientImportance, JoLAGates, LoFiT, OffsetSaliency, Random
from jola.selectors.dsp import DSP, TunedDSP
from jola.selectors.heads import Cost, HeadScores, HeadSet, Provenance
from jola.selectors.pass_ import PASS, TunedPASS
from jola.selectors.protocol import BaseSelector, Budget, Selector
from jola.selectors.smp import SMP

SELECTORS: dict[str, type[BaseSelector]] = {
    kind.name: kind
    for kind in (
        SMP, DSP, PASS, TunedDSP, TunedPASS, Random, GradientImportance, OffsetSaliency, LoFiT, Ablation, JoLAGates
    )
}  # fmt: skip
"""All selectors by their names on the command line."""

__all__ = [
    "DSP",
    "PASS",
    "SELECTORS",
    "SMP",
    "Ablation",
    "BaseSelector",
    "Budget",
    "Cost",
    "GradientImportance",
    "HeadScores",
    "HeadSet",
    "JoLAGates",
    "LoFiT",
    "OffsetSaliency",
    "Provenance",
    "Random",
    "Selector",
    "TunedDSP",
    "TunedPASS",
]
