"""Four generation tasks of GEM (Gehrmann et al., 2021): CommonGen, E2E, WebNLG (English) and XSum.

The dataset ``GEM/gem`` is a loading script, which ``datasets`` no longer runs, so the Hub's Parquet copy is read. An
example may have several references; all of them count as right. Two parts differ from GEM's. CommonGen's test part has
no references, so its validation part is used as the test part, and a validation part is carved from the training part
by concept set. E2E has one row per reference, so its test rows with the same meaning are merged into one example.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial

from jola.data.records import Example, Message
from jola.data.tasks.hub import HubTable, Row, examples_of
from jola.data.tasks.info import Parts, TaskInfo

REPO = "GEM/gem"
MAX_NEW_TOKENS = 64
_SLOT = re.compile(r"([^\[\],]+)\[([^\]]*)\]")


def common_gen(row: Row) -> Example:
    """``concepts`` (a list of words), ``target``, ``references``."""
    concepts = ", ".join(row["concepts"])
    return _example(
        f"Ignoring the order of the concepts: {concepts}; \nGenerate a sentence with all the concepts.", row
    )


def e2e_nlg(row: Row) -> Example:
    """``meaning_representation`` as in "name[The Eagle], food[French]", ``target``, ``references``."""
    meaning = row["meaning_representation"]
    return _example(f"Please generate a restaurant description from the information given below:\n\n{meaning}", row)


def web_nlg(row: Row) -> Example:
    """``input`` (a list of triples as in "Subject | relation | Object"), ``target``, ``references``."""
    triples = "; ".join(row["input"])
    return _example(
        f"Take the following triple set as part of a Data-to-Text task: {triples}. Make a lexicalization of the triple "
        "set into plain text.",
        row,
    )


def xsum(row: Row) -> Example:
    """``document``, ``target``, ``references``."""
    return _example(
        f"First, please read the article below.\n\n{row['document']}\n\nNow, can you write me an extremely short "
        "abstract for it?",
        row,
    )


def _example(prompt: str, row: Row) -> Example:
    texts = [row.get("target") or "", *(row.get("references") or ())]
    right = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not right:
        raise ValueError("it has neither a target nor references")
    return Example((Message("user", prompt),), right[0], tuple(right[1:]))


def concept_set(example: Example) -> Hashable:
    """Return the concepts of a CommonGen example, as a set."""
    listed = example.prompt[-1].content.split(": ", 1)[1].rpartition("; \n")[0]
    return frozenset(listed.split(", "))


def meaning(example: Example) -> Hashable:
    """Return the slots and values of an E2E example, as a set; its text if it has none."""
    text = example.prompt[-1].content.split("\n\n", 1)[1]
    return frozenset((slot.strip(), value.strip()) for slot, value in _SLOT.findall(text)) or text


def grouped(examples: Sequence[Example], key: Callable[[Example], Hashable]) -> list[Example]:
    """Merge examples with the same key into the first one, with the answers of the others as its references."""
    groups: dict[Hashable, list[Example]] = {}
    for example in examples:
        groups.setdefault(key(example), []).append(example)
    merged = []
    for first, *others in groups.values():
        answers = [*first.references, *(text for other in others for text in (other.completion, *other.references))]
        references = tuple(dict.fromkeys(text for text in answers if text != first.completion))
        merged.append(replace(first, references=references))
    return merged


def _load(name: str, table: HubTable, build: Callable[[Row], Example]) -> Parts:
    splits = ["train", "validation"] if name == "common_gen" else ["train", "validation", "test"]
    rows, revision = table.read(splits, name)
    part = {split: examples_of(found, build, table) for split, found in rows.items()}
    if name == "common_gen":
        return Parts(part["train"], None, part["validation"], revision=revision, group=concept_set)
    if name == "e2e_nlg":
        part["test"] = grouped(part["test"], meaning)
    return Parts(part["train"], part["validation"], part["test"], revision=revision)


# name, title, configuration, rows of training and test part, license, metrics, builder, invented row for the prompt
_TASKS = (
    (
        "common_gen", "CommonGen", "common_gen", (67389, 993), "MIT", ("bleu", "rouge_l"), common_gen,
        {"concepts": ["dog", "ball", "throw"], "target": "Throw the ball for the dog."},
    ),
    (
        "e2e_nlg", "E2E", "e2e_nlg", (33525, None), "CC BY-SA 4.0", ("bleu", "rouge_l"), e2e_nlg,
        {
            "meaning_representation": "name[The Lantern], eatType[pub], food[Thai], near[The Mill]",
            "target": "The Lantern is a pub with Thai food near The Mill.",
        },
    ),
    (
        "web_nlg", "WebNLG", "web_nlg_en", (35426, 1779), "CC BY-NC", ("bleu", "rouge_l"), web_nlg,
        {
            "input": ["Lake_Example | country | Norway", "Lake_Example | depth | 40.0"],
            "target": "Lake Example in Norway is 40 metres deep.",
        },
    ),
    (
        "xsum", "XSum", "xsum", (23206, 1166), "copyright of the BBC", ("rouge_l", "bleu"), xsum,
        {
            "document": "The bridge over the river was closed on Monday. It will be repaired and opens again in June.",
            "target": "A bridge is closed for repairs until June.",
        },
    ),
)  # fmt: skip

TASKS = tuple(
    TaskInfo(
        name=name,
        title=title,
        description=f"{title} of GEM (Gehrmann et al., 2021).",
        labels=None,
        load=partial(_load, name, HubTable(REPO, configuration, converted=True), build),
        prompt=build(row).prompt[-1].content,
        group="gem",
        metrics=metrics,
        max_new_tokens=MAX_NEW_TOKENS,
        source=HubTable(REPO, configuration, converted=True),
        licence=licence,
        sizes=sizes,
    )
    for name, title, configuration, sizes, licence, metrics, build, row in _TASKS
)
