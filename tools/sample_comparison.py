"""Create the sample comparison of the app: ``python -m tools.sample_comparison``.

Trains the default model on the default data with the settings below, packs the results into
``workbench/service/sample/comparison.zip``, and checks that the app can read it. Takes about half an hour on one core;
``--comparison FOLDER`` resumes and packs a comparison with the same settings.

The archive contains settings, scores of heads, selected heads, costs, and which test examples were answered correctly.
The edits are left out because of their size. Nothing in it contains text of the data.
"""

import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jola.config import DataConfig, RunConfig, TrainingConfig
from jola.errors import InputError
from jola.studies.results import Comparison
from jola.studies.selector_grid import SelectorGrid
from jola.system.files import json_bytes

ARCHIVE = Path(__file__).resolve().parents[1] / "workbench" / "service" / "sample" / "comparison.zip"
GRID = SelectorGrid(("jola", "gradient", "random"), (), ("16",), (1, 2, 3))
LARGEST = 300_000
LABEL = "Sample"
NOTE = (
    "Comes with the app. With so few examples and steps, JoLA closes no gate yet: it shows what Compare offers, not "
    "which selector is best. The trained edits are not included. You can add to it or delete it."
)
_TIME = (1980, 1, 1, 0, 0, 0)  # time of every entry, so that equal results give equal files


@dataclass
class Options:
    """Make the sample comparison."""

    comparison: Annotated[Path | None, tyro.conf.arg(help="Folder of a comparison to resume and pack; it is kept.")] = (
        None
    )
    output: Annotated[Path, tyro.conf.arg(help="The archive.")] = ARCHIVE


def settings() -> RunConfig:
    """Return the settings of the sample: few examples, two epochs, a larger λ than the default."""
    return RunConfig(
        data=DataConfig(train_size=100, validation_size=20, test_size=100),
        training=TrainingConfig(epochs=2, l0_weight=0.02),
    )


def pack(comparison: Comparison, archive: Path) -> None:
    """Write the planned results of a comparison into a zip file.

    Raises:
        InputError: A result is missing.
    """
    names = ["base-seed0", *GRID.cell_names()]
    if missing := [name for name in names if comparison.cell(name) is None]:
        raise InputError(f"{comparison.folder} lacks {missing[0]}; run the script without --comparison.")
    about = comparison.settings() | {"planned": GRID.cell_names(), "label": LABEL, "note": NOTE}
    scores = sorted({f"{method}-seed{seed}" for method in GRID.selectors for seed in GRID.seeds})
    files = {"comparison.json": json_bytes(about, indent=2)}
    files |= {path: (comparison.folder / path).read_bytes() for path in (f"scores/{name}.json" for name in scores)}
    files |= {path: (comparison.folder / path).read_bytes() for path in (f"cells/{n}/result.json" for n in names)}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for name, content in sorted(files.items()):
            packed.writestr(zipfile.ZipInfo(name, _TIME), content, zipfile.ZIP_DEFLATED)


def check(archive: Path, folder: Path, source: Comparison) -> str:
    """Unpack the archive, compare it with its source, and return a description in one line.

    Raises:
        InputError: The archive is too large, differs from its source, or contains a path of this machine.
    """
    if archive.stat().st_size > LARGEST:
        raise InputError(f"{archive} has {archive.stat().st_size:,} bytes, more than {LARGEST:,}.")
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            if any(
                word.encode() in packed.read(name) for word in (str(Path.home()), str(source.folder)) if word != "/"
            ):
                raise InputError(f"{archive} contains a path of this machine in {name}.")
        packed.extractall(folder)
    installed = Comparison.open(folder)
    for cell in installed.cells():
        if cell != source.cell(cell.name):
            raise InputError(f"{archive} does not contain the result of {cell.name}.")
    rows = ", ".join(f"{row.method} {row.accuracy:.3f}" for row in installed.rows())
    return f"{archive.stat().st_size:,} bytes, {len(installed.cells())} cells, {rows}"


def main() -> int:
    """Create the sample; return exit code 2 if this fails."""
    from jola.cli.console import ConsoleProgress
    from jola.studies.comparison import compare

    options = tyro.cli(Options, description=__doc__)
    try:
        with tempfile.TemporaryDirectory() as place:
            with ConsoleProgress() as progress:
                comparison = compare(settings(), GRID, options.comparison or Path(place) / "made", progress=progress)
            packed = Path(place) / "comparison.zip"
            pack(comparison, packed)
            found = check(packed, Path(place) / "sample", comparison)
            shutil.copyfile(packed, options.output)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
