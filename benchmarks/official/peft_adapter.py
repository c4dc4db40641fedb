"""LoRA and BitFit in peft, which loads our adapter directory onto a plain transformers model."""

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

Tensors = dict[str, torch.Tensor]


def results(folder: Path, given: Tensors, source: Path | None) -> tuple[Tensors, dict[str, list[torch.nn.Parameter]]]:
    """Return logits and loss, and the trained parameters by their names in the adapter file."""
    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True).eval()
    out = model(input_ids=given["ids"], labels=given["labels"])
    trained = {name.replace(".default", ""): [p] for name, p in model.named_parameters() if p.requires_grad}
    return {"logits": out.logits, "loss": out.loss}, trained
