"""RePE in https://github.com/andyzoujm/representation-engineering: directions of given pairs of states, and control.

The official code leaves the lengths of the added vectors to the user; here they are computed with our formula.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

Tensors = dict[str, torch.Tensor]


def results(folder: Path, given: Tensors, source: Path | None) -> tuple[Tensors, dict[str, list[torch.nn.Parameter]]]:
    """Return directions with their signs, (layers, hidden), and the logits and loss of the controlled model."""
    sys.path.insert(0, str(source))
    torch.Tensor.cuda = lambda self: self  # the readers move everything to a GPU
    from repe.rep_control_reading_vec import WrappedReadingVecModel
    from repe.rep_readers import ClusterMeanRepReader, PCARepReader

    right, wrong = given["right"], given["wrong"]
    count, layers = len(right), list(range(right.shape[1]))
    # As in the official examples, pairs have either order, and labels name the right element.
    firsts, seconds = torch.cat([right, wrong]), torch.cat([wrong, right])
    states = {layer: torch.stack([firsts, seconds], 1)[:, :, layer].flatten(0, 1).numpy() for layer in layers}
    if given["mean"]:
        reader = ClusterMeanRepReader()
        labels = [label for first in (1, 0) for _ in range(count) for label in (first, 1 - first)]
        reader.directions = reader.get_rep_directions(None, None, states, layers, train_choices=labels)
        signs = reader.get_signs(states, [0] * count + [1] * count, layers)
    else:
        reader = PCARepReader()
        differences = {layer: values[::2] - values[1::2] for layer, values in states.items()}
        reader.directions = reader.get_rep_directions(None, None, differences, layers)
        signs = reader.get_signs(states, [[1, 0]] * count + [[0, 1]] * count, layers)
    directions = torch.stack(
        [torch.from_numpy(reader.directions[layer][0]) * float(signs[layer][0]) for layer in layers]
    )
    directions = torch.nn.functional.normalize(directions, dim=-1)

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    lengths = given["coefficient"] * (right.norm(dim=-1) + wrong.norm(dim=-1)).mean(0) / 2
    control = WrappedReadingVecModel(model, None)
    control.wrap_block(layers, block_name="decoder_block")
    control.set_controller(layers, {layer: lengths[layer] * directions[layer] for layer in layers})
    ids = given["ids"]
    positions = torch.arange(ids.shape[1]).expand_as(ids)  # used to detect padding
    with torch.no_grad():
        out = control(input_ids=ids, position_ids=positions, labels=given["labels"])
    return {"logits": out.logits, "loss": out.loss, "directions": directions}, {}
