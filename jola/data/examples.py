"""Turn examples into tokens: templates, labels only on the completion, padding.

Prompt and completion are tokenized separately. A tokenizer that sees both at once may merge characters across the
border, and then the prompt tokens in training would differ from those in generation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from jola.data.records import Example, Message, parse_rows, read_examples
from jola.errors import InputError

__all__ = [
    "IGNORED",
    "PLAIN_PROMPT",
    "Encoded",
    "EncodedSet",
    "Example",
    "Message",
    "Template",
    "collate",
    "collate_prompts",
    "describe_tokens",
    "encode_examples",
    "parse_rows",
    "plain_prompt",
    "read_examples",
]

IGNORED = -100
"""Label of a position without loss, as ignored by PyTorch's cross-entropy."""

PLAIN_PROMPT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n"
    " ### Instruction:\n{instruction}\n\n### Response:\n"
)
"""The paper's prompt, verbatim (including the space before the first heading)."""

_PROBE_QUESTION, _PROBE_ANSWER = "question", "jola answer probe"


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example; those from ``completion_start`` on are the completion and contribute to the loss."""

    input_ids: list[int]
    completion_start: int


@dataclass(frozen=True)
class EncodedSet:
    """``rows[i]`` encodes the given example ``kept[i]``; ``dropped`` is the number of examples that were too long."""

    rows: list[Encoded]
    kept: list[int]
    dropped: int


class Template:
    """Render and encode conversations for one tokenizer.

    Args:
        tokenizer: Needs an end-of-text token, and for ``"chat"`` a chat template.
        kind: ``"chat"`` (the tokenizer's template), ``"plain"`` (the paper's), or ``"auto"``: chat if the tokenizer has
            a chat template.

    A chat template is rendered once with a probe, to find out what it writes around an answer: usually nothing before
    it and the end-of-turn token after it. Text before the answer (the empty thinking block of Qwen3) becomes part of
    the prompt, because the model should not learn it. A single space (Mistral) stays with the answer, because
    tokenizers merge it with the first word.

    Raises:
        InputError: There is no end-of-text token, or no chat template for ``"chat"``, or the template fails.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kind: Literal["auto", "chat", "plain"] = "auto") -> None:
        if kind not in ("auto", "chat", "plain"):
            raise InputError(f"The template '{kind}' is unknown; choose auto, chat or plain.")
        has_chat_template = bool(tokenizer.chat_template)
        if kind == "chat" and not has_chat_template:
            raise InputError("The tokenizer of this model has no chat template; choose the plain template.")
        end, end_id = tokenizer.eos_token, tokenizer.eos_token_id
        if not isinstance(end, str) or not isinstance(end_id, int):
            raise InputError(
                "The tokenizer of this model has no end-of-text token, so no answer could end; set its eos_token."
            )
        self.tokenizer = tokenizer
        self.kind: Literal["chat", "plain"] = "chat" if kind != "plain" and has_chat_template else "plain"
        self._prompt_suffix = ""
        self._before_answer = ""
        self._after_answer = end
        self._prefix_ids: list[int] = []
        self._end_token_ids = [end_id]
        if self.kind == "chat":
            self._probe_chat_template()
        else:
            self._prefix_ids = _special_prefix(tokenizer)

    @property
    def end_token_ids(self) -> list[int]:
        """Ids at which the generation of an answer stops: end of text, and the template's end of turn."""
        return list(self._end_token_ids)

    def render(self, example: Example) -> tuple[str, str]:
        """Return the text of the prompt and the text of the completion, which ends with the end token."""
        return self._render_prompt(example.prompt), self._render_completion(example.completion)

    def encode_prompt(self, example: Example) -> list[int]:
        """Return the token ids of the prompt; the answer of the example is ignored and may be empty."""
        text = self._render_prompt(example.prompt)
        # A chat template writes its special tokens itself. The plain template begins with those that the tokenizer puts
        # before a text (usually one or none), but must not end with one, because the answer follows.
        return self._prefix_ids + self._tokenize(text)

    def encode(self, example: Example) -> Encoded:
        """Return the token ids of prompt and completion; those before ``completion_start`` equal `encode_prompt`."""
        prompt = self.encode_prompt(example)
        return Encoded(prompt + self._tokenize(self._render_completion(example.completion)), len(prompt))

    def _tokenize(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _render_completion(self, completion: str) -> str:
        return f"{self._before_answer}{completion}{self._after_answer}"

    def _render_prompt(self, prompt: Sequence[Message]) -> str:
        if self.kind == "chat":
            return self._apply_chat_template(prompt, add_generation_prompt=True) + self._prompt_suffix
        return plain_prompt(prompt)

    def _apply_chat_template(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=add_generation_prompt, tokenize=False
            )
        except TemplateError as error:
            raise InputError(
                f"The chat template of this model refuses a conversation ({error}); change the turns "
                f"({', '.join(message.role for message in messages)}) or choose the plain template."
            ) from None
        assert isinstance(text, str)
        return text

    def _probe_chat_template(self) -> None:
        question, answer = Message("user", _PROBE_QUESTION), Message("assistant", _PROBE_ANSWER)
        prompt = self._apply_chat_template([question], add_generation_prompt=True)
        full = self._apply_chat_template([question, answer], add_generation_prompt=False)
        before, found, after = full.removeprefix(prompt).partition(_PROBE_ANSWER)
        if not full.startswith(prompt) or not found:
            # The template rewrites the text before an answer, so it does not show how an answer continues the prompt.
            return
        if before.strip():
            self._prompt_suffix = before
        else:
            self._before_answer = before
        end = _first_added_token(after, self.tokenizer)
        if end is not None:
            token, stop = end
            self._after_answer = after[:stop]
            token_id = self.tokenizer.convert_tokens_to_ids(token)
            if isinstance(token_id, int) and token_id not in self._end_token_ids:
                self._end_token_ids.append(token_id)


def encode_examples(examples: Sequence[Example], template: Template, max_length: int) -> EncodedSet:
    """Encode examples, leaving out those with more than ``max_length`` tokens in total (0: no limit).

    Examples are never truncated: a shortened prompt would ask something else, and a shortened answer would lose its
    end.

    Raises:
        InputError: There are no examples, or none is short enough.
    """
    rows, kept, shortest = [], [], None
    for index, example in enumerate(examples):
        row = template.encode(example)
        length = len(row.input_ids)
        shortest = length if shortest is None else min(shortest, length)
        if max_length <= 0 or length <= max_length:
            rows.append(row)
            kept.append(index)
    if not rows:
        if shortest is None:
            raise InputError("There are no examples to encode.")
        raise InputError(
            f"None of the {len(examples)} examples fits into max_length = {max_length} tokens; "
            f"the shortest has {shortest}."
        )
    return EncodedSet(rows, kept, len(examples) - len(rows))


def pad_token_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the padding token, or of the end token if there is none; padding is masked, so both work."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    assert isinstance(pad, int)  # a template refuses tokenizers without an end-of-text token
    return pad


def collate(rows: Sequence[Encoded], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return one training batch, padded on the right.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, int64 of shape (batch, tokens). ``labels`` are not shifted
        (the model shifts them) and are ``IGNORED`` on the prompt and on the padding.
    """
    shape = (len(rows), max(len(row.input_ids) for row in rows))
    input_ids = torch.full(shape, pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    for index, row in enumerate(rows):
        tokens = torch.tensor(row.input_ids, dtype=torch.long)
        input_ids[index, : len(tokens)] = tokens
        attention_mask[index, : len(tokens)] = 1
        labels[index, row.completion_start : len(tokens)] = tokens[row.completion_start :]
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def collate_prompts(prompts: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return one batch of prompts to continue, padded on the left so that all end at the same position.

    Returns:
        ``input_ids`` and ``attention_mask``, int64 of shape (batch, tokens).
    """
    shape = (len(prompts), max(len(prompt) for prompt in prompts))
    input_ids = torch.full(shape, pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    for index, prompt in enumerate(prompts):
        start = shape[1] - len(prompt)
        input_ids[index, start:] = torch.tensor(prompt, dtype=torch.long)
        attention_mask[index, start:] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def describe_tokens(example: Example, template: Template) -> list[tuple[str, bool]]:
    """Return the text of each token of an example, and whether the token contributes to the loss.

    Tokens that are parts of one character (bytes of an emoji) are joined in one entry.
    """
    row = template.encode(example)
    prompt, completion = row.input_ids[: row.completion_start], row.input_ids[row.completion_start :]
    return [(text, False) for text in _token_texts(prompt, template.tokenizer)] + [
        (text, True) for text in _token_texts(completion, template.tokenizer)
    ]


def _token_texts(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    # A token is decoded together with those before it, because SentencePiece tokenizers drop the leading space of a
    # single token.
    texts: list[str] = []
    done = 0
    for stop in range(1, len(ids) + 1):
        text = _decode(ids[:stop], tokenizer)
        if stop < len(ids) and text.endswith("\N{REPLACEMENT CHARACTER}"):
            continue
        texts.append(text[done:])
        done = len(text)
    return texts


def _decode(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    text: Any = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def plain_prompt(prompt: Sequence[Message]) -> str:
    """Return a prompt in the plain format.

    Its instruction is the system text, then the turns, with roles if there are several.
    """
    parts = [message.content for message in prompt if message.role == "system"]
    turns = [message for message in prompt if message.role != "system"]
    if len(turns) == 1:
        parts.append(turns[0].content)
    else:
        parts.extend(f"{turn.role}: {turn.content}" for turn in turns)
    return PLAIN_PROMPT.replace("{instruction}", "\n".join(parts))


def _special_prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the special tokens that the tokenizer puts before a text, without those that it puts after one."""
    bare = tokenizer(_PROBE_QUESTION, add_special_tokens=False)["input_ids"]
    whole = tokenizer(_PROBE_QUESTION)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return list(whole[:start])
    return []


def _first_added_token(text: str, tokenizer: Any) -> tuple[str, int] | None:
    """Return the first special or added token in a text (the longest, if several start there), and its end."""
    tokens = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
    found = [(text.find(token), -len(token), token) for token in tokens]
    found = [entry for entry in found if entry[0] >= 0]
    if not found:
        return None
    start, _, token = min(found)
    return token, start + len(token)
