"""Inputs of `jola.insight`: prompts and answers as tokens, and tokens as text."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from jola.data.examples import Example, Message, Template
from jola.edits.intervention import EditMask
from jola.errors import InputError
from jola.model.edited import EditedModel, Masks

Prompt = str | Example | Sequence[int]
"""A user message, a conversation (its answer is ignored), both formatted with the chat template, or token ids."""

# A character takes at most four tokens, one per byte.
_BYTES = 4


def prompt_ids(model: EditedModel, prompt: Prompt, template: Template | None = None) -> list[int]:
    """Token ids of a prompt, up to the start of the answer.

    Raises:
        InputError: The prompt is empty, or an id is not in the vocabulary.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise InputError("The prompt is empty; enter a prompt.")
        prompt = Example((Message("user", prompt),), "")
    if isinstance(prompt, Example):
        return (template or Template(model.tokenizer)).encode_prompt(prompt)
    return checked_ids(model, prompt)


def checked_ids(model: EditedModel, ids: Sequence[int]) -> list[int]:
    """The ids as a list; `InputError` if it is empty or an id is not in the vocabulary."""
    result, size = [int(token) for token in ids], model.base.config.get_text_config().vocab_size
    if not result:
        raise InputError("The text has no tokens; enter some text.")
    if bad := next((token for token in result if not 0 <= token < size), None):
        raise InputError(f"Token id {bad} is not in the vocabulary; ids range from 0 to {size - 1}.")
    return result


def answer_ids(model: EditedModel, answer: str, template: Template | None = None) -> list[int]:
    """Token ids of an answer as in training, with the text that the template adds and the end token."""
    encoded = (template or Template(model.tokenizer)).encode(Example((Message("user", "?"),), answer))
    return encoded.input_ids[encoded.completion_start :]


def answer_of(prompt: Prompt, answer: str | None) -> str:
    """The given answer, or that of the example; `InputError` if neither exists."""
    if answer is None and isinstance(prompt, Example):
        answer = prompt.completion
    if not answer:
        raise InputError("The answer is empty; enter the answer whose probability you want.")
    return answer


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token of a sequence, or the tokenizer's name of the token for incomplete characters."""
    # A token is decoded together with those before it: SentencePiece tokenizers drop the leading space of a single
    # token.
    return [_text_after(tokenizer, ids[max(0, i - _BYTES) : i], token) for i, token in enumerate(ids)]


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """The text of a token inside a text, including its leading space."""
    return _text_after(tokenizer, tokenizer("a", add_special_tokens=False)["input_ids"], token)


def _text_after(tokenizer: PreTrainedTokenizerBase, before: Sequence[int], token: int) -> str:
    start, whole = _decode(tokenizer, before), _decode(tokenizer, [*before, token])
    text = whole.removeprefix(start)
    if whole.startswith(start) and text and "\N{REPLACEMENT CHARACTER}" not in text:
        return text
    name: Any = tokenizer.convert_ids_to_tokens(token)
    return name if isinstance(name, str) else text


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text: Any = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def batch_of(ids: Sequence[int]) -> Tensor:
    """(1, tokens)."""
    return torch.tensor([list(ids)])


def shared_mask(model: EditedModel, mask: Masks) -> list[EditMask | None]:
    """The mask of each intervention in use for a single prompt, without a batch dimension.

    Raises:
        ValueError: A mask does not fit, or has several rows.
    """
    masks: list[EditMask | None] = []
    for own in model.masks(mask):
        if own is not None and own.by_row:
            if own.rows != 1:
                raise ValueError(f"The mask has {own.rows} rows, but there is one prompt.")
            own = own.map(lambda factor: factor[0])
        masks.append(own)
    return masks
