"""Compare control with RePE to the base model, by the label that each finds most likely.

    python -m benchmarks.repe_control DATA/trec DATA/sst2 DATA/snips [--seed 100] [--test-size 200]

Directions are computed from 200 training examples. On validation examples, the base model and RePE choose among the
labels; RePE uses each of `COEFFICIENTS` in the middle and in the last third of the layers. Test examples compare the
base model with the RePE settings of the highest validation accuracy (among equals, the lowest cross-entropy of the
right label among the labels). The default model runs in bfloat16 on one thread.

Results are written to docs/results/methods/repe.json after every measurement; stored results are not measured again.
"""

import argparse
import json
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "methods" / "repe.json"
COEFFICIENTS = (0.003, 0.01, 0.02)
BASE = {"layers": None, "coefficient": None}


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", help="folders with train, validation and test files")
    parser.add_argument("--seed", type=int, default=100, help="draws the examples and the wrong answers")
    parser.add_argument("--validation-size", type=int, default=100)
    parser.add_argument("--test-size", type=int, default=200)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    from jola import JoLAModel
    from jola.config import DataConfig
    from jola.data.tasks import load_task
    from jola.methods.repe import RePEConfig
    from jola.model.loading import load_base

    base, tokenizer, _ = load_base("default", dtype="bfloat16", device="cpu")
    model = JoLAModel(base, tokenizer, RePEConfig()).eval()
    for folder in options.tasks:
        sizes = {"train_size": 200, "validation_size": options.validation_size, "test_size": options.test_size}
        measure(model, load_task(DataConfig(task=folder, **sizes), seed=options.seed), options.seed, options.results)


def measure(model: Any, task: Any, seed: int, results: Path) -> None:
    """Validate the base model and all candidates, and test the base model and the best candidate."""
    from jola.methods.repe import layer_sets

    middle, last, _ = layer_sets(model.geometry.num_layers)
    grid = [
        {"layers": layers, "coefficient": coefficient} for layers, coefficient in product((middle, last), COEFFICIENTS)
    ]
    right, wrong = activations(model, task, seed)
    validated = [
        result_of(model, task, seed, "validation", settings, right, wrong, results) for settings in (BASE, *grid)
    ]
    best = chosen(validated)
    for found in (validated[0], best):
        settings = {name: found[name] for name in BASE}
        result_of(model, task, seed, "test", settings, right, wrong, results)


def chosen(validated: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the best result of RePE by accuracy, and among equals by cross-entropy."""
    candidates = [found for found in validated if found["layers"] is not None]
    return max(candidates, key=lambda found: (found["accuracy"], -found["cross_entropy"]))


def activations(model: Any, task: Any, seed: int) -> tuple[Any, Any]:
    """Return the residual stream after right and after wrong answers, (examples, layers, hidden) each."""
    from jola import Template
    from jola.methods.repe import wrong_answers
    from jola.training.material import Passes

    template = Template(model.tokenizer)
    passes = Passes(model, template, task.train, None, task.labels, seed, lambda done: None, lambda numbers: None)
    wrong = wrong_answers(task.train, task.labels, Random(seed))
    others = [replace(example, completion=answer) for example, answer in zip(task.train, wrong, strict=True)]
    return passes.after_blocks(task.train), passes.after_blocks(others)


def result_of(
    model: Any,
    task: Any,
    seed: int,
    part: str,
    settings: dict[str, Any],
    right: Any,
    wrong: Any,
    results: Path,
) -> dict[str, Any]:
    """Return the stored result, or measure and store it: accuracy by labels, and nats of the right label among them.

    A stored result over another number of examples is not reused.
    """
    stored = json.loads(results.read_text("utf-8"))["results"] if results.exists() else []
    place = {"task": task.name, "seed": seed, "part": part, **settings}
    examples = getattr(task, part)
    for found in stored:
        if {**place, "n": len(examples)}.items() <= found.items():
            return found

    import torch

    from jola import Template
    from jola.evaluation.scoring import option_likelihood

    with model.using([] if settings == BASE else edits(model, settings, right, wrong)):
        answers = option_likelihood(model, examples, task.labels, Template(model.tokenizer))
    columns = torch.tensor([task.labels.index(example.completion) for example in examples])
    among = answers.log_likelihoods.log_softmax(1)
    hits = [choice == example.completion for choice, example in zip(answers.choices, examples, strict=True)]
    each = {"correct": "".join(str(int(hit)) for hit in hits), **most_frequent(task)} if part == "test" else {}
    found = {
        **place,
        **answers.accuracy.to_dict(),
        "cross_entropy": round(float(-among[torch.arange(len(columns)), columns].mean()), 3),
        **each,
    }
    results.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(one) for one in [*stored, found])
    results.write_text(f'{{"results": [\n{lines}\n]}}\n', "utf-8")
    print(json.dumps({name: value for name, value in found.items() if name != "correct"}), flush=True)
    return found


def most_frequent(task: Any) -> dict[str, float]:
    """Return the test accuracy of always choosing the most frequent training label, the first among equals."""
    (label, _), *_ = Counter(example.completion for example in task.train).most_common()
    return {"most_frequent_label": sum(example.completion == label for example in task.test) / len(task.test)}


def edits(model: Any, settings: dict[str, Any], right: Any, wrong: Any) -> list[Any]:
    """Return the interventions of RePE with these settings."""
    from jola.edits.directions import directions
    from jola.methods import METHODS
    from jola.methods.repe import RePEConfig

    norms = ((right.norm(dim=-1) + wrong.norm(dim=-1)) / 2).mean(0)[:, None]
    interventions = METHODS["repe"].build(RePEConfig(**settings), model.geometry)
    for each in interventions:
        each.fill(settings["coefficient"] * norms * directions(right - wrong, RePEConfig.direction))
    return list(interventions)


if __name__ == "__main__":
    main()
