"""Adapter directories: saved adapters load bit for bit, and errors name what does not fit."""

import errno
import io
import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from jola.adapters.directory import load_edits, read_adapter
from jola.config import EditConfig
from jola.edits.intervention import EditMask
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.methods.lora import LoRAConfig
from tests import ROOT
from tests.conftest import spread_edits
from tests.tiny import CONFIGS, make_model

Make = Callable[..., JoLAModel]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
IDS = torch.tensor([[5, 17, 250, 9, 44, 3], [9, 99, 8, 4, 3, 120]])

VARIANTS = {
    "the method": EditConfig(),
    "both sites": EditConfig(sites="both", gate_estimator="expectation", gate_threshold=0.3),
    "a shared gate": EditConfig(sites="mlp", gates="shared", layers="0,2"),
    "no gate": EditConfig(gates="none", operation="scale", heads="0:1,2:3"),
}

IN_A_FRESH_PROCESS = """
import sys, torch
from safetensors.torch import load_file, save_file
from jola import JoLAModel
torch.set_num_threads(1)
ids = load_file(sys.argv[1])["ids"]
with torch.no_grad():
    logits = {f: JoLAModel.from_adapter(f, dtype="float32", device="cpu")(ids).logits for f in sys.argv[3:]}
save_file(logits, sys.argv[2])
"""


@pytest.fixture
def adapter(tiny: Make, tmp_path: Path) -> Path:
    """An adapter of the tiny Llama, whose base model is not on disk."""
    return tiny("llama").save_pretrained(tmp_path / "adapter")


def on(folder: Path, edits: EditConfig | None = None) -> JoLAModel:
    """Load the base model in `folder` in float32, with edits as after training."""
    model = JoLAModel.from_pretrained(str(folder), edits=edits, dtype="float32", device="cpu")
    spread_edits(model)
    return model


def edit_config(adapter: Path, **values: Any) -> None:
    path = adapter / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_group(adapter: Path, group: str, **values: Any) -> None:
    edit_config(adapter, **{group: json.loads((adapter / CONFIG).read_text())[group] | values})


def edit_tensors(adapter: Path, **values: Tensor | None) -> None:
    tensors = load_file(adapter / WEIGHTS) | values
    save_file({name: t for name, t in tensors.items() if t is not None}, adapter / WEIGHTS)


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    return message


