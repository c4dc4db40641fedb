"""The standalone script, GGUF files and tables."""

import csv
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from jola.config import EditConfig
from jola.data.catalogue import DEFAULT_MODEL
from jola.edits.directions import ComputedOffsets
from jola.edits.intervention import EditMask
from jola.edits.masks import HeadMask
from jola.export import export_adapter, export_edits, export_gguf, export_ia3, export_standalone
from jola.export.standalone import _TEMPLATE
from jola.jola_model import JoLAModel
from tests.conftest import spread_edits
from tests.jola.export.edited_models import ARCHITECTURES, BATCH, edited, greedy, logits, plain, random_model, refusal
from tests.tiny import _GROUPED, CONFIGS, make_tokenizer

EXACT = 1e-5
SHORT = ("a short one", "and another, somewhat longer one with 12 numbers")


WITHOUT_US = """
import importlib.util, sys
sys.modules["jola"] = sys.modules["nnsight"] = None  # an import of either fails
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
ids, found = load_file(sys.argv[1])["ids"], {}
for place in sys.argv[3:]:
    spec = importlib.util.spec_from_file_location("script", place + "/script/jola_edits.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    model = AutoModelForCausalLM.from_pretrained(place + "/base")
    with torch.no_grad():
        before = model(ids).logits
        handles = script.attach(model)
        found[place] = model(ids).logits
        found[place + ":tokens"] = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
        )
        for handle in handles:
            handle.remove()
        script.attach(model, strength=-0.5)
        found[place + ":half"] = model(ids).logits
    assert (before - found[place]).abs().max() > 0.1
save_file(found, sys.argv[2])
"""


