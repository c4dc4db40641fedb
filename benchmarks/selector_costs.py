"""Measure the cost of selectors as a share of JoLA's training with the same budget, for docs/selectors.md.

    python -m benchmarks.selector_costs TASK [--selectors dsp pass …] [--k 100] [--seed 42] [--epochs 2]

TASK is a value of `jola train --task`. 200 training and 40 validation examples, batches of 4. Each line is printed as
soon as it is measured; JoLA's training, including its validations, comes first. Times are CPU times, which other
programs hardly change.
"""

import argparse
import tempfile
from pathlib import Path


def main() -> None:
    """Train, select, and print the ratios."""
    from jola import JoLAModel
    from jola.config import DataConfig, RunConfig, TrainingConfig
    from jola.data.tasks import load_task
    from jola.selectors import SELECTORS
    from jola.selectors.choose import budget_of
    from jola.studies.editing import train_jola
    from jola.system.progress import Quiet

    known = [name for name in SELECTORS if name != "jola"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--selectors", nargs="+", choices=known, default=known)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()

    config = RunConfig(
        data=DataConfig(task=options.task, train_size=200, validation_size=40, test_size=1),
        training=TrainingConfig(epochs=options.epochs, seed=options.seed),
    )
    model = JoLAModel.from_pretrained()
    task = load_task(config.data, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        training = train_jola(model, task, config, Path(folder), Quiet()).cost
    print(f"JoLA: {training.processor_seconds:.0f} s of CPU time, {training.seconds:.0f} s", flush=True)
    for name in options.selectors:
        cost = SELECTORS[name](budget=budget_of(config))(model, task.train, options.k, options.seed).cost
        share = cost.processor_seconds / training.processor_seconds
        print(f"{name:10} {share:.2f} of JoLA's CPU time", flush=True)


if __name__ == "__main__":
    main()