class TestRoundTrip:
    def test_a_fresh_process_computes_the_same_to_the_bit(self, tiny_folder: Path, tmp_path: Path) -> None:
        expected, folders = {}, []
        for name, edits in VARIANTS.items():
            model = on(tiny_folder, edits)
            folders.append(str(model.save_pretrained(tmp_path / name)))
            with torch.no_grad():
                expected[folders[-1]] = model(IDS).logits
        save_file({"ids": IDS}, tmp_path / "ids")
        command = [sys.executable, "-c", IN_A_FRESH_PROCESS, str(tmp_path / "ids"), str(tmp_path / "logits"), *folders]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        found = load_file(tmp_path / "logits")
        assert found.keys() == expected.keys()
        for folder in folders:
            assert torch.equal(found[folder], expected[folder]), folder
        assert len({float(logits.sum()) for logits in expected.values()}) == len(VARIANTS)

    @pytest.mark.parametrize("name", VARIANTS)
    def test_everything_that_was_learned_comes_back(self, tiny_folder: Path, tmp_path: Path, name: str) -> None:
        model = on(tiny_folder, VARIANTS[name])
        loaded = JoLAModel.from_adapter(model.save_pretrained(tmp_path / "a"), dtype="float32")
        assert not loaded.training
        assert loaded.edit_config == model.edit_config and loaded.geometry == model.geometry
        assert loaded.state_dict().keys() == model.state_dict().keys()
        for key, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], tensor)
        for before, after in zip(model.gated_edits(), loaded.gated_edits(), strict=True):
            assert torch.equal(before.editable, after.editable)
            assert torch.equal(before.states(), after.states())

    def test_saving_again_replaces_it(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = on(tiny_folder)
        for _ in range(2):
            spread_edits(model, seed=5)
            model.save_pretrained(tmp_path / "a")
        assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["README.md", CONFIG, WEIGHTS, "heads.png"]
        assert torch.equal(JoLAModel.from_adapter(tmp_path / "a").edits.offset, model.edits.offset)

    def test_the_folder_of_a_run_is_enough(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = on(tiny_folder)
        model.save_pretrained(tmp_path / "run" / "adapter")
        loaded = JoLAModel.from_adapter(tmp_path / "run", dtype="float32")
        assert torch.equal(loaded.edits.offset, model.edits.offset)

    def test_from_the_home_folder(self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        on(tiny_folder).save_pretrained(tmp_path / "a")
        assert JoLAModel.from_adapter("~/a").name == str(tiny_folder)

    def test_on_a_base_model_in_another_precision(self, tiny_folder: Path, tmp_path: Path) -> None:
        folder = on(tiny_folder).save_pretrained(tmp_path / "a")
        for dtype in ("bfloat16", "float16"):
            assert str(JoLAModel.from_adapter(folder, dtype=dtype).base.dtype) == f"torch.{dtype}"

    def test_the_base_model_can_be_elsewhere(self, tiny_folder: Path, tmp_path: Path) -> None:
        folder = on(tiny_folder).save_pretrained(tmp_path / "a")
        moved = tiny_folder.rename(tmp_path / "moved")
        message = refusal(lambda: JoLAModel.from_adapter(folder))
        assert f"needs the model it was trained on, {tiny_folder}; if it has moved, give" in message
        assert JoLAModel.from_adapter(folder, model=str(moved)).name == str(moved)
        assert "nowhere" in refusal(lambda: JoLAModel.from_adapter(folder, model="/nowhere"))

    @pytest.mark.parametrize("architecture", sorted(CONFIGS))
    def test_every_architecture(self, tiny: Make, tmp_path: Path, architecture: str) -> None:
        model = tiny(architecture, EditConfig(sites="both"))
        read = read_adapter(model.save_pretrained(tmp_path / "a"))
        assert read.geometry == model.geometry and read.geometry.architecture == architecture
        assert len(read.tensors) == 8


class TestDescription:
    def test_the_configuration_says_what_would_be_silently_wrong(self, adapter: Path) -> None:
        config = json.loads((adapter / CONFIG).read_text())
        assert config["peft_type"] == "JOLA" and config["schema_version"] == 1
        assert config["base_model_name_or_path"] == "tiny-llama"
        assert config["operation"] == "z' = (1 + g_m·m) ⊙ z + g_a·a"
        assert config["geometry"] == {
            "architecture": "llama", "num_layers": 3, "num_heads": 4, "head_dim": 8, "hidden_size": 32,
        }  # fmt: skip
        assert list(config["hook_points"]) == ["heads"] and config["layers"] == {"heads": [0, 1, 2]}
        assert config["edits"]["gates"] == "two" and config["edits"]["gate_estimator"] == "test_time"
        assert config["dtype"] == "float32"

    def test_the_tensors_are_the_edits(self, adapter: Path, tiny: Make) -> None:
        tensors, edits = load_file(adapter / WEIGHTS), tiny("llama").edits
        expected = {f"heads.{name}": p for name, p in edits.named_parameters()}
        assert tensors.keys() == expected.keys() == {
            "heads.offset", "heads.scale", "heads.gates.offset.log_alpha", "heads.gates.scale.log_alpha",
        }  # fmt: skip
        for name, tensor in tensors.items():
            assert tensor.dtype == torch.float32 and torch.equal(tensor, expected[name].detach())

    def test_the_readme_tells_strangers_what_it_is_and_nothing_of_this_machine(
        self, tiny_folder: Path, tmp_path: Path
    ) -> None:
        model = on(tiny_folder, EditConfig(sites="both"))
        folder = model.save_pretrained(tmp_path / "a", {"Task": "trec, 200 training examples"})
        text = (folder / "README.md").read_text()
        assert "tiny-llama" in text and "* Task: trec, 200 training examples" in text
        for edits in model.gated_edits():
            none, offset, scale, both = (int((edits.states() == code).sum()) for code in range(4))
            assert f"* {edits.site}: {none} none, {offset} offset, {scale} scale, {both} both" in text
        assert str(tmp_path) not in text and "/tmp" not in text and os.getcwd() not in text
        assert text.startswith("---\n") and "library_name: jola-workbench" in text

    def test_the_readme_names_a_hub_model(self, tokenizer: Any, tmp_path: Path) -> None:
        model = JoLAModel(make_model("llama"), tokenizer, name="owner/model")
        assert "base_model: owner/model" in (model.save_pretrained(tmp_path) / "README.md").read_text()

    def test_peft_refuses_it(self, adapter: Path) -> None:
        peft = pytest.importorskip("peft", reason="peft comes with the extra 'baselines'")
        base = make_model("llama")
        with pytest.raises((KeyError, ValueError, TypeError)):
            peft.PeftModel.from_pretrained(base, str(adapter))


class TestWrongModel:
    def saved(self, tmp_path: Path, tokenizer: Any, model: Any) -> str:
        model.save_pretrained(tmp_path / "other")
        tokenizer.save_pretrained(tmp_path / "other")
        return str(tmp_path / "other")

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ({"num_hidden_layers": 2}, "with num_layers 3, but .*other has 2"),
            ({"num_attention_heads": 8}, "with num_heads 4, but .*other has 8"),
            ({"head_dim": 16}, "with head_dim 8, but .*other has 16"),
            ({"hidden_size": 64, "head_dim": 8}, "with hidden_size 32, but .*other has 64"),
        ],
        ids=str,
    )
    def test_of_another_shape(
        self, adapter: Path, tmp_path: Path, tokenizer: Any, values: dict[str, int], says: str
    ) -> None:
        config = LlamaConfig.from_dict(CONFIGS["llama"].to_dict() | {"head_dim": None} | values)
        other = self.saved(tmp_path, tokenizer, LlamaForCausalLM(config))
        with pytest.raises(InputError, match=says):
            JoLAModel.from_adapter(adapter, model=other)

    def test_of_another_architecture(self, adapter: Path, tmp_path: Path, tokenizer: Any) -> None:
        other = self.saved(tmp_path, tokenizer, make_model("mistral"))
        with pytest.raises(InputError, match=r"trained on tiny-llama with architecture llama, but .*other has mistral"):
            JoLAModel.from_adapter(adapter, model=other)

    def test_of_the_same_shape(self, adapter: Path, tmp_path: Path, tokenizer: Any) -> None:
        other = self.saved(tmp_path, tokenizer, make_model("llama", seed=1))
        with pytest.raises(InputError, match=r"same shape but other weights \(in model.*\); load the model it was"):
            JoLAModel.from_adapter(adapter, model=other)

    def test_of_one_layer_trained_on(self, adapter: Path, tmp_path: Path, tokenizer: Any) -> None:
        base = make_model("llama")
        with torch.no_grad():
            base.get_parameter("model.layers.2.mlp.down_proj.weight").add_(0.05)
        with pytest.raises(InputError, match=r"other weights \(in model\.layers\.2\.mlp\.down_proj\.weight\)"):
            JoLAModel.from_adapter(adapter, model=self.saved(tmp_path, tokenizer, base))

    @pytest.mark.parametrize("layers", [3, 8, 15])  # 30, 75 and 138 tensors
    def test_of_the_last_layer_trained_on(self, tmp_path: Path, tokenizer: Any, layers: int) -> None:
        base = LlamaForCausalLM(LlamaConfig.from_dict(CONFIGS["llama"].to_dict() | {"num_hidden_layers": layers}))
        adapter = JoLAModel(base, tokenizer, name="tiny").save_pretrained(tmp_path / "adapter")
        with torch.no_grad():
            for parameter in base.get_submodule(f"model.layers.{layers - 1}").parameters():
                parameter.add_(0.05)
        with pytest.raises(InputError, match=rf"other weights \(in model\.layers\.{layers - 1}\."):
            JoLAModel.from_adapter(adapter, model=self.saved(tmp_path, tokenizer, base))


# Damage to an adapter directory, and the error message that it must cause.
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda a: a.rename(a.with_name("gone")), "is not an adapter directory: it has no adapter_config"),
    "no configuration": (lambda a: (a / CONFIG).unlink(), "it has no adapter_config.json"),
    "no tensors": (lambda a: (a / WEIGHTS).unlink(), "it has no adapter_model.safetensors"),
    "broken JSON": (lambda a: (a / CONFIG).write_text("{"), "adapter_config.json is not valid JSON"),
    "empty JSON": (lambda a: (a / CONFIG).write_text(""), "adapter_config.json is not valid JSON"),
    "no UTF-8": (lambda a: (a / CONFIG).write_bytes(b'{"a": "\xff"}'), "adapter_config.json is not valid JSON"),
    "deep JSON": (lambda a: (a / CONFIG).write_text("[" * 100_000), "adapter_config.json is not valid JSON"),
    "endless number": (lambda a: (a / CONFIG).write_text("1" * 9999), "adapter_config.json is not valid JSON"),
    "huge JSON": (lambda a: (a / CONFIG).write_text(" " * (1 << 20) + "{}"), "is larger than 1 MB"),
    "a list": (lambda a: (a / CONFIG).write_text("[]"), "is an adapter of type unknown, not one of JoLA Workbench"),
    "LoRA": (lambda a: edit_config(a, peft_type="LORA"), "is an adapter of type LORA, not one of JoLA Workbench"),
    "a long kind": (lambda a: edit_config(a, peft_type=["x" * 9999]), r"is an adapter of type \['xxxx"),
    "a long revision": (lambda a: edit_config(a, revision=["x" * 9999]), r"revision is invalid: 'tiny-llama', \['xxxx"),
    "new schema": (lambda a: edit_config(a, schema_version=2), "version 2, but this version reads 1; update"),
    "no schema": (lambda a: edit_config(a, schema_version=None), "has format version None"),
    "unknown keys": (
        lambda a: edit_config(a, merged=True, alpha=16),
        r"contains 'alpha', 'merged', which this version does not know; ignoring it could give wrong results",
    ),
    "no geometry": (lambda a: edit_config(a, geometry=None), "is not a complete JoLA configuration"),
    "odd geometry": (lambda a: edit_group(a, "geometry", experts=3), "complete JoLA configuration .*experts"),
    "an architecture that is no text": (lambda a: edit_group(a, "geometry", architecture=[]), r"architecture is \[\]"),
    "layers in words": (lambda a: edit_group(a, "geometry", num_layers="3"), "num_layers is '3'"),
    "no layers": (lambda a: edit_group(a, "geometry", num_layers=0), "num_layers is 0"),
    "fewer than no heads": (lambda a: edit_group(a, "geometry", num_heads=-1), "num_heads is -1"),
    "half a layer": (lambda a: edit_group(a, "geometry", num_layers=1.5), "num_layers is 1.5"),
    "true layers": (lambda a: edit_group(a, "geometry", num_layers=True), "num_layers is True"),
    "memory bomb": (lambda a: edit_group(a, "geometry", num_layers=10**12), "smaller than its configuration says"),
    "another layer": (lambda a: edit_group(a, "geometry", num_layers=4), r"shape \(3, 4, 8\); it must be \(4, 4, 8\)"),
    "no edits": (lambda a: edit_config(a, edits=[]), "is not a complete JoLA configuration"),
    "an unknown setting": (lambda a: edit_group(a, "edits", lr=1), "complete JoLA configuration .*lr"),
    "an unknown gate": (lambda a: edit_group(a, "edits", gates="three"), "--gates is 'three'; choose one of"),
    "ε that is no number": (lambda a: edit_group(a, "edits", gate_threshold=float("nan")), "--gate-threshold is nan"),
    "layers it has not": (lambda a: edit_group(a, "edits", layers="7"), "--layers names layer 7"),
    "another operation": (lambda a: edit_config(a, operation="z' = z + a"), "operation is .z' = z . a., but this"),
    "another place": (lambda a: edit_config(a, hook_points={"heads": "values"}), "hook_points is .*, but this"),
    "no sample": (lambda a: edit_config(a, base_model_sample={}), "base_model_sample is empty"),
    "a sample in words": (lambda a: edit_config(a, base_model_sample={"x": "y"}), "complete JoLA configuration"),
    "a sample that is not a number": (
        lambda a: edit_config(a, base_model_sample={"x": math.nan}),
        "no finite number for 'x'",
    ),
    "an infinite sample": (lambda a: edit_config(a, base_model_sample={"x": math.inf}), "no finite number for 'x'"),
    "an endless sample": (lambda a: edit_config(a, base_model_sample={"x": 10**400}), "complete JoLA configuration"),
    "no base model": (lambda a: edit_config(a, base_model_name_or_path=None), "its revision is invalid: None"),
    "numbered revision": (lambda a: edit_config(a, revision=3), "its revision is invalid: 'tiny-llama', 3"),
    "a missing tensor": (
        lambda a: edit_tensors(a, **{"heads.scale": None}),
        "lacks the tensor heads.scale; the adapter is incomplete",
    ),
    "an extra tensor": (
        lambda a: edit_tensors(a, **{"heads.third": torch.ones(2)}),
        "contains heads.third, which its configuration does not describe",
    ),
    "another site's tensors": (
        lambda a: edit_tensors(a, **{"heads.scale": None, "mlp.scale": torch.ones(3, 4, 8)}),
        "lacks the tensor heads.scale",
    ),
    "a wrong shape": (
        lambda a: edit_tensors(a, **{"heads.offset": torch.ones(3, 8, 4)}),
        r"Tensor heads.offset in .* has shape \(3, 8, 4\); it must be \(3, 4, 8\)",
    ),
    "not a number": (
        lambda a: edit_tensors(a, **{"heads.gates.offset.log_alpha": torch.full((3, 4), torch.nan)}),
        "heads.gates.offset.log_alpha in .* contains values that are not finite",
    ),
    "infinity": (
        lambda a: edit_tensors(a, **{"heads.scale": torch.full((3, 4, 8), -torch.inf)}),
        "heads.scale in .* contains values that are not finite",
    ),
    "whole numbers": (
        lambda a: edit_tensors(a, **{"heads.scale": torch.ones(3, 4, 8, dtype=torch.int64)}),
        "heads.scale in .* not finite",
    ),
    "not a number in eight bits": (
        lambda a: edit_tensors(a, **{"heads.scale": torch.full((3, 4, 8), torch.nan).to(torch.float8_e5m2)}),
        "heads.scale in .* not finite",
    ),
    "tensors cut short": (
        lambda a: (a / WEIGHTS).write_bytes((a / WEIGHTS).read_bytes()[:-10]),
        "is not a readable safetensors file",
    ),
    "no tensors in the file": (lambda a: (a / WEIGHTS).write_bytes(b""), "smaller than its configuration says"),
    "a huge header": (
        lambda a: (a / WEIGHTS).write_bytes(struct.pack("<Q", 50 << 20) + b" " * 1000),
        "its header is too large",
    ),
    "a pickle": (lambda a: torch.save({"a": torch.ones(1000)}, a / WEIGHTS), "is not a readable safetensors file"),
    "a folder for tensors": (
        lambda a: ((a / WEIGHTS).unlink(), (a / WEIGHTS).mkdir()),
        "it has no adapter_model.safetensors",
    ),
}


