"""The eight commonsense tasks of LLM-Adapters (Hu et al., 2023), on which the paper trains.

The answer is only a label such as ``true`` or ``answer3``. LLM-Adapters publishes JSON files with finished prompts;
here, identical prompts are built from the datasets on the Hub. The test part is the official test split if it has
labels, else the official validation split.
"""

from collections.abc import Callable, Sequence
from functools import partial

from jola.data.records import Example, Message
from jola.data.tasks.hub import HubTable, Row, examples_of
from jola.data.tasks.info import Parts, TaskInfo

MAX_NEW_TOKENS = 16
"""As in the paper: room for an answer that does not begin with the label."""
METRICS = ("exact_match", "options", "first_label")


def _question(
    intro: str, word: str, texts: Sequence[str], right: int, *, between: str = " ", end: str = "\n\n"
) -> Example:
    """Build a question with numbered options; the answer is the label of option ``right``, counted from 0."""
    labels = tuple(f"{word.lower()}{number}" for number in range(1, len(texts) + 1))
    if not 0 <= right < len(labels):
        raise ValueError(f"there is no option {right + 1} of {len(labels)}")
    body = between.join(f"{word}{number}: {text}" for number, text in enumerate(texts, 1))
    prompt = f"{intro}\n\n{body}{end}Answer format: {'/'.join(labels)}"
    return Example((Message("user", prompt),), labels[right], options=labels)


def boolq(row: Row) -> Example:
    """``question``, ``answer`` (a bool); the passage of the dataset is not used."""
    if not isinstance(row["answer"], bool):
        raise TypeError(f"the answer is {row['answer']!r}, not a truth value")
    prompt = (
        f"Please answer the following question with true or false, question: {row['question']}?\n\n"
        "Answer format: true/false"
    )
    return Example((Message("user", prompt),), str(row["answer"]).lower(), options=("true", "false"))


def piqa(row: Row) -> Example:
    """``goal``, ``sol1``, ``sol2``, ``label`` (0 or 1)."""
    intro = f"Please choose the correct solution to the question: {row['goal']}"
    return _question(intro, "Solution", (row["sol1"], row["sol2"]), int(row["label"]), between="\n\n")


def siqa(row: Row) -> Example:
    """``context``, ``question``, ``answerA`` to ``answerC``, ``label`` ("1" to "3")."""
    intro = f"Please choose the correct answer to the question: {row['context']} {row['question']}"
    return _question(intro, "Answer", [row[f"answer{letter}"] for letter in "ABC"], int(row["label"]) - 1)


def hellaswag(row: Row) -> Example:
    """``activity_label``, ``ctx``, ``endings``, ``label`` ("0" to "3"); marks such as [title] stay in the text."""
    intro = f"Please choose the correct ending to complete the given sentence: {row['activity_label']}: {row['ctx']}"
    return _question(intro, "Ending", row["endings"], int(row["label"]))


def winogrande(row: Row) -> Example:
    """``sentence`` with a blank _, ``option1``, ``option2``, ``answer`` ("1" or "2")."""
    intro = f"Please choose the correct answer to fill in the blank to complete the given sentence: {row['sentence']}"
    return _question(intro, "Option", (row["option1"], row["option2"]), int(row["answer"]) - 1, end=" ")


def arc(row: Row) -> Example:
    """``question``, ``choices`` ({"text", "label"}), ``answerKey``; 3 to 5 options."""
    return _keyed(row["question"], row)


def obqa(row: Row) -> Example:
    """``question_stem``, ``choices``, ``answerKey``."""
    return _keyed(row["question_stem"], row)


def _keyed(question: str, row: Row) -> Example:
    right = list(row["choices"]["label"]).index(row["answerKey"])
    intro = f"Please choose the correct answer to the question: {question}"
    return _question(intro, "Answer", row["choices"]["text"], right)


