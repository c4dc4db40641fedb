"""Edits that depend on positions: LoReFT compared with the formula, in every kind of pass."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.parametrizations import orthogonal

from jola.data.examples import IGNORED, Example, Message, Template
from jola.edits.hidden import SubspaceEdits
from jola.edits.intervention import EditMask
from jola.errors import InputError
from jola.evaluation.scoring import option_likelihood
from jola.insight import answer_scores, direct_effects, edit_effects, logit_lens, next_tokens, token_scores
from jola.insight.prompts import answer_ids, prompt_ids
from jola.jola_model import JoLAModel
from jola.methods import METHODS
from jola.methods.houlsby import HoulsbyConfig
from jola.methods.loreft import LoReFTConfig, parse_positions
from jola.model.edited import EditedModel
from jola.settings import EditConfig, TrainingConfig
from tests.methods.contract import ARCHITECTURES, CASES, Case, trained
from tests.tiny import make_model, make_tokenizer

IDS = torch.tensor([[5, 9, 17, 33, 8, 21, 40, 12, 77], [7, 3, 28, 64, 90, 11, 2, 55, 13]])
CASE = next(case for case in CASES if case.method == "loreft")


def loreft(architecture: str = "llama", **settings: Any) -> JoLAModel:
    case = Case("loreft", LoReFTConfig(**{"rank": 3, **settings}), begins_as_base=True)
    return trained(case, architecture)


def positions(n: int, first: int, last: int) -> tuple[list[int], list[int]]:
    return list(range(min(first, n // 2))), list(range(n - min(last, n // 2), n))


def by_formula(model: JoLAModel, ids: list[int], prompt: int, first: int, last: int) -> Tensor:
    """Return logits (tokens, vocabulary) of one row in plain PyTorch, with hooks that edit positions one by one."""
    edits = model.own_interventions()[0]
    assert isinstance(edits, SubspaceEdits)
    rotations, layers = edits.rotations.detach(), model.base.get_submodule("model.layers")
    ends = positions(prompt, first, last)

    def hook(layer: int) -> Any:
        def edit(module: Any, inputs: Any, output: Any) -> Any:
            h = (output[0] if isinstance(output, tuple) else output).clone()
            for end, places in enumerate(ends):
                own = min(end, len(rotations) - 1)
                r, w, b = rotations[own, layer], edits.weight[own, layer], edits.bias[own, layer]
                for place in places:
                    h[:, place] += (w @ h[0, place] + b - r @ h[0, place]) @ r
            return (h, *output[1:]) if isinstance(output, tuple) else h

        return edit

    handles = [layers[layer].register_forward_hook(hook(layer)) for layer in range(len(layers))]
    try:
        return model.base(torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()


def padded(rows: list[list[int]], left: bool) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    fill = [[0] * (longest - len(row)) for row in rows]
    ids = [[*pad, *row] if left else [*row, *pad] for pad, row in zip(fill, rows, strict=True)]
    real = [
        [0] * len(pad) + [1] * len(row) if left else [1] * len(row) + [0] * len(pad)
        for pad, row in zip(fill, rows, strict=True)
    ]
    return torch.tensor(ids), torch.tensor(real)


@torch.no_grad()
@pytest.mark.parametrize("ends", ["shared", "separate"])
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("text", ["f2+l3", "f2", "l1", "f99+l99"])
def test_a_padded_batch_is_the_formula_row_by_row(text: str, left: bool, ends: str) -> None:
    model = loreft(positions=text, ends=ends)
    first, last = parse_positions(text) or (0, 0)
    rows, prompts = [IDS[0].tolist(), IDS[1, :6].tolist(), IDS[1, :2].tolist()], [6, 5, 1]
    ids, real = padded(rows, left)
    logits = model(ids, real, prompt_lengths=torch.tensor(prompts)).logits
    for row, prompt, mask, found in zip(rows, prompts, real, logits, strict=True):
        expected = by_formula(model, row, prompt, first, last)
        assert torch.allclose(found[mask > 0], expected, atol=1e-4)
    assert not torch.allclose(logits, model(ids, real).logits, atol=1e-2), "the ends of the prompts matter"


@torch.no_grad()
@pytest.mark.parametrize("left", [True, False])
def test_the_prompt_ends_before_the_first_label(left: bool) -> None:
    model = loreft(positions="f2+l2")
    rows, prompts = [IDS[0].tolist(), IDS[1, :6].tolist()], [6, 4]
    ids, real = padded(rows, left)
    labels = ids.clone()
    for row, (label, prompt) in enumerate(zip(labels, prompts, strict=True)):
        start = ids.shape[1] - len(rows[row]) if left else 0
        label[: start + prompt] = IGNORED
        label[start + len(rows[row]) :] = IGNORED
    logits = model(ids, real, labels).logits
    expected = [by_formula(model, row, n, 2, 2)[n - 1 : -1] for row, n in zip(rows, prompts, strict=True)]
    assert torch.allclose(logits, torch.cat(expected), atol=1e-4)


@pytest.mark.parametrize("prompt", [1, 2, 3, 4, 15])
def test_an_end_has_at_most_half_of_the_prompt(prompt: int) -> None:
    edits = loreft(positions="f2+l5").own_interventions()[0]
    where = torch.zeros(1, 16, dtype=torch.bool)
    where[0, :prompt] = True
    h = torch.randn(1, 16, 32)
    found = edits.prepare_at(where)
    changed = (found[0](h) != h).any(-1)[0].nonzero().flatten().tolist() if found else []
    assert changed == sorted({*positions(prompt, 2, 5)[0], *positions(prompt, 2, 5)[1]})
    assert edits.prepare_at(torch.zeros(1, 1, dtype=torch.bool)) == {}, "a decoding step"


def test_a_training_batch_without_a_position_to_edit() -> None:
    model = loreft().train()
    labels = IDS.clone()
    labels[:, :1] = IGNORED
    model(IDS, labels=labels).loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"positions": "f2+l2"}, {"positions": "f2+l2", "ends": "separate"}])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_beams_have_the_scores_of_one_pass(architecture: str, settings: dict[str, str]) -> None:
    model = loreft(architecture, **settings)
    rows = [IDS[0, :7].tolist(), IDS[1, :4].tolist()]
    ids, real = padded(rows, left=True)
    found = model.generate(
        ids, real, num_beams=3, num_return_sequences=2, max_new_tokens=4, do_sample=False, length_penalty=0.0,
        output_scores=True, return_dict_in_generate=True, eos_token_id=None,
    )  # fmt: skip
    for index, score in enumerate(found.sequences_scores.tolist()):
        prompt, answer = rows[index // 2], found.sequences[index, ids.shape[1] :].tolist()
        scores = model(torch.tensor([prompt + answer]), prompt_lengths=len(prompt)).logits[0].log_softmax(-1)
        each = scores[len(prompt) - 1 : -1].gather(-1, torch.tensor(answer)[:, None])
        assert float(each.sum()) == pytest.approx(score, abs=1e-3)


def token_by_token(model: EditedModel, ids: list[int], answer: list[int], **arguments: Any) -> float:
    """Return ln p(answer | prompt), from one pass per token without a cache."""
    total = 0.0
    for count, token in enumerate(answer):
        logits = model(torch.tensor([ids + answer[:count]]), prompt_lengths=len(ids), **arguments).logits
        total += float(logits[0, -1].log_softmax(-1)[token])
    return total


@torch.no_grad()
def test_every_score_of_an_answer_is_that_of_token_by_token_passes() -> None:
    model, answers = loreft(positions="f3+l3"), ["good", "not so bad"]
    template = Template(model.tokenizer)
    ids = prompt_ids(model, "A film", template)
    expected = [token_by_token(model, ids, answer_ids(model, answer, template)) for answer in answers]
    scores = answer_scores(model, "A film", answers)
    assert scores.edited == pytest.approx(expected, abs=1e-3)
    assert abs(scores.edited - scores.base).min() > 1e-2
    examples = [Example((Message("user", "A film"),), "good")]
    chosen = option_likelihood(model, examples, answers, template)
    assert chosen.log_likelihoods[0].tolist() == pytest.approx(expected, abs=1e-3)
    whole = token_scores(model, examples[0])
    assert whole.edited[len(ids) :].sum() == pytest.approx(expected[0], abs=1e-3)
    effects = edit_effects(model, "A film", "good")
    assert effects.edited == pytest.approx(expected[0], abs=1e-3)
    for ref, effect in zip(effects.edits, effects.effect, strict=True):
        mask = EditMask.all(model.in_use[0])
        mask["update"][ref.layer, 0] = 0
        without = token_by_token(model, ids, answer_ids(model, "good", template), mask=mask)
        assert expected[0] - without == pytest.approx(effect, abs=1e-3)


@torch.no_grad()
def test_what_is_read_after_a_prompt_is_its_next_token() -> None:
    model = loreft(positions="f3+l3")
    ids = prompt_ids(model, "A film")
    expected = by_formula(model, ids, len(ids), 3, 3)[-1].softmax(-1)
    token = int(expected.argmax())
    assert next_tokens(model, "A film").tokens[0].edited == pytest.approx(float(expected.max()), abs=1e-4)
    top = logit_lens(model, "A film", 1, last=1).edited[-1][0][0]
    assert (top.id, top.probability) == (token, pytest.approx(float(expected.max()), abs=1e-4))


@torch.no_grad()
@pytest.mark.parametrize("case", [c for c in CASES if c.method in ("loreft", "houlsby")], ids=lambda case: case.name)
def test_the_direct_effect_of_the_last_edit_is_linear_in_what_it_adds(case: Case) -> None:
    model = trained(case, "llama")
    found = direct_effects(model, "A film", "good")
    last = max(range(len(found.edits)), key=lambda i: (found.edits[i].layer, found.edits[i].site != "attention"))
    ref, ids = found.edits[last], torch.tensor([prompt_ids(model, "A film")])
    streams: list[Tensor] = []
    norm = model.base.get_submodule("model.norm")
    handle = norm.register_forward_hook(lambda module, inputs, output: streams.append(inputs[0][0, -1]))
    masks = [EditMask.all(i) for i in model.in_use]
    model(ids)
    masks[ref.intervention][ref.half][ref.layer, ref.unit] = 0
    model(ids, mask=masks)
    handle.remove()
    added = streams[0] - streams[1]
    scale = (streams[0].square().mean() + norm.variance_epsilon).sqrt()
    token = answer_ids(model, "good")[0]
    expected = (norm.weight * added / scale) @ model.base.get_output_embeddings().weight[token]
    assert abs(float(expected)) > 1e-3
    assert found.effect[last] == pytest.approx(float(expected), abs=1e-4)


@torch.no_grad()
def test_rows_with_masks_of_their_own() -> None:
    for case in CASES:
        if case.method not in ("loreft", "houlsby"):
            continue
        for architecture in (*ARCHITECTURES, "opt"):
            model = trained(case, architecture)
            masks = [EditMask(update=torch.tensor([[[1.0], [0], [1]], [[0.5], [1], [0]]])) for _ in model.in_use]
            together = model(IDS, mask=masks).logits
            for row in range(2):
                own = [mask.map(lambda factor, row=row: factor[row]) for mask in masks]
                assert torch.allclose(together[row], model(IDS[row : row + 1], mask=own).logits[0], atol=1e-4)


@torch.no_grad()
def test_every_token_is_edited_with_positions_all() -> None:
    model = loreft(positions="all")
    assert model.own_interventions()[0].uniform
    assert torch.allclose(model(IDS).logits, model(IDS, prompt_lengths=2).logits)
    labels = IDS.clone()
    labels[:, :5] = IGNORED
    same = IDS[:1].repeat(4, 1)  # packed, because all rows are equal
    packed = model(same, labels=labels[:1].repeat(4, 1)).logits
    assert torch.allclose(packed, model(same).logits[:, 4:-1].flatten(0, 1), atol=1e-4)
    answer = model.generate(IDS[:1, :4], max_new_tokens=4, do_sample=False)
    for end in range(4, 8):
        assert int(model(answer[:, :end]).logits[0, -1].argmax()) == int(answer[0, end])


@torch.no_grad()
def test_prompt_edits_beside_others() -> None:
    """Edits at every token also apply in decoding steps; edits of the prompt do not."""
    model = loreft(positions="f2+l2")
    other = trained(next(case for case in CASES if case.method == "jola"), "llama")
    edits = [*model.own_interventions(), *other.own_interventions()]
    with model.using(edits):
        answer = model.generate(IDS[:, :6], max_new_tokens=5, do_sample=False)
        for end in range(6, 11):
            logits = model(answer[:, :end], prompt_lengths=6).logits[:, -1]
            assert logits.argmax(-1).tolist() == answer[:, end].tolist()


def test_generation_needs_the_cache() -> None:
    """Without a cache, decoding steps would pass the prompt again without its edits."""
    model = loreft(positions="f2+l2")
    arguments = {"max_new_tokens": 6, "do_sample": False}
    expected = model.generate(IDS[:, :6], **arguments)
    model.base.generation_config.use_cache = False
    assert torch.equal(model.generate(IDS[:, :6], **arguments), expected)
    with pytest.raises(ValueError, match="need the cache"):
        model.generate(IDS[:, :6], use_cache=False, **arguments)


def test_positions_have_to_be_known() -> None:
    model = loreft()
    with pytest.raises(ValueError, match="pass a mask of the tokens of the prompt"):
        model.plan(None, 1.0, 1)
    with pytest.raises(ValueError, match="3 prompt lengths for 2 rows"):
        model(IDS, prompt_lengths=torch.tensor([1, 2, 3]))


@pytest.mark.parametrize("text", ["", "7", "f0+l7", "f7+f3", "f7,l7", "f7+", "first 7", "f-1"])
def test_positions_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InputError, match=r"--positions is .*write 'f7") as caught:
        JoLAModel(make_model("llama"), make_tokenizer(), LoReFTConfig(positions=text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (LoReFTConfig(rank=33), "--rank is 33, but the hidden size of the model is 32"),
        (HoulsbyConfig(reduction_factor=33), "--reduction-factor is 33, but the hidden size of the model is 32"),
        (LoReFTConfig(layers="7"), "--layers names layer 7"),
        (HoulsbyConfig(layers="x"), "--layers is 'x'"),
    ],
)
def test_settings_that_do_not_fit_the_model(settings: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        JoLAModel(make_model("llama"), make_tokenizer(), settings)


def test_rotations_stay_orthonormal_and_weight_decay_does_not_act_on_them() -> None:
    model = loreft().train()
    edits = model.own_interventions()[0]
    assert isinstance(edits, SubspaceEdits)
    before = edits.rotations.detach().clone()
    optimizer = torch.optim.AdamW(model.method.parameter_groups(model.own_interventions(), 0.5, 0.0), lr=0.05)
    labels = IDS.clone()
    labels[:, :6] = IGNORED
    for _ in range(5):
        optimizer.zero_grad()
        model(IDS, labels=labels).loss.backward()
        optimizer.step()
    after = edits.rotations.detach()
    assert torch.allclose(after @ after.mT, torch.eye(3).expand(1, 3, 3, 3), atol=1e-5)
    assert not torch.allclose(after, before, atol=1e-2)


def test_rotations_are_the_parametrization_of_pytorch() -> None:
    edits = loreft().own_interventions()[0]
    assert isinstance(edits, SubspaceEdits)
    module = torch.nn.Module()
    module.register_parameter("weight", torch.nn.Parameter(torch.eye(32, 3)))
    orthogonal(module, "weight", orthogonal_map="householder", use_trivialization=False)
    original = module.get_parameter("parametrizations.weight.original")
    original.data.copy_(edits.reflections[0, 1])
    assert torch.allclose(module.weight.T, edits.rotations[0, 1], atol=1e-5)
    gradient = torch.randn(3, 32)
    (module.weight.T * gradient).sum().backward()
    (edits.rotations[0, 1] * gradient).sum().backward()
    assert edits.reflections.grad is not None and original.grad is not None
    assert torch.allclose(edits.reflections.grad[0, 1], original.grad, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 32])
def test_a_rotation_that_is_set_is_there(rank: int) -> None:
    edits = SubspaceEdits(2, 32, rank, range(2), (7, 7))
    edits.reset(torch.Generator().manual_seed(0))
    fresh = edits.rotations.detach().clone()
    for wanted in (fresh, -fresh, torch.eye(32)[:rank].expand_as(fresh)):
        edits.rotations = wanted
        assert torch.allclose(edits.rotations, wanted, atol=1e-5)


def test_the_published_start_is_not_the_base_model() -> None:
    plain = make_model("llama")(IDS).logits
    model = JoLAModel(make_model("llama"), make_tokenizer(), LoReFTConfig(rank=3, start="published"))
    edits = model.own_interventions()[0]
    assert isinstance(edits, SubspaceEdits)
    assert not torch.allclose(model(IDS).logits, plain, atol=0.1)
    # Like nn.Linear: uniform between ±1/√inputs.
    assert float(edits.weight.detach().abs().max()) <= 32**-0.5 < 1.2 * float(edits.weight.detach().abs().max())


def test_only_chosen_layers_are_edited_and_counted() -> None:
    model = loreft(layers="1")
    edits = model.own_interventions()[0]
    assert edits.on()["update"].flatten().tolist() == [False, True, False]
    assert edits.record()["update_norm"].isnan().flatten().tolist() == [True, False, True]
    assert edits.trainable_count() == 2 * 3 * 32 + 3


def test_numbers_are_those_of_the_paper() -> None:
    from jola.edits.sites import Geometry

    llama = Geometry("llama", 32, 32, 128, 4096)

    def count(method: str, settings: Any) -> int:
        return METHODS[method].trainable(settings, make_model("llama"), llama)["train"]

    assert count("loreft", LoReFTConfig()) == 2_097_408
    assert count("loreft", LoReFTConfig(ends="separate")) == 4_194_816
    assert count("houlsby", HoulsbyConfig(reduction_factor=256)) == 8_651_776
    assert count("houlsby", HoulsbyConfig(reduction_factor=64)) == 33_820_672


def test_a_rotation_that_is_none_is_refused() -> None:
    model = loreft()
    tensors = {name: tensor.detach().clone() for name, tensor in model.method.tensors(model.in_use).items()}
    tensors["block.rotation"] *= 1.5
    with pytest.raises(InputError, match="not orthonormal"):
        model.method.load(model.in_use, tensors)


def test_settings_are_checked_before_anything_is_loaded() -> None:
    with pytest.raises(InputError, match="--positions"):
        METHODS["loreft"].check(LoReFTConfig(positions="x"), TrainingConfig())
    assert EditConfig is METHODS["jola"].settings
