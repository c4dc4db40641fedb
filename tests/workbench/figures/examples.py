"""One example of every figure, of realistic size, built from recorded gates and results as in `jola.insight`."""

from typing import Any

import numpy as np

from jola.insight import (
    AnswerScores,
    AttentionPattern,
    DirectEffects,
    EditEffects,
    EditRef,
    LensToken,
    LogitLens,
    NextTokens,
    PromotedTokens,
    TokenChange,
    TokenScores,
)
from jola.runs.history import GATE_FIELDS, GateHistory
from tests.workbench.recorded import gate_values
from workbench import figures
from workbench.figures import Figure

HOSTILE = "<img src=x onerror=alert(1)> $x^2$ %{y}"
TOKENS = ("The", " film", " is", " a", HOSTILE, "\n", " joy", ".", " Answer", ":")


def history(
    layers: int = 6, units: int = 4, steps: int = 40, *, untrained: str = "", as_zero: bool = False
) -> GateHistory:
    """Gates recorded at every step. The half ``untrained`` is NaN, or 0 with ``as_zero``, as the trainer writes it."""
    records = [gate_values(step, max(steps, 1), layers, units) for step in range(steps + 1)]
    values = {name: np.stack([record[name] for record in records]) for name in GATE_FIELDS}
    for name in GATE_FIELDS:
        if untrained and name.startswith(untrained):
            values[name][:] = 0 if as_zero else np.nan
    return GateHistory("heads", np.arange(steps + 1), values)


def metrics(steps: int = 40, every: int = 10, drop: float = 0.0) -> list[dict[str, Any]]:
    """Metrics as a run writes them: one entry per step, and one more per validation."""
    entries: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        noisy = 2 / step + (0.5 if step % 2 else 0.0) - drop
        rates = {"learning_rate": 0.005 * step / steps, "gate_learning_rate": 0.15 * step / steps, "l0_weight": 0.002}
        entries.append({"step": step, "cross_entropy": noisy, "penalty": 1 / step, "loss": noisy + 1 / step, **rates})
        if step % every == 0:
            entries.append({"step": step, "validation_cross_entropy": 3 / step - drop})
    return entries


def edit_effects(count: int = 60, n: int = 100, rounding: float = 0.0) -> EditEffects:
    """Effects of edits in 30 layers: means over ``n`` examples, without intervals if ``n`` is 1."""
    rng = np.random.default_rng(2)
    halves = ("offset", "offset", "offset", "scale")
    places = tuple(EditRef("heads", 7 * index % 30, index % 9, halves[index % 4]) for index in range(count))
    effect = rng.normal(0, 0.1, count) * rng.exponential(1, count)
    span = 0.02 + 0.2 * np.abs(effect) if n > 1 else np.full(count, np.nan)
    return EditEffects(
        edits=places, effect=effect, low=effect - span, high=effect + span, n=n, base=-1.9, edited=-0.3,
        rounding=rounding if n == 1 else np.nan, seconds=1.2, passes=9, one_by_one_seconds=4.8,
    )  # fmt: skip


def next_tokens(tokens: tuple[str, ...] = TOKENS) -> NextTokens:
    """Tokens whose probabilities with the edits are those of the base model in reverse order."""
    base = np.linspace(0.18, 0.01, len(tokens)).tolist()
    sides = zip(tokens, base, base[::-1], strict=True)
    changes = tuple(TokenChange(index, token, before, after) for index, (token, before, after) in enumerate(sides))
    return NextTokens(changes, kl=0.412)


def answer_scores(answers: tuple[str, ...] = ("positive", "negative", HOSTILE)) -> AnswerScores:
    """The base model prefers the second answer, the edited model the first."""
    base, edited = np.array([-2.3, -1.1, -9.0]), np.array([-0.2, -3.0, -8.0])
    return AnswerScores(answers, base[: len(answers)], edited[: len(answers)])


def token_scores(count: int = len(TOKENS)) -> TokenScores:
    """Scores of a text of ``count`` tokens; the first token has no score."""
    rng = np.random.default_rng(3)
    base = np.r_[np.nan, -rng.exponential(2, count - 1)]
    tokens = tuple(TOKENS[index % len(TOKENS)] for index in range(count))
    kl = np.r_[np.nan, rng.exponential(0.1, count - 1)]
    edited = np.minimum(base + rng.normal(0, 0.3, count), -1e-3)
    return TokenScores(tuple(range(count)), tokens, base, edited, kl)


def promoted_tokens() -> PromotedTokens:
    """Ten promoted and ten suppressed tokens."""
    up = tuple((token, 3.0 - 0.2 * index) for index, token in enumerate(TOKENS))
    down = tuple((token, -4.0 + 0.2 * index) for index, token in enumerate(TOKENS))
    return PromotedTokens(up, down)


