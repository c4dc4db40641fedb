r"""Reading: score options by projecting activations on the directions of RePE (Zou et al., 2023, section 3.1).

With h_l(o) the residual stream of the base model after layer l, at the last token of option o after the prompt, v_l the
direction of layer l and n_l the mean norm there,

    score(o) = mean over l of  h_l(o) · v_l / n_l

and the option with the largest score is chosen. Nothing is added to the model, and nothing is generated. The published
code subtracts the mean activation of each layer first, which adds the same number to all options of a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jola.data.examples import Encoded, Example, Template, collate, pad_token_of
from jola.edits.directions import ComputedOffsets
from jola.errors import InputError
from jola.evaluation.scoring import Accuracy, Progress, evaluating, options_of, right_choices
from jola.model.tracing import Wanted

if TYPE_CHECKING:
    from jola.model.edited import EditedModel

_ROWS = 16


@dataclass(frozen=True, eq=False)
class Reading:
    """Result of `read_options`: ``choices[i]`` is the option with the largest score of example i.

    ``scores`` is (examples, options), float32, with -inf where an example has fewer options.
    """

    accuracy: Accuracy
    choices: list[str]
    scores: Tensor
    layers: tuple[int, ...]
    """Layers whose projections are averaged."""


def reading_vectors(model: "EditedModel") -> Tensor:
    """Return v_l / n_l of the layers that a RePE adapter edits, (layers, hidden), else zero; float32 on the CPU.

    Raises:
        InputError: The model has no RePE edits, or their coefficient is 0.
    """
    offsets = next((i for i in model.own_interventions() if isinstance(i, ComputedOffsets)), None)
    if offsets is None:
        raise InputError(f"Reading needs the directions of RePE, but this is an adapter of {model.method.title}.")
    coefficient = model.edit_config.coefficient
    vectors = offsets.get_parameter("offset").detach()[:, 0].float().cpu()
    if not coefficient or not bool(vectors.any()):
        raise InputError("The offsets of this adapter are zero and have no direction; train RePE again.")
    # An offset is c·n·v, so its product with itself is (c·n)².
    squares = vectors.square().sum(-1, keepdim=True)
    return torch.where(squares > 0, coefficient * vectors / squares, 0.0)


@torch.no_grad()
def after_answers(model: "EditedModel", rows: Sequence[Encoded], ends: Sequence[int]) -> Tensor:
    """Return the base model's residual stream after each layer, at the last token of each answer before its end tokens.

    Args:
        rows: One batch.
        ends: Ids of the tokens that end an answer.

    Returns:
        (rows, layers, hidden), float32, on the CPU.
    """
    batch = collate(rows, pad_token_of(model.tokenizer))
    last = torch.zeros_like(batch["labels"], dtype=torch.bool)
    for index, row in enumerate(rows):
        place = len(row.input_ids) - 1
        while place > row.completion_start and row.input_ids[place] in ends:
            place -= 1
        last[index, place] = True
    layers = range(1, model.geometry.num_layers + 1)
    with model.lock, model.disable_edits():
        inputs = model.inputs(batch["input_ids"], batch["attention_mask"])
        record = model.traced.record(inputs, {}, Wanted(entering=layers), rows=last.to(model.device))
    # Layers may be on several devices.
    states = (record.entering[layer] for layer in layers)
    return torch.stack([each[last.to(each.device)].float().cpu() for each in states], 1)


def option_projections(
    model: "EditedModel",
    examples: Sequence[Example],
    labels: Sequence[str] | None,
    template: Template,
    vectors: Tensor,
    *,
    progress: Progress | None = None,
) -> Tensor:
    """Return h_l(o) · vector_l of each option, (examples, options, layers); -inf where an example has fewer options.

    Args:
        labels: The options of every example that has none of its own.
        vectors: (layers, hidden), from `reading_vectors`.
        progress: Called with (done, total) in examples.

    Raises:
        InputError: There are no examples, or one has fewer than two options.
    """
    options = options_of(examples, labels)
    most = max(map(len, options))
    found = torch.full((len(examples), most, len(vectors)), -torch.inf)
    size = max(1, _ROWS // most)
    with evaluating(model):
        for start in range(0, len(examples), size):
            part = range(start, min(start + size, len(examples)))
            places = [(index, column) for index in part for column in range(len(options[index]))]
            rows = [template.encode(replace(examples[i], completion=options[i][column])) for i, column in places]
            states = after_answers(model, rows, template.end_token_ids)
            found[tuple(zip(*places, strict=True))] = (states * vectors).sum(-1)
            if progress is not None:
                progress(part.stop, len(examples))
    return found


def read_options(
    projections: Tensor, examples: Sequence[Example], labels: Sequence[str] | None, layers: Sequence[int]
) -> Reading:
    """Choose the option of each example with the largest mean projection over layers.

    Args:
        projections: (examples, options, layers), from `option_projections`.
        labels: See `option_projections`.
    """
    scores = projections[:, :, list(layers)].mean(-1)
    choices = [given[int(at)] for given, at in zip(options_of(examples, labels), scores.argmax(1), strict=True)]
    return Reading(right_choices(choices, examples), choices, scores, tuple(layers))


def choose_layers(
    projections: Tensor, examples: Sequence[Example], labels: Sequence[str] | None, vectors: Tensor
) -> Reading:
    """Choose the layers with the best accuracy: all that have a direction, or a single one; the first among equals.

    Args:
        projections, examples, labels: Of validation examples, see `read_options`.
        vectors: (layers, hidden); layers without a direction are zero.
    """
    there = [layer for layer, vector in enumerate(vectors) if bool(vector.any())]
    tried = [there, *([layer] for layer in there if len(there) > 1)]
    readings = [read_options(projections, examples, labels, layers) for layers in tried]
    return max(readings, key=lambda reading: reading.accuracy.value)
