"""Houlsby adapters by `adapters`, in the environment of `benchmarks/official_methods.py`."""

import sys
from pathlib import Path

import adapters
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

folder = Path(sys.argv[1])
given = load_file(folder / "given.safetensors")
model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
adapters.init(model)
_, bottleneck, width = given["attention.down"].shape
model.add_adapter("given", adapters.DoubleSeqBnConfig(reduction_factor=width / bottleneck, non_linearity="swish"))
model.set_active_adapters("given")
model.eval()
copied = 0
for name, parameter in model.named_parameters():
    if ".adapters.given." in name:
        layer = next(int(part) for part in name.split(".") if part.isdigit())
        site = "attention" if "attention_adapters" in name else "mlp"
        key = f"{site}.{'down' if 'adapter_down' in name else 'up'}{'_bias' if name.endswith('bias') else ''}"
        parameter.data.copy_(given[key][layer])
        copied += 1
assert copied == 8 * len(given["attention.down"])
out = model(input_ids=given["ids"], labels=given["labels"])
save_file(
    {"logits": out.logits.detach().contiguous(), "loss": out.loss.detach().view(1)}, folder / "theirs.safetensors"
)
