"""Packed passes and common beginnings: results equal those of each row alone, and no token is computed twice."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from jola.config import EditConfig
from jola.edits.intervention import Edit, EditMask, Intervention
from jola.edits.sites import Site
from jola.jola_model import JoLAModel
from jola.methods.loreft import LoReFTConfig
from jola.model import packing, tracing
from jola.model.packing import beginning_of, packing_of
from jola.model.tracing import Record, Wanted
from jola.selectors.protocol import HeadFactors
from tests.jola.model.passes import CLOSE, draw_gates_between, every_architecture, with_noise
from tests.jola.model.plain_hooks import hooked
from tests.tiny import VOCABULARY, make_model

Make = Callable[..., JoLAModel]

COMMON, LENGTHS, ANSWER = 21, (34, 40, 29, 27, 31), 3
"""Attention windows of the tiny models (16 tokens) are shorter than the common beginning, and some begin after it."""
SEED = 11
"""Seed of the gate noise: some gates of each site are sampled between 0 and 1."""
DISTINCT = COMMON + sum(LENGTHS) - len(LENGTHS) * COMMON


def batch(lengths: tuple[int, ...] = LENGTHS, common: int = COMMON) -> dict[str, Tensor]:
    """Return rows with a common beginning, padded on the right, with labels at the last tokens of each."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    beginning = torch.randint(3, VOCABULARY, (common,), generator=generator)
    for row, length in enumerate(lengths):
        rest = torch.randint(3, VOCABULARY, (length - common,), generator=generator)
        if common < length:
            rest[0] = 10 + row  # so that rows differ after the common beginning
        ids[row, :length] = torch.cat([beginning, rest])
        labels[row, length - ANSWER : length] = ids[row, length - ANSWER : length]
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@contextmanager
def tokens_seen(model: JoLAModel) -> Iterator[list[tuple[int, ...]]]:
    """Collect the shapes of the inputs that are embedded inside the block."""
    shapes: list[tuple[int, ...]] = []
    embeddings = model.base.get_input_embeddings()
    handle = embeddings.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    try:
        yield shapes
    finally:
        handle.remove()


def runs_packed(model: JoLAModel, inputs: Mapping[str, Tensor] | None = None, mask: EditMask | None = None) -> bool:
    inputs = inputs or batch()
    model(**inputs, mask=mask)  # the first pass of a model also checks whether it can be packed
    with tokens_seen(model) as shapes:
        model(**inputs, mask=mask)
    assert len(shapes) == 1
    return shapes[0][0] == 1 < len(inputs["input_ids"])


def assert_as_each_row_alone(model: JoLAModel, plain: Any, inputs: Mapping[str, Tensor], found: Any) -> None:
    """Assert that logits, loss and gradients are those of plain hooks on each row alone."""
    clones = {
        e.site: {name: p.detach().clone().requires_grad_() for name, p in e.named_parameters()}
        for e in model.gated_edits()
    }
    with hooked(plain, with_noise(model, SEED, clones)):
        rows = [plain(inputs["input_ids"][row : row + 1, :length]).logits[0] for row, length in enumerate(LENGTHS)]
    logits = torch.cat([row[-ANSWER - 1 : -1] for row in rows])
    loss = torch.nn.functional.cross_entropy(logits, inputs["labels"][inputs["labels"] != -100])
    loss.backward()
    torch.testing.assert_close(found.logits, logits, **CLOSE)
    torch.testing.assert_close(found.loss, loss, **CLOSE)
    for edits in model.gated_edits():
        for name, parameter in edits.named_parameters():
            expected = clones[edits.site][name].grad
            assert expected is not None and expected.abs().max() > 1e-5, name
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: n + m)


