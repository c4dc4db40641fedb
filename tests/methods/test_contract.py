"""Properties of every method on every architecture."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from jola import load_edits
from jola.adapters.directory import WEIGHTS_NAME, read_adapter, read_edits
from jola.config import DataConfig, ModelConfig, TrainingConfig
from jola.edits.intervention import EditMask
from jola.edits.sites import Site
from jola.errors import InputError
from jola.export import merge
from jola.insight import edit_effects
from jola.insight.effects import open_edits
from jola.jola_model import JoLAModel
from jola.methods import METHODS
from jola.system.progress import Quiet
from jola.training.run import run_training
from tests.kept import numbers_kept
from tests.methods.contract import CASES, PLACES, Case, case_of, fresh, take_out, trained
from tests.tiny import make_model, make_tokenizer

IDS = torch.tensor([[5, 9, 17, 33, 8, 21, 40], [7, 3, 28, 64, 90, 11, 2]])

everywhere = pytest.mark.parametrize(("case", "architecture"), PLACES, ids=lambda each: getattr(each, "name", each))
every_method = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_every_method_has_a_row() -> None:
    assert [case.method for case in CASES] == [name for name, method in METHODS.items() if method.trains]


@everywhere
class TestPasses:
    def test_edits_change_the_model_and_switched_off_they_are_the_base_bit_for_bit(
        self, case: Case, architecture: str
    ) -> None:
        plain = make_model(architecture)(IDS).logits
        model = trained(case, architecture)
        edited = model(IDS).logits
        assert not torch.allclose(edited, plain, atol=1e-3)
        none = [EditMask.none(i) for i in model.in_use]
        assert torch.equal(model(IDS, mask=none).logits, plain)
        assert torch.equal(model(IDS, strength=0.0).logits, plain)
        with model.disable_edits():
            assert torch.equal(model(IDS).logits, plain)
        assert torch.equal(model(IDS).logits, edited), "nothing of that lasts"

    def test_fresh_edits(self, case: Case, architecture: str) -> None:
        plain = make_model(architecture)(IDS).logits
        logits = fresh(case, architecture)(IDS).logits
        assert torch.equal(logits, plain) if case.begins_as_base else torch.allclose(logits, plain, atol=0.05)

    def test_a_unit_that_is_switched_off_is_absent(self, case: Case, architecture: str) -> None:
        model = trained(case, architecture)
        for position, intervention in enumerate(model.own_interventions()):
            masks = [EditMask.all(i) for i in model.in_use]
            places = torch.stack(list(intervention.on().values())).any(0).nonzero().tolist()
            layer, unit = places[len(places) // 2]
            for factor in masks[position].values():
                factor[layer, unit] = 0
            masked = model(IDS, mask=masks).logits
            other = trained(case, architecture)
            take_out(other.own_interventions()[position], layer, unit)
            assert torch.allclose(masked, other(IDS).logits, atol=1e-5)
            assert not torch.allclose(masked, model(IDS).logits, atol=1e-5)

    def test_strength_is_a_factor_on_every_unit(self, case: Case, architecture: str) -> None:
        model = trained(case, architecture)
        halves = [EditMask.all(i).map(lambda f: f * 0.5) for i in model.in_use]
        assert torch.allclose(model(IDS, strength=0.5).logits, model(IDS, mask=halves).logits, atol=1e-5)

    def test_generation_with_cache_and_left_padding_is_that_of_one_by_one(self, case: Case, architecture: str) -> None:
        model = trained(case, architecture)
        rows = [IDS[0], IDS[1, 2:]]
        padded = torch.stack([torch.nn.functional.pad(row, (7 - len(row), 0)) for row in rows])
        mask = torch.stack([torch.arange(7) >= 7 - len(row) for row in rows]).long()
        together = model.generate(padded, mask, max_new_tokens=6, do_sample=False)[:, 7:]
        for row, answer in zip(rows, together, strict=True):
            ids = row[None]
            for token in answer.tolist():  # without a cache, token by token
                assert int(model(ids, prompt_lengths=len(row)).logits[0, -1].argmax()) == token
                ids = torch.cat([ids, torch.tensor([[token]])], 1)

    def test_gradients_reach_every_parameter_and_only_those(self, case: Case, architecture: str) -> None:
        model = trained(case, architecture).train()
        if not case.by_gradients:
            assert not any(p.requires_grad for p in model.parameters()) and model.trainable_parameters()[0] == 0
            return
        labels = IDS.clone()
        labels[:, :4] = -100
        model(IDS, labels=labels).loss.backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not missing
        own = {id(p) for p in model.parameters()}
        assert own and all(p.grad is None for p in model.base.parameters() if id(p) not in own)
        # The parameter groups contain exactly the trained parameters and none of the frozen base.
        in_groups = [
            id(p) for g in model.method.parameter_groups(model.own_interventions(), 0.0, 0.1) for p in g["params"]
        ]
        assert sorted(in_groups) == sorted(own)

    @pytest.mark.parametrize("packed", [False, True])
    def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients(
        self, case: Case, architecture: str, packed: bool
    ) -> None:
        if not case.by_gradients:
            return
        ids = torch.cat([torch.tensor([[4, 5, 6, 7]]).expand(2, -1), IDS], 1) if packed else IDS
        labels = ids.clone()
        labels[:, :-3] = -100
        found = []
        for checkpointing in (False, True):
            model = trained(case, architecture).train()
            assert bool(model.traced.packing({"input_ids": ids}, labels != -100)) is packed
            model.gradient_checkpointing = checkpointing
            model.seed_gates(3)
            torch.manual_seed(5)  # for dropout
            kept, loss = numbers_kept(lambda model=model: model(ids, labels=labels).loss)
            loss.backward()
            found.append((kept, {name: p.grad for name, p in model.named_parameters()}))
        (all_kept, expected), (few_kept, gradients) = found
        assert few_kept < 0.8 * all_kept
        assert all(torch.equal(gradients[name], gradient) for name, gradient in expected.items())

    def test_its_state_is_in_the_module_tree(self, case: Case, architecture: str) -> None:
        """Checkpoints and distributed training would silently miss parameters inside the frozen model."""
        model, other = trained(case, architecture), fresh(case, architecture)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(IDS).logits, model(IDS).logits)
        assert sum(p.numel() for p in model.parameters()) == sum(t.numel() for t in model.state_dict().values())

    def test_the_map_is_described(self, case: Case, architecture: str) -> None:
        model = trained(case, architecture)
        for i in model.own_interventions():
            shape = (model.geometry.num_layers, len(i.unit_names))
            assert (i.layers, i.units) == shape and i.channels
            assert {tuple(t.shape) for t in (*i.on().values(), *i.norms().values(), *i.record().values())} == {shape}
            assert set(i.on()) == set(i.norms()) == set(i.channels)


@everywhere
class TestFiles:
    def test_edits_are_loaded_beside_others_on_one_model(self, case: Case, architecture: str, tmp_path: Path) -> None:
        model = trained(case, architecture)
        expected = model(IDS).logits
        model.save_pretrained(tmp_path / "a")
        other = JoLAModel(make_model(architecture), make_tokenizer(), name=model.name)
        plain = make_model(architecture)(IDS).logits
        edits = load_edits(tmp_path / "a", other)
        with other.using(edits):
            loaded = other(IDS).logits
            assert torch.equal(loaded, expected) if case.exact_files else torch.allclose(loaded, expected, atol=1e-5)
        with other.disable_edits():
            assert torch.equal(other(IDS).logits, plain)
        other.detach(edits)
        assert set(other.frozen_parameters()) == set(dict(make_model(architecture).named_parameters()))
        with other.disable_edits():
            assert torch.equal(other(IDS).logits, plain)

    def test_looked_at_without_the_model(self, case: Case, architecture: str, tmp_path: Path) -> None:
        model = trained(case, architecture)
        model.save_pretrained(tmp_path / "a")
        for seen, own in zip(read_edits(tmp_path / "a"), model.own_interventions(), strict=True):
            assert (seen.layers, seen.unit_names, seen.channels) == (own.layers, own.unit_names, own.channels)
            for channel, norms in own.norms().items():
                assert torch.allclose(seen.norms()[channel], norms, rtol=1e-4)

    def test_a_model_of_another_shape_is_refused(self, case: Case, architecture: str, tmp_path: Path) -> None:
        trained(case, architecture).save_pretrained(tmp_path / "a")
        other = "gpt2" if architecture != "gpt2" else "llama"
        with pytest.raises(InputError, match="was trained on"):
            load_edits(tmp_path / "a", JoLAModel(make_model(other), make_tokenizer(), name="other"))


LOADER = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from jola import JoLAModel
folder = Path(sys.argv[1])
ids = torch.tensor(json.loads(sys.argv[2]))
torch.set_num_threads(1)
with torch.no_grad():
    save_file(
        {a.name: JoLAModel.from_adapter(a, dtype="float32")(ids).logits for a in folder.glob("adapter-*")},
        folder / "logits.safetensors",
    )
"""


