"""Analysis of trained edits: their effect on next tokens, answers, the residual stream and attention.

    from jola import JoLAModel, insight

    model = JoLAModel.from_adapter("runs/my-run/adapter")
    insight.next_tokens(model, "Is it positive or negative? A warm and funny film.").to_frame()

Every function uses the interventions that are on (`EditedModel.using`), runs the model in evaluation mode, compares
with the base model, and returns a result with ``to_frame()``. Values are in nats unless stated otherwise.
"""

from jola.insight.effects import (
    EditEffects,
    EditRef,
    Stopped,
    edit_effects,
    mean_edit_effects,
    open_edits,
)
from jola.insight.layers import LayerChanges, layer_changes
from jola.insight.lens import AttentionPattern, LensToken, LogitLens, attention_pattern, logit_lens
from jola.insight.measures import MEASURES, Measure
from jola.insight.predictions import (
    AnswerScores,
    NextTokens,
    TokenChange,
    TokenScores,
    answer_scores,
    next_tokens,
    token_scores,
)
from jola.insight.readout import DirectEffects, PromotedTokens, direct_effects, promoted_tokens

__all__ = [
    "MEASURES",
    "AnswerScores",
    "AttentionPattern",
    "DirectEffects",
    "EditEffects",
    "EditRef",
    "LayerChanges",
    "LensToken",
    "LogitLens",
    "Measure",
    "NextTokens",
    "PromotedTokens",
    "Stopped",
    "TokenChange",
    "TokenScores",
    "answer_scores",
    "attention_pattern",
    "direct_effects",
    "edit_effects",
    "layer_changes",
    "logit_lens",
    "mean_edit_effects",
    "next_tokens",
    "open_edits",
    "promoted_tokens",
    "token_scores",
]
