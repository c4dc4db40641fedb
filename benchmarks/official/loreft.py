"""LoReFT by pyreft, in the environment of `benchmarks/official_methods.py`."""

import sys
from pathlib import Path

import pyreft
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

folder = Path(sys.argv[1])
given = load_file(folder / "given.safetensors")
model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
rotations, weights, biases = (given[f"block.{name}"][0] for name in ("rotation", "weight", "bias"))
layers, rank, width = rotations.shape
representations = []
for layer in range(layers):
    edit = pyreft.LoreftIntervention(embed_dim=width, low_rank_dimension=rank, dtype=torch.float32)
    edit.learned_source.weight.data.copy_(weights[layer])
    edit.learned_source.bias.data.copy_(biases[layer])
    edit.rotate_layer.parametrizations.weight[0].base[:, :rank] = rotations[layer].T
    representations.append(
        {"layer": layer, "component": "block_output", "low_rank_dimension": rank, "intervention": edit}
    )
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
places = [[list(each) for _ in ids] for each in places]
_, out = edited(
    {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
    unit_locations={"sources->base": (None, places)},
    labels=given["labels"],
)
save_file(
    {"logits": out.logits.detach().contiguous(), "loss": out.loss.detach().view(1)}, folder / "theirs.safetensors"
)
