"""Measure a training step beside other busy processes, with and without control of the number of threads.

    python -m benchmarks.busy_machine [--busy 0 2 3] [--steps 30] [--json]

Each round trains the default model in a separate process, beside the given number of busy processes. "fixed" uses as
many threads as on an idle machine; "control" adjusts their number to the free cores (`jola.system.threads`).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

_SPIN = "while True: pass"
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", nargs="+", type=int, default=[0, 2, 3], help="numbers of busy processes")
    parser.add_argument("--steps", type=int, default=30, help="training steps of a round")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--round", choices=("fixed", "control"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.round:
        print(json.dumps(step_seconds(options.steps, control=options.round == "control")))
        return
    rows = [row for busy in options.busy for row in rounds(busy, options.steps)]
    if options.json:
        print(json.dumps({"cores": os.cpu_count(), "rows": rows}))
        return
    print("| busy processes | threads | seconds a step (quartiles) | n |\n|---|---|---|---|")
    for row in rows:
        low, median, high = row["quartiles"]
        print(f"| {row['busy']} | {row['threads']} | {median:.2f} ({low:.2f}–{high:.2f}) | {row['n']} |")


def rounds(busy: int, steps: int) -> Iterator[dict[str, Any]]:
    """Yield the results of both ways beside `busy` processes, without the first third of steps (control settles)."""
    environment = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    for way in ("fixed", "control"):
        with busy_processes(busy):
            command = [sys.executable, "-m", "benchmarks.busy_machine", "--round", way, "--steps", str(steps)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
        seconds = json.loads(done.stdout.splitlines()[-1])[steps // 3 :]
        yield {
            "busy": busy,
            "threads": way,
            "quartiles": [round(value, 3) for value in statistics.quantiles(seconds, n=4)],
            "n": len(seconds),
        }


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
