"""LoReFT in pyreft. The gradient of the rotation is left out, because both sides parametrize it differently."""

from pathlib import Path

import pyreft
import torch
from transformers import AutoModelForCausalLM

Tensors = dict[str, torch.Tensor]


def results(folder: Path, given: Tensors, source: Path | None) -> tuple[Tensors, dict[str, list[torch.nn.Parameter]]]:
    """Return logits and loss, and weights and biases by our names, in layer order."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    rotations, weights, biases = (given[f"block.{name}"][0] for name in ("rotation", "weight", "bias"))
    layers, rank, width = rotations.shape
    edits = []
    for layer in range(layers):
        edit = pyreft.LoreftIntervention(embed_dim=width, low_rank_dimension=rank, dtype=torch.float32)
        edit.learned_source.weight.data.copy_(weights[layer])
        edit.learned_source.bias.data.copy_(biases[layer])
        edit.rotate_layer.parametrizations.weight[0].base[:, :rank] = rotations[layer].T
        edits.append(edit)
    representations = [
        {"layer": layer, "component": "block_output", "low_rank_dimension": rank, "intervention": edit}
        for layer, edit in enumerate(edits)
    ]
    edited = pyreft.get_reft_model(model, pyreft.ReftConfig(representations=representations), set_device=False)
    places = pyreft.dataset.get_intervention_locations(
        last_position=int(given["prompt"]),
        first_n=7,
        last_n=7,
        pad_mode="first",
        num_interventions=layers,
        share_weights=True,
    )
    ids = given["ids"]
    _, out = edited(
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        unit_locations={"sources->base": (None, [[list(each) for _ in ids] for each in places])},
        labels=given["labels"],
    )
    trained = {
        "block.weight": [edit.learned_source.weight for edit in edits],
        "block.bias": [edit.learned_source.bias for edit in edits],
    }
    return {"logits": out.logits, "loss": out.loss}, trained
