"""Data in the format of the reference package: a ``text`` column, in which a response template precedes the answer.

`JoLADataset`, `make_data_collator` and `data_from_list` have the same arguments and results as in the reference
package. Two of its bugs are fixed: an answer ends with the end token, so that a model learns to stop, and prompt and
answer are tokenized separately, so that the answer is found whatever the tokenizer does at the boundary.
"""

import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from jola.data.examples import PLAIN_PROMPT, Encoded, collate
from jola.errors import InputError

logger = logging.getLogger(__name__)

RESPONSE_TEMPLATE = "### Response:\n"
HOLD_OUT = 0.1
"""Share of the training examples used for validation if a script evaluates without validation data."""

Rows = list[dict[str, str]]


class JoLADataset:
    """Instructions and answers as prompts in the plain template of the paper.

    Args:
        from_list: Unused; for compatibility with scripts that pass it.
        data_path: A folder with ``train.json``, ``valid.json`` and ``test.json``, with one object per line.
        train_size: Number of training (and validation) examples to draw; 0 means all.
        train_list: A list of ``{"instruction", "answer"}``, or a list of alternating instructions and answers.
    """

    def __init__(
        self,
        from_list: bool = False,
        data_path: str | Path | None = None,
        train_size: int = 200,
        train_list: Sequence[Any] | None = None,
    ) -> None:
        self.from_list = from_list
        self.data_path = data_path
        self.train_size = train_size
        self.train_list = train_list
        self.jola_datasets: dict[str, Any] = {"train": {}, "valid": {}, "test": {}}

    def data_from_list(self) -> dict[str, Any]:
        """The data sets by part: ``train`` from `train_list`; the others are empty."""
        self.jola_datasets["train"] = self.format_prompt(self._sample(_pairs(self.train_list)), append_label=True)
        return self.jola_datasets

    def data_from_file(self) -> dict[str, Any]:
        """The data sets by part, from the files in `data_path`."""
        if self.data_path is None:
            raise InputError("JoLADataset has no data_path; give a folder with train.json, valid.json and test.json.")
        for part in ("train", "valid", "test"):
            rows = _read_lines(Path(self.data_path) / f"{part}.json")
            rows = rows if part == "test" else self._sample(rows)
            self.jola_datasets[part] = self.format_prompt(rows, append_label=part != "test")
        return self.jola_datasets

    def generate_prompt(self, instruction: str) -> str:
        """Insert an instruction into the prompt of the paper."""
        return PLAIN_PROMPT.replace("{instruction}", instruction)

    def format_prompt(self, rows: Rows, append_label: bool) -> datasets.Dataset:
        """A data set with a column ``text``, or for testing with ``prompt`` and ``target_text``."""
        prompts = [(self.generate_prompt(row["instruction"]), row["answer"]) for row in rows]
        if append_label:
            return datasets.Dataset.from_dict({"text": [prompt + answer for prompt, answer in prompts]})
        return datasets.Dataset.from_dict(
            {"prompt": [prompt for prompt, _ in prompts], "target_text": [answer for _, answer in prompts]}
        )

    def _sample(self, rows: Rows) -> Rows:
        return random.sample(rows, self.train_size) if 0 < self.train_size <= len(rows) else rows


def data_from_list(train_list: Sequence[Any], train_size: int = 200) -> dict[str, Any]:
    """`JoLADataset.data_from_list` in one call."""
    return JoLADataset(train_list=train_list, train_size=train_size).data_from_list()


@dataclass(frozen=True)
class ResponseCollator:
    """Collate texts to batches in which only the answer after the response template has labels.

    A row is ``{"text"}``, ``{"input_ids"}`` or `Encoded`; batches are as from `jola.data.examples.collate`.
    """

    response_template: str
    tokenizer_: PreTrainedTokenizerBase
    """Not named ``tokenizer``, because Trainer would save it in every checkpoint."""

    def __call__(self, rows: list[Any]) -> dict[str, Tensor]:
        """Create one batch, padded on the right."""
        pad = self.tokenizer_.pad_token_id
        if not isinstance(pad, int):
            raise InputError("The tokenizer has no padding token; set tokenizer.pad_token.")
        return collate([self.encode(row) for row in rows], pad)

    def encode(self, row: Any) -> Encoded:
        """Tokenize one row, with prompt and answer separately."""
        if isinstance(row, Encoded):
            return row
        decode = self.tokenizer_.decode
        text = str(row["text"] if "text" in row else decode(row["input_ids"], skip_special_tokens=True))
        prompt, found, answer = text.rpartition(self.response_template)
        if not found or not answer:
            raise InputError(
                f"A training text has no answer after {self.response_template!r}; it begins with {text[:40]!r}."
            )
        start: list[int] = list(self.tokenizer_(prompt + found)["input_ids"])
        end = str(self.tokenizer_.eos_token or "")
        return Encoded(start + list(self.tokenizer_(answer + end, add_special_tokens=False)["input_ids"]), len(start))


