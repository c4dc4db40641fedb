"""The default task: is a sentence of a movie review positive or negative?

The data are 10,605 snippets of reviews, each rated by at least fifteen people on a scale from -4 to 4 (Hutto
and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM
2014); the column used is the mean of the ratings. Snippets with a mean of at least 1 in magnitude are kept.
Below it raters disagree about the sign (mixed verdicts such as "a heartfelt story, it just isn't a very
involving one"), and the answer would be a coin's. What is left is balanced by itself: 4,597 positive and
4,574 negative without duplicates. Every snippet is the quotation that stands for one review, so no review can
straddle parts.

The parts never change: snippets are ordered by a hash of their words, and of each sign the first are the test
part, the next the validation part, the rest the training part.
"""

import hashlib
import re

from jola.data import assets
from jola.data.records import Example, Message
from jola.data.tasks.info import Parts, TaskInfo
from jola.errors import InputError

LABELS = ("negative", "positive")
DESCRIPTION = "Is a sentence of a movie review positive or negative? Rated by people (Hutto & Gilbert, 2014)."
INSTRUCTION = "Is the sentiment of this movie review positive or negative?"
PROMPT = f"{INSTRUCTION}\nThe story takes its time, but the cast is so warm that you forgive it everything."
"""Not of the data: a review of ours."""

SMALLEST_MEAN = 1.0
"""Smallest magnitude of the mean rating of a snippet that is kept, on the scale from -4 to 4."""

TEST_PER_LABEL, VALIDATION_PER_LABEL = 1000, 500


def load() -> Parts:
    """All examples; validation and test part hold as many positive as negative ones.

    Raises:
        InputError: the data are not there and cannot be fetched.
    """
    path = assets.ensure("movie-reviews") / assets.MOVIE_REVIEWS_FILE
    by_label: dict[str, list[Example]] = {label: [] for label in LABELS}
    for text, label in _distinct_snippets(path.read_text(encoding="utf-8")):
        by_label[label].append(Example((Message("user", f"{INSTRUCTION}\n{text}"),), label))
    train, validation, test = [], [], []
    for examples in by_label.values():
        carved = TEST_PER_LABEL + VALIDATION_PER_LABEL
        if len(examples) <= carved:
            raise InputError(f"{path} is damaged; remove the asset 'movie-reviews' and fetch it again.")
        test += examples[:TEST_PER_LABEL]
        validation += examples[TEST_PER_LABEL:carved]
        train += examples[carved:]
    return Parts(train, validation, test)


def _distinct_snippets(table: str) -> list[tuple[str, str]]:
    """Snippet and label, ordered by a hash of the words; of snippets with the same words the first stays."""
    snippets: dict[str, tuple[str, str]] = {}
    for line in table.split("\n"):
        if not line.strip():
            continue
        _, mean, text = line.rstrip("\r").split("\t")
        rating = float(mean)
        if abs(rating) < SMALLEST_MEAN:
            continue
        # Dashes of the source were turned into runs of blanks.
        text = " ".join(text.split())
        words = " ".join(re.findall(r"\w+", text.lower()))
        key = hashlib.sha256(words.encode("utf-8")).hexdigest()
        snippets.setdefault(key, (text, LABELS[rating > 0]))
    return [snippets[key] for key in sorted(snippets)]


TASK = TaskInfo(
    name="sentiment",
    title="Movie-review sentiment",
    description=DESCRIPTION,
    labels=LABELS,
    load=load,
    prompt=PROMPT,
    licence="MIT",
    sizes=(6171, 2000),
)
