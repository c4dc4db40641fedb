"""What is exported: the edits in a loaded model, or those of an adapter whose model need not be there."""

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jola.adapter import read_adapter, read_edits
from jola.errors import InputError
from jola.export.affine import Affine, Place, combined
from jola.interventions import EditMask, Intervention
from jola.run_archive import import_archive
from jola.runs import RunStore
from jola.sites import Geometry

if TYPE_CHECKING:
    from jola.model import JoLAModel, Masks


@dataclass(frozen=True)
class Source:
    """Interventions, a mask for each and a strength, with the model that they belong to."""

    interventions: tuple[Intervention, ...]
    masks: tuple[EditMask | None, ...]
    strength: float
    geometry: Geometry
    base_model: str
    revision: str | None

    def affines(self) -> dict[Place, Affine]:
        """What they do at each place; see `jola.export.affine.affine_edits`."""
        return combined(self.interventions, self.masks, self.strength)


def source_of(what: "JoLAModel | Path | str", mask: "Masks" = None, strength: float = 1.0) -> Source:
    """The edits in use in a model, or those in an adapter directory or zip file.

    Args:
        mask: As for `JoLAModel.forward`.
        strength: Factor on every edit.

    Raises:
        InputError: The adapter cannot be read, or the strength is no number.
    """
    if not math.isfinite(strength):
        raise InputError(f"The strength is {strength}; it must be a finite number.")
    if isinstance(what, str | Path):
        with adapter_folder(what) as folder:
            adapter, edits = read_adapter(folder), tuple(read_edits(folder))
        if isinstance(mask, EditMask) or mask is None:
            masks = (mask,) * len(edits)
        elif isinstance(mask, Mapping):
            masks = tuple(mask.get(e.site) for e in edits)
        else:
            masks = tuple(mask)
        return Source(edits, masks, strength, adapter.geometry, adapter.base_model, adapter.revision)
    return Source(what.in_use, tuple(what.masks(mask)), strength, what.geometry, what.name, what.revision)


@contextmanager
def adapter_folder(adapter: Path | str) -> Iterator[Path]:
    """The directory of an adapter; of a zip file, unpacked and checked, one that lasts as long as the block.

    Raises:
        InputError: The zip file is damaged, unsafe or something else (see `jola.run_archive`).
    """
    path = Path(adapter)
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="jola-adapter-") as folder:
        yield import_archive(path, RunStore(Path(folder))).adapter_dir


def load_zip(file: Path | str, *, model: str | None = None, dtype: str = "auto", device: str = "auto") -> "JoLAModel":
    """Load the edits in a zip file of an adapter or of a run, with their base model; see `JoLAModel.from_adapter`."""
    from jola.adapter import load_adapter

    if not Path(file).is_file():
        raise InputError(f"There is no file {file}; name a zip file with an adapter.")
    with adapter_folder(file) as folder:
        return load_adapter(folder, model=model, dtype=dtype, device=device)
