"""Exports of every method: supported forms compute what the edited model does, and others are refused."""

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from jola.cli.main import main
from jola.config import RunConfig
from jola.edits.intervention import EditMask
from jola.edits.sites import Site
from jola.errors import InputError
from jola.export import (
    export_adapter,
    export_edits,
    export_gguf,
    export_ia3,
    export_merged,
    export_standalone,
    merge,
    merge_and_unload,
    run_facts,
)
from jola.jola_model import JoLAModel
from jola.methods.bitfit import BitFitConfig
from jola.methods.lora import LoRAConfig
from jola.runs.archive import export_archive, import_archive
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.selectors.heads import model_hash
from tests.methods.contract import CASES, PLACES, Case, fresh, trained
from tests.tiny import make_model, make_tokenizer

IDS = torch.tensor([[5, 9, 17, 33, 8, 21, 40], [7, 3, 28, 64, 90, 11, 2]])
PROMPTS = ["Good or bad?"]
NO_MLP_BIAS = ("qwen3", "gemma")
"""Architectures whose MLPs cannot have a bias, which an offset needs."""
FORMS: dict[str, Callable[[Any, Path], Any]] = {
    "adapter": lambda model, folder: export_adapter(model.save_pretrained(folder / "whole"), folder / "out.zip"),
    "merged": lambda model, folder: export_merged(model, folder / "out", prompts=PROMPTS),
    "standalone": lambda model, folder: export_standalone(model, folder / "out"),
    "ia3": lambda model, folder: export_ia3(model, folder / "out"),
    "gguf": lambda model, folder: export_gguf(model, folder / "out.gguf", "float32", PROMPTS),
    "edits": lambda model, folder: export_edits(model, folder / "out.csv"),
}

every_method = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
HAVING = {form: [case for case in CASES if form not in case.refuses] for form in FORMS}


