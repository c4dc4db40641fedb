"""``jola evaluate`` with ``--side-effects``, ``--layers`` or ``--reading``: measurements other than the test."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jola.cli import console
from jola.cli.common import Loading, find_adapter, importing_libraries, load_tested, test_data
from jola.config import DataConfig
from jola.errors import InputError

if TYPE_CHECKING:
    from jola.evaluation.scoring import Accuracy
    from jola.model.edited import EditedModel
    from jola.runs.run import Run

LAYER_PROMPTS = 32
"""Number of test examples on whose prompts layers are compared by default."""


@dataclass(frozen=True)
class Place:
    """An adapter with its model, and the task to use, from the flags of ``jola evaluate``."""

    adapter: str
    loading: Loading
    task: str | None
    test_size: int | None
    template: Any

    def data(self, run: "Run | None", test_size: int | None) -> DataConfig:
        """Return the data of the task."""
        return test_data(run, self.task, test_size, self.template)

    def load(self, progress: console.ConsoleProgress) -> "EditedModel":
        """Load the model with the edits of the adapter."""
        progress.phase("load")
        return self.loading.load(find_adapter(self.adapter)[0], progress)


def show_changes(place: Place, files: Sequence[str] | None, layers: bool, json: bool) -> None:
    """Print side effects on plain text, changes of layers on test prompts, or both."""
    if files is not None and len(files) > 1:
        raise InputError(f"--side-effects takes one file; {files[1]!r} is another.")
    with console.ConsoleProgress() as progress:
        with importing_libraries():
            from jola import Template
            from jola.evaluation.side_effects import read_passages, side_effects
            from jola.insight import layer_changes

        folder, run = find_adapter(place.adapter)
        passages = read_passages(files[0]) if files else None
        test, template = (), place.template
        if layers:
            data = place.data(run, LAYER_PROMPTS if place.test_size is None else place.test_size)
            test, template = load_tested(data, 0, progress, run).test, data.template
        model = place.load(progress)
        result: dict[str, Any] = {"adapter": str(folder)}
        effects = changes = None
        if files is not None:
            progress.phase("Measuring side effects")
            effects = side_effects(model, passages, text=files[0] if files else "")
            result["side_effects"] = effects.to_dict()
        if layers:
            progress.phase("Comparing layers", len(test))
            prompts = Template(model.tokenizer, template)
            changes = layer_changes(model, test, template=prompts, progress=lambda done, _: progress.advance(done))
            result["layer_changes"] = changes.to_dict()
    if json:
        console.print_json(result)
        return
    if effects:
        figures = ("base_cross_entropy", "cross_entropy", "change", "kl")
        titles = ("cross-entropy, base", "cross-entropy, edited", "edited − base", "KL(base ‖ edited)")
        rows = [[title, str(getattr(effects, name))] for name, title in zip(figures, titles, strict=True)]
        console.print_table(["on plain text", "nats per token (95 % interval over passages)"], rows)
        console.print_text(f"{effects.text}: {effects.tokens:,} tokens in {effects.passages:,} passages")
    if changes:
        means = zip(changes.change, changes.low, changes.high, strict=True)
        rows = [[str(layer), _interval(*mean)] for layer, mean in enumerate(means)]
        console.print_table(["layer", "change of the residual stream (95 % interval over prompts)"], rows)
        console.print_text(f"{changes.n:,} prompts with {changes.tokens:,} tokens; ‖edited − base‖ / ‖base‖")


def show_reading(place: Place, json: bool) -> None:
    """Print how often the projection on RePE's directions chooses the right option; validation chooses the layers."""
    with console.ConsoleProgress() as progress:
        with importing_libraries():
            from jola import Template
            from jola.evaluation.reading import choose_layers, option_projections, read_options, reading_vectors
            from jola.evaluation.scoring import options_of

        _, run = find_adapter(place.adapter)
        seed = run.config().get("training", {}).get("seed", 0) if run else 0
        own = run.config().get("data", {}) if run and place.task is None else {}
        used = {name: own[name] for name in ("validation_size", "data_seed") if name in own}
        data = dataclasses.replace(place.data(run, place.test_size), **used)
        task = load_tested(data, seed, progress, run)
        if not task.validation:
            raise InputError(f"The task {task.name} has no validation examples, which choose the layers to read.")
        for part in (task.validation, task.test):
            options_of(part, task.labels)
        model = place.load(progress)
        vectors, template = reading_vectors(model), Template(model.tokenizer, data.template)
        progress.phase("Reading", len(task.validation) + len(task.test))

        def projections(examples: Sequence[Any], before: int) -> Any:
            def advance(done: int, total: int) -> None:
                progress.advance(before + done)

            return option_projections(model, examples, task.labels, template, vectors, progress=advance)

        chosen = choose_layers(projections(task.validation, 0), task.validation, task.labels, vectors)
        found = read_options(projections(task.test, len(task.validation)), task.test, task.labels, chosen.layers)
    if json:
        numbers = {"validation": chosen.accuracy.to_dict(), "test": found.accuracy.to_dict()}
        console.print_json({"task": task.name, "layers": list(found.layers), **numbers})
        return
    accuracies: list[tuple[str, Accuracy]] = [("validation", chosen.accuracy), ("test", found.accuracy)]
    console.print_table(["examples", "accuracy of reading"], [[name, str(accuracy)] for name, accuracy in accuracies])
    console.print_text(f"layers read: {', '.join(map(str, found.layers))}, chosen on validation")


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.4f}" + (f" ({low:.4f} to {high:.4f})" if low == low else "")
