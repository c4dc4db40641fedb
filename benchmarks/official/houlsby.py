"""Houlsby adapters in `adapters`."""

from collections import defaultdict
from pathlib import Path

import adapters
import torch
from transformers import AutoModelForCausalLM

Tensors = dict[str, torch.Tensor]


def results(folder: Path, given: Tensors, source: Path | None) -> tuple[Tensors, dict[str, list[torch.nn.Parameter]]]:
    """Return logits and loss, and the trained parameters by our names, in layer order."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    adapters.init(model)
    layers, bottleneck, width = given["attention.down"].shape
    model.add_adapter("given", adapters.DoubleSeqBnConfig(reduction_factor=width / bottleneck, non_linearity="swish"))
    model.set_active_adapters("given")
    model.eval()
    trained = defaultdict(list)
    for name, parameter in model.named_parameters():
        if ".adapters.given." in name:
            layer = next(int(part) for part in name.split(".") if part.isdigit())
            site = "attention" if "attention_adapters" in name else "mlp"
            key = f"{site}.{'down' if 'adapter_down' in name else 'up'}{'_bias' if name.endswith('bias') else ''}"
            assert layer == len(trained[key])
            parameter.data.copy_(given[key][layer])
            trained[key].append(parameter)
    assert len(trained) == 8 and all(len(parameters) == layers for parameters in trained.values())
    out = model(input_ids=given["ids"], labels=given["labels"])
    return {"logits": out.logits, "loss": out.loss}, dict(trained)
