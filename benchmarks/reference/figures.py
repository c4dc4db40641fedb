"""Write the float32 values of the reference package with which the tests compare.

    .venv-reference/bin/python benchmarks/reference/figures.py

writes `tests/data/reference_figures.json` and `tests/data/reference_tiny_llama.safetensors`. Every number is computed
by a function of the package; none of its formulas is repeated here. Names are those of this project; the package calls
m `attn_A`, a `attn_v`, φ of the offset gate `log_g1` and φ of the scale gate `log_g2`.
"""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from environment import REPOSITORY
from harness import check_package, load, make_trainer, origin, quiet, trainable
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from jola import JoLAConfig, JoLAModel

DATA = REPOSITORY / "tests" / "data"
FIGURES = DATA / "reference_figures.json"
TENSORS = DATA / "reference_tiny_llama.safetensors"
COMMAND = ".venv-reference/bin/python benchmarks/reference/figures.py"

LOG_ALPHA = (-50.0, -8.0, -3.0, -2.398, -1.5, -0.43, 0.0, 0.43, 1.5, 2.398, 8.0, 50.0)
NOISE = (0.0, 1e-7, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1 - 2**-24)
L0_WEIGHTS = (0.0, 0.04, 0.1, 0.5, 1.0)
SCHEDULES = {"linear": "linear", "cyclic": "cyclic", "performance": "perform", "exponential": "expon"}
CALLS = 60

# The package always uses hidden_size / heads as the head width and 10000 as the rotary base. This configuration has the
# same values, so that other implementations give the same model. The large initializer_range makes the effect of
# attention, and thus of the edits, visible in the logits.
CONFIG: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,
}
LAYERS, HEADS = CONFIG["num_hidden_layers"], CONFIG["num_attention_heads"]
WIDTH = CONFIG["hidden_size"] // HEADS
EDITS = {"offset": "attn_v", "scale": "attn_A"}
GATES = {"offset": "log_g1", "scale": "log_g2"}


@contextlib.contextmanager
def uniform_noise(draws: Iterable[Tensor]) -> Iterator[None]:
    """Let `torch.rand` return `draws` in turn, and random values after the last of them."""
    queue, rand = list(draws), torch.rand

    def scripted(*shape: Any, **options: Any) -> Tensor:
        if not queue:
            return rand(*shape, **options)
        draw = queue.pop(0)
        if tuple(torch.Size(*shape)) != tuple(draw.shape):
            raise ValueError(
                f"The package requested noise of shape {shape}, but the prepared noise has shape {tuple(draw.shape)}."
            )
        return draw

    with mock.patch("torch.rand", scripted):
        yield


class ScriptedLoss(nn.Module):
    """A model with the parameters of `inner` whose cross-entropy is the next value of a given list."""

    def __init__(self, inner: JoLAModel, losses: Iterable[float]) -> None:
        super().__init__()
        self.inner, self._losses = inner, iter(losses)

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return {"loss": torch.tensor(next(self._losses))}


def base_model(folder: Path, **changes: Any) -> JoLAModel:
    """Return a tiny random Llama, saved to `folder` by transformers and loaded by the package."""
    torch.manual_seed(0)
    plain = LlamaForCausalLM(LlamaConfig(**(CONFIG | changes)))
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    plain.save_pretrained(folder)
    return load(folder)


def edited_model(folder: Path) -> tuple[JoLAModel, dict[str, Tensor]]:
    """Return the tiny Llama with large edits and gates from closed to open, and these tensors under our names."""
    model = base_model(folder)
    model.unfreeze_jola_params()
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}
    for half in EDITS:
        tensors[half] = 0.5 * torch.randn(LAYERS, HEADS, WIDTH, generator=generator)
        tensors[f"{half}_log_alpha"] = torch.empty(LAYERS, HEADS).uniform_(-4, 4, generator=generator)
    with torch.no_grad():
        for index, layer in enumerate(model.model.layers):
            for half in EDITS:
                getattr(layer.self_attn, GATES[half]).copy_(tensors[f"{half}_log_alpha"][index].unsqueeze(-1))
                for head, vector in enumerate(getattr(layer.self_attn, EDITS[half])):
                    vector.copy_(tensors[half][index, head])
    return model, tensors


