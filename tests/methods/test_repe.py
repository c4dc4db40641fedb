"""RePE: directions from pairs, the choice by validation, and refusals."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from jola.adapters.directory import WEIGHTS_NAME, read_adapter
from jola.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from jola.data.examples import Example, Message, Template
from jola.edits.directions import directions
from jola.edits.sites import Site
from jola.errors import InputError
from jola.export import merge
from jola.jola_model import JoLAModel
from jola.methods.repe import COEFFICIENTS, RePEConfig, layer_sets, wrong_answers
from jola.system.progress import Quiet
from jola.training.follower import request_pause
from jola.training.material import Passes
from jola.training.run import run_training
from tests.tiny import make_model, make_tokenizer

IDS = torch.tensor([[5, 9, 17, 33, 8, 21, 40], [7, 3, 28, 64, 90, 11, 2]])


@pytest.fixture
def config(tmp_path: Path, tiny_folder: Path) -> RunConfig:
    data = tmp_path / "task"
    data.mkdir()
    for part, count in (("train", 20), ("validation", 4), ("test", 4)):
        rows = [{"prompt": f"Good or bad? Film {n}", "completion": ("good", "bad")[n % 2]} for n in range(count)]
        (data / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return RunConfig(
        method="repe",
        model=ModelConfig(model=str(tiny_folder), dtype="float32"),
        data=DataConfig(task=str(data)),
        training=TrainingConfig(output=str(tmp_path / "run")),
    )


def test_a_planted_direction_is_found_on_the_side_of_right_answers() -> None:
    generator = torch.Generator().manual_seed(0)
    planted = torch.nn.functional.normalize(torch.randn(3, 16, generator=generator), dim=-1)
    sizes = 2 + torch.rand(40, 3, 1, generator=generator)
    differences = sizes * planted + 0.05 * torch.randn(40, 3, 16, generator=generator)
    for kind in ("component", "mean"):
        for sign in (1, -1):
            found = directions(sign * differences, kind)
            assert torch.allclose(found.norm(dim=-1), torch.ones(3), atol=1e-5)
            assert ((found * sign * planted).sum(-1) > 0.99).all()


def test_wrong_answers_are_other_options_labels_or_answers() -> None:
    def example(answer: str, *options: str) -> Example:
        return Example((Message("user", "?"),), answer, options=options)

    random = Random(0)
    assert wrong_answers([example("a", "a", "b")] * 3, ["x"], random) == ["b"] * 3
    assert set(wrong_answers([example("a")] * 20, ["a", "b", "c"], random)) == {"b", "c"}
    texts = [example("one"), example("two"), example("two")]
    assert wrong_answers(texts, None, random) == ["two", "one", "one"]
    either = Example((Message("user", "?"),), "one", references=("two",))
    assert set(wrong_answers([either, example("two"), example("three")] * 9, None, random)[::3]) == {"three"}
    for alike in ([example("a")] * 3, [either, example("two")]):
        with pytest.raises(InputError, match="all answers of this task are the same, or right for one of its"):
            wrong_answers(alike, None, random)


@pytest.mark.parametrize(
    ("layers", "sets"), [(30, ["10-19", "20-29", "0-29"]), (1, ["0-0"]), (2, ["0-0", "1-1", "0-1"])]
)
def test_sets_of_layers(layers: int, sets: list[str]) -> None:
    assert layer_sets(layers) == sets


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_activations_are_read_at_the_last_token_of_answers(architecture: str) -> None:
    base = make_model(architecture)
    model = JoLAModel(base, make_tokenizer(), RePEConfig(layers="0", coefficient=1.0))
    with torch.no_grad():
        next(iter(model.parameters())).fill_(1.0)  # edits of the model are not applied
    template = Template(model.tokenizer)
    examples = [Example((Message("user", "A film"),), "good"), Example((Message("user", "A warm film"),), "so bad")]
    told: list[int] = []
    passes = Passes(model, template, examples, None, None, 0, told.append, lambda numbers: None)
    found = passes.after_blocks(examples)
    assert told == [1] and found.shape == (2, 3, 32)
    for example, states in zip(examples, found, strict=True):
        row = template.encode(example).input_ids
        assert row[-1] in template.end_token_ids
        with torch.no_grad():
            # transformers normalizes the last hidden state.
            expected = base(torch.tensor([row[:-1]]), output_hidden_states=True).hidden_states[1:-1]
        assert torch.allclose(states[:-1], torch.stack([h[0, -1] for h in expected]), atol=1e-4)


def test_a_run_keeps_what_validation_chooses(config: RunConfig) -> None:
    run = run_training(config)
    adapter = read_adapter(run.adapter_dir)
    rows = run.metrics()
    assert len(rows) == 3 * len(COEFFICIENTS)
    best = max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_cross_entropy"]))
    assert (adapter.edits.layers, adapter.edits.coefficient) == (best["layers"], best["coefficient"])
    assert run.run_config().edits == RePEConfig()
    stored = load_file(run.adapter_dir / WEIGHTS_NAME)
    first, last = map(int, adapter.edits.layers.split("-"))
    assert stored["block.offset.units"].tolist() == list(range(first, last + 1))
    assert stored["block.offset"].shape == (last - first + 1, 32)
    result = run.result()
    assert result is not None and result["steps"] == 0 and result["seconds"] > 0 and result["test"]["n"] == 4
    assert result["validation"]["n"] == 4 and result["validation"]["accuracy"] == best["validation_accuracy"]
    history = run.gates("block")
    assert history.steps.tolist() == [0] and (history.fields["offset_norm"][0, first:] > 0).all()
    # The adapter does what was measured.
    model = JoLAModel.from_adapter(run.adapter_dir, dtype="float32", device="cpu")
    assert model.trainable_parameters()[0] == 0
    doubled = replace(config, edits=RePEConfig(layers=adapter.edits.layers, coefficient=2 * best["coefficient"]))
    doubled.training = replace(config.training, output=f"{config.training.output}-2")
    again = load_file(run_training(doubled).adapter_dir / WEIGHTS_NAME)
    assert torch.allclose(again["block.offset"], 2 * stored["block.offset"], atol=1e-5)


class Paused(Quiet):
    """Requests a pause of a run after some batches."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    def advance(self, done: int, **values: float) -> None:
        if done == 6:
            from jola.runs.run import Run

            request_pause(Run(self.config.training.output))


