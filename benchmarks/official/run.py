"""Run the official code of one method, in an environment of `benchmarks/official_methods.py`.

    python benchmarks/official/run.py METHOD FOLDER [SOURCE]

FOLDER contains the frozen model, the tensors of the edits in given.safetensors, and our adapter. SOURCE is a clone of
the official repository, if the method needs one. Results are written to FOLDER/theirs.safetensors.
"""

import sys
from importlib import import_module
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

folder = Path(sys.argv[2]).resolve()
source = Path(sys.argv[3]).resolve() if len(sys.argv) > 3 else None
given = load_file(folder / "given.safetensors")
found, trained = import_module(sys.argv[1]).results(folder, given, source)
if trained:
    found["loss"].backward()
for name, parameters in trained.items():
    found[f"gradient.{name}"] = torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
save_file({name: tensor.detach().contiguous() for name, tensor in found.items()}, folder / "theirs.safetensors")