def units(**values: Any) -> Callable[[Path], Any]:
    """Return damage that replaces the units of the offsets in a compact adapter."""
    return lambda a: edit_tensors(a, **{"heads.offset.units": values["to"]})


# The same for compact adapters.
COMPACT_DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "called whole": (lambda a: edit_config(a, compact=False), "contains heads.offset.units, heads.scale.units, which"),
    "compact in words": (lambda a: edit_config(a, compact="yes"), "compact is 'yes'; it must be true or false"),
    "no units": (units(to=None), "lacks the tensor heads.offset.units"),
    "a unit that is not there": (
        lambda a: edit_tensors(a, **{"heads.offset.units": load_file(a / WEIGHTS)["heads.offset.units"] + 9}),
        "does not say which of the 12 units",
    ),
    "a unit below the first": (
        lambda a: edit_tensors(a, **{"heads.offset.units": load_file(a / WEIGHTS)["heads.offset.units"] - 1}),
        "does not say which of the 12 units",
    ),
    "a unit twice": (
        lambda a: edit_tensors(a, **{"heads.offset.units": load_file(a / WEIGHTS)["heads.offset.units"] * 0}),
        "does not say which of the 12 units",
    ),
    "units in fractions": (
        lambda a: edit_tensors(a, **{"heads.offset.units": load_file(a / WEIGHTS)["heads.offset.units"].double()}),
        "does not say which of the 12 units",
    ),
    "fewer units than vectors": (
        lambda a: edit_tensors(a, **{"heads.offset.units": load_file(a / WEIGHTS)["heads.offset.units"][1:]}),
        "does not say which of the 12 units",
    ),
    "vectors of another width": (
        lambda a: edit_tensors(a, **{"heads.offset": load_file(a / WEIGHTS)["heads.offset"][:, 1:].clone()}),
        r"heads.offset in .* has shape \(\d+, 7\); it must be \(\d+, 8\)",
    ),
    "a scalar": (lambda a: edit_tensors(a, **{"heads.offset": torch.tensor(1.0)}), r"shape \(\); it must be \(8,\)"),
    "not a number": (
        lambda a: edit_tensors(a, **{"heads.offset": load_file(a / WEIGHTS)["heads.offset"] * torch.nan}),
        "heads.offset in .* contains values that are not finite",
    ),
    # Without vectors, the file contains no tensor whose size could contradict the claimed one.
    "endless layers": (lambda a: edit_group(a, "geometry", num_layers=10**9), "units, more than any model has"),
    "endless vectors": (lambda a: edit_group(a, "geometry", head_dim=10**9), "units, more than any model has"),
}