def test_a_paused_run_has_no_edits_and_begins_again(config: RunConfig) -> None:
    run = run_training(config, progress=Paused(config))
    assert run.state == "paused" and not run.adapter_dir.exists()
    run = run_training(config, resume=True)
    assert run.state == "finished" and len(run.metrics()) == 12


@pytest.mark.parametrize(
    ("part", "settings", "sentence"),
    [
        ("train", RePEConfig(), "all answers of this task are the same"),
        ("", RePEConfig(layers="9"), "--layers names layer 9, but the model has layers 0 to 2"),
        ("", RePEConfig(layers="last"), "write 'all' or ranges"),
        ("", RePEConfig(coefficient=1e9), "--coefficient is .* at most 100"),
    ],
)
def test_what_cannot_be_computed_is_refused(config: RunConfig, part: str, settings: RePEConfig, sentence: str) -> None:
    config.edits = settings
    if part == "train":
        for file in Path(config.data.task).iterdir():
            file.write_text(file.read_text().replace('"bad"', '"good"'))
    with pytest.raises(InputError, match=sentence):
        run_training(config)


def test_a_choice_needs_validation_examples() -> None:
    model = JoLAModel(make_model("llama"), make_tokenizer(), RePEConfig())
    examples = [Example((Message("user", "A film"),), answer) for answer in ("good", "bad")]
    passes = Passes(model, Template(model.tokenizer), examples, None, None, 0, lambda done: None, lambda numbers: None)
    for settings in (RePEConfig(), RePEConfig(layers="1"), RePEConfig(coefficient=0.1)):
        with pytest.raises(InputError, match="has none; give --layers and --coefficient, or validation examples"):
            model.method.compute(settings, model.geometry, passes)
    chosen, tensors = model.method.compute(RePEConfig("1", 0.1), model.geometry, passes)
    assert chosen == RePEConfig("1", 0.1) and bool(tensors["block.offset"][1].any())


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3_text", "olmo2", "gemma"])
def test_offsets_after_blocks_are_not_merged_where_mlps_are_normalized(architecture: str) -> None:
    model = JoLAModel(make_model(architecture), make_tokenizer(), RePEConfig(layers="1", coefficient=1.0))
    with torch.no_grad():
        next(iter(model.parameters())).fill_(0.3)
    assert model.own_interventions()[0].site is Site.BLOCK
    assert not torch.allclose(model(IDS).logits, model(IDS, strength=0.0).logits, atol=1e-3)
    with pytest.raises(InputError, match="cannot be folded into a plain"):
        merge(model)
