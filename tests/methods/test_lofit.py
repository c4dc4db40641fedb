"""LoFiT: two stages of one run, and the heads that the first chooses for the second."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jola.adapters.directory import CONFIG_NAME, WEIGHTS_NAME, read_adapter
from jola.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from jola.edits.gated import GatedEdits
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.methods import METHODS
from jola.methods.lofit import LoFiTConfig, l1_penalty
from jola.runs.run import Run
from jola.system.progress import Quiet
from jola.training.follower import request_pause
from jola.training.run import run_training
from jola.training.stages import STAGES_NAME
from tests.tiny import make_model, make_tokenizer

LOFIT = METHODS["lofit"]


class Killed(Quiet):
    """Ends a training after some steps, as a signal that cannot be caught would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, done: int, **values: float) -> None:
        self.left -= "loss" in values
        if not self.left:
            raise KeyboardInterrupt


class Paused(Quiet):
    """Requests a pause of a run at a step."""

    def __init__(self, path: Path, step: int) -> None:
        self.run, self.step = Run(path), step

    def advance(self, done: int, **values: float) -> None:
        if done == self.step and "loss" in values:
            request_pause(self.run)


@pytest.fixture
def config(tmp_path: Path, tiny_folder: Path) -> RunConfig:
    data = tmp_path / "task"
    data.mkdir()
    for part, count in (("train", 12), ("validation", 4), ("test", 4)):
        rows = [{"prompt": f"Good or bad? Film {n}", "completion": ("good", "bad")[n % 2]} for n in range(count)]
        (data / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return RunConfig(
        method="lofit",
        edits=LoFiTConfig(kept_heads=3),
        model=ModelConfig(model=str(tiny_folder), dtype="float32"),
        data=DataConfig(task=str(data)),
        training=TrainingConfig(epochs=2, output=str(tmp_path / "run"), keep="last", patience=0),
    )


def named(config: RunConfig, name: str) -> RunConfig:
    path = Path(config.training.output).with_name(name)
    return replace(config, training=replace(config.training, output=str(path)))


def test_a_run_trains_scales_and_then_offsets_of_the_heads_with_the_largest(config: RunConfig) -> None:
    run = run_training(config)
    history = run.gates("heads")
    assert history.steps.tolist() == list(range(13)), "6 steps of each stage, counted on"
    scales, offsets = history.fields["scale_norm"], history.fields["offset_norm"]
    assert np.isnan(offsets[:7]).all() and np.isnan(scales[7:]).all()
    largest = np.sort(np.argsort(-scales[6].ravel(), kind="stable")[:3])
    assert np.flatnonzero(~np.isnan(offsets[12])).tolist() == largest.tolist()

    adapter = read_adapter(run.adapter_dir)
    assert adapter.edits.heads == ",".join(f"{place // 4}:{place % 4}" for place in largest)
    assert json.loads((run.adapter_dir / CONFIG_NAME).read_text())["compact"] is True
    stored = load_file(run.adapter_dir / WEIGHTS_NAME)
    assert stored["heads.offset"].shape == (3, 8) and stored["heads.offset.units"].tolist() == largest.tolist()
    assert run.run_config().edits == config.edits, "the settings of the run are those that were given"

    rows = [row for row in run.metrics() if "loss" in row]
    assert [(row["step"], row["stage"]) for row in rows] == [
        (step, "scales" if step <= 6 else "offsets") for step in range(1, 13)
    ]
    assert all(row["penalty"] > 0 for row in rows[:6]) and all(row["penalty"] == 0 for row in rows[6:])
    peaks = [max(row["learning_rate"] for row in rows[a : a + 6]) for a in (0, 6)]
    assert peaks[0] <= LoFiTConfig.scale_learning_rate < peaks[1] <= LOFIT.learning_rate
    status, result = run.status(), run.result()
    assert (status["step"], status["total_steps"], status["stage"]) == (12, 12, "Training offsets")
    assert result is not None and (result["steps"], result["kept_step"]) == (12, 12)
    assert [(stage["name"], stage["steps"]) for stage in result["stages"]] == [("scales", 6), ("offsets", 6)]
    assert all(stage["seconds"] > 0 for stage in result["stages"])


@pytest.mark.parametrize("steps", [2, 4, 6, 7, 9])
def test_a_run_killed_in_any_stage_is_resumed_bit_for_bit(config: RunConfig, steps: int) -> None:
    config.training.record_every = 2
    whole = run_training(named(config, "whole"))
    with pytest.raises(KeyboardInterrupt):
        run_training(config, progress=Killed(steps))
    resumed = run_training(config, resume=True)
    for name in (WEIGHTS_NAME, CONFIG_NAME):
        assert (resumed.adapter_dir / name).read_bytes() == (whole.adapter_dir / name).read_bytes()
    kept = ("step", "stage", "loss", "cross_entropy", "validation_cross_entropy", "learning_rate")
    one, other = ([{k: row.get(k) for k in kept} for row in run.metrics()] for run in (whole, resumed))
    assert one == other
    assert resumed.gates().steps.tolist() == whole.gates().steps.tolist()
    for name, values in whole.gates().fields.items():
        np.testing.assert_array_equal(resumed.gates().fields[name], values)


def test_a_run_paused_while_it_chooses_has_no_adapter_yet(config: RunConfig) -> None:
    path = Path(config.training.output)
    run = run_training(config, progress=Paused(path, 2))
    assert (run.state, run.status()["stage"], run.status()["step"]) == ("paused", "Training scales", 3)
    assert run.status()["total_steps"] == 12
    assert not run.adapter_dir.exists()
    run = run_training(config, resume=True)
    assert run.state == "finished" and run.adapter_dir.exists()


def test_early_stopping_ends_a_stage_and_the_count_goes_on(config: RunConfig) -> None:
    config.training.epochs, config.training.patience, config.training.keep = 6, 1, "best"
    config.edits.scale_learning_rate, config.edits.l1_weight = 0.5, 1e3  # scales oscillate around zero
    run = run_training(config)
    result = run.result()
    assert result is not None
    first, second = result["stages"]
    assert first["steps"] < 18 and result["steps"] == first["steps"] + second["steps"]
    assert result["kept_step"] == first["steps"] + second["kept_step"]
    assert run.status()["total_steps"] == first["steps"] + 18


def test_given_heads_need_no_first_stage(config: RunConfig) -> None:
    config.edits = LoFiTConfig(heads="1:0,2:3")
    run = run_training(config)
    result = run.result()
    assert result is not None and result["steps"] == 6 and "stages" not in result
    assert read_adapter(run.adapter_dir).edits.heads == "1:0,2:3"
    assert not (run.checkpoints_dir / STAGES_NAME).exists()


def test_ties_are_broken_in_favor_of_lower_layers_and_heads() -> None:
    model = JoLAModel(make_model("llama"), make_tokenizer(), LoFiTConfig(kept_heads=3))
    (edits,) = model.own_interventions()
    assert isinstance(edits, GatedEdits) and edits.halves == ("scale",)
    with torch.no_grad():
        scale = edits.get_parameter("scale")
        scale.fill_(0.1)
        scale[2, 1] = 0.2
    assert LOFIT.next_settings(model.edit_config, [edits]).heads == "0:0,0:1,2:1"
    assert float(l1_penalty(0.5, [edits], 0.0).detach()) == pytest.approx(0.5 * (11 * 8 * 0.1 + 8 * 0.2))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (LoFiTConfig(kept_heads=13), "--kept-heads is 13, but the model has 12 heads; choose at most 12"),
        (LoFiTConfig(kept_heads=0), "--kept-heads is 0; it must be at least 1"),
        (LoFiTConfig(heads="3:0"), "--heads names 3:0, but the model has 3 layers of 4 heads"),
        (LoFiTConfig(heads="all"), "LoFiT chooses heads; write 'auto' or pairs"),
        (LoFiTConfig(heads="first"), "write 'all' or layer:head pairs"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: LoFiTConfig, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        JoLAModel(make_model("llama"), make_tokenizer(), settings)


@pytest.mark.parametrize(
    "content", ["[]", '{"stages": [{"name": "scales"}]}', '{"stages": [{"name": "scales", "steps": "x"}]}']
)
def test_a_damaged_list_of_stages_is_refused(config: RunConfig, content: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_training(config, progress=Killed(8))
    path = Path(config.training.output) / "checkpoints" / STAGES_NAME
    assert len(json.loads(path.read_text())["stages"]) == 1
    path.write_text(content)
    with pytest.raises(InputError, match=r"stages\.json is damaged .*; start the run again"):
        run_training(config, resume=True)
