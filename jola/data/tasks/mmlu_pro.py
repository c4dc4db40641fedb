"""The fourteen domains of MMLU-Pro (Wang et al., 2024), each a separate task.

The dataset has no training part. For each domain, 100 test questions form the test part, another 100 the validation
part, and the others the training part, ordered by a hash of the question; the paper does not say how it splits.
Questions have up to ten options, so the possible answers differ between examples.
"""

from functools import partial

from jola.data.records import Example, Message
from jola.data.tasks.hub import HubTable, Row, examples_of
from jola.data.tasks.info import Parts, TaskInfo

TABLE = HubTable("TIGER-Lab/MMLU-Pro")
LETTERS = "ABCDEFGHIJ"
TEST, VALIDATION = 100, 100
"""Number of questions of each domain that are set aside."""

DOMAINS = {
    "biology": 717, "business": 789, "chemistry": 1132, "computer science": 410, "economics": 844, "engineering": 969,
    "health": 818, "history": 381, "law": 1101, "math": 1351, "other": 924, "philosophy": 499, "physics": 1299,
    "psychology": 798,
}  # fmt: skip
"""The domains, and the number of test questions in each."""


def question(row: Row) -> Example:
    """``category``, ``question``, ``options`` (3 to 10 texts), ``answer`` (a letter)."""
    letters = LETTERS[: len(row["options"])]
    answers = tuple(f"The answer is ({letter})" for letter in letters)
    options = " ".join(f"{letter}. {text}" for letter, text in zip(letters, row["options"], strict=True))
    prompt = (
        f"The following are multiple choice questions (with answers) about {row['category']}. Please return the answer "
        f"in the format of [The answer is (X)] at the end. Question: {row['question']} Options: {options}"
    )
    return Example((Message("user", prompt),), answers[letters.index(row["answer"])], options=answers)


def _load(name: str, domain: str) -> Parts:
    splits, revision = TABLE.read(["test"], name)
    rows = [row for row in splits["test"] if row.get("category") == domain]
    # A question that occurs twice must not be in two parts.
    distinct = {example.prompt: example for example in examples_of(rows, question, TABLE)}
    examples = sorted(distinct.values(), key=lambda example: example.id)
    test, rest = examples[:TEST], examples[TEST:]
    return Parts(rest[VALIDATION:], rest[:VALIDATION], test, revision=revision)


def _task(domain: str, questions: int) -> TaskInfo:
    name = f"mmlu_pro/{domain.replace(' ', '_')}"
    sample = {
        "category": domain,
        "question": "Which of these is the third?",
        "options": ["the first", "the second", "the third"],
        "answer": "C",
    }
    return TaskInfo(
        name=name,
        title=f"MMLU-Pro, {domain}",
        description=f"Questions about {domain} with up to ten options (Wang et al., 2024).",
        labels=None,
        load=partial(_load, name, domain),
        prompt=question(sample).prompt[-1].content,
        group="mmlu-pro",
        metrics=("answer_letter", "options", "exact_match"),
        max_new_tokens=16,
        source=TABLE,
        licence="MIT",
        sizes=(questions - TEST - VALIDATION, TEST),
    )


TASKS = tuple(_task(domain, questions) for domain, questions in DOMAINS.items())
