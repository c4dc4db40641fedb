"""Options chosen by projection on directions, compared with small cases by hand and hidden states of transformers."""

import pytest
import torch

from jola.data.examples import Example, Message, Template
from jola.errors import InputError
from jola.evaluation.reading import choose_layers, option_projections, read_options, reading_vectors
from jola.jola_model import JoLAModel
from jola.methods.repe import RePEConfig
from tests.tiny import make_model, make_tokenizer


def example(answer: str, *options: str) -> Example:
    return Example((Message("user", "?"),), answer, options=options)


EXAMPLES = [example("a", "a", "b"), example("c", "a", "b", "c")]
# Two layers: the first prefers a and c, the second b and b.
PROJECTIONS = torch.tensor([[[0.5, -0.1], [0.2, 0.3], [-torch.inf, -torch.inf]], [[0.1, 0.2], [0.0, 0.9], [0.4, -0.2]]])


def test_the_option_with_the_largest_projection_is_chosen() -> None:
    first = read_options(PROJECTIONS, EXAMPLES, None, [0])
    assert first.choices == ["a", "c"] and (first.accuracy.correct, first.accuracy.n) == (2, 2)
    second = read_options(PROJECTIONS, EXAMPLES, None, [1])
    assert second.choices == ["b", "b"] and second.accuracy.correct == 0
    both = read_options(PROJECTIONS, EXAMPLES, None, [0, 1])
    # Means: 0.2 and 0.25; 0.15, 0.45 and 0.1.
    assert both.choices == ["b", "b"] and both.scores[1].tolist() == pytest.approx([0.15, 0.45, 0.1])
    assert both.layers == (0, 1)


def test_validation_chooses_among_all_layers_and_each() -> None:
    vectors = torch.ones(2, 4)
    assert choose_layers(PROJECTIONS, EXAMPLES, None, vectors).layers == (0,)
    wrong = [example("b", "a", "b"), example("b", "a", "b", "c")]
    assert choose_layers(PROJECTIONS, wrong, None, vectors).layers == (0, 1)  # as accurate as layer 1, and tried first
    vectors[0] = 0
    assert choose_layers(PROJECTIONS, EXAMPLES, None, vectors).layers == (1,)


@pytest.mark.parametrize("coefficient", [0.1, -2.0])
def test_projections_are_those_of_hidden_states_on_the_directions(coefficient: float) -> None:
    base = make_model("llama")
    model = JoLAModel(base, make_tokenizer(), RePEConfig(layers="0-1", coefficient=coefficient)).eval()
    generator = torch.Generator().manual_seed(3)
    directions = torch.nn.functional.normalize(torch.randn(3, 32, generator=generator), dim=-1)
    norms = torch.tensor([2.0, 5.0, 9.0])
    (offsets,) = model.own_interventions()
    offsets.fill(coefficient * norms[:, None] * directions)
    vectors = reading_vectors(model)
    assert torch.allclose(vectors[:2], directions[:2] / norms[:2, None], atol=1e-6) and not vectors[2].any()
    template = Template(model.tokenizer)
    examples = [example("good", "good", "so bad"), example("x", "y", "x")]
    found = option_projections(model, examples, None, template, vectors)
    assert found.shape == (2, 2, 3)
    for row, given in enumerate(examples):
        for column, option in enumerate(given.options):
            ids = template.encode(Example(given.prompt, option)).input_ids
            assert ids[-1] in template.end_token_ids and ids[-2] not in template.end_token_ids
            with torch.no_grad():
                # The edits of the adapter are not applied.
                states = base(torch.tensor([ids[:-1]]), output_hidden_states=True).hidden_states[1:3]
            expected = [float(s[0, -1] @ d) / float(n) for s, d, n in zip(states, directions, norms, strict=False)]
            assert found[row, column, :2].tolist() == pytest.approx(expected, abs=1e-4)
    labels = [Example((Message("user", "?"),), "good")]
    assert option_projections(model, labels, ["good", "so bad"], template, vectors)[0] == pytest.approx(found[0])


def test_what_cannot_be_read_is_one_sentence() -> None:
    model = JoLAModel(make_model("llama"), make_tokenizer())
    with pytest.raises(InputError, match="needs the directions of RePE, but this is an adapter of JoLA"):
        reading_vectors(model)
    fresh = JoLAModel(make_model("llama"), make_tokenizer(), RePEConfig(layers="0", coefficient=1.0))
    with pytest.raises(InputError, match="offsets of this adapter are zero"):
        reading_vectors(fresh)
    with pytest.raises(InputError, match="at least two different labels"):
        option_projections(fresh, [example("a", "a")], None, Template(fresh.tokenizer), torch.ones(3, 32))