def make_data_collator(
    response_template: str = RESPONSE_TEMPLATE, tokenizer: PreTrainedTokenizerBase | None = None, mlm: bool = False
) -> ResponseCollator:
    """Create a collator that masks everything up to and including the response template."""
    if tokenizer is None:
        raise InputError("make_data_collator needs a tokenizer: make_data_collator(tokenizer=…).")
    if mlm:
        raise InputError("make_data_collator does not support masked language modeling; leave mlm out.")
    return ResponseCollator(response_template, tokenizer)


@dataclass(frozen=True)
class TextDataset:
    """Settings of a trainer for tokenizing a ``text`` column."""

    tokenizer: PreTrainedTokenizerBase
    collator: Callable[[list[Any]], dict[str, Tensor]] | None
    field: str
    max_length: int


def encode_texts(data: Any, how: TextDataset, part: str) -> Any:
    """Convert a data set with a text column to `Encoded` rows; None if it is empty. Other data is returned unchanged.

    Texts longer than the limit are left out and their number is logged. `InputError` if no text is left.
    """
    if data is None or (hasattr(data, "__len__") and len(data) == 0):
        return None
    if how.field not in (getattr(data, "column_names", None) or ()):
        return data
    collator = how.collator
    if not isinstance(collator, ResponseCollator):
        collator = ResponseCollator(RESPONSE_TEMPLATE, how.tokenizer)
    rows = [collator.encode({"text": text}) for text in data[how.field]]
    kept = [row for row in rows if len(row.input_ids) <= how.max_length]
    if not kept:
        raise InputError(f"No {part} text fits into max_seq_length = {how.max_length} tokens; increase it.")
    if len(kept) < len(rows):
        logger.warning(
            "%d of %d %s texts are longer than %d tokens and are left out.",
            len(rows) - len(kept),
            len(rows),
            part,
            how.max_length,
        )
    return kept


def hold_out(rows: Any, seed: int) -> tuple[list[Any], list[Any]]:
    """Split rows into (training, validation), for a training that validates without validation data."""
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    size = max(1, round(HOLD_OUT * len(rows)))
    if size == len(rows):
        raise InputError("One example cannot be split into training and validation data; give at least two.")
    logger.warning("No validation data: %d of %d training examples are held out for it.", size, len(rows))
    return [rows[i] for i in sorted(order[size:])], [rows[i] for i in sorted(order[:size])]


def _pairs(given: Sequence[Any] | None) -> Rows:
    rows = list(given or ())
    if not rows:
        raise InputError("JoLADataset has no train_list; give a list of {'instruction', 'answer'}.")
    if all(isinstance(row, str) for row in rows):
        if len(rows) % 2:
            raise InputError(f"train_list has {len(rows)} strings; instructions and answers must come in pairs.")
        rows = [{"instruction": rows[i], "answer": rows[i + 1]} for i in range(0, len(rows), 2)]
    return [_row(row, f"Example {number} of train_list") for number, row in enumerate(rows, 1)]


def _row(row: Any, where: str) -> dict[str, str]:
    if not isinstance(row, dict) or not {"instruction", "answer"} <= set(row):
        raise InputError(f"{where} lacks 'instruction' or 'answer'.")
    if not (isinstance(row["instruction"], str) and isinstance(row["answer"], str)):
        raise InputError(f"{where} has an 'instruction' or 'answer' that is not text; put it in quotes.")
    return row


def _read_lines(path: Path) -> Rows:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Cannot read {path} ({error}); data_path needs train.json, valid.json and test.json."
        ) from error
    rows = []
    # Not str.splitlines, because JSON strings may contain U+2028 and other line separators.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"Line {number} of {path}"
            try:
                rows.append(_row(json.loads(line), where))
            except (json.JSONDecodeError, RecursionError) as error:
                raise InputError(f"{where} is not valid JSON: {error}.") from error
    if not rows:
        raise InputError(f"{path} contains no examples; it needs one object with 'instruction' and 'answer' per line.")
    return rows