class TestDamage:
    @pytest.mark.parametrize("name", COMPACT_DAMAGE)
    def test_of_a_compact_one_is_named(self, tiny: Make, tmp_path: Path, name: str) -> None:
        model = tiny("llama")
        with torch.no_grad():  # the gates of the first layer open, those of the last layer closed
            for gate in model.edits.gate_parameters():
                gate[0], gate[-1] = 9.0, -9.0
        adapter = model.save_pretrained(tmp_path / "adapter", compact=True)
        damage, says = COMPACT_DAMAGE[name]
        read_adapter(adapter)
        damage(adapter)
        assert str(adapter) in refusal(lambda: read_adapter(adapter))
        with pytest.raises(InputError, match=says):
            read_adapter(adapter)

    @pytest.mark.parametrize("name", DAMAGE)
    def test_is_named(self, adapter: Path, name: str) -> None:
        damage, says = DAMAGE[name]
        read_adapter(adapter)
        damage(adapter)
        message = refusal(lambda: read_adapter(adapter))
        assert str(adapter) in message
        with pytest.raises(InputError, match=says):
            JoLAModel.from_adapter(adapter)

    def test_of_a_description_beside_a_configuration_of_peft(self, tiny: Make, tmp_path: Path) -> None:
        adapter = tiny("llama", LoRAConfig()).save_pretrained(tmp_path / "adapter")
        content = json.loads((adapter / "jola_adapter.json").read_text())
        (adapter / "jola_adapter.json").write_text(json.dumps(content | {"geometry": None}))
        message = refusal(lambda: read_adapter(adapter))
        assert message.startswith(f"{adapter / 'jola_adapter.json'} is not a complete JoLA configuration")

    def test_a_name_that_is_too_long_for_a_path(self) -> None:
        assert "is not an adapter directory" in refusal(lambda: JoLAModel.from_adapter("a" * 5000))

    def test_a_model_folder_is_no_adapter(self, tiny_folder: Path) -> None:
        assert "is not an adapter directory" in refusal(lambda: JoLAModel.from_adapter(tiny_folder))

    def test_an_adapter_is_no_model(self, adapter: Path) -> None:
        assert "is an adapter and not a model" in refusal(lambda: JoLAModel.from_pretrained(str(adapter)))


