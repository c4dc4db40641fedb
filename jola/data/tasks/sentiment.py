"""The default task: is a sentence of a movie review positive or negative?

The data are 10,605 snippets of reviews, each rated by at least fifteen people on a scale from -4 to 4 (Hutto and
Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014); the column
used is the mean rating. Snippets whose mean has a magnitude below 1 are left out, because raters disagree about its
sign (mixed verdicts such as "a heartfelt story, it just isn't a very involving one") and the label would be random. The
others are balanced: 4,597 positive and 4,574 negative without duplicates. Each snippet is the only quotation from its
review, so no review is in two parts.

The parts are fixed: snippets are ordered by a hash of their words, and for each label the first are the test part, the
next the validation part, and the others the training part.
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
"""A sample prompt that is not in the data."""

SMALLEST_MEAN = 1.0
"""Smallest magnitude of the mean rating of a snippet, on the scale from -4 to 4; other snippets are left out."""

TEST_PER_LABEL, VALIDATION_PER_LABEL = 1000, 500


def load() -> Parts:
    """Load all examples; the validation and test parts contain as many positive as negative ones.

    Raises:
        InputError: The data are missing and cannot be downloaded.
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
    """Return (snippet, label) pairs ordered by a hash of the words, only the first of those with the same words."""
    snippets: dict[str, tuple[str, str]] = {}
    for line in table.split("\n"):
        if not line.strip():
            continue
        _, mean, text = line.rstrip("\r").split("\t")
        rating = float(mean)
        if abs(rating) < SMALLEST_MEAN:
            continue
        # In the data, runs of spaces replace the dashes of the source.
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
