"""Agreement with the reference package in float32.

The figures were computed by the package itself (`benchmarks/reference/figures.py`) and name their origin. Its loss is
the objective "reference" here; the default is the published loss, which differs on purpose.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from jola.edits import gates
from jola.edits.gated import GatedEdits
from jola.edits.sites import Site
from jola.jola_model import JoLAModel
from jola.training.objective import PENALTIES, L0Schedule
from tests import DATA

FIGURES: dict[str, Any] = json.loads((DATA / "reference_figures.json").read_text(encoding="utf-8"))
HALVES = ("offset", "scale")
FLOAT32 = {"rtol": 0.0, "atol": 1e-6}
LOGITS = {"rtol": 0.0, "atol": 1e-5}


def edits_with(log_alpha: dict[str, Tensor], width: int = 2) -> GatedEdits:
    """Return edits of heads whose gates have the given φ, with shape (layers, units) for each half."""
    layers, units = log_alpha["offset"].shape
    edits = GatedEdits(Site.HEADS, layers, units, width)
    with torch.no_grad():
        for half in HALVES:
            edits.gates.get_submodule(half).get_parameter("log_alpha").copy_(log_alpha[half])
    return edits


def loss_edits() -> GatedEdits:
    figures = FIGURES["loss"]
    return edits_with({half: torch.tensor(figures[f"{half}_log_alpha"]) for half in HALVES})


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return load_file(DATA / FIGURES["forward"]["tensors"])


@pytest.fixture
def model(tensors: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase) -> Iterator[JoLAModel]:
    """The tiny Llama of the figures, in current transformers, with their edits."""
    settings = dict(FIGURES["forward"]["config"])
    rope = {"rope_type": "default", "rope_theta": settings.pop("rope_theta")}
    base = LlamaForCausalLM(LlamaConfig(**settings, rope_parameters=rope)).float()
    names = base.state_dict()
    base.load_state_dict({name: tensors[name] for name in names}, strict=True)
    edited = JoLAModel(base, tokenizer)
    with torch.no_grad():
        for half in HALVES:
            edited.edits.get_parameter(half).copy_(tensors[half])
            edited.edits.get_parameter(f"gates.{half}.log_alpha").copy_(tensors[f"{half}_log_alpha"])
    yield edited.eval()


def batch(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in ("input_ids", "attention_mask")}


def label_rows(tensors: dict[str, Tensor]) -> Tensor:
    """Return a mask of the positions whose next token has a label."""
    rows = torch.zeros_like(tensors["labels"], dtype=torch.bool)
    rows[:, :-1] = tensors["labels"][:, 1:] != -100
    return rows


def test_figures_say_where_they_come_from() -> None:
    origin = FIGURES["origin"]
    assert (origin["package"], origin["version"]) == ("jola", "0.0.1")
    assert len(origin["wheel_sha256"]) == 64
    assert origin["command"].endswith("benchmarks/reference/figures.py")


def test_evaluation_gates() -> None:
    figures = FIGURES["gates"]
    ours = gates.at_test_time(torch.tensor(figures["log_alpha"]))
    torch.testing.assert_close(ours, torch.tensor(figures["evaluation"]), **FLOAT32)
    # Closed means exactly 0: both agree on which gates are closed.
    assert torch.equal(ours == 0, torch.tensor(figures["evaluation"]) == 0)


def test_training_gates_for_the_same_noise() -> None:
    figures = FIGURES["gates"]
    log_alpha = torch.tensor(figures["log_alpha"])
    for noise, expected in zip(figures["noise"], figures["training"], strict=True):
        ours = gates.sample(log_alpha, uniform=torch.full_like(log_alpha, noise))
        torch.testing.assert_close(ours, torch.tensor(expected), rtol=0.0, atol=5e-6)


def test_penalty_of_a_gate_is_the_probability_that_it_is_open() -> None:
    # The package clamps the probability to [1e-6, 1 − 1e-6].
    figures = FIGURES["gates"]
    ours = gates.probability_open(torch.tensor(figures["log_alpha"]))
    torch.testing.assert_close(ours, torch.tensor(figures["penalty_of_each"]), rtol=0.0, atol=1.1e-6)
    assert ours.mean().item() == pytest.approx(figures["penalty_of_all"], abs=1e-6)


@pytest.mark.parametrize("half", HALVES)
def test_penalty_of_layers_and_heads(half: str) -> None:
    # At λ = 1 only the offset gates count, because the weight of the scale gates is 1 − λ.
    figures = FIGURES["gates"]
    closed = torch.full((3, 4), -50.0)
    given = torch.tensor(figures["log_alpha_by_layer"])
    edits = edits_with({name: given if name == half else closed for name in HALVES})
    weight = {"offset": 1.0, "scale": 1e-12}[half]
    expected = sum(figures["penalty_by_layer"]) / (3 * 4)
    assert PENALTIES["reference"]([edits], weight).item() == pytest.approx(expected, abs=1e-6)


def test_loss_for_given_cross_entropy_gates_and_weight() -> None:
    figures, edits = FIGURES["loss"], loss_edits()
    for weight, expected in zip(figures["l0_weight"], figures["loss"], strict=True):
        ours = figures["cross_entropy"] + PENALTIES["reference"]([edits], weight).item()
        assert ours == pytest.approx(expected, abs=1e-6), f"λ = {weight}"


def test_without_weight_there_is_no_penalty_at_all() -> None:
    figures = FIGURES["loss"]
    assert figures["l0_weight"][0] == 0
    assert figures["loss"][0] == pytest.approx(figures["cross_entropy"], abs=1e-6)
    assert PENALTIES["reference"]([loss_edits()], 0.0).item() == 0


def test_published_loss_differs_from_the_code() -> None:
    # The paper has one λ for all gates and a plain sum; the code has λ and 1 − λ, and two divisions.
    edits = loss_edits()
    by_hand = 0.1 * sum(gates.probability_open(log_alpha).sum().item() for log_alpha in edits.log_alphas().values())
    assert PENALTIES["paper"]([edits], 0.1).item() == pytest.approx(by_hand, rel=1e-6)
    assert PENALTIES["paper"]([edits], 0.1).item() != pytest.approx(
        PENALTIES["reference"]([edits], 0.1).item(), rel=0.1
    )


@pytest.mark.parametrize("kind", ["linear", "cyclic", "exponential"])
def test_schedules(kind: str) -> None:
    figures = FIGURES["schedules"][kind]
    schedule = L0Schedule(kind, 0.1, figures["total_steps"], reference=True)
    ours = [schedule.value(step) for step in range(FIGURES["schedules"]["calls"])]
    assert ours == pytest.approx(figures["l0_weight"], abs=1e-12)


def test_performance_schedule_follows_the_whole_loss() -> None:
    # The schedule observes the loss with the penalty, so the whole loss is computed again from the cross-entropy.
    figures, edits = FIGURES["schedules"]["performance"], loss_edits()
    schedule = L0Schedule("performance", 0.1, figures["total_steps"], reference=True)
    weights, losses = [], []
    for step, cross_entropy in enumerate(FIGURES["schedules"]["cross_entropy"]):
        weights.append(schedule.value(step))
        losses.append(cross_entropy + PENALTIES["reference"]([edits], weights[-1]).item())
        schedule.observe(losses[-1])
    assert weights == pytest.approx(figures["l0_weight"], abs=1e-12)
    assert losses == pytest.approx(figures["loss"], abs=2e-6)


def test_forward_pass(model: JoLAModel, tensors: dict[str, Tensor]) -> None:
    real = tensors["attention_mask"].bool()
    with torch.no_grad():
        ours = model(**batch(tensors)).logits
        with model.disable_edits():
            plain = model(**batch(tensors)).logits
    torch.testing.assert_close(ours[real], tensors["logits"][real], **LOGITS)
    # The edits are large, so the logits would not agree without them.
    assert (plain - tensors["logits"])[real].abs().max() > 1


def test_forward_pass_with_labels(model: JoLAModel, tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        ours = model(**batch(tensors), labels=tensors["labels"])
    torch.testing.assert_close(ours.logits, tensors["logits"][label_rows(tensors)], **LOGITS)
    assert ours.loss.item() == pytest.approx(FIGURES["forward"]["cross_entropy"], abs=1e-5)


def test_training_step_for_the_same_noise(
    model: JoLAModel, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, edits = FIGURES["forward"], model.edits
    parameters = {half: edits.get_parameter(f"gates.{half}.log_alpha") for half in HALVES}
    draw = gates.sample

    def with_their_noise(log_alpha: Tensor, **_: Any) -> Tensor:
        half = next(half for half, parameter in parameters.items() if parameter is log_alpha)
        return draw(log_alpha, uniform=tensors[f"{half}_noise"])

    monkeypatch.setattr(gates, "sample", with_their_noise)
    model.train()
    output = model(**batch(tensors), labels=tensors["labels"])
    loss = output.loss + PENALTIES["reference"]([edits], figures["training_l0_weight"])
    loss.backward()

    torch.testing.assert_close(output.logits, tensors["training_logits"][label_rows(tensors)], **LOGITS)
    assert output.loss.item() == pytest.approx(figures["training_cross_entropy"], abs=1e-5)
    assert loss.item() == pytest.approx(figures["training_loss"], abs=1e-5)
    for half in HALVES:
        torch.testing.assert_close(edits.get_parameter(half).grad, tensors[f"{half}_gradient"], **LOGITS)
        torch.testing.assert_close(parameters[half].grad, tensors[f"{half}_log_alpha_gradient"], **LOGITS)
        # Some gates were sampled between 0 and 1 and have a gradient of the cross-entropy, not only of the penalty.
        assert tensors[f"{half}_log_alpha_gradient"].abs().max() > 0.05


def test_what_the_package_does_differently() -> None:
    # The reasons why the comparison uses rotary base 10000 and its own loader; a new release may change them.
    assert FIGURES["observations"]["default_dtype"] == "float32"
    assert FIGURES["observations"]["same_logits_for_rope_theta_10000_and_500000"]
    assert FIGURES["observations"]["lm_head_trains_when_untied"]