def methods_with(form: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", HAVING[form], ids=lambda case: case.name)


def one_unit_off(model: JoLAModel, offsets_of_mlps: bool = True) -> list[EditMask]:
    """Return masks that switch off one unit per intervention and, with `offsets_of_mlps` false, all MLP offsets."""
    masks = []
    for i in model.own_interventions():
        mask = EditMask.all(i)
        for channel, factor in mask.items():
            factor[1, 0] = 0
            if i.site in (Site.MLP, Site.BLOCK) and channel == "offset" and not offsets_of_mlps:
                factor.zero_()
        masks.append(mask)
    return masks


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize(
    ("case", "architecture"),
    [(case, each) for case, each in PLACES if "merged" not in case.refuses],
    ids=lambda each: getattr(each, "name", each),
)
@torch.no_grad()
def test_merged_it_is_the_edited_model(case: Case, architecture: str) -> None:
    model = trained(case, architecture)
    holds = architecture not in NO_MLP_BIAS or not any(
        i.site in (Site.MLP, Site.BLOCK) for i in model.own_interventions()
    )
    before = model(IDS).logits
    if holds:
        assert apart(merge(model)(IDS).logits, before) <= 1e-4
    else:
        with pytest.raises(InputError, match="cannot be folded"):
            merge(model)
    mask = one_unit_off(model, holds)
    plain = merge(model, mask, 0.5)
    edited = model(IDS, mask=mask, strength=0.5).logits
    assert apart(plain(IDS).logits, edited) <= 1e-4
    assert apart(edited, before) > 1e-3
    own = set(make_model(architecture).state_dict())
    assert own <= set(plain.state_dict()) and all(n.endswith(".bias") for n in set(plain.state_dict()) - own)
    assert torch.equal(model(IDS).logits, before), "the model is only read"


@every_method
@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_written_or_refused_with_one_sentence(case: Case, form: str, tmp_path: Path) -> None:
    model = trained(case, "llama")
    write = FORMS[form]
    if form not in case.refuses:
        assert write(model, tmp_path).describe()
        assert (tmp_path / "out").exists() or list(tmp_path.glob("out.*"))
        return
    with pytest.raises(InputError) as caught:
        write(model, tmp_path)
    sentence = str(caught.value)
    assert model.method.title in sentence and "\n" not in sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", FORMS)
def test_the_command_refuses_before_it_loads(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = next(case for case in CASES if case.method == "lora")
    if form not in case.refuses:
        return
    model = trained(case, "llama")
    model.name = str(tmp_path / "no-such-model")
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(SystemExit):
        main(["export", form, str(tmp_path / "adapter"), str(tmp_path / ("out.csv" if form == "edits" else "out"))])
    assert "LoRA changes weights" in capsys.readouterr().err


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma", "gpt_neox"])
def test_biases_are_merged_where_there_is_a_place_for_them(architecture: str) -> None:
    neox = architecture == "gpt_neox"
    settings = BitFitConfig("dense_4h_to_h,query_key_value" if neox else "down_proj,q_proj")
    model = JoLAModel(make_model(architecture), make_tokenizer(), settings)
    with torch.no_grad():
        for bias in model.parameters():
            bias.fill_(0.2)
    if architecture in NO_MLP_BIAS:
        with pytest.raises(
            InputError,
            match=r"added biases cannot be folded into .* because model\.layers\.0\.mlp\.down_proj has no bias",
        ):
            merge(model)
    else:
        assert apart(merge(model)(IDS).logits, model(IDS).logits) <= 1e-4


@methods_with("merged")
@pytest.mark.parametrize("base", ["float32", "bfloat16"])
def test_a_written_checkpoint_is_measured_and_read_by_transformers(case: Case, base: str, tmp_path: Path) -> None:
    model = trained(case, "llama")
    model.base.to(getattr(torch, base))
    report = export_merged(model, tmp_path / "out", "float32", PROMPTS)
    assert max(report.before_cast.lost, report.after_cast.lost) < 1e-4 < report.effect
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    assert sum(p.numel() for p in plain.parameters()) - report.added_numbers == sum(
        p.numel() for p in make_model("llama").parameters()
    )
    assert model.method.title in (tmp_path / "out" / "README.md").read_text()
    if base == "float32":
        assert merge_and_unload(model, prompts=PROMPTS).dtype == torch.float32


@methods_with("adapter")
@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_a_shared_adapter_is_the_edited_model(case: Case, name: str, tmp_path: Path) -> None:
    model = trained(case, "llama")
    base = make_model("llama")
    base.save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    model.name = str(tmp_path / "base")
    whole = model.save_pretrained(tmp_path / "whole")

    def read(path: Path) -> Tensor:
        return JoLAModel.from_adapter(path, model=str(tmp_path / "base"), dtype="float32", device="cpu")(IDS).logits

    report = export_adapter(whole, tmp_path / name)
    assert 0 < report.kept <= report.total and report.method == case.method
    assert apart(read(tmp_path / name), read(whole)) == 0
    mask = one_unit_off(model)
    export_adapter(whole, tmp_path / f"masked-{name}", mask=mask, strength=0.5)
    assert apart(read(tmp_path / f"masked-{name}"), model(IDS, mask=mask, strength=0.5).logits) < 1e-4
    text = "".join(p.read_text() for p in tmp_path.glob("out/*.json"))
    assert str(tmp_path) not in text


@pytest.mark.parametrize("content", ["[", "[]", "{}"])
def test_a_damaged_configuration_for_peft_is_refused(content: str, tmp_path: Path) -> None:
    adapter = JoLAModel(make_model("llama"), make_tokenizer(), LoRAConfig()).save_pretrained(tmp_path / "a")
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(InputError, match=r"adapter_config\.json is not the configuration of an adapter"):
        export_adapter(adapter, tmp_path / "out")


def test_peft_adapts_the_same_modules(tmp_path: Path) -> None:
    """`c_proj` alone would also name the last projection of the MLP."""
    from peft import PeftModel

    settings = LoRAConfig(target_modules="attn.c_proj")
    JoLAModel(make_model("gpt2"), make_tokenizer(), settings).save_pretrained(tmp_path / "a")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = PeftModel.from_pretrained(make_model("gpt2"), str(tmp_path / "a"))
    assert not [w for w in caught if "missing adapter keys" in str(w.message)]
    adapted = {name.partition(".lora_A")[0] for name, _ in loaded.named_parameters() if ".lora_A" in name}
    assert {name.partition(".h.")[2] for name in adapted} == {f"{layer}.attn.c_proj" for layer in range(3)}


@methods_with("standalone")
@torch.no_grad()
def test_the_script_computes_the_edits(case: Case, tmp_path: Path) -> None:
    model = trained(case, "llama")
    export_standalone(model, tmp_path / "out")
    spec = importlib.util.spec_from_file_location("jola_edits_of_a_test", tmp_path / "out" / "jola_edits.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    plain = make_model("llama")
    script.attach(plain)
    assert apart(plain(IDS).logits, model(IDS).logits) < 1e-5
    # Layers may be on several devices, and may be moved later.
    assert plain.to("meta")(IDS.to("meta")).logits.is_meta


@every_method
def test_the_base_is_the_same_with_what_the_method_put_into_it(case: Case) -> None:
    plain = JoLAModel(make_model("llama"), make_tokenizer())
    assert model_hash(fresh(case, "llama")) == model_hash(plain)
    if "merged" in case.refuses:
        return
    with torch.no_grad():
        copy = merge(trained(case, "llama"), strength=0.0)
        assert torch.equal(copy(IDS).logits, make_model("llama")(IDS).logits)


@every_method
def test_a_run_is_exported_and_imported(case: Case, tmp_path: Path) -> None:
    base = tmp_path / "base"
    make_model("llama").save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    model = trained(case, "llama")
    model.name = str(base)
    run = Run.create(tmp_path / "run", RunConfig(method=case.method, edits=case.settings))
    model.save_pretrained(run.adapter_dir)
    run.write_status(state="finished")
    imported = import_archive(export_archive(run, tmp_path / "run.zip"), RunStore(tmp_path / "store"))
    assert imported.run_config().method == case.method
    assert not [p.name for p in imported.adapter_dir.glob("*.json") if str(tmp_path) in p.read_text()]
    again = JoLAModel.from_adapter(imported.adapter_dir, model=str(base), dtype="float32", device="cpu")
    assert apart(again(IDS).logits, model(IDS).logits) < 1e-4


@every_method
def test_facts_of_a_run(case: Case, tmp_path: Path) -> None:
    config = RunConfig(method=case.method, edits=case.settings)
    facts = run_facts(Run.create(tmp_path / "run", config))
    assert ("λ" in facts["Settings"]) is (case.method == "jola")
    if case.method != "jola":
        listed = {f"{name.replace('_', ' ')} {value}" for name, value in asdict(case.settings).items()}
        assert listed <= set(facts["Settings"].split(", "))


def test_a_foreign_adapter_in_the_base_is_not_lost() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    base = make_model("llama")
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj"], init_lora_weights=False), base)
    with pytest.raises(InputError):
        merge(JoLAModel(base, make_tokenizer()))
