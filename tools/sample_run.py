"""Create the sample run of the app: ``python -m tools.sample_run``.

Trains the default model on the default data with the settings below, thins the history of the gates, exports the result
to ``workbench/service/sample/sample.zip``, and checks it by importing it as the app does. Takes some minutes.
``--run FOLDER`` packs a finished run with the same settings.

The archive contains the adapter, gates, metrics and results. None of these contains text of the data, and an export
leaves out information about the machine.
"""

import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from jola.config import DataConfig, RunConfig, TrainingConfig
from jola.errors import InputError
from jola.runs.archive import export_archive, import_archive
from jola.runs.history import GateWriter
from jola.runs.run import Run
from jola.runs.store import RunStore

ARCHIVE = Path(__file__).resolve().parents[1] / "workbench" / "service" / "sample" / "sample.zip"
TRAIN_SIZE, SEED = 200, 42
RECORDS = 128
"""Maximum number of gate records: the first, the last, that of the kept edits, and others in between."""
LARGEST = 1_500_000
LABEL = "Sample"
NOTE = "Trained with the default settings. It comes with the app: look at its gates, try its edits, or delete it."


@dataclass
class Options:
    """Make the sample run."""

    run: Annotated[Path | None, tyro.conf.arg(help="Pack this finished run instead of training one.")] = None
    output: Annotated[Path, tyro.conf.arg(help="The archive.")] = ARCHIVE


def settings() -> RunConfig:
    """Return the settings of the training: the defaults."""
    return RunConfig(data=DataConfig(train_size=TRAIN_SIZE), training=TrainingConfig(seed=SEED))


def train(folder: Path) -> Run:
    """Train the sample run in a folder."""
    from jola.cli.console import ConsoleProgress
    from jola.training.run import run_training

    config = settings()
    config.training.output = str(folder)
    with ConsoleProgress() as progress:
        return run_training(config, progress=progress)


def kept_records(steps: np.ndarray, important: set[int]) -> np.ndarray:
    """Return indices of at most `RECORDS` records: the important ones, and others, denser where most gates close."""
    if len(steps) <= RECORDS:
        return np.arange(len(steps))
    spread = np.linspace(0, 1, RECORDS - len(important)) ** 1.5
    chosen = set(np.rint(spread * (len(steps) - 1)).astype(int).tolist())
    chosen |= {int(np.searchsorted(steps, step)) for step in important}
    return np.array(sorted(chosen))


def thinned(run: Run, folder: Path) -> Run:
    """Copy a run with few records of its gates, and without files that are not exported."""
    shutil.copytree(run.path, folder, ignore=shutil.ignore_patterns("checkpoints", "log.txt", "gates", "masks.json"))
    copy = Run(folder)
    kept = (run.result() or {})["kept_step"]
    for site in run.sites():
        history = run.gates(site)
        layers, units = history.fields["offset_gate"].shape[1:]
        with GateWriter(copy.gates_dir, site, layers, units) as writer:
            for index in kept_records(history.steps, {kept, int(history.steps[-1])}):
                writer.append(int(history.steps[index]), {name: v[index] for name, v in history.fields.items()})
    copy.annotate(label=LABEL, note=NOTE)
    return copy


def check(archive: Path, folder: Path, source: Run) -> str:
    """Import the archive as the app does, compare it with its source, load its edits, and describe it in one line."""
    run = import_archive(archive, RunStore(folder), id="sample")
    size = archive.stat().st_size
    if size > LARGEST:
        raise InputError(f"{archive} has {size:,} bytes, more than {LARGEST:,}; keep fewer records.")
    if run.result() != source.result():
        raise InputError(f"{archive} does not give the result of {source.path}.")
    private = {str(Path.home()).encode(), str(source.path).encode(), tempfile.gettempdir().encode()}
    with zipfile.ZipFile(archive) as content:
        for name in content.namelist():
            if any(word in content.read(name) for word in private if len(word) > 1):
                raise InputError(f"{archive} contains a path of this machine in {name}.")
    from transformers.utils import logging

    from jola import JoLAModel

    logging.disable_progress_bar()
    model = JoLAModel.from_adapter(run.adapter_dir)
    opened = {half: int((values > 0).sum()) for half, values in model.gated_edits()[0].gate_values().items()}
    summary = run.summary()
    if summary["open"] != {**opened, "units": summary["open"]["units"]}:
        raise InputError(f"The summary of {archive} has the open gates {summary['open']}, but the model has {opened}.")
    return f"{size:,} bytes, {len(run.gates())} records, {summary['accuracy']}, open gates {opened}"


def main() -> int:
    """Create the sample; return exit code 2 if this fails."""
    options = tyro.cli(Options, description=__doc__)
    try:
        with tempfile.TemporaryDirectory() as place:
            run = Run.open(options.run) if options.run else train(Path(place) / "trained")
            used, wanted = run.run_config(), settings()
            used.training.output = ""
            if used != wanted:
                raise InputError(f"{run.path} was not trained with the settings of the sample.")
            archive = export_archive(thinned(run, Path(place) / "sample"), Path(place) / "sample.zip")
            found = check(archive, Path(place) / "runs", run)
            shutil.copyfile(archive, options.output)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
