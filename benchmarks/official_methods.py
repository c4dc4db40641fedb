"""LoReFT and Houlsby adapters against the libraries of their authors, on tiny random models in float32.

    python -m benchmarks.official_methods --environments FOLDER

pyreft pins transformers 4.45 and runs with 5.24; `adapters` needs transformers 4.57. Each gets a virtual environment in
FOLDER, which is made when it is missing. Both sides have the same weights and edits. The largest differences of logits
and loss are written to docs/results/official_methods.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from jola.methods.houlsby import HoulsbyConfig
from jola.methods.loreft import LoReFTConfig
from tests.methods.contract import Case, trained

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "official_methods.json"
PROMPT, TOKENS = 20, 30
METHODS: dict[str, tuple[Any, list[list[str]], list[str]]] = {
    "loreft": (
        LoReFTConfig(rank=4),
        [
            [
                "torch==2.13.0",
                "transformers==5.24.0",
                "pyvene==0.1.8",
                "matplotlib",
                "pandas",
                "datasets",
                "accelerate",
                "evaluate",
            ],
            ["--no-deps", "pyreft==0.1.0"],
        ],
        ["pyreft", "pyvene", "torch", "transformers"],
    ),
    "houlsby": (
        HoulsbyConfig(reduction_factor=4),
        [["torch==2.13.0", "adapters==1.3.0"]],
        ["adapters", "torch", "transformers"],
    ),
}
"""Settings, what pip installs, and the packages whose versions are recorded."""
VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


def environment(folder: Path, installs: list[list[str]]) -> Path:
    """The interpreter of a virtual environment with these packages."""
    python = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        for packages in installs:
            subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "complete").touch()
    return python


@torch.no_grad()
def compare(method: str, architecture: str, python: Path) -> dict[str, Any]:
    """The largest differences of logits and loss between both implementations."""
    model = trained(Case(method, METHODS[method][0], begins_as_base=True), architecture)
    ids = torch.randint(3, 300, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :PROMPT] = -100
    logits, loss = model(ids, prompt_lengths=PROMPT).logits, model(ids, labels=labels).loss
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.base.save_pretrained(folder / "model")
        edits = {key: tensor.contiguous() for key, tensor in model.method.tensors(model.in_use).items()}
        save_file(edits | {"ids": ids, "labels": labels, "prompt": torch.tensor(PROMPT)}, folder / "given.safetensors")
        script = Path(__file__).parent / "official" / f"{method}.py"
        subprocess.run([str(python), str(script), str(folder)], check=True, capture_output=True)
        theirs = load_file(folder / "theirs.safetensors")
    plain = model(ids, strength=0.0).logits
    return {
        "method": method,
        "architecture": architecture,
        "tokens": ids.numel(),
        "logits_difference": float((logits - theirs["logits"]).abs().max()),
        "loss_difference": float((loss - theirs["loss"]).abs()),
        "largest_logit": float(logits.abs().max()),
        "changed_by_the_edits": float((logits - plain).abs().max()),
    }


def main() -> None:
    """Compare, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="folder of the virtual environments")
    folder: Path = parser.parse_args().environments
    rows, versions = [], {"ours": {name: version(name) for name in ("jola-workbench", "torch", "transformers")}}
    for method, (_, installs, packages) in METHODS.items():
        python = environment(folder / method, installs)
        told = subprocess.run([str(python), "-c", VERSIONS, *packages], check=True, capture_output=True, text=True)
        versions[method] = json.loads(told.stdout)
        rows += [compare(method, architecture, python) for architecture in ("llama", "qwen2")]
    if worst := [row for row in rows if max(row["logits_difference"], row["loss_difference"]) > 1e-5]:
        raise SystemExit(f"These differ by more than 1e-5: {worst}")
    RESULTS.write_text(
        json.dumps({"made_by": "benchmarks/official_methods.py", "versions": versions, "rows": rows}, indent=2) + "\n"
    )
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
