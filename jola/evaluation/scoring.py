"""Accuracy of an edited model, by generation and by the likelihood of the options.

Exact match is the paper's metric. On a task with known labels it also measures the form: a model that knows the answer
but phrases it differently scores 0. The likelihood of the options does not depend on the form, so both together show
what the edits taught: the form, or the task.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from scipy.stats import binomtest
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from jola.data.examples import Example, Template, collate_prompts, pad_token_of
from jola.errors import InputError
from jola.evaluation.metrics import EXACT_MATCH, right_answers
from jola.system.formatting import accuracy_text

if TYPE_CHECKING:
    from jola.model.edited import EditedModel, Masks

Progress = Callable[[int, int], None]
"""Called with (done, total) in examples."""

_SPARE_TOKENS = 2  # beyond the longest right answer, so that a longer, wrong answer does not look right

# A model's generation_config may ask for sampling or penalize repeated tokens (Qwen's does).
_WITHOUT_SAMPLING = {
    "do_sample": False,
    "repetition_penalty": 1.0,
    "temperature": None,
    "top_k": None,
    "top_p": None,
}


@dataclass(frozen=True)
class Accuracy:
    """``correct`` of ``n`` examples, with Wilson's 95 % interval for the proportion."""

    correct: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.n or self.n == 0:
            raise ValueError(f"{self.correct} correct of {self.n} is not a proportion")

    @property
    def value(self) -> float:
        """The proportion."""
        return self.correct / self.n

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self._interval[0]

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self._interval[1]

    @cached_property
    def _interval(self) -> tuple[float, float]:
        interval = binomtest(self.correct, self.n).proportion_ci(confidence_level=0.95, method="wilson")
        return float(interval.low), float(interval.high)

    def to_dict(self) -> dict[str, float | int]:
        """``{"accuracy", "n", "low", "high"}``."""
        return {"accuracy": self.value, "n": self.n, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return accuracy_text(self.to_dict())


@dataclass(frozen=True)
class ExactMatch:
    """Result of `exact_match`: ``answers[i]`` is the model's answer to example i."""

    accuracy: Accuracy
    answers: list[str]


@dataclass(frozen=True, eq=False)
class OptionChoice:
    """Result of `option_likelihood`.

    ``choices[i]`` is the most likely option of example i; ``log_likelihoods`` (examples, options), float32 on the CPU,
    contains ln p(option | prompt) in the order of the options, and -inf where an example has fewer.
    """

    accuracy: Accuracy
    choices: list[str]
    log_likelihoods: Tensor


def exact_match(
    model: "EditedModel",
    examples: Sequence[Example],
    template: Template,
    *,
    batch_size: int = 32,
    max_new_tokens: int | None = None,
    beams: int = 1,
    mask: "Masks" = None,
    progress: Progress | None = None,
) -> ExactMatch:
    """Let the model answer every example without sampling, and compare with the right answers character by character.

    Surrounding white space is ignored, and if every right answer is a single line, so is everything after the first
    line of the model's answer. An example's ``references`` are as right as its completion.

    Args:
        batch_size: Prompts generated at once.
        max_new_tokens: Maximum length of an answer; None allows the longest right one, its end token and two more
            tokens.
        beams: Beams of the beam search; 1 is greedy decoding.
        mask: Switches individual edits off for this call, as in `EditedModel.forward`.

    Raises:
        InputError: There are no examples.
    """
    _refuse_none(examples)
    prompts = [template.encode_prompt(example) for example in examples]
    if max_new_tokens is None:
        max_new_tokens = answer_tokens(examples, template)
    ends = template.end_token_ids
    pad = pad_token_of(template.tokenizer)
    answers = [""] * len(examples)
    done = 0
    with evaluating(model):
        for batch in _by_length(prompts, batch_size):
            inputs = collate_prompts([prompts[index] for index in batch], pad)
            tokens = model.generate(
                **inputs,
                mask=mask,
                max_new_tokens=max_new_tokens,
                eos_token_id=ends,
                pad_token_id=pad,
                num_beams=beams,
                **_WITHOUT_SAMPLING,
            )
            new = tokens[:, inputs["input_ids"].shape[1] :].tolist()
            for index, ids in zip(batch, new, strict=True):
                text = _decode_answer(ids, ends, template.tokenizer)
                one_line = not any("\n" in right for right in right_answers(examples[index]))
                answers[index] = text.partition("\n")[0].strip() if one_line else text
            done += len(batch)
            if progress is not None:
                progress(done, len(examples))
    return ExactMatch(right_choices(answers, examples), answers)


def option_likelihood(
    model: "EditedModel",
    examples: Sequence[Example],
    labels: Sequence[str] | None,
    template: Template,
    *,
    batch_size: int = 32,
    mask: "Masks" = None,
    progress: Progress | None = None,
) -> OptionChoice:
    """Choose, for every example, the option whose tokens are most likely after the prompt.

    The log-likelihood of an option is the sum over its tokens *and the end token*. Without the end token, an option
    that begins another ("no" and "no idea") could never be less likely, because the longer one only adds factors below
    1; with it, both are complete answers, which are mutually exclusive events. For the same reason, the sum is not
    divided by the number of tokens.

    Args:
        labels: The options of every example that has none of its own; at least two.
        batch_size: Sequences (prompt with one option) in a pass. The options of one prompt always share a pass, even if
            there are more of them.
        mask: Switches individual edits off for this call, as in `EditedModel.forward`.

    Raises:
        InputError: There are no examples, or one has fewer than two different options.
    """
    options = options_of(examples, labels)
    prompts = [template.encode_prompt(example) for example in examples]
    # A template tokenizes prompt and completion separately, so an option has the same tokens after every prompt.
    texts = dict.fromkeys(text for given in options for text in given)
    tokens = {text: _completion_ids(replace(examples[0], completion=text), template) for text in texts}
    most = max(map(len, options))
    log_likelihoods = torch.full((len(examples), most), -torch.inf)
    done = 0
    with evaluating(model):
        for batch in _by_length(prompts, max(1, batch_size // most)):
            places = [(index, column) for index in batch for column in range(len(options[index]))]
            answers = [(batch.index(index), tokens[options[index][column]]) for index, column in places]
            found = model.answer_log_likelihoods([prompts[index] for index in batch], answers, mask=mask)
            log_likelihoods[tuple(zip(*places, strict=True))] = found
            done += len(batch)
            if progress is not None:
                progress(done, len(examples))
    choices = [given[int(index)] for given, index in zip(options, log_likelihoods.argmax(dim=1), strict=True)]
    return OptionChoice(right_choices(choices, examples), choices, log_likelihoods)


def options_of(examples: Sequence[Example], labels: Sequence[str] | None) -> list[tuple[str, ...]]:
    """Return the options of each example: its own, or the labels.

    Raises:
        InputError: There are no examples, or one has fewer than two different options.
    """
    _refuse_none(examples)
    options = [tuple(example.options or labels or ()) for example in examples]
    if few := [given for given in options if len(set(given)) < 2]:
        raise InputError(f"Options need at least two different labels; these were given: {list(few[0])}.")
    return options


def right_choices(answers: Sequence[str], examples: Sequence[Example]) -> Accuracy:
    """Return the share of answers that are right, compared character by character."""
    right = EXACT_MATCH.values(answers, examples, None)
    return Accuracy(int(sum(right)), len(right))


def _completion_ids(example: Example, template: Template) -> list[int]:
    encoded = template.encode(example)
    return encoded.input_ids[encoded.completion_start :]


def answer_tokens(examples: Sequence[Example], template: Template) -> int:
    """Return the token limit of an answer: the longest right answer, its end token, and two more tokens."""
    answers = {right for example in examples for right in (example.completion, *example.references)}
    return max(len(_completion_ids(replace(examples[0], completion=a), template)) for a in answers) + _SPARE_TOKENS


def _decode_answer(ids: list[int], ends: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text before the first end token, without special tokens and surrounding white space."""
    stop = next((position for position, token in enumerate(ids) if token in ends), len(ids))
    text = tokenizer.decode(ids[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text.strip()


def _by_length(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Yield the indices of the prompts in batches of similar length, to reduce padding.

    The longest come first, so that a batch that does not fit into memory fails at once, and the remaining time is never
    estimated from short prompts.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    for start in range(0, len(order), size):
        yield order[start : start + size]


@contextmanager
def evaluating(model: "EditedModel") -> Iterator[None]:
    """Evaluation mode without gradients inside the block: gates have their evaluation value, nothing is sampled."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _refuse_none(examples: Sequence[Example]) -> None:
    if not examples:
        raise InputError("There are no examples to evaluate.")
