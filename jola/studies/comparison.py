"""`compare`: run selectors × K × seeds on one task, together with JoLA and the base model.

Results are saved as soon as they are computed (`jola.studies.results`); called again on the same folder, `compare` runs
only what is missing.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jola.adapters.directory import read_edits
from jola.config import EditConfig, RunConfig
from jola.data.examples import Template
from jola.data.tasks import Task, load_task
from jola.errors import InputError
from jola.evaluation.metrics import METRICS
from jola.jola_model import JoLAModel
from jola.selectors import SELECTORS
from jola.selectors.choose import budget_of
from jola.selectors.controls import expected_gates, head_edits
from jola.selectors.heads import Cost, HeadScores, HeadSet, Provenance, fingerprint
from jola.selectors.protocol import Selector
from jola.studies.axes import NEUTRAL
from jola.studies.cells import is_locked, locked
from jola.studies.editing import (
    Outcome,
    gate_swap,
    right_answers,
    select_halves,
    select_then_edit,
    train_jola,
)
from jola.studies.results import Cell, Comparison
from jola.studies.selector_grid import AUTO, HALVES, SelectorGrid, cell_name
from jola.system.formatting import SHARES
from jola.system.processes import at_work
from jola.system.progress import Progress, Quiet
from jola.system.versions import installed_versions

PACKAGES = ("torch", "transformers", "nnsight")


def compare(
    config: RunConfig,
    grid: SelectorGrid,
    folder: Path | str,
    *,
    progress: Progress | None = None,
    model: JoLAModel | None = None,
) -> Comparison:
    """Start a comparison, or continue one.

    Args:
        config: Settings of model, data, edits and training, the same for all; ``training.seed`` is that of `grid`.
        folder: Folder of the comparison; may contain one with the same settings, also with another grid.
        progress: Receives phases, steps and notes.
        model: The model of `config`, if it is already loaded.

    Raises:
        InputError: A setting cannot be used, or the folder contains something else.
    """
    grid.validate()
    config.validate()
    if config.edits.sites != "heads" or config.edits.gates == "none":
        raise InputError("Selectors choose among heads: --sites must be heads and --gates two or shared.")
    if (config.edits.layers, config.edits.heads) != (EditConfig.layers, EditConfig.heads):
        raise InputError("Selectors choose among all heads: --layers and --heads must be all.")
    progress = progress or Quiet()
    comparison = Comparison(folder)
    _check(comparison, _settings(config))
    grid.check_halves(comparison.folder)
    # The folder is claimed only after all checks.
    progress.phase("load")
    model = model or JoLAModel.from_pretrained(edits=config.edits, **asdict(config.model))
    grid.validate(model.geometry.num_layers * model.geometry.num_heads)
    worker = _Worker(comparison, config, model, progress, grid)
    cells = grid.cells()
    _claim(comparison, _settings(config), grid.cell_names(), fingerprint(worker.task(grid.seeds[0]).test))
    with at_work(comparison.folder):
        for number, (protocol, method, k, seed) in enumerate(cells, 1):
            worker.prefix = f"{number} of {len(cells)}: {cell_name(protocol, method, k, seed)}"
            worker.work(protocol, method, k, seed)
    return comparison


@dataclass
class _Worker:
    """Runs one cell after the other and stores the results."""

    comparison: Comparison
    config: RunConfig
    model: JoLAModel
    progress: Progress
    grid: SelectorGrid
    prefix: str = ""

    def __post_init__(self) -> None:
        self._tasks: dict[int, Task] = {}

    def phase(self, name: str, total: int | None = None) -> None:
        """See `Progress`; the number of the cell precedes the name."""
        self.progress.phase(f"{self.prefix}, {name}", total)

    def advance(self, done: int, **values: float) -> None:
        """See `Progress`."""
        self.progress.advance(done, **values)

    def note(self, sentence: str) -> None:
        """See `Progress`."""
        self.progress.note(sentence)

    def work(self, protocol: str, method: str, k: str, seed: int) -> None:
        """Run a cell unless it has a result."""
        name = cell_name(protocol, method, k, seed)
        if not self._is_done(name):
            with self._alone(name):
                if not self._is_done(name):
                    self._make(name, protocol, method, k, seed)

    def _is_done(self, name: str) -> bool:
        """Whether a cell has a result; one with a damaged result is run again."""
        try:
            return self.comparison.cell(name) is not None
        except InputError as error:
            self.note(f"{error} The cell is run again.")
            return False

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Lock a cell against other processes, which would delete its checkpoints; wait for one that runs it."""
        folder = self.comparison.cell_folder(name)
        if is_locked(folder):
            self.note(f"Another process is running {name}; this one waits for it.")
        with locked(folder, wait=True):
            yield

    def _make(self, name: str, protocol: str, method: str, k: str, seed: int) -> None:
        task, config, folder = self.task(seed), self._config(seed), self.comparison.cell_folder(name)
        if protocol == "jola":
            if not self._is_done(cell_name("base", "base", "", 0)):
                self._base(task)
            outcome = train_jola(self.model, task, config, folder, self)
            self._keep_gates(outcome, task, seed, folder)
            self._keep("jola", "jola", "", seed, outcome, Cost())
        elif protocol == "edit":
            number = self._number(k, seed)
            scores = self._scores(method, k, number, task, seed)
            if k == HALVES:
                halves = self._halves(method, scores, seed)
                outcome = select_halves(self.model, halves, task, config, folder, self)
            else:
                outcome = select_then_edit(self.model, scores.top(number), task, config, folder, self)
            self._keep("edit", method, k, seed, outcome, scores.cost)
        else:
            swap = "dsp" if method == "dsp" else "pass"
            outcome = gate_swap(self.model, swap, self._number(k, seed), task, config, folder, self)
            self._keep("swap", method, k, seed, outcome, Cost())

    def _keep(self, protocol: Any, method: str, k: str, seed: int, outcome: Outcome, selection: Cost) -> None:
        cell = Cell(protocol, method, k, seed, outcome.heads, outcome.correct, outcome.cost, selection, outcome.open)
        self.comparison.write_cell(cell)

    def _base(self, task: Task) -> None:
        self.phase("testing the model without edits", len(task.test))
        template = Template(self.model.tokenizer, self.config.data.template)
        with self.model.disable_edits():
            right = right_answers(
                self.model, task, template, lambda done, total: self.advance(done), beams=self.config.data.beams
            )
        self.comparison.write_cell(Cell("base", "base", "", 0, None, right, Cost(), Cost()))

    def _keep_gates(self, outcome: Outcome, task: Task, seed: int, folder: Path) -> None:
        """Store JoLA's gates as scores, with the cost of its training."""
        edits = head_edits(read_edits(folder / "adapter"), str(folder))
        provenance = Provenance.of("jola", self.model, task.train, seed, {})
        values = expected_gates(edits).numpy()
        self.comparison.write_scores(f"jola-seed{seed}", HeadScores(values, provenance, outcome.cost))

    def _number(self, k: str, seed: int) -> int:
        """Return the number of heads to choose."""
        if k == HALVES:
            return max(1, *map(len, self._open_halves(seed).values()))
        if k != AUTO:
            return int(k)
        jola = self.comparison.cell(cell_name("jola", "jola", "", seed))
        assert jola is not None and jola.heads is not None, "JoLA's cell comes before all others of its seed"
        return max(1, len(jola.heads))

    def _open_halves(self, seed: int) -> dict[str, HeadSet]:
        """Return the heads whose offset, and those whose scale, JoLA leaves open with a seed."""
        name = cell_name("jola", "jola", "", seed)
        edits = head_edits(read_edits(self.comparison.cell_folder(name) / "adapter"), name)
        return {half: HeadSet.from_array(on.cpu().numpy()) for half, on in edits.on().items()}

    def _halves(self, method: str, scores: HeadScores, seed: int) -> dict[str, HeadSet]:
        """Return the heads of each half for a selector: as many of its best as JoLA leaves open, or JoLA's own."""
        opened = self._open_halves(seed)
        if not any(map(len, opened.values())):
            # Edits need one unit of a half that is trained.
            first = "scale" if self.config.edits.operation == "scale" else "offset"
            return {half: scores.top(int(half == first)) for half in opened}
        return opened if method == "jola" else {half: scores.top(len(heads)) for half, heads in opened.items()}

    def _scores(self, method: str, k: str, number: int, task: Task, seed: int) -> HeadScores:
        kind = SELECTORS[method]
        name = f"{method}-k{k}-seed{seed}" if kind.depends_on_k else f"{method}-seed{seed}"
        scores = self.comparison.scores(name)
        if scores is not None and scores.provenance.data != fingerprint(task.train):
            raise InputError(
                f"The training examples of {task.name} are not those that {method} chose heads with in "
                f"{self.comparison.folder}; choose another folder."
            )
        if scores is None:
            selector: Selector = kind(budget=budget_of(self.config))
            self.phase("selecting heads")
            template, asked = Template(self.model.tokenizer, self.config.data.template), False

            def tell(done: int, total: int) -> None:
                nonlocal asked
                if not asked:
                    self.phase("selecting heads", total)
                    asked = True
                self.advance(done)

            scores = selector(self.model, task.train, number, seed, template=template, progress=tell)
            self.comparison.write_scores(name, scores)
        return scores

    def task(self, seed: int) -> Task:
        """Return the examples of a seed. Raises `InputError` if there are no test examples, or no right answers."""
        if seed not in self._tasks:
            task = load_task(self.config.data, seed)
            if not task.test:
                raise InputError(f"The task {task.name} has no test examples.")
            if task.metrics[0] not in SHARES:
                raise InputError(
                    f"Selectors are compared by right answers, and the metric of the task {task.name} is "
                    f"{METRICS[task.metrics[0]].title}; choose a task with right answers, or use `jola grid`."
                )
            self._tasks[seed] = task
        return self._tasks[seed]

    def _config(self, seed: int) -> RunConfig:
        return dataclasses.replace(self.config, training=dataclasses.replace(self.config.training, seed=seed))