def gate_figures(model: JoLAModel, scratch: Path) -> dict[str, Any]:
    """Return gates in evaluation and in training, and the penalty of a vector and of a (layers, heads) set of φ."""
    attention = model.model.layers[0].self_attn
    trainer = make_trainer(model, "expon", scratch)
    log_alpha = torch.tensor(LOG_ALPHA).unsqueeze(-1)
    attention.eval()
    evaluation = attention.get_gates(log_alpha).squeeze(-1)
    attention.train()
    training = []
    for value in NOISE:
        with uniform_noise([torch.full_like(log_alpha, value)]):
            training.append(attention.get_gates(log_alpha).squeeze(-1).tolist())
    every_layer = torch.tensor(LOG_ALPHA).view(LAYERS, HEADS)
    return {
        "log_alpha": list(LOG_ALPHA),
        "evaluation": evaluation.tolist(),
        "noise": list(NOISE),
        "training": training,
        "penalty_of_each": [trainer.get_penalty(value.view(1, 1)).item() for value in log_alpha],
        "penalty_of_all": trainer.get_penalty(log_alpha).item(),
        "log_alpha_by_layer": every_layer.tolist(),
        "penalty_by_layer": [trainer.get_penalty(layer.unsqueeze(-1)).item() for layer in every_layer],
    }


def loss_figures(model: JoLAModel, tensors: dict[str, Tensor], scratch: Path) -> dict[str, Any]:
    """Return the complete loss for a given cross-entropy, φ and λ."""
    trainer = make_trainer(model, "expon", scratch)
    cross_entropy = 2.3456
    losses = []
    for weight in L0_WEIGHTS:
        trainer.gated_lambda = weight
        losses.append(trainer.compute_loss(ScriptedLoss(model, [cross_entropy]), {"labels": None}).item())
    return {
        "cross_entropy": cross_entropy,
        "offset_log_alpha": tensors["offset_log_alpha"].tolist(),
        "scale_log_alpha": tensors["scale_log_alpha"].tolist(),
        "l0_weight": list(L0_WEIGHTS),
        "loss": losses,
    }


def schedule_figures(model: JoLAModel, scratch: Path) -> dict[str, Any]:
    """Return λ at each of the first `CALLS` calls of the loss.

    The cross-entropies fall, repeat, wander and then rise, so that the performance schedule rises and falls to 0.
    """
    generator = torch.Generator().manual_seed(2)
    falling = [3.0 - 0.1 * step for step in range(12)]
    wandering = (1.4 + torch.rand(12, generator=generator)).tolist()
    rising = [1.5 + 0.05 * step for step in range(CALLS - 26)]
    cross_entropies = [*falling, 1.9, 1.9, *wandering, *rising]
    figures: dict[str, Any] = {"calls": CALLS, "cross_entropy": cross_entropies}
    for name, theirs in SCHEDULES.items():
        trainer = make_trainer(model, theirs, scratch)
        scripted = ScriptedLoss(model, cross_entropies)
        weights, losses = [], []
        for _ in range(CALLS):
            weights.append(float(trainer.gated_lambda))
            losses.append(trainer.compute_loss(scripted, {"labels": None}).item())
        figures[name] = {"total_steps": int(trainer.num_steps), "l0_weight": weights, "loss": losses}
    return figures