@every_architecture
@pytest.mark.parametrize("attention", ["as it comes", "eager"])
def test_logits_and_gradients_are_those_of_each_row_alone(tiny: Make, architecture: str, attention: str) -> None:
    model, plain = tiny(architecture, EditConfig(sites="both")).train(), make_model(architecture)
    if attention == "eager":
        model.base.set_attn_implementation("eager")
    draw_gates_between(model)
    inputs = batch()
    model(**inputs)
    before = model.base.config._attn_implementation
    model.seed_gates(SEED)
    with tokens_seen(model) as shapes:
        found = model(**inputs)
    found.loss.backward()
    assert shapes == [(1, DISTINCT)]
    assert model.base.config._attn_implementation == before
    assert_as_each_row_alone(model, plain, inputs, found)


def subspace_edits(architecture: str, tokenizer: Any, **settings: Any) -> JoLAModel:
    """Return a model in training mode with edits of LoReFT that are large enough to matter."""
    model = JoLAModel(make_model(architecture), tokenizer, LoReFTConfig(rank=3, **settings), seed=0).train()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for intervention in model.own_interventions():
            for parameter in (intervention.get_parameter("weight"), intervention.get_parameter("bias")):
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


@every_architecture
@pytest.mark.parametrize(
    ("settings", "lengths", "common"),
    [
        ({"positions": "f3+l2"}, LENGTHS, COMMON),
        ({"positions": "f3+l2", "ends": "separate"}, LENGTHS, COMMON),
        ({"positions": "f3+l9"}, LENGTHS, 15),  # the last nine tokens of the shortest prompt begin where rows differ
        ({"positions": "f99+l1"}, LENGTHS, 12),  # half of the shortest prompt
        ({"positions": "all"}, LENGTHS, COMMON),
        ({"positions": "l4"}, (30, 12, 9), 0),  # only padding is saved
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_edits_at_the_ends_of_prompts_are_those_of_each_row_alone(
    tokenizer: Any, architecture: str, settings: dict[str, str], lengths: tuple[int, ...], common: int
) -> None:
    model = subspace_edits(architecture, tokenizer, **settings)
    inputs = batch(lengths, COMMON if common else 0)
    model(**inputs)
    with tokens_seen(model) as shapes:
        found = model(**inputs)
    assert found.loss is not None
    found.loss.backward()
    assert shapes == [(1, common + sum(length - common for length in lengths))]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    model.zero_grad()

    rows = [{name: v[row : row + 1, :length] for name, v in inputs.items()} for row, length in enumerate(lengths)]
    with tokens_seen(model) as shapes:
        alone = [model(**row) for row in rows]
    assert shapes == [(1, length) for length in lengths]
    loss = torch.stack([row.loss for row in alone]).mean()
    loss.backward()
    torch.testing.assert_close(found.logits, torch.cat([row.logits for row in alone]), **CLOSE)
    torch.testing.assert_close(found.loss, loss, **CLOSE)
    for gradient, parameter in zip(gradients, (p for p in model.parameters() if p.requires_grad), strict=True):
        assert gradient is not None and parameter.grad is not None and parameter.grad.abs().max() > 1e-5
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_a_mask_by_row_of_edits_at_positions_is_not_packed(tokenizer: Any) -> None:
    model = subspace_edits("llama", tokenizer, positions="f3+l2")
    everywhere = EditMask.all(model.own_interventions()[0])
    by_row = everywhere.map(lambda factor: factor.expand(len(LENGTHS), -1, -1))
    assert runs_packed(model, mask=everywhere)
    assert not runs_packed(model, mask=by_row)
    torch.testing.assert_close(model(**batch(), mask=everywhere).logits, model(**batch(), mask=by_row).logits, **CLOSE)


@pytest.mark.parametrize(
    ("lengths", "common"),
    [
        ((30, 12, 9), 0),  # only padding
        ((16, 16, 16), 10),  # only a common beginning
        ((30,), 0),  # one row, so nothing to save
        ((16, 10, 14), 10),  # one row is the beginning of the others; its labels shorten the shared part
        ((20, 19, 20), 1),  # little to save
    ],
)
def test_batches_of_all_kinds(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], common: int
) -> None:
    model, inputs = tiny("llama"), batch(lengths, common)
    with torch.no_grad():
        found = model(**inputs)
        monkeypatch.setattr(packing, "WORTH", 2.0)
        assert not runs_packed(model, inputs)
        expected = model(**inputs)
    torch.testing.assert_close(found.logits, expected.logits, **CLOSE)
    torch.testing.assert_close(found.loss, expected.loss, **CLOSE)


def test_what_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = batch()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    rows = inputs["labels"].roll(-1, 1) != -100
    packed = packing_of(ids, mask, rows)
    assert packed is not None and packed.common == COMMON
    assert packed.inputs(ids)["input_ids"].shape == (1, DISTINCT)
    assert packed.inputs(ids)["position_ids"][0].tolist() == [
        *range(COMMON),
        *(position for length in LENGTHS for position in range(COMMON, length)),
    ]
    assert int(packed.pack(rows).sum()) == int(rows.sum())
    # A position whose logits are wanted is not part of the common beginning.
    wanted = rows.clone()
    wanted[2, 7] = True
    shorter = packing_of(ids, mask, wanted)
    assert shorter is not None and shorter.common == 7
    # Without a mask, no token is padding.
    whole = packing_of(ids, None, rows)
    assert whole is not None and len(whole.source) == COMMON + len(LENGTHS) * (max(LENGTHS) - COMMON)
    spared = 1 - DISTINCT / ids.numel()
    monkeypatch.setattr(packing, "WORTH", spared + 0.001)
    assert packing_of(ids, mask, rows) is None
    monkeypatch.setattr(packing, "WORTH", spared - 0.001)
    assert packing_of(ids, mask, rows) is not None


def test_padding_on_the_left_is_not_packed() -> None:
    inputs = batch()
    flipped = {name: values.flip(1) for name, values in inputs.items()}
    assert packing_of(flipped["input_ids"], flipped["attention_mask"], flipped["labels"] != -100) is None


class Doubled(Intervention):
    """Doubles the heads of the first row only."""

    site = Site.HEADS

    def prepare(self, mask: EditMask | None = None, strength: float = 1.0) -> Mapping[int, Edit]:
        return {0: lambda z: torch.cat([2 * z[:1], z[1:]])}


@torch.no_grad()
def test_edits_that_differ_by_row_are_not_packed(tiny: Make) -> None:
    model = tiny("llama")
    everywhere = EditMask.all(model.edits)
    by_row = EditMask(*(torch.ones(len(LENGTHS), *everywhere.offset.shape) for _ in range(2)))
    assert runs_packed(model) and runs_packed(model, mask=everywhere)
    assert not runs_packed(model, mask=by_row)
    factors = torch.rand(len(LENGTHS), *everywhere.offset.shape)
    for intervention, packs in ((HeadFactors(factors[0]), True), (HeadFactors(factors), False), (Doubled(), False)):
        with model.using([intervention]):
            assert runs_packed(model) == packs
    with model.using([Doubled()]):
        first, second = batch(LENGTHS[:2]), batch(LENGTHS[:2])
        second["input_ids"] = second["input_ids"].flip(0)
        assert not torch.equal(model(**first).logits, model(**second).logits)


@every_architecture
@torch.no_grad()
def test_what_is_kept_of_a_pass(tiny: Make, architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny(architecture, EditConfig(sites="both")), batch()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    rows, last = inputs["labels"].roll(-1, 1) != -100, model.geometry.num_layers - 1
    wanted = Wanted(entering=(0, 2, last + 1), heads=(1,), projected=(0, last), mlp=(1,), attention=(0, last))
    plan = model.plan(None, 1.0, len(ids))

    def record() -> Record:
        with model.traced.plain_attention(), tokens_seen(model) as shapes:
            kept = model.traced.record(model.inputs(ids, mask), plan, wanted, rows=rows, uniform=True)
        seen.append(shapes[-1])
        return kept

    seen: list[tuple[int, ...]] = []
    found = record()
    monkeypatch.setattr(packing, "WORTH", 2.0)
    expected = record()
    assert seen == [(1, DISTINCT), tuple(ids.shape)]
    torch.testing.assert_close(found.logits, expected.logits, **CLOSE)
    for name in ("entering", "heads", "projected", "mlp", "attention"):
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert mine.keys() == theirs.keys() and mine
        for layer, values in mine.items():
            assert values.shape == theirs[layer].shape, name
            for row, length in enumerate(LENGTHS):
                ours, others = values[row, ..., :length, :], theirs[layer][row, ..., :length, :]
                if name == "attention":
                    ours, others = ours[..., :length], others[..., :length]
                elif (name, layer) == ("entering", last + 1):
                    # The output of the last layer is correct only where logits are wanted.
                    ours, others = ours[rows[row, :length]], others[rows[row, :length]]
                torch.testing.assert_close(ours, others, **CLOSE)


def attention_by_row(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Compute what flash attention computes for rows of the given lengths, one row after the other."""
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    lengths_given = cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k
    if cu_seq_lens_q is None or any(given is None for given in lengths_given):  # as in transformers
        lengths = attention_mask.sum(1).tolist() if attention_mask is not None else [query.shape[2]] * len(query)
        rows = [(row, slice(0, length)) for row, length in enumerate(lengths)]
    else:
        assert attention_mask is None and cu_seq_lens_q.dtype == torch.int32
        assert torch.equal(cu_seq_lens_q, cu_seq_lens_k)
        assert max_length_q == max_length_k == cu_seq_lens_q.diff().max()
        rows = [(0, slice(start, stop)) for start, stop in pairwise(cu_seq_lens_q.tolist())]
    output = torch.zeros_like(query)
    for row, places in rows:
        q, k, v = (part[row, :, places] for part in (query, key, value))
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if sliding_window is not None:
            seen &= ~torch.ones_like(seen).tril(-sliding_window)
        output[row, :, places] = scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v
    return output.transpose(1, 2), None


@pytest.fixture
def by_row(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name under which `attention_by_row` replaces flash attention, which needs an accelerator."""
    name = "by_row"
    AttentionInterface.register(name, attention_by_row)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
    monkeypatch.setattr(packing, "FLASH", name)
    return name


@every_architecture
def test_variable_length_attention_takes_rows_without_padding(tiny: Make, architecture: str, by_row: str) -> None:
    model, plain = tiny(architecture, EditConfig(sites="both")).train(), make_model(architecture)
    model.base.set_attn_implementation(by_row)
    draw_gates_between(model)
    inputs = batch()
    model(**inputs)
    model.seed_gates(SEED)
    with tokens_seen(model) as shapes:
        found = model(**inputs)
    found.loss.backward()
    assert shapes == [(1, sum(LENGTHS))]
    assert_as_each_row_alone(model, plain, inputs, found)


def test_flash_attention_is_replaced_in_float32(tiny: Make, by_row: str) -> None:
    base = tiny("llama").base
    base.set_attn_implementation("eager")
    assert packing.attention_in_float32(base) == "eager"
    base.set_attn_implementation(by_row)
    assert packing.attention_in_float32(base) == "sdpa"


@torch.no_grad()
def test_what_is_kept_with_variable_length_attention(tiny: Make, by_row: str) -> None:
    model, inputs = tiny("llama", EditConfig(sites="both")), batch()
    ids, mask, rows = inputs["input_ids"], inputs["attention_mask"], inputs["labels"].roll(-1, 1) != -100
    wanted = Wanted(entering=(0, 2), heads=(1,), projected=(0,), mlp=(1,))
    plan = model.plan(None, 1.0, len(ids))
    expected = model.traced.record(model.inputs(ids, mask), plan, wanted, rows=rows)
    model.base.set_attn_implementation(by_row)
    with tokens_seen(model) as shapes:
        found = model.traced.record(model.inputs(ids, mask), plan, wanted, rows=rows, uniform=True)
    assert shapes[-1] == (1, sum(LENGTHS))
    torch.testing.assert_close(found.logits, expected.logits, **CLOSE)
    for name in ("entering", "heads", "projected", "mlp"):
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert mine.keys() == theirs.keys() and mine
        for layer, values in mine.items():
            for row, length in enumerate(LENGTHS):
                torch.testing.assert_close(values[row, :length], theirs[layer][row, :length], **CLOSE)


@torch.no_grad()
def test_a_model_whose_attention_goes_another_way_is_not_packed(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tiny("llama")(**batch()).logits
    whole, names = packing._attention, dict.fromkeys(("sdpa", "eager"), "deaf")

    def deaf(*arguments: Any, packing: object = None, **others: Any) -> object:
        return whole("sdpa", *arguments, **others)

    AttentionInterface.register("deaf", deaf)
    AttentionMaskInterface.register("deaf", sdpa_mask)
    monkeypatch.setattr(packing, "_NAMES", names)
    model = tiny("llama")
    assert not runs_packed(model)
    torch.testing.assert_close(model(**batch()).logits, expected, **CLOSE)


@torch.no_grad()
def test_no_mask_is_made_of_the_packed_row(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any, **others: Any) -> Tensor:
        raise AssertionError("a mask of all packed tokens was made")

    for name in packing._NAMES.values():
        monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, name, never)
    for architecture in ("llama", "gpt2", "opt"):
        assert runs_packed(tiny(architecture))


@every_architecture
@torch.no_grad()
def test_a_copy_made_in_a_packed_pass_computes_as_ever(architecture: str) -> None:
    model, inputs = make_model(architecture), batch()
    inputs.pop("labels")
    real = inputs["attention_mask"].bool()
    for attention in dict.fromkeys((model.config._attn_implementation, "eager")):
        model.set_attn_implementation(attention)
        expected = model(**inputs).logits
        with packing.packed_attention(model):
            assert model.config._attn_implementation != attention
            assert torch.equal(model(**inputs).logits[real], expected[real])


@torch.no_grad()
def test_an_error_leaves_the_attention_as_it_was(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    expected = model(**batch()).logits

    def broken(*arguments: object) -> object:
        raise ArithmeticError

    with monkeypatch.context() as patch:
        patch.setattr(tracing.TracedModel, "_finish", broken)
        with pytest.raises(ArithmeticError):
            model(**batch())
    assert model.base.config._attn_implementation == "sdpa"
    assert torch.equal(model(**batch()).logits, expected)


@torch.no_grad()
def test_in_bfloat16(tiny: Make, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base: Any = make_model("llama")
    low = JoLAModel(base.to(torch.bfloat16), tokenizer)
    low.load_state_dict(tiny("llama").state_dict())
    assert runs_packed(low)
    found = low(**batch()).logits
    monkeypatch.setattr(packing, "WORTH", 2.0)
    whole = low(**batch()).logits
    exact = tiny("llama")(**batch()).logits
    assert (found - exact).abs().mean() < 1.5 * (whole - exact).abs().mean()


def prompts(lengths: tuple[int, ...] = LENGTHS, common: int = COMMON) -> dict[str, Tensor]:
    """Return the rows of `batch`, padded on the left."""
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (tokens, length) in enumerate(zip(batch(lengths, common)["input_ids"], lengths, strict=True)):
        ids[row, -length:], mask[row, -length:] = tokens[:length], 1
    return {"input_ids": ids, "attention_mask": mask}


GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": 7}


def shares(model: JoLAModel, inputs: Mapping[str, Tensor], **arguments: Any) -> bool:
    """Return whether the common beginning of the prompts is computed once."""
    with tokens_seen(model) as shapes:
        model.generate(**inputs, **GREEDY | arguments)
    return shapes[0][0] == 1 < len(inputs["input_ids"])


@every_architecture
@torch.no_grad()
def test_answers_are_those_to_each_prompt_alone(tiny: Make, architecture: str) -> None:
    model, inputs = tiny(architecture, EditConfig(sites="both")), prompts()
    windowed = architecture.startswith(("gemma2", "gemma3"))
    for edited in (True, False):
        with nullcontext() if edited else model.disable_edits():
            assert shares(model, inputs) != windowed
            answers = model.generate(**inputs, **GREEDY)
            assert torch.equal(answers[:, : max(LENGTHS)], inputs["input_ids"])
            for row, length in enumerate(LENGTHS):
                alone = model.generate(inputs["input_ids"][row : row + 1, -length:], **GREEDY)
                assert torch.equal(answers[row, -GREEDY["max_new_tokens"] :], alone[0, length:])
    edited_answers = model.generate(**inputs, **GREEDY)
    assert not torch.equal(edited_answers, answers)


@torch.no_grad()
def test_what_prompts_share_is_computed_once_where_that_is_right(tiny: Make) -> None:
    model, inputs = tiny("llama"), prompts()
    assert shares(model, inputs)
    by_row = EditMask(*(torch.ones(len(LENGTHS), *model.edits.editable.shape) for _ in range(2)))
    assert not shares(model, inputs, mask=by_row)
    for others in ({"do_sample": True}, {"repetition_penalty": 1.2}, {"num_beams": 2}, {"no_repeat_ngram_size": 2}):
        assert not shares(model, inputs, **others)
    assert not shares(model, prompts((30,), 20))
    assert not shares(model, prompts((30, 34), 20))  # too little to save
    # At least one token of the shortest prompt is left to continue from.
    equal = {name: values[:1].expand(5, -1) for name, values in prompts((30,), 20).items()}
    beginning = beginning_of(**equal)
    assert beginning is not None and beginning.tokens == 29
    answers = model.generate(**equal, **GREEDY)
    assert torch.equal(answers, model.generate(equal["input_ids"][:1], **GREEDY).expand(5, -1))


def test_padding_moves_behind_the_beginning() -> None:
    inputs = prompts((9, 12, 10), 7)
    many = {name: values.repeat(6, 1) for name, values in inputs.items()}
    beginning = beginning_of(**many)
    assert beginning is not None and beginning.tokens == 7
    ids, mask = (many[name].gather(1, beginning.order) for name in ("input_ids", "attention_mask"))
    assert mask[:3].tolist() == [[1] * 7 + [0] * 3 + [1] * 2, [1] * 12, [1] * 7 + [0] * 2 + [1] * 3]
    for row in range(3):
        assert torch.equal(ids[row][mask[row] == 1], many["input_ids"][row][many["attention_mask"][row] == 1])
    right = {name: values.flip(1) for name, values in many.items()}
    assert beginning_of(**right) is None


@every_architecture
@torch.no_grad()
def test_answers_to_one_prompt_share_its_pass(tiny: Make, architecture: str) -> None:
    model, inputs = tiny(architecture, EditConfig(sites="both")), prompts()
    rows = [ids[real > 0].tolist() for ids, real in zip(*inputs.values(), strict=True)]
    answers = [(row, [20 + row, *range(30, 30 + length)]) for row in range(len(rows)) for length in (0, 3, 1)]
    windowed = architecture.startswith(("gemma2", "gemma3"))
    for edited in (True, False):
        with nullcontext() if edited else model.disable_edits():
            with tokens_seen(model) as shapes:
                found = model.answer_log_likelihoods(rows, answers)
            shortest = max(LENGTHS) - COMMON
            expected_shapes = [(1, COMMON), (len(rows), shortest), (len(answers), 3)]
            assert (shapes == expected_shapes) != windowed
            each = []
            for row, answer in answers:
                logits = model(torch.tensor([rows[row] + answer])).logits[0, len(rows[row]) - 1 : -1]
                each.append(logits.log_softmax(-1)[range(len(answer)), answer].sum())
            torch.testing.assert_close(found, torch.stack(each), rtol=0, atol=1e-4)
            one = model.answer_log_likelihoods(rows[:1], [(0, [5]), (0, [6])])
            last = model(torch.tensor(rows[:1])).logits[0, -1].log_softmax(-1)
            torch.testing.assert_close(one, last[[5, 6]], rtol=0, atol=1e-4)
