"""RED in `model.py` of https://github.com/mlwu22/RED."""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

Tensors = dict[str, torch.Tensor]


def results(folder: Path, given: Tensors, source: Path | None) -> tuple[Tensors, dict[str, list[torch.nn.Parameter]]]:
    """Return logits and loss, and scales and offsets by our names, in layer order."""
    sys.path.insert(0, str(source))
    from model import ActivationLayer, ActivationLLama

    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    model = ActivationLLama(base).float().eval()  # its vectors are created in bfloat16
    vectors = [module.delta_vector for module in model.modules() if isinstance(module, ActivationLayer)]
    scales = [each["activation_scaling"] for each in vectors]
    offsets = [each["activation_bias"] for each in vectors]
    for scale, offset, m, a in zip(scales, offsets, given["mlp.scale"], given["mlp.offset"], strict=True):
        scale.data.copy_(1 + m)
        offset.data.copy_(a)
    out = model(input_ids=given["ids"], labels=given["labels"])
    return {"logits": out.logits, "loss": out.loss}, {"mlp.scale": scales, "mlp.offset": offsets}
