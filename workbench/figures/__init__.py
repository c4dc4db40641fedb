"""Figures: pure functions from arrays and results to plotly figures, for the workbench and for notebooks.

Every function accepts ``dark`` for the dark theme. `workbench.figures.frames` returns the data behind the figures of a
run as tables. docs/figures.md lists all figures.
"""

from workbench.figures import frames
from workbench.figures.effects import direct_effects, edit_effects, effect_map
from workbench.figures.frames import to_csv
from workbench.figures.inside import attention_pattern, logit_lens
from workbench.figures.layers import layer_changes
from workbench.figures.maps import COLOURS, closed_map, compare_gates, gate_map, open_by_layer
from workbench.figures.style import CONFIG, Figure
from workbench.figures.tokens import answer_shares, next_tokens, promoted_tokens, token_scores
from workbench.figures.training import QUANTITIES, compare_curves, head_history, losses, rates, state_counts

__all__ = [
    "COLOURS",
    "CONFIG",
    "QUANTITIES",
    "Figure",
    "answer_shares",
    "attention_pattern",
    "closed_map",
    "compare_curves",
    "compare_gates",
    "direct_effects",
    "edit_effects",
    "effect_map",
    "frames",
    "gate_map",
    "head_history",
    "layer_changes",
    "logit_lens",
    "losses",
    "next_tokens",
    "open_by_layer",
    "promoted_tokens",
    "rates",
    "state_counts",
    "to_csv",
    "token_scores",
]
