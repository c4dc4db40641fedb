"""Export of the scales as an IA3 adapter, which peft can load.

IA3 multiplies activations by learned vectors: the input of modules declared as feed-forward, and the output of others.
With the attention output projection declared as feed-forward, this is exactly the scale of heads. With the last
projection of the MLP as an ordinary module, it is the scale of MLP outputs. IA3 cannot represent offsets.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save

from jola.adapters.card import portable_name
from jola.edits.sites import Site
from jola.errors import InputError
from jola.export.affine import Affine, Place
from jola.export.folders import new_folder, size_of
from jola.export.projections import LLAMA_LIKE_MLP, MLP_PROJECTIONS
from jola.export.source import refuse_export, source_of
from jola.methods import Method
from jola.model.architectures import architecture_named
from jola.system.files import disk_errors

if TYPE_CHECKING:
    from jola.model.edited import EditedModel, Masks

_LOSES = "the folded checkpoint, the standalone script and the adapter contain both halves"


@dataclass(frozen=True)
class IA3Report:
    """The exported adapter, and what was left out because IA3 cannot represent it."""

    folder: str
    bytes: int
    scales: int
    """Number of sites, over all layers, with a scale."""
    offsets_left_out: int
    """Number of sites, over all layers, whose offset was left out."""

    def describe(self) -> str:
        """A one-line summary."""
        left = f"; offsets at {self.offsets_left_out} sites are left out ({_LOSES})" if self.offsets_left_out else ""
        return f"IA3 adapter  {self.folder}, {self.bytes:,} bytes, scales at {self.scales} sites of layers{left}"


def export_ia3(
    what: "EditedModel | Path | str", folder: Path | str, *, mask: "Masks" = None, strength: float = 1.0
) -> IA3Report:
    """Write the scales as a peft adapter of type IA3: ``PeftModel.from_pretrained(base, folder)``.

    Args:
        what: A model, an adapter directory or a zip file.
        folder: A new folder.
        mask, strength: As for `jola.export.merge`.

    Raises:
        InputError: No scale is open, or the folder already exists or cannot be written.
    """
    refuse_export(what, "ia3")
    source = source_of(what, mask, strength)
    edits = source.affines()
    kind = source.geometry.architecture
    architecture = architecture_named(kind)
    paths = {Site.HEADS: architecture.heads, Site.MLP: MLP_PROJECTIONS.get(kind, LLAMA_LIKE_MLP)}
    scaled = {place: affine for place, affine in edits.items() if affine.scales}
    if not scaled:
        raise InputError(f"No scale of these edits is open, and IA3 cannot represent anything else; {_LOSES}.")
    sites = [site for site in (Site.HEADS, Site.MLP) if any(place[0] is site for place in scaled)]
    tensors = {}
    for site in sites:
        for layer in range(source.geometry.num_layers):  # peft matches modules by suffix: in all layers or in none
            path = f"base_model.model.{architecture.layers}.{layer}.{paths[site]}.ia3_l"
            tensors[path] = _vector(scaled.get((site, layer)), source.geometry.units(site), site)
    config = {
        "peft_type": "IA3",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": portable_name(source.base_model),
        "revision": source.revision,
        "target_modules": [paths[site] for site in sites],
        "feedforward_modules": [paths[site] for site in sites if site is Site.HEADS],
        "fan_in_fan_out": kind == "gpt2",
        "init_ia3_weights": True,
        "modules_to_save": None,
    }
    with new_folder(folder) as draft, disk_errors(Path(folder)):
        (draft / "adapter_model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
        (draft / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        (draft / "README.md").write_text(
            _card(config["base_model_name_or_path"], edits, source.method), encoding="utf-8"
        )
    return IA3Report(str(folder), size_of(Path(folder)), len(scaled), sum(affine.offsets for affine in edits.values()))


def _vector(affine: Affine | None, shape: tuple[int, int], site: Site) -> torch.Tensor:
    width = shape[0] * shape[1]
    scale = torch.ones(width) if affine is None else affine.scale.float()
    return scale.view(1, width) if site is Site.HEADS else scale.view(width, 1)


def _card(base: str, edits: dict[Place, Affine], method: Method) -> str:
    left_out = sum(affine.offsets for affine in edits.values())
    offsets = f" The edits also have offsets at {left_out} sites of layers, which are not included." if left_out else ""
    tags = "\n".join(f"- {tag}" for tag in method.tags)
    return (
        f"---\nlibrary_name: peft\ntags:\n{tags}\n---\n\n"
        f"# Scales of {method.title} edits for {base}\n\n"
        f"The scales of learned edits ({method.full_name}) as an IA3 adapter.{offsets}\n\n"
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        'base = AutoModelForCausalLM.from_pretrained("path/to/the/base/model")\n'
        'model = PeftModel.from_pretrained(base, "path/to/this/folder")\n```\n'
    )
