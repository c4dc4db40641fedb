"""What all tabs work with, and the questions about runs that more than one of them asks."""

import hashlib
import re
import shutil
from collections.abc import Iterable
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
"""How many times the largest upload a compressed one may have when it is unpacked."""


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
        """The app's parts over the run folder of the settings; nothing is loaded yet."""
        store = RunStore(settings.runs_root)

        def check(config: RunConfig) -> None:
            settings.check_sources(config, uploads_home())

        turns = Turns(store.root)
        jobs = Jobs(store, check=check, turns=turns)
        comparisons = Comparisons(settings.comparisons_root, turns, check=check)

        studies = Studies(settings.studies_root, turns, check=check, check_path=settings.check_path)

        def busy() -> bool:
            return jobs.active() is not None or comparisons.working() or studies.working()

        session = Session(settings.limits, Loader(settings.check_model), training=busy)
        followers = Followers(store, studies.find_run)
        return cls(settings, store, jobs, followers, session, comparisons, studies)

    def find(self, id: str | None) -> Run | None:
        """The run with this id, or None. The run of a cell of a study is ``STUDY/CELL``."""
        if not id:
            return None
        if "/" in id:
            return self.studies.find_run(id)
        try:
            return self.store.get(id)
        except InputError:
            return None

    def must_find(self, id: str) -> Run:
        """The run with this id. `InputError` when there is none."""
        run = self.find(id)
        if run is None:
            raise InputError(f"There is no run {id!r}; `runs` lists those there are.")
        return run

    def choose_run(self, asked: str | None = None, remembered: str | None = None) -> Run | None:
        """The run to show: the one in the address, the one shown last, the one at work, or the newest."""
        for id in (asked, remembered):
            run = self.find(id)
            if run is not None:
                return run
        runs = self.store.list()[:_LISTED_RUNS]
        return next((run for run in runs if run.alive), runs[0] if runs else None)

    def run_choices(self, *, with_adapter: bool = False, also: Iterable[str | None] = ()) -> list[tuple[str, str]]:
        """(words, id) of the newest runs for a list, newest first; ``with_adapter`` only those that can answer.

        Runs of cells are in no list; those with an id in ``also`` come first.
        """
        cells = (self.studies.find_run(id) for id in dict.fromkeys(also))
        runs: list[Run] = [run for run in cells if run is not None]
        runs += self.store.list()[:_LISTED_RUNS]
        return [(describe_run(run), run.id) for run in runs if not with_adapter or run.has_adapter]


def describe_run(run: Run) -> str:
    """Label or task, outcome and time of a run in one line."""
    summary = run.summary()
    began = datetime.fromtimestamp(summary["created"]).strftime("%d %b %H:%M:%S")
    score = summary["score"]
    outcome = short_score_text(score) if score else summary["state"]
    return f"{summary['label'] or summary['task'] or summary['id']} · {outcome} · {began}"


def short_name(run: Run) -> str:
    """Label, or task and time: enough to tell runs apart in the heading of a column."""
    summary = run.summary()
    began = datetime.fromtimestamp(summary["created"]).strftime("%H:%M:%S")
    return summary["label"] or f"{summary['task'] or 'run'} {began}"


def uploads_home() -> Path:
    """Folder of the uploaded data files."""
    return cache_home() / "uploads"


def keep_upload(source: Path, limits: Limits = Limits()) -> tuple[Path, int]:  # noqa: B008  # immutable
    """Check an uploaded data file and keep it in the cache; its place and the number of its examples.

    Training reads the file later, when the upload folder may be gone. `InputError` when it cannot be used.
    """
    _check_unpacked_size(source, limits)
    examples = read_examples(source)
    if len(examples) > limits.upload_examples:
        raise InputError(f"{source} holds {len(examples):,} examples; at most {limits.upload_examples:,} are taken.")
    for number, example in enumerate(examples, start=1):
        size = len(example.completion) + sum(len(turn.content) for turn in example.prompt)
        if size > limits.upload_characters:
            raise InputError(
                f"Example {number:,} of {source} has {size:,} characters; at most {limits.upload_characters:,} are "
                "taken."
            )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name).lstrip(".-") or f"data{source.suffix}"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    place = uploads_home() / digest / name
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)
    return place, len(examples)


def _check_unpacked_size(source: Path, limits: Limits) -> None:
    """Refuse a Parquet file that is small and unpacks to far more; what is no such file is refused by its reader."""
    if source.suffix.lower() != ".parquet":
        return
    import pyarrow
    import pyarrow.parquet

    most, size = _MOST_UNPACKED * limits.upload_bytes, 0
    with suppress(pyarrow.ArrowException, OSError), pyarrow.parquet.ParquetFile(source) as file:
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        if size <= most:  # which the file says of itself
            size = 0
            for batch in file.iter_batches(batch_size=1000):
                size += batch.nbytes
                if size > most:
                    break
    if size > most:
        raise InputError(f"{source} unpacks to more than {most >> 20:,} MB; give fewer examples.")
