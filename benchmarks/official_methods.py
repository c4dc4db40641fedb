"""Compare methods with their official code, on tiny random models in float32.

    python -m benchmarks.official_methods --environments FOLDER [--sources FOLDER] [--methods lora,red]

Official packages need different versions of transformers. Each version has a virtual environment in --environments,
which is created if it is missing; together they take 4 GB with the CPU build of PyTorch (PIP_EXTRA_INDEX_URL, see
CONTRIBUTING.md). Official code that is not on the package index is read from Git clones in --sources, which are created
if they are missing. Of this project, only the scripts in benchmarks/official run in these environments.

Both sides use the same weights and edits. The largest differences of logits, loss, gradients of the trained parameters,
selected heads and directions are written to docs/results/official_methods.json; docs/methods.md contains them as a
table. A difference above 1e-5 ends the script with an error, and nothing is written.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from jola.data.examples import Example, Message, Template
from jola.jola_model import JoLAModel
from jola.methods.bitfit import BitFitConfig
from jola.methods.houlsby import HoulsbyConfig
from jola.methods.lofit import LoFiTConfig
from jola.methods.lora import LoRAConfig
from jola.methods.loreft import LoReFTConfig
from jola.methods.red import REDConfig
from jola.methods.repe import RePEConfig
from jola.training.material import Passes
from tests.methods.contract import Case, trained
from tests.tiny import make_model

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "official_methods.json"
PROMPT, TOKENS, PAIRS = 20, 30, 60
TOLERANCE = 1e-5

VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"

ENVIRONMENTS = {
    "transformers-5.24": [
        ["torch==2.13.0", "transformers==5.24.0", "peft==0.21.2", "scikit-learn==1.9.1"],
        # pyreft 0.1.0 pins transformers 4.45 and runs with 5.24.
        ["pyvene==0.1.8", "matplotlib", "pandas", "datasets", "accelerate", "evaluate"],
        ["--no-deps", "pyreft==0.1.0"],
    ],
    "transformers-4.57": [["torch==2.13.0", "adapters==1.3.0"]],
    "transformers-4.39": [["torch==2.13.0", "transformers==4.39.2"]],
}
"""Arguments of ``pip install`` for each environment, one list per call."""

REPOSITORIES = {
    "RED": ("https://github.com/mlwu22/RED", "b34e48f42e7df22421c4219cef1d4284f42ba8d5", ["/model.py"]),
    "lo-fit": (
        "https://github.com/fc2869/lo-fit",
        "ebd344a273d3dab0b63d8bbfd7ecdb5185ae5b7b",
        ["/models/", "/utils/", "/lofit_trainer.py"],
    ),
    "representation-engineering": (
        "https://github.com/andyzoujm/representation-engineering",
        "5455d8a375d5fb1cb191f9ebcd089b7c21e9a31e",
        ["/repe/"],
    ),
}
"""Address, commit, and the required files as Git sparse-checkout patterns."""


@dataclass(frozen=True)
class Comparison:
    """A method with settings, and its official code."""

    method: str
    settings: Any
    script: str
    """Name of the script in benchmarks/official."""
    environment: str
    packages: tuple[str, ...]
    """Official packages, whose versions are recorded."""
    part: str = ""
    """Part of the method, if it is compared in several parts."""
    repository: str | None = None
    architectures: tuple[str, ...] = ("llama", "qwen2")


COMPARISONS = (
    Comparison("lora", LoRAConfig(rank=3, dropout=0.1), "peft_adapter", "transformers-5.24", ("peft",)),
    Comparison("bitfit", BitFitConfig(), "peft_adapter", "transformers-5.24", ("peft",)),
    Comparison("loreft", LoReFTConfig(rank=4), "loreft", "transformers-5.24", ("pyreft", "pyvene")),
    Comparison("houlsby", HoulsbyConfig(reduction_factor=4), "houlsby", "transformers-4.57", ("adapters",)),
    Comparison("red", REDConfig(), "red", "transformers-5.24", (), repository="RED"),
    *(
        # The official code has no Qwen2.
        Comparison("lofit", settings, "lofit", "transformers-4.39", (), part, "lo-fit", ("llama", "gemma"))
        for part, settings in (
            ("scales", LoFiTConfig(kept_heads=4)),
            ("offsets", LoFiTConfig(heads="0:1,1:3,2:0,2:2")),
        )
    ),
    *(
        Comparison(
            "repe",
            RePEConfig(layers="0-2", coefficient=0.1, direction=direction),
            "representation_engineering",
            "transformers-5.24",
            ("scikit-learn",),
            direction,
            "representation-engineering",
        )
        for direction in ("component", "mean")
    ),
)


class Reading(Passes):
    """Passes that also store their states."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.states: list[torch.Tensor] = []

    def after_blocks(self, examples: Any) -> torch.Tensor:
        """See `jola.methods.base.Material`."""
        self.states.append(super().after_blocks(examples))
        return self.states[-1]


