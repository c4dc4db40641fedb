"""Measure how the memory of the app grows over many predictions.

    python -m benchmarks.soak [--json] [--predictions 500]

A separate process requests predictions with changing masks and prompts from the sample run and the default model, first
while nothing else runs (idle), then while a run trains (busy). `growth_mb` is the resident memory (RSS) of the app
after the last prediction minus that after a warm-up of 50, in MB. `growth_per_hundred_mb` is the slope of a line
through the RSS after the warm-up, which distinguishes a leak from a single late allocation.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

WARM_UP = 50
EVERY = 25
WORDS = ["plot", "cast", "score", "camera", "dialogue", "ending", "pace", "humour", "costumes", "silence", "villain"]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--predictions", type=int, default=500, help="predictions of each part (default 500)")
    parser.add_argument("--only", nargs="+", choices=("idle", "busy"), default=["idle", "busy"])
    options = parser.parse_args()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from benchmarks.serving import served_app, share_assets

    report = {}
    with tempfile.TemporaryDirectory() as folder:
        share_assets(Path(folder))
        with served_app() as (bench, address):
            for part in options.only:
                with _training(bench) if part == "busy" else nullcontext():
                    report[part] = soak(address, options.predictions)
    if options.json:
        print(json.dumps(report))
        return
    for part, figures in report.items():
        print(f"{part:6}" + "  ".join(f"{name} {value}" for name, value in figures.items()))


@contextmanager
def _training(bench: Any) -> Iterator[None]:
    """Train a run in a separate process for the duration of the block."""
    from jola.config import DataConfig, RunConfig, TrainingConfig

    config = RunConfig(data=DataConfig(test_size=1), training=TrainingConfig(epochs=10_000, patience=0))
    run = bench.jobs.start(config)
    try:
        while not run.metrics():
            if not run.alive:
                raise SystemExit(f"The training ended: {run.status()['message']}")
            time.sleep(0.5)
        yield
        if not run.alive:
            raise SystemExit("The training ended before the predictions.")
    finally:
        bench.jobs.cancel(run.id)
        bench.jobs.wait(run.id, 120)


def soak(address: str, predictions: int) -> dict[str, Any]:
    """Request predictions from another process, and measure the memory of this one."""
    import numpy as np

    command = [sys.executable, "-m", "benchmarks.soak", "ask", address, str(predictions)]
    sizes, begin = [], time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as asking:
        assert asking.stdout is not None
        for line in asking.stdout:
            if line.strip().isdigit():
                sizes.append((int(line), _resident()))
    if asking.returncode:
        raise SystemExit("The predictions ended with an error.")
    after = [(done, size) for done, size in sizes if done >= WARM_UP]
    slope = np.polyfit([done for done, _ in after], [size for _, size in after], 1)[0]
    return {
        "growth_mb": round(after[-1][1] - after[0][1], 1),
        "growth_per_hundred_mb": round(100 * float(slope), 2),
        "largest_mb": round(max(size for _, size in after), 1),
        "n": predictions - WARM_UP,
        "seconds_each": round((time.monotonic() - begin) / predictions, 2),
    }


def _resident() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 1e6


def ask(address: str, predictions: int) -> None:
    """Request one prediction after the other, each with its own mask and prompt; runs in the other process."""
    from gradio_client import Client

    app = Client(address, verbose=False)
    for number in range(1, predictions + 1):
        words = f"{WORDS[number % 11]} and {WORDS[number // 11 % 11]}"
        off = [{"layer": number * 7 % 30, "unit": number % 9}, {"layer": number % 30, "unit": 0, "half": "scale"}]
        app.predict("sample", f"Is this good? The {words}, number {number}.", off=off, api_name="/predict")
        if number % EVERY == 0:
            print(number, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["ask"]:
        ask(sys.argv[2], int(sys.argv[3]))
    else:
        main()
