"""LoFiT in https://github.com/fc2869/lo-fit: its models, the loss of its trainer, and its selection of heads.

The trainer imports packages for logging and data, and the selection of heads is at the end of a training script.
Therefore, only the relevant statements of these files are executed.
"""

import ast
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

Tensors = dict[str, torch.Tensor]


def run(statement: ast.stmt, names: dict[str, Any]) -> None:
    """Execute one statement of the official code in the namespace ``names``."""
    exec(compile(ast.Module([statement], []), "official code", "exec"), names)


def loss_of_the_trainer(source: Path) -> Any:
    """Return ``CustomSFTTrainer.compute_loss`` as a function."""
    classes = (node for node in ast.parse((source / "utils" / "trainers.py").read_text()).body)
    trainer = next(node for node in classes if isinstance(node, ast.ClassDef) and node.name == "CustomSFTTrainer")
    names: dict[str, Any] = {}
    run(next(n for n in trainer.body if isinstance(n, ast.FunctionDef) and n.name == "compute_loss"), names)
    return names["compute_loss"]


def chosen_heads(source: Path, folder: Path, model: torch.nn.Module, count: int) -> torch.Tensor:
    """Return the (layer, head) pairs that the script saves after its first stage, sorted, with shape (count, 2)."""
    last = next(n for n in reversed(ast.parse((source / "lofit_trainer.py").read_text()).body) if isinstance(n, ast.If))
    args = SimpleNamespace(lofit_component="A", use_topk_heads=count, base_model_name="given", task="given", seed=0)
    os.chdir(folder)
    run(last, {"args": args, "trainer": SimpleNamespace(model=model), "np": np, "os": os, "torch": torch})
    pairs = np.load(folder / "top_heads" / f"given_given_Aonly_top{count}heads_0.npy")
    return torch.from_numpy(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])


def results(folder: Path, given: Tensors, source: Path | None) -> tuple[Tensors, dict[str, list[torch.nn.Parameter]]]:
    """Return logits, loss and, for scales, the selected heads; and the scales or offsets, in head order."""
    assert source is not None
    sys.path.insert(0, str(source))
    from models.modeling_gemma import GemmaForCausalLM
    from models.modeling_llama import LlamaForCausalLM

    kind = {"llama": LlamaForCausalLM, "gemma": GemmaForCausalLM}[
        AutoConfig.from_pretrained(folder / "model").model_type
    ]
    model = kind.custom_from_pretrained(folder / "model", cache_dir=None, torch_dtype=torch.float32).eval()
    model.requires_grad_(False)
    part, attribute = ("scale", "attn_A") if "heads.scale" in given else ("offset", "attn_v")
    parameters = [list(getattr(layer.self_attn, attribute)) for layer in model.model.layers]
    for layer, head in given["heads"].tolist():
        parameters[layer][head].data.copy_(given[f"heads.{part}"][layer, head])
        parameters[layer][head].requires_grad_()
    trainer = SimpleNamespace(args=SimpleNamespace(past_index=-1), l1_lambda=float(given.get("l1_weight", 0)))
    inputs = {"input_ids": given["ids"], "labels": given["labels"]}
    loss, out = loss_of_the_trainer(source)(trainer, model, inputs, return_outputs=True)
    found = {"logits": out.logits, "loss": loss}
    if part == "scale":
        found["heads"] = chosen_heads(source, folder, model, int(given["kept_heads"]))
    return found, {f"heads.{part}": [head for layer in parameters for head in layer]}