def _load(name: str, table: HubTable, build: Callable[[Row], Example], splits: tuple[str, str | None, str]) -> Parts:
    train, validation, test = splits
    rows, revision = table.read([split for split in splits if split], name)
    part = {split: examples_of(found, build, table) for split, found in rows.items()}
    return Parts(part[train], part[validation] if validation else None, part[test], revision=revision)


_CHOICES = {"text": ["It cools.", "It warms.", "It stays the same."], "label": ["A", "B", "C"]}
_HELD_OUT = ("train", None, "validation")
_ALL = ("train", "validation", "test")

# name, title, table, splits, rows of training and test part, license, labels, builder, invented row for the prompt
_TASKS = (
    (
        "boolq", "BoolQ", HubTable("google/boolq"), _HELD_OUT, (9427, 3270), "CC BY-SA 3.0", ("true", "false"), boolq,
        {"question": "can a kettle boil water", "answer": True},
    ),
    (
        "piqa", "PIQA", HubTable("baber/piqa"), _HELD_OUT, (16113, 1838), "not stated",
        ("solution1", "solution2"), piqa,
        {"goal": "How to dry wet shoes", "sol1": "Fill them with paper.", "sol2": "Fill them with ice.", "label": 0},
    ),
    (
        "siqa", "Social IQa", HubTable("lighteval/siqa"), _HELD_OUT, (33410, 1954), "not stated",
        ("answer1", "answer2", "answer3"), siqa,
        {
            "context": "Mara lent Theo her umbrella.", "question": "How would Theo feel?", "answerA": "grateful",
            "answerB": "angry", "answerC": "bored", "label": "1",
        },
    ),
    (
        "hellaswag", "HellaSwag", HubTable("Rowan/hellaswag"), _HELD_OUT, (39905, 10042), "MIT",
        ("ending1", "ending2", "ending3", "ending4"), hellaswag,
        {
            "activity_label": "Making tea", "ctx": "A woman fills a kettle with water. she", "label": "2",
            "endings": ["paints it.", "eats it.", "puts it on the stove.", "throws it away."],
        },
    ),
    (
        "winogrande", "WinoGrande", HubTable("allenai/winogrande", "winogrande_xl"), _HELD_OUT, (40398, 1267), "CC BY",
        ("option1", "option2"), winogrande,
        {"sentence": "The cup did not fit into the box because the _ was too small.", "option1": "cup",
         "option2": "box", "answer": "2"},
    ),
    (
        "arc_easy", "ARC-Easy", HubTable("allenai/ai2_arc", "ARC-Easy"), _ALL, (2251, 2376), "CC BY-SA 4.0", None, arc,
        {"question": "What happens to sand in the sun?", "choices": _CHOICES, "answerKey": "B"},
    ),
    (
        "arc_challenge", "ARC-Challenge", HubTable("allenai/ai2_arc", "ARC-Challenge"), _ALL, (1119, 1172),
        "CC BY-SA 4.0", None, arc,
        {"question": "What happens to a pond in a clear winter night?", "choices": _CHOICES, "answerKey": "A"},
    ),
    (
        "obqa", "OpenBookQA", HubTable("allenai/openbookqa", "main"), _ALL, (4957, 500), "Apache-2.0",
        ("answer1", "answer2", "answer3", "answer4"), obqa,
        {
            "question_stem": "A plant in a dark room will", "answerKey": "D",
            "choices": {"text": ["bloom", "sing", "freeze", "fade"], "label": ["A", "B", "C", "D"]},
        },
    ),
)  # fmt: skip

TASKS = tuple(
    TaskInfo(
        name=name,
        title=title,
        description=f"{title} with the prompts of LLM-Adapters (Hu et al., 2023).",
        labels=labels,
        load=partial(_load, name, table, build, splits),
        prompt=build(row).prompt[-1].content,
        group="commonsense",
        metrics=METRICS,
        max_new_tokens=MAX_NEW_TOKENS,
        source=table,
        licence=licence,
        sizes=sizes,
    )
    for name, title, table, splits, sizes, licence, labels, build, row in _TASKS
)