def forward_figures(model: JoLAModel, tensors: dict[str, Tensor], scratch: Path) -> dict[str, Any]:
    """Return losses, and add logits and gradients to `tensors`: in evaluation, and in training with fixed gate noise.

    The second row of the batch is padded on the right.
    """
    generator = torch.Generator().manual_seed(3)
    input_ids = torch.randint(0, CONFIG["vocab_size"], (2, 12), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 9:] = 0
    labels = torch.full_like(input_ids, -100)
    labels[0, 8:12] = input_ids[0, 8:12]
    labels[1, 6:9] = input_ids[1, 6:9]
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
    noise = {half: torch.rand(LAYERS, HEADS, generator=generator) for half in EDITS}

    model.eval()
    with torch.no_grad():
        evaluation = model(**inputs)

    model.train()
    trainer = make_trainer(model, "expon", scratch)
    # The package draws layer by layer, offset gates before scale gates.
    draws = [noise[half][layer].unsqueeze(-1) for layer in range(LAYERS) for half in ("offset", "scale")]
    l0_weight = trainer.gated_lambda
    model.zero_grad()
    with uniform_noise(draws):
        loss, training = trainer.compute_loss(model, inputs, return_outputs=True)
    loss.backward()

    tensors |= inputs | {"logits": evaluation.logits, "training_logits": training.logits.detach()}
    layers = [layer.self_attn for layer in model.model.layers]
    for half in EDITS:
        tensors[f"{half}_noise"] = noise[half]
        edits = [torch.stack([vector.grad for vector in getattr(layer, EDITS[half])]) for layer in layers]
        tensors[f"{half}_gradient"] = torch.stack(edits)
        gates = [getattr(layer, GATES[half]).grad.squeeze(-1) for layer in layers]
        tensors[f"{half}_log_alpha_gradient"] = torch.stack(gates)
    return {
        "config": CONFIG,
        "tensors": TENSORS.name,
        "cross_entropy": evaluation.loss.item(),
        "training_cross_entropy": training.loss.item(),
        "training_l0_weight": l0_weight,
        "training_loss": loss.item(),
    }


def observations(scratch: Path) -> dict[str, Any]:
    """Return facts about the package that a comparison must take into account."""
    input_ids = torch.arange(12).unsqueeze(0)
    small_base, large_base = base_model(scratch / "small"), base_model(scratch / "large", rope_theta=500000.0)
    for model in (small_base, large_base):
        model.unfreeze_jola_params()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "attn_" in name:
                    parameter.zero_()
    with torch.no_grad():
        same = torch.equal(small_base(input_ids).logits, large_base(input_ids).logits)
    try:
        JoLAConfig.get_jola_config(default=True)
        default_config = "loads"
    except FileNotFoundError:
        default_config = "not in the wheel"
    tied = base_model(scratch / "tied", tie_word_embeddings=True)
    tied.unfreeze_jola_params()
    return {
        "default_dtype": str(small_base.dtype).removeprefix("torch."),
        "same_logits_for_rope_theta_10000_and_500000": same,
        "lm_head_trains_when_untied": small_base.lm_head.weight.requires_grad,
        "lm_head_trains_when_tied": tied.lm_head.weight.requires_grad,
        "default_config": default_config,
        "trainable_parameters_of_the_tiny_llama": sum(parameter.numel() for parameter in trainable(small_base)),
    }


def compact_json(value: Any) -> str:
    """Return indented JSON with each innermost list on one line."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda match: "[" + " ".join(match[1].split()) + "]", text) + "\n"


def main() -> None:
    quiet()
    check_package()
    # One thread, so that the order of summation is fixed.
    torch.set_num_threads(1)
    DATA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        model, tensors = edited_model(scratch / "tiny")
        figures = {"origin": origin(COMMAND), "observations": observations(scratch)}
        figures["gates"] = gate_figures(model, scratch)
        figures["loss"] = loss_figures(model, tensors, scratch)
        figures["schedules"] = schedule_figures(model, scratch)
        figures["forward"] = forward_figures(model, tensors, scratch)
        added = {*EDITS.values(), *GATES.values()}
        tensors |= {
            name: parameter.detach() for name, parameter in model.named_parameters() if not added & set(name.split("."))
        }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, TENSORS)
    FIGURES.write_text(compact_json(figures), encoding="utf-8")
    for path in (FIGURES, TENSORS):
        print(f"{path} ({path.stat().st_size / 1000:.0f} KB)")


if __name__ == "__main__":
    main()
