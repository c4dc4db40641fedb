"""Export of edits and masks as a table or a JSON file, for statistics and other programs."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jola.adapters.card import portable_name
from jola.edits.gated import GatedEdits
from jola.edits.masks import HeadMask
from jola.errors import InputError
from jola.export.affine import factors, vectors
from jola.export.folders import new_file
from jola.export.source import Source, refuse_export, source_of
from jola.system.files import disk_errors, json_bytes
from jola.system.spreadsheet import csv_text

if TYPE_CHECKING:
    from jola.model.edited import EditedModel, Masks

COLUMNS = ("site", "layer", "unit", "half", "gate", "open_probability", "norm", "factor", "effective_norm")
"""Columns of the table; one column per saved mask follows. `norm` is the norm of a or m, `factor` the product of mask
and strength, and `effective_norm` is gate · factor · norm."""


@dataclass(frozen=True)
class TableReport:
    """The exported table."""

    path: str
    bytes: int
    rows: int
    """Number of edit halves."""
    open: int
    """Number of open edit halves."""
    masks: int

    def describe(self) -> str:
        """A one-line summary."""
        masks = f", {self.masks} masks" if self.masks else ""
        return f"edits  {self.path}, {self.rows} edit halves, {self.open} of them open{masks}, {self.bytes:,} bytes"


def export_edits(
    what: "EditedModel | Path | str",
    file: Path | str,
    *,
    mask: "Masks" = None,
    strength: float = 1.0,
    masks: Mapping[str, Mapping[str, HeadMask]] | None = None,
) -> TableReport:
    """Write one row per half of every edit, as CSV or JSON depending on the file extension.

    JSON also contains the vectors and the name of the base model. Units that are not editable are left out.

    Args:
        what: A model, an adapter directory or a zip file.
        file: A new file whose name ends in ``.csv`` or ``.json``.
        mask, strength: As for `jola.export.merge`.
        masks: Saved masks by name and site; their factors become columns.

    Raises:
        InputError: The file extension is another one, a mask has another shape, or the file already exists or cannot be
            written.
    """
    file = Path(file)
    if file.suffix not in (".csv", ".json"):
        raise InputError(f"{file.name} ends in neither .csv nor .json; choose a name with one of these endings.")
    refuse_export(what, "edits")
    source, masks = source_of(what, mask, strength), masks or {}
    rows = list(_rows(source, masks, with_vectors=file.suffix == ".json"))
    if file.suffix == ".json":
        data = json_bytes(
            {
                "base_model": portable_name(source.base_model),
                "revision": source.revision,
                "geometry": asdict(source.geometry),
                "operation": "z' = (1 + gate·factor·m) ⊙ z + gate·factor·a; m is the vector of scale, a of offset",
                "masks": list(masks),
                "edits": rows,
            }
        )
    else:
        columns = [*COLUMNS, *(_column(name) for name in masks)]
        data = csv_text([columns, *([row[name] for name in columns] for row in rows)]).encode()
    with new_file(file) as draft, disk_errors(file):
        draft.write_bytes(data)
    return TableReport(str(file), len(data), len(rows), sum(row["effective_norm"] > 0 for row in rows), len(masks))


def _rows(source: Source, masks: Mapping[str, Mapping[str, HeadMask]], with_vectors: bool) -> Iterator[dict[str, Any]]:
    for edits, own in zip(source.interventions, source.masks, strict=True):
        if not isinstance(edits, GatedEdits):
            raise InputError(
                f"An intervention of type {type(edits).__name__} cannot be exported as a table; use it from Python."
            )
        saved = {name: by_site[edits.site] for name, by_site in masks.items() if edits.site in by_site}
        for name, mask in saved.items():
            if mask.shape != (edits.layers, edits.units):
                raise InputError(
                    f"The mask '{name}' has {mask.layers} × {mask.units} units, unlike the edits at {edits.site}; "
                    "leave it out."
                )
        gates, probability, norms = edits.gate_values(), edits.open_probability(), edits.norms()
        for half in edits.halves:
            factor, effective = factors(edits, half, own, source.strength), vectors(edits, half, own, source.strength)
            for layer, unit in edits.editable.nonzero().tolist():
                at = layer, unit
                row = {
                    "site": str(edits.site),
                    "layer": layer,
                    "unit": unit,
                    "half": half,
                    "gate": float(gates[half][at]),
                    "open_probability": float(probability[half][at]),
                    "norm": float(norms[half][at]),
                    "factor": float(factor[at]),
                    "effective_norm": float(effective[at].norm()),
                }
                for name in masks:
                    row[_column(name)] = float(getattr(saved[name], half)[at]) if name in saved else None
                if with_vectors:
                    row["vector"] = edits.get_parameter(half)[at].detach().tolist()
                yield row


def _column(name: str) -> str:
    return f"mask {name}"