def output(*command: str) -> str:
    """Run a command and return its output.

    Raises:
        SystemExit: The command failed; the message contains its errors.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def environment(folder: Path, installs: list[list[str]]) -> Path:
    """Create a virtual environment with these packages if it is missing, and return its interpreter."""
    python = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        output(sys.executable, "-m", "venv", "--clear", str(folder))
        for packages in installs:
            output(str(python), "-m", "pip", "install", *packages)
        (folder / "complete").touch()
    return python


def clone(folder: Path, url: str, commit: str, files: list[str]) -> Path:
    """Clone these files of one commit if the clone is missing, and return its folder.

    Raises:
        SystemExit: The folder exists and is at another commit.
    """
    if not folder.is_dir():
        output("git", "clone", "--filter=blob:none", "--no-checkout", url, str(folder))
        output("git", "-C", str(folder), "sparse-checkout", "set", "--no-cone", *files)
        output("git", "-C", str(folder), "checkout", commit)
    if (head := output("git", "-C", str(folder), "rev-parse", "HEAD").strip()) != commit:
        raise SystemExit(f"{folder} is at commit {head}, not {commit}; remove it or check out that commit.")
    return folder


def versions_of(comparison: Comparison, python: Path, source: Path | None) -> dict[str, str]:
    """Return the versions of the official packages, PyTorch and transformers, and the commit of the official code."""
    found = json.loads(output(str(python), "-c", VERSIONS, *comparison.packages, "torch", "transformers"))
    if source:
        found[comparison.repository] = output("git", "-C", str(source), "rev-parse", "HEAD").strip()
    return found


def head_pairs(heads: str) -> torch.Tensor:
    """Return a (K, 2) tensor from pairs of layer and head such as '3:0,3:7'."""
    return torch.tensor([[int(number) for number in pair.split(":")] for pair in heads.split(",")])


def add_directions(model: JoLAModel, settings: RePEConfig) -> dict[str, torch.Tensor]:
    """Compute the edits of a model from pairs, and return the states of the pairs and the coefficient."""
    # Most pairs have the sign of their mean. Otherwise signs would differ, because the official code counts pairs.
    answers = ("good", "good", "good", "bad")
    examples = [Example((Message("user", f"Film {n}"),), answers[n % 4]) for n in range(PAIRS)]
    reading = Reading(
        model, Template(model.tokenizer), examples, None, answers, 0, lambda n: None, lambda numbers: None
    )
    _, tensors = model.method.compute(settings, model.geometry, reading)
    model.method.load(model.in_use, tensors)
    right, wrong = reading.states
    return {
        "right": right,
        "wrong": wrong,
        "coefficient": torch.tensor(settings.coefficient),
        "mean": torch.tensor(settings.direction == "mean"),
    }


def differences_of(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the largest absolute differences by name; all gradients share one name.

    Args:
        ours: Our tensors by name. Shapes may differ from `theirs`, but not the order of elements.
        theirs: Tensors of the official code.

    Raises:
        ValueError: Names or numbers of elements differ, or an element is not finite.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f"Only one side has {', '.join(sorted(ours.keys() ^ theirs.keys()))}.")
    differences: dict[str, float] = {}
    for name, tensor in theirs.items():
        if ours[name].numel() != tensor.numel():
            raise ValueError(f"{name} has shape {tuple(ours[name].shape)} here and {tuple(tensor.shape)} there.")
        if not (ours[name].isfinite().all() and tensor.isfinite().all()):
            raise ValueError(f"{name} has elements that are not finite.")
        kind = "gradients" if name.startswith("gradient.") else name
        difference = float((ours[name].flatten() - tensor.flatten()).abs().max())
        differences[kind] = max(difference, differences.get(kind, 0.0))
    return differences


def disagreeing(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with a difference that is above `TOLERANCE` or NaN."""
    return [row for row in rows if not all(value <= TOLERANCE for value in row["differences"].values())]


