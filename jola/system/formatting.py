"""Format estimates and other values for the terminal, the app and model cards."""

import textwrap
from collections.abc import Mapping
from typing import Any

SHARES = ("exact_match", "options", "first_label", "answer_letter")
"""Metrics that are shares of right answers, and can be written in percent."""

_BLANKS = {" ": "␣", "\n": "⏎", "\t": "⇥"}


def is_share(found: Mapping[str, Any]) -> bool:
    """Whether a score is a share of right answers."""
    return found["metric"].removesuffix("_first_reference") in SHARES


def score_text(found: Mapping[str, Any], *, percent: bool = False) -> str:
    """``0.878 (n = 500, 95 % interval 0.846–0.904)``, without the name of the metric.

    Args:
        found: A score, from `jola.evaluation.metrics.Score.to_dict`.
        percent: Whether to write 100 times the fraction: ``87.8 % (…)`` of a share, ``23.1 (…)`` of another metric.
    """
    if percent and not is_share(found):
        return f"{100 * found['value']:.1f} ({sample_text(found, percent=True)})"
    return accuracy_text({**found, "accuracy": found["value"]}, percent=percent)


def short_score_text(found: Mapping[str, Any]) -> str:
    """``87.8 %`` of a share, ``BLEU 23.1`` of another metric."""
    value = f"{100 * found['value']:.1f}"
    return f"{value} %" if is_share(found) else f"{score_title(found)} {value}"


def score_title(found: Mapping[str, Any]) -> str:
    """Return the title of a score's metric."""
    return found.get("title") or found["metric"].replace("_", " ").capitalize()


def score_label(found: Mapping[str, Any]) -> str:
    """Return the label of a score of a run: ``Test accuracy`` for exact match, else the title of its metric."""
    return "Test accuracy" if found["metric"] == "exact_match" else score_title(found)


def score_fact(found: Mapping[str, Any]) -> str:
    """Return the name of a score in a model card: ``Test accuracy, exact match``, ``Test score, BLEU``."""
    title = score_title(found)
    return f"Test accuracy, {title[0].lower()}{title[1:]}" if is_share(found) else f"Test score, {title}"


def accuracy_text(found: Mapping[str, Any], *, percent: bool = False) -> str:
    """``0.878 (n = 500, 95 % interval 0.846–0.904)``, or ``87.8 % (n = 500, 95 % interval 84.6–90.4)``.

    Args:
        found: ``accuracy``, ``n``, ``low`` and ``high``, from `jola.evaluation.scoring.Accuracy.to_dict`.
        percent: Whether to write percentages instead of fractions.
    """
    value = f"{100 * found['accuracy']:.1f} %" if percent else f"{found['accuracy']:.3f}"
    return f"{value} ({sample_text(found, percent=percent)})"


def sample_text(found: Mapping[str, Any], *, percent: bool = False) -> str:
    """Return sample size and interval of an accuracy: ``n = 500, 95 % interval 0.846–0.904``."""
    low, high = (f"{100 * found[end]:.1f}" if percent else f"{found[end]:.3f}" for end in ("low", "high"))
    return f"n = {found['n']:,}, 95 % interval {low}–{high}"


def interval_text(
    value: float | None, low: float | None, high: float | None, *, sign: str = "", digits: int = 3
) -> str:
    """``0.878 (0.846 to 0.904)``, for a column whose heading explains the interval; sign '+' shows both signs.

    Without an interval, ``0.878``; without a value, an empty text.
    """
    if value is None:
        return ""
    form = f"{sign}.{digits}f"
    return f"{value:{form}}" if low is None or high is None else f"{value:{form}} ({low:{form}} to {high:{form}})"


def counted(count: int, noun: str, nouns: str = "") -> str:
    """``1 step``, ``1,200 steps``."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def visible(token: str) -> str:
    """Return a token with its spaces, line breaks and control characters made visible."""
    return "".join(_BLANKS.get(c, c if c.isprintable() else f"\\u{ord(c):04x}") for c in token)


def duration_text(seconds: float) -> str:
    """``2.5 h``, ``12 min`` or ``40 s``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            amount = seconds / size
            return f"{amount:.0f} {unit}" if amount >= 10 else f"{amount:.1f}".removesuffix(".0") + f" {unit}"
    return f"{max(1, round(seconds))} s"


def error_words(error: BaseException, limit: int = 200) -> str:
    """Return the message of an exception, in one line of at most ``limit`` characters; its type if it has none."""
    return textwrap.shorten(str(error), limit, placeholder=" …").rstrip(".") or type(error).__name__


def short(value: Any) -> str:
    """Return the `repr` of a value for use in a sentence, at most 40 characters of it."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
