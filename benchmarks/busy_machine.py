"""Measure a training step beside other busy processes, with and without control of the number of threads.

    python -m benchmarks.busy_machine [--busy 0 2 3] [--steps 30] [--pairs 5] [--json]

Each training of the default model has a process of its own, beside the given number of busy processes. "fixed" uses as
many threads as on an idle machine; "control" adjusts their number to the free cores (`jola.system.threads`). The two
training runs of a pair take turns at being first, and have the same batches. Ratios are those of their total times.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from jola.studies.statistics import mean_over_seeds
from jola.system.formatting import interval_text

ROOT = Path(__file__).resolve().parent.parent

_SPIN = "while True: pass"
WAYS = ("fixed", "control")
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", nargs="+", type=int, default=[0, 2, 3], help="numbers of busy processes")
    parser.add_argument("--steps", type=int, default=30, help="steps of a training")
    parser.add_argument("--pairs", type=int, default=1, help="pairs of training runs for each number of busy processes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--training", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.training:
        print(json.dumps(step_seconds(options.steps, control=options.training == "control")))
        return
    found = [measure(busy, options.steps, options.pairs) for busy in options.busy]
    if options.json:
        print(json.dumps({"cores": os.cpu_count(), "found": found}))
        return
    print("| busy processes | threads | seconds a step (quartiles) | n | control ÷ fixed (95 % interval) | pairs |")
    print("|---|---|---|---|---|---|")
    for row in found:
        for way in WAYS:
            low, median, high = row["quartiles"][way]
            print(f"| {row['busy']} | {way} | {median:.2f} ({low:.2f}–{high:.2f}) | {row['n']} | ", end="")
            ratio = interval_text(*row["ratio"], digits=2)
            print(f"{ratio} | {options.pairs} |" if way == "control" else "– | – |")


def measure(busy: int, steps: int, pairs: int) -> dict[str, Any]:
    """Measure pairs of training runs beside `busy` processes.

    The first third of the steps, in which the control settles, is left out.
    """
    seconds: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    with busy_processes(busy):
        for pair in range(pairs):
            for way in WAYS if pair % 2 == 0 else WAYS[::-1]:
                seconds[way].append(_train(way, steps)[steps // 3 :])
    return {
        "busy": busy,
        "n": len(seconds["fixed"][0]) * pairs,
        "quartiles": {way: statistics.quantiles([step for one in seconds[way] for step in one], n=4) for way in WAYS},
        "ratio": paired_ratio(*([sum(one) for one in seconds[way]] for way in ("control", "fixed"))),
    }


def paired_ratio(times: Sequence[float], references: Sequence[float]) -> list[float | None]:
    """Return the geometric mean of the ratios of pairs, and the ends of its 95 % t interval (None for one pair)."""
    logs = mean_over_seeds([math.log(time / reference) for time, reference in zip(times, references, strict=True)])
    return [None if value is None else math.exp(value) for value in (logs.mean, logs.low, logs.high)]


def _train(way: str, steps: int) -> list[float]:
    environment = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    command = [sys.executable, "-m", "benchmarks.busy_machine", "--training", way, "--steps", str(steps)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep `count` processes busy within the block."""
    processes = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def step_seconds(steps: int, *, control: bool) -> list[float]:
    """Return the seconds from each training step to the next."""
    import torch
    from transformers import TrainerCallback

    from jola import RunConfig
    from jola.system.progress import Quiet
    from jola.training.fit import fit
    from jola.training.run import prepare

    if not control:
        os.environ[_VARIABLES[0]] = str(torch.get_num_threads())
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            ends.append(time.perf_counter())

    config = RunConfig()
    config.data.train_size = config.training.batch_size * (steps + 1)
    config.training.epochs, config.training.keep = 1, "last"
    prepared = prepare(config, Quiet())
    with tempfile.TemporaryDirectory() as folder:
        fit(config, prepared.model, prepared.train, None, Path(folder) / "checkpoints", [Clock()])
    return [after - before for before, after in pairwise(ends)]


if __name__ == "__main__":
    main()
