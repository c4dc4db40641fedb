"""The rounding error of a folded model: measured, refused if it loses the edits, and reported."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from jola.config import EditConfig
from jola.export import PROMPTS, export_gguf, export_merged
from jola.export.exactness import deviation
from jola.jola_model import JoLAModel
from jola.methods.lora import LoRAConfig
from tests.conftest import spread_edits
from tests.jola.export.edited_models import BATCH, edited, largest, plain, refusal, rounded

EXACT = 1e-5
SHORT = ("a short one", "and another, somewhat longer one with 12 numbers")


class TestTheCast:
    """bfloat16 cannot represent a scale of 1.001: an export in it would be the base model under another name."""

    @staticmethod
    def tiny_scales(tokenizer: Any, size: float) -> JoLAModel:
        base = rounded(plain("llama"), torch.bfloat16)
        model = edited(base, tokenizer, EditConfig(gates="none", operation="scale"))
        with torch.no_grad():
            model.edits.get_parameter("scale").fill_(size)
        return model

    def test_that_loses_the_edits_is_refused(self, tokenizer: Any, tmp_path: Path) -> None:
        model = self.tiny_scales(tokenizer, 1e-3)
        message = refusal(lambda: export_merged(model, tmp_path / "a", "bfloat16", SHORT))
        assert message.startswith("Nothing was written: in bfloat16 the checkpoint loses 100 % of the edits' effect")
        assert "before the cast" in message and "n = 2 prompts" in message and "float16" in message
        assert not list(tmp_path.iterdir())

    def test_is_written_when_asked_for(self, tokenizer: Any, tmp_path: Path) -> None:
        model = self.tiny_scales(tokenizer, 1e-3)
        with pytest.warns(UserWarning, match="loses 100 % of the edits' effect"):
            report = export_merged(model, tmp_path / "a", "bfloat16", SHORT, safe=False)
        assert report.lossy and report.after_cast.lost == pytest.approx(1, abs=1e-6)
        # Bit for bit the frozen model, without any effect of the edits.
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype=torch.float32)
        assert largest(found, model.base) == 0.0

    def test_float16_keeps_them(self, tokenizer: Any, tmp_path: Path) -> None:
        report = export_merged(self.tiny_scales(tokenizer, 6e-3), tmp_path / "a", "float16", SHORT)
        assert not report.lossy and 0 < report.after_cast.lost < 0.1
        message = refusal(lambda: export_merged(self.tiny_scales(tokenizer, 1e-3), tmp_path / "b", "float16", SHORT))
        assert "choose float32, or allow it" in message

    def test_large_edits_survive_bfloat16(self, tokenizer: Any, tmp_path: Path) -> None:
        report = export_merged(edited("llama", tokenizer), tmp_path / "a", "bfloat16", SHORT)
        assert 0 < report.after_cast.lost < 0.05 and report.before_cast.lost < 1e-5
        assert report.after_cast.largest > 100 * report.before_cast.largest
        assert report.base_rounding > 1e-3  # bfloat16 also rounds the weights of the base model

    def test_what_it_costs_the_frozen_model_is_not_held_against_the_edits(self, tokenizer: Any, tmp_path: Path) -> None:
        model = edited("llama", tokenizer)
        report = export_merged(model, tmp_path / "a", "bfloat16", SHORT)
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype=torch.float32)
        base = plain("llama")
        low = rounded(plain("llama"), torch.bfloat16)
        with torch.no_grad():
            e, b, x, p = (m(BATCH[:1]).logits[0] for m in (model, base, found, low))
        own = deviation([e], [b], [x], [p])
        expected = float(((x - p) - (e - b)).norm() / (e - b).norm())
        assert own.lost == pytest.approx(expected, rel=1e-4)
        assert deviation([e], [b], [x]).lost == pytest.approx(float((x - e).norm() / (e - b).norm()), rel=1e-4)
        assert report.base_rounding > 0

    def test_edits_that_are_all_closed_lose_nothing(self, tokenizer: Any, tmp_path: Path) -> None:
        model = edited("llama", tokenizer)
        for gate in model.edits.gate_parameters():
            gate.data.fill_(-9.0)
        report = export_merged(model, tmp_path / "a", "float32", SHORT)
        assert report.effect == 0 and report.after_cast.lost == 0 and report.after_cast.largest == 0
        assert report.added_numbers == 0

    def test_a_model_in_bfloat16_is_measured_in_float32(self, tokenizer: Any, tmp_path: Path) -> None:
        low = edited(plain("llama").to(torch.bfloat16), tokenizer)
        report = export_merged(low, tmp_path / "a", prompts=SHORT)
        assert report.dtype == "bfloat16" and report.base_rounding == 0
        assert report.before_cast.largest <= EXACT < report.after_cast.largest


class TestMergeAndUnload:
    """The same in memory, under the name that peft uses."""

    def test_is_the_edited_model(self, tokenizer: Any) -> None:
        for architecture in ("llama", "qwen2", "gpt2"):
            model = edited(architecture, tokenizer)
            assert largest(model, model.merge_and_unload(prompts=SHORT)) <= EXACT

    def test_refuses_a_format_that_loses_the_edits_unless_told_not_to(self, tokenizer: Any) -> None:
        model = TestTheCast.tiny_scales(tokenizer, 1e-3)
        message = refusal(lambda: model.merge_and_unload(dtype="bfloat16", prompts=SHORT))
        assert message.startswith("Nothing was merged: in bfloat16 the checkpoint loses 100 %")
        assert "before the cast" in message and "n = 2 prompts" in message
        assert largest(model.merge_and_unload(False, dtype="bfloat16").float(), model.base) == 0.0
        assert largest(model, model.merge_and_unload(dtype="float32", prompts=SHORT)) <= EXACT

    def test_a_model_in_bfloat16_is_measured_before_it_is_handed_out(self, tokenizer: Any) -> None:
        low = JoLAModel(plain("llama").to(torch.bfloat16), tokenizer, EditConfig(gates="none", operation="scale"))
        with torch.no_grad():
            low.edits.get_parameter("scale").fill_(1e-3)
        assert "loses" in refusal(lambda: low.merge_and_unload(prompts=SHORT))
        with torch.no_grad():
            low.edits.get_parameter("scale").fill_(0.25)
        assert low.merge_and_unload(prompts=SHORT).dtype == torch.bfloat16


class TestTrainingMode:
    """In training mode, edits are noisy; exports contain their evaluation values and are compared with these."""

    def test_does_not_matter(self, tokenizer: Any, tmp_path: Path) -> None:
        model = edited("llama", tokenizer).train()
        expected = export_merged(model.eval(), tmp_path / "a", prompts=SHORT)
        found = export_merged(model.train(), tmp_path / "b", prompts=SHORT)
        assert found.after_cast == expected.after_cast and found.effect == expected.effect
        model.merge_and_unload(prompts=SHORT)
        export_gguf(model, tmp_path / "c.gguf", "float32", SHORT)
        assert model.training and all(module.training for module in model.modules())

    def test_of_a_model_in_bfloat16(self, tokenizer: Any) -> None:
        model = edited(plain("llama").to(torch.bfloat16), tokenizer).train()
        model.merge_and_unload(prompts=SHORT)
        assert all(module.training for module in model.modules())

    def test_with_dropout(self, tokenizer: Any) -> None:
        model = JoLAModel(plain("llama"), tokenizer, LoRAConfig(dropout=0.5))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.3)
        model.train().merge_and_unload(prompts=SHORT)


class TestTheReport:
    def test_says_what_was_measured(self, tokenizer: Any, tmp_path: Path) -> None:
        model = edited("qwen2", tokenizer)
        report = export_merged(model, tmp_path / "out", "float16")
        assert report.prompts == len(PROMPTS) and report.tokens > 100
        assert (report.architecture, report.converted_from) == ("llama", "qwen2")
        assert report.bytes == sum(p.stat().st_size for p in (tmp_path / "out").iterdir() if p.name != "README.md")
        assert report.added_numbers == 3 * 32
        assert 0 < report.after_cast.same_top <= report.tokens
        text = report.describe()
        for part in (
            f"n = {len(PROMPTS)} prompts, {report.tokens} tokens",
            "converted from qwen2",
            "float16",
            "96 numbers",
        ):
            assert part in text
        card = (tmp_path / "out" / "README.md").read_text()
        assert "llama instead of qwen2" in card and f"{report.tokens} tokens" in card
        assert {p.stat().st_mode for p in (tmp_path / "out").iterdir()} == {
            (tmp_path / "out" / "README.md").stat().st_mode
        }

    def test_names_no_folder_of_this_machine(self, tokenizer: Any, tiny_folder: Path, tmp_path: Path) -> None:
        model = JoLAModel.from_pretrained(str(tiny_folder), dtype="float32", device="cpu")
        spread_edits(model)
        export_merged(model, tmp_path / "out", prompts=SHORT)
        for file in (tmp_path / "out").iterdir():
            assert str(tmp_path).encode() not in file.read_bytes(), file.name

    def test_progress_reaches_its_end(self, tokenizer: Any, tmp_path: Path) -> None:
        phases: dict[str, list[int]] = {}

        class Seen:
            def phase(self, name: str, total: int | None = None) -> None:
                phases[name] = [total or 0]

            def advance(self, done: int, **values: float) -> None:
                phases[list(phases)[-1]].append(done)

            def note(self, sentence: str) -> None:
                raise AssertionError(sentence)

        export_merged(edited("llama", tokenizer), tmp_path / "a", "float16", SHORT, progress=Seen())
        assert list(phases) == ["Measuring", "Writing the checkpoint", "Measuring the checkpoint"]
        assert phases["Measuring"][-1] == phases["Measuring"][0] == 4 * len(SHORT)