class TestSaving:
    def test_into_a_file_is_refused(self, tiny: Make, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        for folder in (tmp_path / "file", tmp_path / "file" / "a"):
            assert "a file is in the way" in refusal(lambda f=folder: tiny("llama").save_pretrained(f))

    def test_a_disk_that_takes_no_more_loses_nothing(
        self, tiny: Make, adapter: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Full(io.FileIO):
            def write(self, data: Any) -> int:
                super().write(data[:100])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def opened(path: Any, mode: str = "r", *arguments: Any, **others: Any) -> Any:
            return Full(path, mode) if mode == "wb" else open_file(path, mode, *arguments, **others)

        open_file, model, before = open, tiny("llama"), (adapter / WEIGHTS).read_bytes()
        spread_edits(model, seed=7)
        with monkeypatch.context() as patch:
            patch.setattr("builtins.open", opened)
            message = refusal(lambda: model.save_pretrained(adapter))
        assert "no space left on the disk" in message
        assert (adapter / WEIGHTS).read_bytes() == before
        assert sorted(p.name for p in adapter.iterdir()) == ["README.md", CONFIG, WEIGHTS, "heads.png"]

    def test_of_a_model_without_a_name(self, tokenizer: Any, tmp_path: Path) -> None:
        model = JoLAModel(make_model("llama"), tokenizer)
        assert not model.base.config.name_or_path
        folder = model.save_pretrained(tmp_path / "a")
        assert load_edits(folder, model)
        assert "if it has moved, give its new location" in refusal(lambda: JoLAModel.from_adapter(folder))

    def test_over_an_adapter_of_another_method(self, tiny: Make, tmp_path: Path) -> None:
        for edits in (EditConfig(), LoRAConfig(), EditConfig()):
            model = tiny("llama", edits)
            read = read_adapter(model.save_pretrained(tmp_path / "a"))
            assert read.method is model.method and read.edits == edits

    def test_of_a_masked_call_saves_everything(self, tiny: Make, tmp_path: Path) -> None:
        model = tiny("llama")
        model(IDS, mask=EditMask.none(model.edits))
        with model.disable_edits():
            folder = model.save_pretrained(tmp_path / "a")
        assert torch.equal(read_adapter(folder).tensors["heads.offset"], model.edits.get_parameter("offset"))
