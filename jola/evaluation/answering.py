"""Let a model answer test examples; the answers have the form in which runs store them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jola.data.examples import Template
from jola.data.records import Example
from jola.errors import InputError
from jola.evaluation.scoring import Progress, answer_tokens, exact_match, option_likelihood
from jola.model.architectures import learned_positions
from jola.model.sharding import passes_together
from jola.runs.answers import LogLikelihoods, TestAnswer
from jola.system.distributed import joined, share
from jola.system.progress import Stopped

if TYPE_CHECKING:
    from jola.model.edited import EditedModel


def answer_together(
    model: "EditedModel",
    examples: Sequence[Example],
    template: Template,
    labels: Sequence[str] | None = None,
    *,
    options: bool = False,
    max_new_tokens: int | None = None,
    beams: int = 1,
    progress: Progress | None = None,
) -> list[TestAnswer] | None:
    """Distribute `answer_examples` over the processes of a launch; all of them call this and get all answers.

    Args:
        progress: Called with the estimated (done, total) of all processes. It may raise `Stopped`.

    Returns:
        None if `progress` stopped one of the processes.
    """
    mine, total = share(examples), len(examples) * (1 + options)

    def advance(done: int, own_total: int) -> None:
        if progress is not None:
            progress(total * done // own_total, total)

    if max_new_tokens is None:
        max_new_tokens = answer_tokens(examples, template)
    answers: list[TestAnswer] | None = []
    try:
        with passes_together(model.base):
            if mine:
                answers = answer_examples(
                    model,
                    mine,
                    template,
                    labels,
                    options=options,
                    max_new_tokens=max_new_tokens,
                    beams=beams,
                    progress=advance,
                )
    except Stopped:
        answers = None
    return joined(answers)


def check_fits(
    model: "EditedModel",
    examples: Sequence[Example],
    template: Template,
    labels: Sequence[str] | None = None,
    *,
    options: bool = False,
    max_new_tokens: int | None = None,
) -> None:
    """Check, before anything is trained, that no prompt is too long for `answer_examples` with the same arguments.

    Raises:
        InputError: A prompt with its answer or an option exceeds the learned positions of the model.
    """
    most = learned_positions(model.base)
    if most is None or not examples:
        return
    new = answer_tokens(examples, template) if max_new_tokens is None else max_new_tokens

    def length(example: Example) -> int:
        texts = (example.options or labels or ()) if options else ()
        scored = [len(template.encode(replace(example, completion=text)).input_ids) for text in texts]
        # No pass reads the last token of a generated answer.
        return max([len(template.encode_prompt(example)) + new - 1, *scored])

    lengths = [length(example) for example in examples]
    if max(lengths) > most:
        raise InputError(
            f"{sum(each > most for each in lengths):,} of {len(lengths):,} test prompts are too long: with their "
            f"answers they have up to {max(lengths):,} tokens, but this {model.geometry.architecture} model has "
            f"positions for {most:,}; remove or shorten them, or choose another model."
        )


def answer_examples(
    model: "EditedModel",
    examples: Sequence[Example],
    template: Template,
    labels: Sequence[str] | None = None,
    *,
    options: bool = False,
    max_new_tokens: int | None = None,
    beams: int = 1,
    progress: Progress | None = None,
) -> list[TestAnswer]:
    """Let the model answer every example without sampling and, if asked for, score its options.

    Args:
        labels: Options of the examples that have none of their own.
        options: Whether to compute the log-likelihoods of the options.
        max_new_tokens, beams: See `exact_match`.
        progress: Called with (done, total) in examples; the total is twice as large with options.

    Raises:
        InputError: There are no examples, or options are asked for and some have fewer than two.
    """
    total = len(examples) * (1 + options)

    def advance(done: int, before: int) -> None:
        if progress is not None:
            progress(before + done, total)

    said = exact_match(
        model,
        examples,
        template,
        max_new_tokens=max_new_tokens,
        beams=beams,
        progress=lambda done, _: advance(done, 0),
    ).answers
    # Labels that are the same for all examples become the options of each.
    answered = [each if each.options else replace(each, options=tuple(labels or ())) for each in examples]
    scores: list[LogLikelihoods | None] = [None] * len(examples)
    if options:
        choice = option_likelihood(
            model, answered, None, template, progress=lambda done, _: advance(done, len(examples))
        )
        rows = zip(choice.log_likelihoods.tolist(), answered, strict=True)
        scores = [tuple(row[: len(example.options)]) for row, example in rows]
    return [
        TestAnswer(example.id, shown, text, log_likelihoods=values)
        for example, shown, text, values in zip(examples, answered, said, scores, strict=True)
    ]
