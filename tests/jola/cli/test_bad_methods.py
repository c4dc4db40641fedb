"""Adapters and settings of methods that do not fit: commands refuse each with one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from jola.jola_model import JoLAModel
from jola.methods.lora import LoRAConfig
from jola.methods.red import REDConfig
from tests.jola.cli.commands import Result, assert_refused, train
from tests.tiny import make_model, make_tokenizer

Jola = Callable[..., Result]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def adapters(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LoRA and a RED adapter, and models of other architectures."""
    folder = tmp_path_factory.mktemp("adapters")
    for name, settings in (("lora", LoRAConfig(rank=2)), ("red", REDConfig())):
        model = JoLAModel.from_pretrained(str(place / "tiny"), edits=settings, dtype="float32", device="cpu")
        model.save_pretrained(folder / name)
    for architecture in ("gpt2", "qwen2"):
        make_model(architecture).save_pretrained(folder / architecture)
        make_tokenizer().save_pretrained(folder / architecture)
    return folder


def evaluate(place: Path, adapter: Path, *more: Any) -> list[Any]:
    given = ["evaluate", adapter, "--task", place / "task", "--test-size", 2, "--no-options"]
    return [*given, "--dtype", "float32", "--device", "cpu", *more]


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
def test_a_lora_adapter_of_another_model(jola: Jola, place: Path, adapters: Path, architecture: str) -> None:
    # The modules of Qwen2 have the names and shapes of Llama's.
    result = jola(*evaluate(place, adapters / "lora", "--model", adapters / architecture))
    assert_refused(result, "lora")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("q_proj", "__class__"),
        ("layers.0", "layers.0.../../../etc/x"),
        ("layers.0.", "layers.99."),
        ("q_proj", "<img src=x onerror=alert(1)>"),
        ("self_attn.q_proj", "forward"),
        ("model.layers.0.self_attn.q_proj", "lm_head"),
        ("q_proj.lora_A", "q_proj." + "x" * 5000),
    ],
)
def test_a_lora_adapter_with_hostile_names(
    jola: Jola, place: Path, adapters: Path, tmp_path: Path, old: str, new: str
) -> None:
    folder = shutil.copytree(adapters / "lora", tmp_path / "lora")
    tensors = load_file(folder / WEIGHTS)
    changed = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    assert changed.keys() != tensors.keys()
    save_file(changed, folder / WEIGHTS)
    result = jola(*evaluate(place, folder))
    assert_refused(result, "does not fit its model")
    assert len(result.err) < 1000


def test_an_adapter_with_the_numbers_or_the_settings_of_another_method(
    jola: Jola, place: Path, adapters: Path, tmp_path: Path
) -> None:
    numbers = shutil.copytree(adapters / "lora", tmp_path / "numbers")
    shutil.copy(adapters / "red" / WEIGHTS, numbers / WEIGHTS)
    assert_refused(jola(*evaluate(place, numbers)), "does not fit its model")
    settings = shutil.copytree(adapters / "red", tmp_path / "settings")
    content = json.loads((settings / "adapter_config.json").read_text())
    (settings / "adapter_config.json").write_text(json.dumps(content | {"method": "lora"}))
    assert jola(*evaluate(place, settings)).code == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--method", "red", "--rank", "4"], "--rank is a setting of lora and loreft, not of red"),
        (["--rank", "4"], "--rank is a setting of lora and loreft, not of jola"),
        (["--method", "lora", "--gates", "none"], "--gates is a setting of jola, not of lora"),
        (["--method", "lofit", "--kept-heads", "13"], "--kept-heads is 13, but the model has 12 heads"),
        (["--method", "lofit", "--kept-heads", "0"], "--kept-heads is 0; it must be at least 1"),
        (["--method", "loreft", "--positions", "f0"], "--positions is 'f0'"),
        (["--method", "loreft", "--positions", "f7+f7"], "--positions is"),
        (["--method", "loreft", "--positions", "f99999999999999999999"], "--positions is"),
        (["--method", "loreft", "--rank", "33"], "--rank is 33, but the hidden size of the model is 32"),
        (["--method", "houlsby", "--reduction-factor", "33"], "--reduction-factor is 33"),
        (["--method", "lora", "--target-modules", "nothing"], "no module called nothing"),
        (["--method", "lora", "--target-modules", "(a+)+$"], "--target-modules is"),
        (["--method", "lora", "--alpha", "nan"], "--alpha is nan"),
        (["--method", "red", "--layers", "9"], "--layers"),
    ],
)
def test_settings_that_do_not_fit(jola: Jola, place: Path, arguments: list[str], sentence: str) -> None:
    assert_refused(jola(*train(place, *arguments)), sentence)


def test_positions_beyond_the_prompts_are_said_to_be_all(jola: Jola, place: Path, tmp_path: Path) -> None:
    common = ["--method", "loreft", "--rank", "2", "--output"]
    result = jola(*train(place, *common, tmp_path / "long", "--positions", "f500+l500"))
    assert result.code == 0
    assert "note: --positions is 'f500+l500', but the longest prompt has" in " ".join(result.err.split())
    result = jola(*train(place, *common, tmp_path / "short", "--positions", "f2+l2"))
    assert result.code == 0 and "--positions" not in result.err
