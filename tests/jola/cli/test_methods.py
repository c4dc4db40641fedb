"""``jola train --method``: every method has its own flags and defaults."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jola.config import RunConfig, flag
from jola.jola_model import JoLAModel
from jola.methods import METHODS
from jola.runs.run import Run
from tests.jola.cli.commands import Result, assert_refused, train


@pytest.mark.parametrize("name", METHODS)
def test_help_shows_the_settings_of_the_method_and_of_no_other(jola: Callable[..., Result], name: str) -> None:
    shown = jola("train", "--method", name, "--help")
    assert (shown.code, shown.err) == (0, "")
    config = RunConfig(method=name)
    own = {field.name for part in config.parts() for field in dataclasses.fields(part)}
    for part in config.parts():
        for field in dataclasses.fields(part):
            used = field.name not in METHODS[name].unused_settings
            assert (f"{flag(field.name)} " in shown.out) == used, field.name
    for other in METHODS.values():
        for field in dataclasses.fields(other.settings):
            assert field.name in own or f"{flag(field.name)} " not in shown.out, field.name
    if METHODS[name].trains:
        assert f"(default: {METHODS[name].learning_rate})" in shown.out


@pytest.mark.parametrize("given", [["--method", "red"], ["--method=red"]])
def test_a_method_is_trained_with_its_settings(jola: Callable[..., Result], place: Path, given: list[str]) -> None:
    result = jola(*train(place, *given, "--layers", "1", "--json"))
    assert result.code == 0, result.err
    config = Run.open(result.json["run"]).run_config()
    assert config.method == "red"
    assert config.edits.layers == "1"
    assert config.training.learning_rate == METHODS["red"].learning_rate


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--rank", "4"],
            "--rank is a setting of lora and loreft, not of jola; add --method lora",
        ),
        (["--method", "red", "--heads=0:1"], "--heads is a setting of jola and lofit, not of red"),
        (["--method", "lora", "--l0-weight", "0.1"], "--l0-weight is a setting of jola, not of lora"),
        (["--method", "lora", "--rank", "0"], "--rank is 0; it must be at least 1"),
        (["--method", "nothing"], "There is no method 'nothing'; choose one of jola, red"),
    ],
)
def test_flags_of_another_method(jola: Callable[..., Result], arguments: list[str], sentence: str) -> None:
    assert_refused(jola("train", *arguments), sentence)


def test_a_method_without_its_name_is_exit_code_2(jola: Callable[..., Result]) -> None:
    result = jola("train", "--method")
    assert (result.code, result.out) == (2, "")
    assert "--method" in result.err


def test_settings_of_gates_are_no_flags_of_a_method_without_gates() -> None:
    config = RunConfig(method="lora")
    config.training.l0_weight = 0.5
    config.training.epochs = 3
    assert config.flags() == ["--method", "lora", "--epochs", "3"]


LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
"""The shape of Llama-3.1-8B, which has 8,030,261,248 parameters."""


@pytest.fixture
def llama_8b(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_8B))
    return path


@pytest.mark.parametrize(
    ("given", "stages"),
    [
        (["jola"], {"train": 264_192}),
        (["red"], {"train": 262_144}),
        (["lora"], {"train": 20_971_520}),
        (["lora", "--target-modules", "q_proj,v_proj"], {"train": 3_407_872}),
        (["bitfit"], {"train": 196_608}),
        (["loreft"], {"train": 2_097_408}),
        (["loreft", "--ends", "separate"], {"train": 4_194_816}),
        (["houlsby", "--reduction-factor", "64"], {"train": 33_820_672}),
        (["houlsby", "--reduction-factor", "256"], {"train": 8_651_776}),
        (["lofit"], {"scales": 131_072, "offsets": 4_096}),
        (["lofit", "--kept-heads", "64"], {"scales": 131_072, "offsets": 8_192}),
        (["lofit", "--heads", "0:1,31:31"], {"offsets": 256}),
        (["repe"], {"directions": 0}),
        (["bitfit", "--target-modules", "v_proj"], {"train": 32_768}),
    ],
    ids=" ".join,
)
def test_counts_on_llama_3_1_8b(
    jola: Callable[..., Result], llama_8b: Path, given: list[str], stages: dict[str, int]
) -> None:
    found = jola("methods", *given, "--shape", llama_8b, "--json").json
    assert found["shape"] == {"model": str(llama_8b), "architecture": "llama", "frozen": 8_030_261_248}
    (count,) = found["counts"]
    assert count["stages"] == stages
    assert count["trainable"] == list(stages.values())[-1]
    assert count["share"] == pytest.approx(count["trainable"] / (count["trainable"] + 8_030_261_248))


def test_every_method_is_listed_and_counted(jola: Callable[..., Result], place: Path) -> None:
    listed = jola("methods")
    assert listed.code == 0
    described = jola("methods", "--shape", place / "tiny", "--json").json["methods"]
    assert [method["name"] for method in described] == list(METHODS)
    for method in described:
        kind = METHODS[method["name"]]
        assert method["title"] in listed.out and method["source"] in listed.out
        assert len(method["counts"]) == 1 + len(kind.presets)
        alone = jola("methods", method["name"])
        for setting in method["settings"]:
            assert setting["flag"] in listed.out and setting["help"] in alone.out
        count = method["counts"][0]
        if method["name"] == "lofit":
            assert count["refusal"] == "--kept-heads is 32, but the model has 12 heads; choose at most 12."
            assert count["refusal"] in jola("methods", "--shape", place / "tiny").out
            continue
        model = JoLAModel.from_pretrained(str(place / "tiny"), edits=kind.settings(), device="cpu", dtype="float32")
        assert next(iter(count["stages"].values())) == model.trainable_parameters()[0]
    assert jola("methods", "--shape", place / "tiny").out.count("\n") == 1 + sum(len(m["counts"]) for m in described)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "There is no method 'nothing'; choose one of jola, red"),
        (["--rank", "4"], "The settings of a method follow its name, as in `jola methods lora --rank"),
        (["lora", "--sites", "mlp"], "--sites is a setting of jola, not of lora"),
        (["lora", "--rank", "0"], "--rank is 0; it must be at least 1"),
        (["--shape", "/no/such/model"], "There is no such file or folder: '/no/such/model'"),
    ],
)
def test_methods_refuses(jola: Callable[..., Result], arguments: list[str], sentence: str) -> None:
    assert_refused(jola("methods", *arguments), sentence)


def test_methods_refuses_a_shape_that_does_not_fit(jola: Callable[..., Result], llama_8b: Path) -> None:
    result = jola("methods", "red", "--layers", "40", "--shape", llama_8b)
    assert_refused(result, "--layers names layer 40, but the model has layers 0 to 31")
    llama_8b.write_text('{"model_type": "bert"}')
    assert_refused(jola("methods", "--shape", llama_8b), "a model of architecture 'bert', which is not supported")
    llama_8b.write_text("{")
    assert_refused(jola("methods", "--shape", llama_8b), "cannot be loaded .*not a valid JSON")


def test_a_configuration_that_is_not_there_is_no_name_on_the_hub(jola: Callable[..., Result]) -> None:
    assert_refused(jola("methods", "--shape", "nowhere.json"), "There is no file nowhere.json; give the config.json")
