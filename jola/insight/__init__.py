"""What the edits do: to the next token, to an answer, to the residual stream, and what a head looks at.

    from jola import JoLAModel, insight

    model = JoLAModel.from_adapter("runs/my-run/adapter")
    insight.next_tokens(model, "Is it positive or negative? A warm and funny film.").to_frame()

Every function takes the model with the interventions in use (`EditedModel.using`), in evaluation mode, compares with the
plain model, and has ``to_frame()`` on its result. Units are nats where not said otherwise.
"""

from jola.insight.effects import (
    EditEffects,
    EditRef,
    Stopped,
    edit_effects,
    mean_edit_effects,
    open_edits,
)
from jola.insight.lens import AttentionPattern, LensToken, LogitLens, attention_pattern, logit_lens
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
    "AnswerScores",
    "AttentionPattern",
    "DirectEffects",
    "EditEffects",
    "EditRef",
    "LensToken",
    "LogitLens",
    "NextTokens",
    "PromotedTokens",
    "Stopped",
    "TokenChange",
    "TokenScores",
    "answer_scores",
    "attention_pattern",
    "direct_effects",
    "edit_effects",
    "logit_lens",
    "mean_edit_effects",
    "next_tokens",
    "open_edits",
    "promoted_tokens",
    "token_scores",
]
