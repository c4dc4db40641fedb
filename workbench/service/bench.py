"""The parts of the app that all tabs use, and queries about runs that several tabs need."""

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jola.config import RunConfig
from jola.data.records import read_examples
from jola.errors import InputError
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.system.formatting import short_score_text
from jola.system.paths import cache_home
from workbench.service.comparisons import Comparisons
from workbench.service.follow import Followers
from workbench.service.jobs import Jobs
from workbench.service.loader import Loader
from workbench.service.processes import Turns
from workbench.service.session import Session
from workbench.service.studies import Studies
from workbench.settings import Limits, Settings

_LISTED_RUNS = 200
_MOST_UNPACKED = 10
"""Maximum size of an unpacked upload, as a multiple of the upload limit."""


@dataclass(frozen=True)
class Workbench:
    """The parts of the running app."""

    settings: Settings
    store: RunStore
    jobs: Jobs
    followers: Followers
    session: Session
    comparisons: Comparisons
    studies: Studies

    @classmethod
    def from_settings(cls, settings: Settings) -> "Workbench":
        """Create the parts of the app for the folders of the settings, without loading a model."""
        store = RunStore(settings.runs_root)

        def check(config: RunConfig) -> None:
            settings.check_sources(config, uploads_home())

        turns = Turns(store.root)
        jobs = Jobs(store, check=check, turns=turns)
        comparisons = Comparisons(settings.comparisons_root, turns, check=check)

        studies = Studies(settings.studies_root, turns, check=check, check_path=settings.check_path)

        def busy() -> bool:
            return jobs.active() is not None or comparisons.working() or studies.working()

        # Asked before every call of the model; with many runs, the answer takes as long as a small call.
        session = Session(settings.limits, Loader(settings.check_model), training=_remembered(busy, 1.0))
        followers = Followers(store, studies.find_run)
        return cls(settings, store, jobs, followers, session, comparisons, studies)

    def find(self, id: str | None) -> Run | None:
        """Return the run with this id, or None. The id of the run of a cell of a study is ``STUDY/CELL``."""
        if not id:
            return None
        if "/" in id:
            return self.studies.find_run(id)
        try:
            return self.store.get(id)
        except InputError:
            return None

    def must_find(self, id: str) -> Run:
        """Return the run with this id. Raises `InputError` if it does not exist."""
        run = self.find(id)
        if run is None:
            raise InputError(f"There is no run {id!r}; `runs` lists all runs.")
        return run

    def choose_run(self, asked: str | None = None, remembered: str | None = None) -> Run | None:
        """Return the run to show: the one in the address, the one shown last, the running one, or the newest."""
        for id in (asked, remembered):
            run = self.find(id)
            if run is not None:
                return run
        runs = self.store.list()[:_LISTED_RUNS]
        return next((run for run in runs if run.alive), runs[0] if runs else None)

    def run_choices(self, *, with_adapter: bool = False, also: Iterable[str | None] = ()) -> list[tuple[str, str]]:
        """Return (description, id) of the newest runs, newest first; with ``with_adapter``, only runs with an adapter.

        Runs of cells are left out, except those with an id in ``also``, which come first.
        """
        cells = (self.studies.find_run(id) for id in dict.fromkeys(also))
        runs: list[Run] = [run for run in cells if run is not None]
        runs += self.store.list()[:_LISTED_RUNS]
        return [(describe_run(run), run.id) for run in runs if not with_adapter or run.has_adapter]


def describe_run(run: Run) -> str:
    """Return label or task, outcome and time of a run in one line."""
    summary = run.summary()
    began = datetime.fromtimestamp(summary["created"]).strftime("%d %b %H:%M:%S")
    score = summary["score"]
    outcome = short_score_text(score) if score else summary["state"]
    return f"{summary['label'] or summary['task'] or summary['id']} · {outcome} · {began}"


def short_name(run: Run) -> str:
    """Return the label of a run, or its task and time, as the heading of a column."""
    summary = run.summary()
    began = datetime.fromtimestamp(summary["created"]).strftime("%H:%M:%S")
    return summary["label"] or f"{summary['task'] or 'run'} {began}"


def uploads_home() -> Path:
    """Return the folder of uploaded data files."""
    return cache_home() / "uploads"


def keep_upload(source: Path, limits: Limits = Limits()) -> tuple[Path, int]:  # noqa: B008  # immutable
    """Check an uploaded data file and copy it to the cache; return its path and number of examples.

    Training reads the file later, when the upload folder may be gone. Raises `InputError` if the file cannot be used.
    """
    _check_unpacked_size(source, limits)
    examples = read_examples(source)
    if len(examples) > limits.upload_examples:
        raise InputError(
            f"{source} has {len(examples):,} examples, but at most {limits.upload_examples:,} are allowed."
        )
    for number, example in enumerate(examples, start=1):
        size = len(example.completion) + sum(len(turn.content) for turn in example.prompt)
        if size > limits.upload_characters:
            raise InputError(
                f"Example {number:,} of {source} has {size:,} characters, but at most {limits.upload_characters:,} "
                "are allowed."
            )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name).lstrip(".-") or f"data{source.suffix}"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    place = uploads_home() / digest / name
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)
    return place, len(examples)


def _check_unpacked_size(source: Path, limits: Limits) -> None:
    """Raise `InputError` if a Parquet file unpacks to too much data; invalid files are refused by their reader."""
    if source.suffix.lower() != ".parquet":
        return
    import pyarrow
    import pyarrow.parquet

    most, size = _MOST_UNPACKED * limits.upload_bytes, 0
    with suppress(pyarrow.ArrowException, OSError), pyarrow.parquet.ParquetFile(source) as file:
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        if size <= most:  # size according to the metadata of the file
            size = 0
            for batch in file.iter_batches(batch_size=1000):
                size += batch.nbytes
                if size > most:
                    break
    if size > most:
        raise InputError(f"{source} unpacks to more than {most >> 20:,} MB; give fewer examples.")


def _remembered(ask: Callable[[], bool], seconds: float) -> Callable[[], bool]:
    """Return a function that repeats the last answer of `ask` for some seconds."""
    last: list[tuple[float, bool]] = []

    def answer() -> bool:
        now = time.monotonic()
        if not last or now - last[0][0] >= seconds:
            last[:] = [(now, ask())]
        return last[0][1]

    return answer