def _settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings that all cells of a comparison share."""
    settings = config.to_dict()
    # Selectors are always compared with JoLA.
    del settings["method"]
    # Seeds are those of the grid, and the others do not change results.
    for name in ("seed", *NEUTRAL):
        del settings["training"][name]
    return settings


def _check(comparison: Comparison, settings: dict[str, Any]) -> None:
    """Refuse a folder that contains something else, or results of other settings."""
    there = comparison.settings()
    if not there:
        if comparison.folder.is_dir() and any(not path.name.startswith(".") for path in comparison.folder.iterdir()):
            raise InputError(f"{comparison.folder} contains other files; choose an empty or new folder.")
        return
    # A comparison without a method is of JoLA. Settings of model and data that earlier versions lacked have their
    # defaults. Those of the training are not filled in, because some of their defaults have changed.
    usual = {name: values for name, values in RunConfig().to_dict().items() if name in ("model", "data")}
    stored = {"method": "jola"} | there.get("settings", {})
    before, now = _by_name(usual) | _by_name(stored), _by_name(settings)
    for (group, name), value in now.items():
        if before.get((group, name)) != value:
            raise InputError(
                f"The comparison in {comparison.folder} was made with {name} {before.get((group, name))!r}, "
                f"not {value!r}; use its settings, or choose another folder."
            )


def _by_name(settings: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """Return settings by (group, name); the method, which has no group, forms its own."""
    groups = {group: values if isinstance(values, dict) else {group: values} for group, values in settings.items()}
    return {(group, name): value for group, values in groups.items() for name, value in values.items()}


def _claim(comparison: Comparison, settings: dict[str, Any], planned: list[str], test: str) -> None:
    """Make the folder that of this comparison, with these cells; ``test`` is the fingerprint of the test examples."""
    _check(comparison, settings)
    there = comparison.settings() or {"settings": settings, "versions": installed_versions(PACKAGES)}
    if there.get("test_examples", test) != test:
        raise InputError(
            f"The test examples are not those of the results in {comparison.folder}, and cannot be compared with them; "
            "choose another folder."
        )
    comparison.write_settings(there | {"planned": planned, "test_examples": test})
