"""Export of a short Python script that applies the edits to a plain model and needs only transformers."""

import json
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from safetensors.torch import save
from torch import Tensor

from jola.adapters.card import hub_id, portable_name
from jola.data.catalogue import ASSETS
from jola.edits.sites import Site
from jola.errors import InputError
from jola.export.foldable import Foldable
from jola.export.folders import new_folder, quiet_transformers, size_of
from jola.export.rebuild import rebuild
from jola.export.source import Source, refuse_export, source_of
from jola.model.architectures import architecture_named
from jola.system.files import disk_errors

if TYPE_CHECKING:
    from jola.model.edited import EditedModel, Masks

SCRIPT_NAME, EDITS_NAME, MODEL_FOLDER = "jola_edits.py", "edits.safetensors", "model"
_TEMPLATE = Path(__file__).with_name("standalone_template.txt")


@dataclass(frozen=True)
class StandaloneReport:
    """The exported script."""

    folder: str
    bytes: int
    sites: int
    """Number of sites, over all layers, with an edit."""
    model_included: bool

    def describe(self) -> str:
        """A two-line summary."""
        model = "with the base model" if self.model_included else "without the base model"
        return (
            f"script  {Path(self.folder) / SCRIPT_NAME}, edits at {self.sites} sites of layers, {model}, "
            f'{self.bytes:,} bytes\nrun     python {Path(self.folder) / SCRIPT_NAME} "a prompt"'
        )


def export_standalone(
    what: "EditedModel | Path | str",
    folder: Path | str,
    *,
    include_model: bool | None = None,
    mask: "Masks" = None,
    strength: float = 1.0,
) -> StandaloneReport:
    """Write a script and a file with the edits; run the script, or call its ``attach(model)``.

    Args:
        what: A loaded model, or an adapter directory or zip file if the base model is not included.
        folder: A new folder.
        include_model: Copy the frozen model into the folder; None does so only for models included with this project,
            which are not available elsewhere.
        mask, strength: As for `jola.export.merge`.

    Raises:
        InputError: No edit is open, the model is to be included but is not loaded, or the folder cannot be written.
    """
    refuse_export(what, "standalone")
    source = source_of(what, mask, strength)
    edits = source.affines()
    if not edits:
        raise InputError("No edit is open; there is nothing to export.")
    if others := [site for site, _ in edits if site not in (Site.HEADS, Site.MLP)]:
        raise InputError(f"The Python script edits heads and MLPs, not '{others[0]}'; export the adapter, or merge it.")
    if include_model is None:
        include_model = source.base_model in ASSETS
    if include_model and isinstance(what, str | Path):
        raise InputError(
            f"The base model {source.base_model} cannot be included, because it is not loaded; load it with "
            "JoLAModel.from_adapter, or pass include_model=False."
        )
    tensors: dict[str, Tensor] = {}
    for (site, layer), affine in edits.items():
        tensors[f"{site}.{layer}.scale"] = affine.scale.float()
        tensors[f"{site}.{layer}.offset"] = affine.offset.float()
    with new_folder(folder) as draft, disk_errors(Path(folder)):
        (draft / EDITS_NAME).write_bytes(save(tensors, metadata={"format": "pt"}))
        (draft / SCRIPT_NAME).write_text(_script(source, include_model), encoding="utf-8")
        if include_model and not isinstance(what, str | Path):
            with quiet_transformers():
                rebuild(what.base, Foldable(), what.base.dtype).save_pretrained(draft / MODEL_FOLDER)
            what.tokenizer.save_pretrained(draft / MODEL_FOLDER)
    return StandaloneReport(str(folder), size_of(Path(folder)), len(edits), include_model)


def _script(source: Source, include_model: bool) -> str:
    architecture = architecture_named(source.geometry.architecture)
    places = {
        site: f"{architecture.layers}.{{}}.{path}"
        for site, path in ((Site.HEADS, architecture.heads), (Site.MLP, architecture.mlp))
    }
    model = hub_id(source.base_model)
    # The name may come from an untrusted adapter and is inserted into Python code, where it must be harmless.
    title = "".join(c for c in portable_name(source.base_model) if c.isalnum() or c in "/._- ")
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        method=source.method.title,
        base=title or "a model",
        script=SCRIPT_NAME,
        model=f'HERE / "{MODEL_FOLDER}"' if include_model else _literal(model),
        revision=_literal(None if include_model or model is None else source.revision),
        places=json.dumps({str(site): path for site, path in places.items()}),
    )


def _literal(value: str | None) -> str:
    return "None" if value is None else json.dumps(value)