def compare(comparison: Comparison, architecture: str, python: Path, source: Path | None) -> dict[str, Any]:
    """Return a result row with the largest differences between both implementations."""
    method, settings = comparison.method, comparison.settings
    model = trained(Case(method, settings, begins_as_base=True), architecture)
    given = add_directions(model, settings) if method == "repe" else {}
    tensors = dict(model.method.tensors(model.in_use))
    ids = torch.randint(3, 300, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :PROMPT] = -100
    loss = model(ids, labels=labels).loss
    if penalty := model.method.stages(settings)[0].penalty:
        loss = loss + penalty(model.in_use, 0.0)
    if loss.requires_grad:
        loss.backward()
    with torch.no_grad():
        logits = model(ids, prompt_lengths=PROMPT).logits
        plain = model(ids, strength=0.0).logits
    ours = {"logits": logits, "loss": loss.detach()}
    ours |= {f"gradient.{name}": t.grad for name, t in tensors.items() if t.is_leaf and t.grad is not None}
    if method == "lofit":
        given["heads"] = model.in_use[0].editable.nonzero()
        if comparison.part == "scales":
            given |= {"kept_heads": torch.tensor(settings.kept_heads), "l1_weight": torch.tensor(settings.l1_weight)}
            ours["heads"] = head_pairs(model.method.next_settings(settings, model.in_use).heads)
    if method == "repe":
        ours["directions"] = torch.nn.functional.normalize(tensors["block.offset"][:, 0], dim=-1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(architecture).save_pretrained(folder / "model")
        model.save_pretrained(folder / "adapter")
        given |= {"ids": ids, "labels": labels, "prompt": torch.tensor(PROMPT)}
        given |= {key: tensor.detach() for key, tensor in tensors.items()}
        save_file({key: tensor.contiguous() for key, tensor in given.items()}, folder / "given.safetensors")
        script = Path(__file__).parent / "official" / "run.py"
        output(str(python), str(script), comparison.script, name, *([str(source)] if source else []))
        theirs = load_file(folder / "theirs.safetensors")
    return {
        "method": method,
        "part": comparison.part,
        "architecture": architecture,
        "tokens": ids.numel(),
        "ours": {name: version(name) for name in ("jola-workbench", "torch", "transformers")},
        "differences": differences_of(ours, theirs),
        "largest_logit": float(logits.abs().max()),
        "largest_gradient": max(
            (float(t.abs().max()) for n, t in ours.items() if n.startswith("gradient.")), default=None
        ),
        "changed_by_the_edits": float((logits - plain).abs().max()),
    }


def main() -> None:
    """Compare the implementations, print and store the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="folder of the virtual environments")
    parser.add_argument("--sources", type=Path, help="folder of the clones (default: sources in --environments)")
    parser.add_argument("--methods", help="comma-separated; the stored rows of other methods are kept (default: all)")
    options = parser.parse_args()
    sources: Path = options.sources or options.environments / "sources"
    methods = list(dict.fromkeys(each.method for each in COMPARISONS))
    chosen = options.methods.split(",") if options.methods else methods
    if unknown := [name for name in chosen if name not in methods]:
        parser.error(f"--methods names {unknown[0]!r}; choose from {', '.join(methods)}.")
    stored = json.loads(RESULTS.read_text("utf-8"))
    rows = [row for row in stored["rows"] if row["method"] not in chosen]
    versions = {method: found for method, found in stored["versions"].items() if method not in chosen}
    for each in COMPARISONS:
        if each.method not in chosen:
            continue
        python = environment(options.environments / each.environment, ENVIRONMENTS[each.environment])
        source = clone(sources / each.repository, *REPOSITORIES[each.repository]) if each.repository else None
        versions[each.method] = versions_of(each, python, source)
        for architecture in each.architectures:
            rows.append(compare(each, architecture, python, source))
            print(rows[-1], flush=True)
    if worst := disagreeing(rows):
        raise SystemExit(f"These differ by more than {TOLERANCE}: {worst}")
    results = {
        "made_by": "benchmarks/official_methods.py",
        "versions": {name: versions[name] for name in methods},
        "rows": sorted(rows, key=lambda row: methods.index(row["method"])),
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