def direct_effects(count: int = 60) -> DirectEffects:
    """Direct effects of the edits of `edit_effects`."""
    found = edit_effects(count)
    return DirectEffects(found.edits, 3 * found.effect, token=HOSTILE, logit=12.5)


def attention(count: int = len(TOKENS)) -> AttentionPattern:
    """A head that attends most to the first token."""
    rng = np.random.default_rng(4)
    patterns = []
    for _ in range(2):
        weights = np.tril(rng.exponential(1, (count, count)))
        weights[:, 0] += 3
        patterns.append((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))
    return AttentionPattern(3, 4, tuple(TOKENS[index % len(TOKENS)] for index in range(count)), *patterns)


def lens(layers: int = 30, positions: int = 8, count: int = 5) -> LogitLens:
    """Readings that become more confident with depth; in the upper half, the edited model predicts other tokens."""
    rng = np.random.default_rng(5)
    sides = []
    for shift in (0, 1):
        readings = []
        for layer in range(layers + 1):
            row = []
            for at in range(positions):
                first = (layer // 4 + at + (shift if layer > layers / 2 else 0)) % len(TOKENS)
                sure = 0.05 + 0.85 * layer / max(layers, 1) * float(rng.uniform(0.6, 1))
                row.append(
                    tuple(
                        LensToken((first + rank) % len(TOKENS), TOKENS[(first + rank) % len(TOKENS)], sure / 2**rank)
                        for rank in range(count)
                    )
                )
            readings.append(tuple(row))
        sides.append(tuple(readings))
    tokens = tuple(TOKENS[index % len(TOKENS)] for index in range(positions))
    kl = np.linspace(0, 1.3, layers + 1)[:, None] * rng.uniform(0, 1, (layers + 1, positions))
    return LogitLens(tuple(range(layers + 1)), tuple(range(20, 20 + positions)), tokens, *sides, kl)


def layer_changes(layers: int = 30) -> dict[str, list[float]]:
    """Changes that grow with depth, for methods with names of several lengths."""
    names = ("jola", "red", "lora:rank=4", "a-method-with-a-very-long-name:and=settings", HOSTILE)
    return {name: [0.02 * (1 + k) * layer / layers for layer in range(layers)] for k, name in enumerate(names)}


def all_figures(*, dark: bool) -> dict[str, Figure]:
    """Every figure, by a name that a page can use."""
    run, other = history(30, 9), history(30, 9, steps=30)
    runs = {"20260102-150405-sentiment-3f2a": metrics(), HOSTILE: metrics(drop=0.1)}
    return {
        "gate_map": figures.gate_map(run, dark=dark),
        "gate_map_open": figures.gate_map(run, 20, colour="open", dark=dark),
        "gate_map_norm": figures.gate_map(run, colour="norm", dark=dark),
        "gate_map_state": figures.gate_map(run, colour="state", dark=dark),
        "gate_map_large": figures.gate_map(history(80, 64, 2), dark=dark),
        "gate_map_untrained": figures.gate_map(history(untrained="scale"), dark=dark),
        "closed_map": figures.closed_map(run, dark=dark),
        "losses": figures.losses(metrics(), n_validation=100, dark=dark),
        "no_losses": figures.losses([], dark=dark),
        "state_counts": figures.state_counts(run, dark=dark),
        "rates": figures.rates(metrics(), dark=dark),
        "compare_curves": figures.compare_curves(runs, dark=dark),
        "compare_gates": figures.compare_gates(run, other, ("one", HOSTILE), dark=dark),
        "compare_shapes": figures.compare_gates(run, history(), dark=dark),
        "open_by_layer": figures.open_by_layer(run, dark=dark),
        "head_history": figures.head_history(run, 3, 4, dark=dark),
        "next_tokens": figures.next_tokens(next_tokens(), dark=dark),
        "answer_shares": figures.answer_shares(answer_scores(), dark=dark),
        "token_scores": figures.token_scores(token_scores(), dark=dark),
        "token_scores_long": figures.token_scores(token_scores(300), dark=dark),
        "edit_effects": figures.edit_effects(edit_effects(), dark=dark),
        "edit_effects_rounding": figures.edit_effects(edit_effects(12, 1, 0.03), dark=dark),
        "effect_map": figures.effect_map(edit_effects(), (30, 9), dark=dark),
        "layer_changes": figures.layer_changes(layer_changes(), prompts=16, dark=dark),
        "no_layer_changes": figures.layer_changes({}, dark=dark),
        "direct_effects": figures.direct_effects(direct_effects(), dark=dark),
        "promoted_tokens": figures.promoted_tokens(promoted_tokens(), 3, 4, dark=dark),
        "attention_pattern": figures.attention_pattern(attention(), dark=dark),
        "attention_pattern_long": figures.attention_pattern(attention(90), dark=dark),
        "logit_lens": figures.logit_lens(lens(), dark=dark),
        "logit_lens_position": figures.logit_lens(lens(), -1, dark=dark),
    }