def test_a_fresh_process_gives_the_same_logits(tmp_path: Path) -> None:
    expected = {}
    for case, architecture in PLACES:
        folder = tmp_path / architecture
        if not folder.exists():
            make_model(architecture).save_pretrained(folder)
            make_tokenizer().save_pretrained(folder)
        model = trained(case, architecture)
        model.name = str(folder)
        name = f"adapter-{case.name}-{architecture}"
        model.save_pretrained(tmp_path / name)
        expected[name] = model(IDS).logits.detach()
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(tmp_path), json.dumps(IDS.tolist())], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_file(tmp_path / "logits.safetensors")
    assert set(found) == set(expected)
    for name, logits in expected.items():
        assert torch.allclose(found[name], logits, atol=1e-4), name  # another attention implementation than here


class _Killed(Quiet):
    """Ends a training at a step, as a signal that cannot be caught would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def advance(self, done: int, **values: float) -> None:
        if done == self.step:
            raise KeyboardInterrupt


@every_method
def test_resumed_is_uninterrupted(case: Case, tmp_path: Path, tiny_folder: Path) -> None:
    data = tmp_path / "task"
    data.mkdir()
    for part, count in (("train", 12), ("validation", 4), ("test", 4)):
        rows = [{"prompt": f"Good or bad? Film {n}", "completion": ("good", "bad")[n % 2]} for n in range(count)]
        (data / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def config(name: str) -> "object":
        return case.config(
            model=ModelConfig(model=str(tiny_folder), dtype="float32"),
            data=DataConfig(task=str(data)),
            training=TrainingConfig(epochs=3, output=str(tmp_path / name), keep="last", patience=0),
        )

    whole = run_training(config("whole"))
    with pytest.raises(KeyboardInterrupt):
        run_training(config("broken"), progress=_Killed(5))
    resumed = run_training(config("broken"), resume=True)
    assert (resumed.adapter_dir / WEIGHTS_NAME).read_bytes() == (whole.adapter_dir / WEIGHTS_NAME).read_bytes()
    assert resumed.run_config().method == case.method
    first = load_file(whole.adapter_dir / WEIGHTS_NAME)
    assert any(float(t.abs().sum()) for t in first.values())
    for site in whole.sites():
        broken, unbroken = resumed.gates(site), whole.gates(site)
        assert broken.steps.tolist() == unbroken.steps.tolist()
        for name, values in unbroken.fields.items():
            np.testing.assert_array_equal(broken.fields[name], values)


@pytest.mark.parametrize("case", [case for case in CASES if case.by_gradients], ids=lambda case: case.name)
def test_trained_edits_score_better_than_the_base(case: Case, tmp_path: Path, tiny_folder: Path) -> None:
    data = tmp_path / "task"
    data.mkdir()
    for part in ("train", "validation"):
        rows = [{"prompt": f"Say good {n}", "completion": "good"} for n in range(16)]
        (data / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = run_training(
        case.config(
            model=ModelConfig(model=str(tiny_folder), dtype="float32"),
            data=DataConfig(task=str(data)),
            training=TrainingConfig(epochs=4, output=str(tmp_path / "run")),
        )
    )
    losses = [m["validation_cross_entropy"] for m in run.metrics() if m.get("validation_cross_entropy") is not None]
    assert losses[-1] < losses[0]


@every_method
def test_effects_are_those_of_passes_without_each_edit(case: Case) -> None:
    model = trained(case, "llama")
    found = edit_effects(model, "A film", "good")
    assert found.edits == open_edits(model) and len(found.edits) >= 3
    edited = found.edited
    for index in (0, len(found.edits) // 2, len(found.edits) - 1):
        ref = found.edits[index]
        masks = [EditMask.all(i) for i in model.in_use]
        masks[ref.intervention][ref.half][ref.layer, ref.unit] = 0
        without = edit_effects(model, "A film", "good", mask=masks, only=())
        assert edited - without.edited == pytest.approx(found.effect[index], abs=1e-4)


@every_method
def test_damaged_tensors_are_refused(case: Case, tmp_path: Path) -> None:
    model = trained(case, "llama")
    model.save_pretrained(tmp_path / "a")
    tensors = load_file(tmp_path / "a" / WEIGHTS_NAME)
    first = sorted(tensors)[0]
    for change in (
        {k: v for k, v in tensors.items() if k != first},
        {**tensors, "more": torch.zeros(1)},
        {**tensors, first: tensors[first][..., :1].contiguous()},
        {**tensors, first: torch.full_like(tensors[first], float("nan"))},
    ):
        save_file(change, tmp_path / "a" / WEIGHTS_NAME)
        with pytest.raises(InputError):
            load_edits(tmp_path / "a", JoLAModel(make_model("llama"), make_tokenizer(), name=model.name))


@pytest.mark.parametrize(
    ("case", "architecture"),
    [(case, each) for case in CASES for each in case.not_on],
    ids=lambda e: getattr(e, "name", e),
)
def test_an_architecture_is_refused_and_left_as_it_was(case: Case, architecture: str) -> None:
    base = make_model(architecture)
    before = set(dict(base.named_modules()))
    with pytest.raises(InputError, match=architecture):
        JoLAModel(base, make_tokenizer(), case.settings)
    assert set(dict(base.named_modules())) == before


weights = pytest.mark.parametrize("method", ["lora", "bitfit"])


@weights
def test_stock_peft_loads_edits_of_weights(method: str, tmp_path: Path) -> None:
    from peft import PeftModel

    model = trained(case_of(method), "llama")
    model.save_pretrained(tmp_path / "a")
    assert read_adapter(tmp_path / "a").method.name == method
    stock = PeftModel.from_pretrained(make_model("llama"), str(tmp_path / "a")).eval()
    assert torch.allclose(stock(IDS).logits, model(IDS).logits, atol=1e-5)


@weights
def test_weights_take_no_mask_by_row(method: str) -> None:
    model = trained(case_of(method), "llama")
    edits = model.own_interventions()[0]
    assert edits.site is Site.WEIGHTS
    with pytest.raises(ValueError, match="share the weights"):
        model(IDS, mask=EditMask(**{edits.channels[0]: torch.ones(2, edits.layers, edits.units)}))


@weights
def test_modules_outside_the_layers_are_refused_and_leave_nothing_behind(method: str) -> None:
    base = make_model("llama")
    before = set(dict(base.named_modules()))
    settings = METHODS[method].settings
    with pytest.raises(InputError, match="names lm_head, which is outside the layers"):
        JoLAModel(base, make_tokenizer(), settings(target_modules="q_proj,lm_head"))
    assert set(dict(base.named_modules())) == before and not hasattr(base, "peft_config")
    with pytest.raises(InputError, match="no module called nothing"):
        JoLAModel(base, make_tokenizer(), settings(target_modules="nothing"))


@pytest.mark.parametrize("inner", ["lora", "bitfit"])
def test_edits_of_the_same_weights_are_loaded_beside_each_other(inner: str, tmp_path: Path) -> None:
    """One wraps the other: each is used, scaled and removed without the other."""
    outer = "bitfit" if inner == "lora" else "lora"
    logits = {}
    for method in (inner, outer):
        model = trained(case_of(method), "llama")
        logits[method] = model(IDS).logits
        model.save_pretrained(tmp_path / method)
    base = make_model("llama")
    plain = base(IDS).logits
    own = set(dict(base.named_parameters()))
    model = JoLAModel(base, make_tokenizer(), name="tiny-llama")
    with model.disable_edits():
        first, second = (load_edits(tmp_path / method, model) for method in (inner, outer))
    assert set(model.frozen_parameters()) == own
    for edits, method in ((first, inner), (second, outer)):
        with model.using(edits):
            assert torch.equal(model(IDS).logits, logits[method])
    with model.using([*first, *second]):
        both = model(IDS).logits
        merged = merge(model)
        half = model(IDS, strength=0.5).logits
        assert torch.allclose(merge(model, strength=0.5)(IDS).logits, half, atol=1e-4)
    assert not torch.allclose(both, logits[inner], atol=1e-3) and not torch.allclose(both, logits[outer], atol=1e-3)
    assert torch.allclose(merged(IDS).logits, both, atol=1e-4)
    with model.using([]):
        assert torch.equal(merge(model)(IDS).logits, plain)
    model.detach(first)
    with model.using(second):
        assert torch.equal(model(IDS).logits, logits[outer])
    model.detach(second)
    with model.using([]):
        assert torch.equal(model(IDS).logits, plain)
    assert set(dict(base.named_parameters())) == own


@weights
@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.layers.99.self_attn.q_proj",
        "base_model.model.lm_head",
        "base_model.model.model.layers.0.self_attn.__class__.x y",
        "base_model.model.model.layers.².self_attn.q_proj",
    ],
)
def test_foreign_names_are_refused(method: str, name: str, tmp_path: Path) -> None:
    model = trained(case_of(method), "llama")
    model.save_pretrained(tmp_path / "a")
    tensors = load_file(tmp_path / "a" / WEIGHTS_NAME)
    known = next(iter(tensors))
    stem = next(known.removesuffix(s) for s in (".lora_A.weight", ".lora_B.weight", ".beft_bias") if known.endswith(s))
    renamed = {n.replace(stem, name) if n.startswith(f"{stem}.") else n: t for n, t in tensors.items()}
    save_file(renamed, tmp_path / "a" / WEIGHTS_NAME)
    with pytest.raises(InputError, match="damaged"):
        read_edits(tmp_path / "a")
    base = make_model("llama")
    other = JoLAModel(base, make_tokenizer(), name=model.name)
    with pytest.raises(InputError, match="does not fit its model"):
        load_edits(tmp_path / "a", other)
    assert set(other.frozen_parameters()) == set(dict(make_model("llama").named_parameters()))
