"""Sources of an export: the edits of a loaded model, or those of an adapter without its model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jola.adapters.directory import method_of, read_adapter
from jola.edits.intervention import EditMask, Intervention
from jola.edits.sites import Geometry
from jola.errors import InputError
from jola.export.affine import Affine, Place, combined
from jola.methods import Method
from jola.runs.adapter_source import local_adapter

if TYPE_CHECKING:
    from jola.model.edited import EditedModel, Masks


@dataclass(frozen=True)
class Source:
    """Interventions, their masks and a strength, with the model they belong to."""

    interventions: tuple[Intervention, ...]
    masks: tuple[EditMask | None, ...]
    strength: float
    geometry: Geometry
    base_model: str
    revision: str | None
    method: Method

    def affines(self) -> dict[Place, Affine]:
        """The affine map at each place; see `jola.export.affine.affine_edits`."""
        return combined(self.interventions, self.masks, self.strength)


def refuse_export(what: "EditedModel | Path | str", form: str) -> None:
    """Raise `InputError` if the method of a model or an adapter does not support a form of export.

    Call this before anything is loaded.

    Args:
        form: As for `jola.methods.Method.export_refusal`.

    Raises:
        InputError: With the reason from `export_refusal`.
    """
    if isinstance(what, str | Path):
        with local_adapter(what) as folder:
            method_of(folder).refuse_export(form)
    elif what.in_use == tuple(what.own_interventions()):
        what.method.refuse_export(form)


def source_of(what: "EditedModel | Path | str", mask: "Masks" = None, strength: float = 1.0) -> Source:
    """The edits in use in a model, or those in an adapter directory, a zip file, or on the Hub.

    Args:
        mask: As for `EditedModel.forward`.
        strength: Factor on every edit.

    Raises:
        InputError: The adapter cannot be read, the mask is for a site that it does not edit, or the strength is
            not finite.
    """
    if not math.isfinite(strength):
        raise InputError(f"The strength is {strength}; it must be a finite number.")
    if isinstance(what, str | Path):
        with local_adapter(what) as folder:
            adapter = read_adapter(folder)
        edits = tuple(adapter.rebuild())
        masks = _masks(mask, edits)
        return Source(edits, masks, strength, adapter.geometry, adapter.base_model, adapter.revision, adapter.method)
    return Source(what.in_use, tuple(what.masks(mask)), strength, what.geometry, what.name, what.revision, what.method)


def _masks(mask: "Masks", edits: tuple[Intervention, ...]) -> tuple[EditMask | None, ...]:
    if isinstance(mask, EditMask) or mask is None:
        return (mask,) * len(edits)
    if isinstance(mask, Mapping):
        if unknown := sorted(set(mask) - {e.site for e in edits}):
            raise InputError(f"The mask is for {', '.join(unknown)}, which this adapter does not edit; remove it.")
        return tuple(mask.get(e.site) for e in edits)
    if len(mask) != len(edits):
        raise InputError(f"{len(mask)} masks were given for edits at {len(edits)} sites; give one mask per site.")
    return tuple(mask)