AS_A_COMMAND = """
import os, runpy, sys
sys.modules["jola"] = sys.modules["nnsight"] = None
sys.argv[0] = os.environ["SCRIPT"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class TestStandalone:
    def test_every_architecture_without_jola(self, tokenizer: Any, tmp_path: Path) -> None:
        models = {}
        for architecture in ARCHITECTURES:
            place = tmp_path / architecture
            models[place] = edited(architecture, tokenizer, EditConfig(sites="both"))
            models[place].base.save_pretrained(place / "base")
            export_standalone(models[place], place / "script")
        save_file({"ids": BATCH}, tmp_path / "ids")
        command = [sys.executable, "-c", WITHOUT_US, str(tmp_path / "ids"), str(tmp_path / "found"), *map(str, models)]
        environment = os.environ | {"PYTHONPATH": ""}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, env=environment)
        assert done.returncode == 0, done.stderr
        found = load_file(tmp_path / "found")
        for place, model in models.items():
            assert (found[str(place)] - logits(model)).abs().max() <= EXACT, place.name
            assert (found[f"{place}:half"] - logits(model, strength=-0.5)).abs().max() <= 2 * EXACT, place.name
            assert torch.equal(found[f"{place}:tokens"], greedy(model)), place.name

    def test_runs_as_a_command(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = JoLAModel.from_pretrained(str(tiny_folder), dtype="float32", device="cpu")
        spread_edits(model)
        report = export_standalone(model, tmp_path / "out", include_model=True)
        assert report.model_included and report.bytes > 1000
        (tmp_path / "out").rename(tmp_path / "moved")
        prompt = "a fine, warm film"
        ids = model.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        for strength in (1.0, 0.0):
            answer = model.generate(ids, strength=strength, max_new_tokens=9, do_sample=False)[0, ids.shape[1] :]
            expected = model.tokenizer.decode(answer, skip_special_tokens=True)
            command = [sys.executable, "-c", AS_A_COMMAND, prompt, "--tokens", "9", "--strength", str(strength)]
            environment = os.environ | {"PYTHONPATH": "", "SCRIPT": str(tmp_path / "moved" / "jola_edits.py")}
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, env=environment)
            assert done.returncode == 0, done.stderr
            assert done.stdout == expected + "\n"

    def test_is_shorter_than_sixty_lines_and_needs_three_packages(self, tokenizer: Any, tmp_path: Path) -> None:
        export_standalone(edited("llama", tokenizer), tmp_path / "out")
        text = (tmp_path / "out" / "jola_edits.py").read_text()
        assert len(text.splitlines()) < 60
        lines = [line for line in text.splitlines() if line.startswith(("import", "from"))]
        imported = {line.split()[1].partition(".")[0] for line in lines}
        assert imported == {"argparse", "pathlib", "torch", "safetensors", "transformers"}
        assert "$" not in text and _TEMPLATE.is_file()

    @pytest.mark.parametrize(
        "name", ['"; import os #', 'x"""\nimport os\n"""', "owner/" + "n" * 30 + '"\\', "/home/somebody/models/tiny"]
    )
    def test_names_of_models_are_text_in_it(self, tokenizer: Any, tmp_path: Path, name: str) -> None:
        model = edited("llama", tokenizer)
        model.name = name
        export_standalone(model, tmp_path / "out")
        text = (tmp_path / "out" / "jola_edits.py").read_text()
        assert "somebody" not in text
        found = runpy.run_path(str(tmp_path / "out" / "jola_edits.py"), run_name="script")
        assert found["MODEL"] is None
        assert "os" not in found

    def test_a_hub_model_is_named_with_its_revision(self, tokenizer: Any, tmp_path: Path) -> None:
        model = edited("llama", tokenizer)
        model.name, model.revision = "owner/model", "abc123"
        report = export_standalone(model, tmp_path / "out")
        found = runpy.run_path(str(tmp_path / "out" / "jola_edits.py"), run_name="script")
        assert (found["MODEL"], found["REVISION"]) == ("owner/model", "abc123")
        assert not report.model_included

    def test_of_an_adapter_needs_no_model(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = JoLAModel.from_pretrained(str(tiny_folder), dtype="float32", device="cpu")
        spread_edits(model)
        export_standalone(model.save_pretrained(tmp_path / "adapter"), tmp_path / "a")
        export_standalone(model, tmp_path / "b")
        one, other = (load_file(tmp_path / n / "edits.safetensors") for n in "ab")
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

    def test_refuses(self, tokenizer: Any, tiny_folder: Path, tmp_path: Path) -> None:
        model = edited("llama", tokenizer)
        assert "No edit is open" in refusal(lambda: export_standalone(model, tmp_path / "a", strength=0.0))
        nan = float("nan")
        assert "must be a finite number" in refusal(lambda: export_standalone(model, tmp_path / "a", strength=nan))
        model.name = DEFAULT_MODEL
        adapter = model.save_pretrained(tmp_path / "adapter")
        message = refusal(lambda: export_standalone(adapter, tmp_path / "a"))
        assert f"The base model {DEFAULT_MODEL} cannot be included, because it is not loaded; load it" in message
        export_standalone(adapter, tmp_path / "a", include_model=False)

    def test_refuses_edits_after_blocks(self, tokenizer: Any, tmp_path: Path) -> None:
        model, offsets = edited("llama", tokenizer), ComputedOffsets(3, 32, [1])
        offsets.fill(torch.ones(3, 32))
        with model.using([offsets]):
            message = refusal(lambda: export_standalone(model, tmp_path / "a"))
        assert message.startswith("The Python script edits heads and MLPs, not 'block'")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("export", [export_standalone, export_ia3])
    def test_an_adapter_of_an_unknown_architecture_is_refused(
        self, tokenizer: Any, tmp_path: Path, export: Any
    ) -> None:
        adapter = edited("llama", tokenizer).save_pretrained(tmp_path / "adapter")
        config = json.loads((adapter / "adapter_config.json").read_text())
        config["geometry"]["architecture"] = "another"
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        message = refusal(lambda: export(adapter, tmp_path / "a"))
        assert message.startswith("Models of architecture 'another' are not supported")
        assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


class TestGGUF:
    @pytest.mark.parametrize(
        ("architecture", "sites"), [("llama", "heads"), ("llama", "both"), ("qwen2", "both"), ("mistral", "heads")]
    )
    def test_is_exact_with_its_biases_and_says_what_happens_without(
        self, tokenizer: Any, tmp_path: Path, architecture: str, sites: Any
    ) -> None:
        model = edited(architecture, tokenizer, EditConfig(sites=sites))
        report = export_gguf(model, tmp_path / "out.gguf", "float32", SHORT)
        assert report.exact.largest <= EXACT
        assert report.without_biases.lost > 0.1 and report.without_biases.largest > 0.1
        assert report.biases == 3 * (7 if sites == "both" else 4)
        assert "ignores the biases" in report.describe() and "n = 2 prompts" in report.describe()
        assert report.bytes == (tmp_path / "out.gguf").stat().st_size
        assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]

    def test_holds_the_biases_under_the_names_of_llama_cpp(self, tokenizer: Any, tmp_path: Path) -> None:
        import gguf

        model = edited("llama", tokenizer)
        export_gguf(model, tmp_path / "out.gguf", "float16", SHORT)
        reader = gguf.GGUFReader(tmp_path / "out.gguf")
        tensors = {t.name: t for t in reader.tensors}
        for layer in range(3):
            assert tensors[f"blk.{layer}.attn_output.bias"].tensor_type == gguf.GGMLQuantizationType.F32
            assert tensors[f"blk.{layer}.attn_output.weight"].tensor_type == gguf.GGMLQuantizationType.F16
            assert tensors[f"blk.{layer}.attn_output.bias"].data.any()
            assert not tensors[f"blk.{layer}.attn_q.bias"].data.any()
        words = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
        assert words["general.architecture"] == "llama" and words["tokenizer.ggml.pre"] == "gpt-2"
        assert words["tokenizer.ggml.tokens"] == [tokenizer.convert_ids_to_tokens(i) for i in range(300)]
        assert words["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
        assert words["tokenizer.chat_template"] == tokenizer.chat_template
        kinds = words["tokenizer.ggml.token_type"]
        assert kinds[:3] == [gguf.TokenType.CONTROL] * 3 and kinds[3] == gguf.TokenType.NORMAL

    @pytest.mark.parametrize(
        ("sites", "needs"),
        [("heads", "attention_bias=True"), ("mlp", "mlp_bias=True"), ("both", "attention_bias=True and mlp_bias=True")],
    )
    def test_names_the_fields_that_its_biases_need(
        self, tokenizer: Any, tmp_path: Path, sites: Any, needs: str
    ) -> None:
        report = export_gguf(edited("llama", tokenizer, EditConfig(sites=sites)), tmp_path / "a.gguf", "float32", SHORT)
        assert report.describe().endswith(f"pass a config with {needs}")

    def test_scales_alone_need_no_biases(self, tokenizer: Any, tmp_path: Path) -> None:
        model = edited("llama", tokenizer, EditConfig(operation="scale"))
        report = export_gguf(model, tmp_path / "out.gguf", "float32", SHORT)
        assert report.biases == 0 and report.exact.largest <= EXACT
        assert report.without_biases == report.exact and "drops" not in report.describe()

    def test_tied_embeddings_and_wide_heads(self, tokenizer: Any, tmp_path: Path) -> None:
        config = type(CONFIGS["llama"])(**_GROUPED, head_dim=20, tie_word_embeddings=True, pad_token_id=0)
        model = edited(random_model(config), tokenizer)
        assert export_gguf(model, tmp_path / "out.gguf", "float32", SHORT).exact.largest <= EXACT

    def test_what_it_cannot_hold_is_refused(self, tokenizer: Any, tmp_path: Path) -> None:
        file = tmp_path / "out.gguf"
        assert "does not have GGUF's architecture llama" in refusal(
            lambda: export_gguf(edited("qwen3", tokenizer), file)
        )
        config = type(CONFIGS["llama"])(
            **_GROUPED, pad_token_id=0, rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
        )
        assert "scaled position encoding of this model is not supported" in refusal(
            lambda: export_gguf(edited(random_model(config), tokenizer), file)
        )
        from tokenizers import pre_tokenizers

        other = make_tokenizer()
        other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        assert "pre-tokenizer of this model is not supported" in refusal(
            lambda: export_gguf(edited("llama", other), file)
        )
        model = edited("llama", tokenizer, EditConfig(gates="none", operation="scale"))
        with torch.no_grad():
            model.edits.get_parameter("scale").fill_(1e-4)
        assert "the file loses" in refusal(lambda: export_gguf(model, file, "bfloat16", SHORT))
        assert "choose one of float32" in refusal(lambda: export_gguf(model, file, "int8"))
        assert "does not end in .gguf" in refusal(lambda: export_gguf(model, tmp_path / "out.bin"))
        assert not list(tmp_path.iterdir())


class TestTables:
    def test_csv_and_json_say_what_the_model_computes_with(self, tokenizer: Any, tmp_path: Path) -> None:
        model = edited("qwen3", tokenizer, EditConfig(sites="both", layers="0,2"))
        mask = {"heads": EditMask(torch.rand(3, 4).round(decimals=2), torch.ones(3, 4))}
        report = export_edits(model, tmp_path / "a.csv", mask=mask, strength=0.5)
        export_edits(model, tmp_path / "a.json", mask=mask, strength=0.5)
        with open(tmp_path / "a.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        content = json.loads((tmp_path / "a.json").read_text())
        assert len(rows) == len(content["edits"]) == report.rows == 2 * (2 * 4 + 2)
        assert content["geometry"]["num_heads"] == 4 and content["base_model"] == "tiny-qwen3"
        for row, entry in zip(rows, content["edits"], strict=True):
            for name in ("layer", "unit", "gate", "norm", "factor", "effective_norm", "open_probability"):
                assert float(row[name]) == pytest.approx(entry[name], rel=1e-6)
            edits = next(e for e in model.gated_edits() if e.site == entry["site"])
            at, half = (entry["layer"], entry["unit"]), entry["half"]
            vector = torch.tensor(entry["vector"])
            assert torch.equal(vector, edits.get_parameter(half)[at])
            own = float(getattr(mask["heads"], half)[at]) if entry["site"] == "heads" else 1.0
            assert entry["factor"] == pytest.approx(own * 0.5)
            expected = float(edits.gate_values()[half][at]) * entry["factor"] * float(vector.norm())
            assert entry["effective_norm"] == pytest.approx(expected, rel=1e-5, abs=1e-7)
        assert report.open == sum(float(row["effective_norm"]) > 0 for row in rows) <= report.rows

    def test_masks_are_columns(self, tokenizer: Any, tmp_path: Path) -> None:
        model = edited("llama", tokenizer)
        chosen = HeadMask.all(3, 4).switched([(1, 2)], "scale", on=False)
        masks = {'odd, "name"': {"heads": chosen}, "of mlps": {"mlp": HeadMask.all(3, 1)}}
        report = export_edits(model, tmp_path / "a.csv", masks=masks)
        with open(tmp_path / "a.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        off = [r for r in rows if r['mask odd, "name"'] == "0.0"]
        assert [(r["layer"], r["unit"], r["half"]) for r in off] == [("1", "2", "scale")]
        assert {r["mask of mlps"] for r in rows} == {""} and report.masks == 2
        wrong = {"other": {"heads": HeadMask.all(2, 4)}}
        assert "The mask 'other' has 2 × 4 units" in refusal(
            lambda: export_edits(model, tmp_path / "b.csv", masks=wrong)
        )

    def test_of_an_adapter_or_a_zip_is_the_same(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = JoLAModel.from_pretrained(str(tiny_folder), dtype="float32", device="cpu")
        spread_edits(model)
        adapter = model.save_pretrained(tmp_path / "adapter")
        export_adapter(adapter, tmp_path / "a.zip", compact=False)
        for name, what in (("model", model), ("folder", adapter), ("zip", tmp_path / "a.zip")):
            export_edits(what, tmp_path / f"{name}.csv")
        texts = {(tmp_path / f"{name}.csv").read_text() for name in ("model", "folder", "zip")}
        assert len(texts) == 1

    def test_refuses(self, tokenizer: Any, tmp_path: Path) -> None:
        model = edited("llama", tokenizer)
        assert "neither .csv nor .json" in refusal(lambda: export_edits(model, tmp_path / "a.txt"))
        export_edits(model, tmp_path / "a.csv")
        assert "already exists" in refusal(lambda: export_edits(model, tmp_path / "a.csv"))
        assert "is a file, not a folder" in refusal(lambda: export_edits(model, tmp_path / "a.csv" / "b.csv"))
        assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_the_frozen_models_answer_otherwise(tokenizer: Any) -> None:
    # The comparisons of tokens above can only fail if edits change tokens.
    changed = [not torch.equal(greedy(edited(a, tokenizer)), greedy(plain(a))) for a in ARCHITECTURES]
    assert sum(changed) >= 10
