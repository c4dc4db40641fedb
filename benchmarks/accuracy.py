"""Measure the test accuracy of the default settings over tasks and seeds, with one `jola train` each.

    python -m benchmarks.accuracy FOLDER [--tasks trec sst2 snips] [--seeds 42 43 44] [--results FILE] [-- FLAGS …]

FOLDER contains one folder for each task, with train, validation and test files. Each result is appended to the results
file (one JSON object per line) when its run ends; runs that it already contains are not repeated. Flags after `--` are
passed to every `jola train`.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Run what is missing, then print a line for each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["trec", "sst2", "snips"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--train-size", type=int, default=200)
    parser.add_argument("--results", type=Path, default=Path("accuracy.jsonl"))
    options, flags = parser.parse_known_args()
    flags = [flag for flag in flags if flag != "--"]

    done = _read(options.results)
    for seed in options.seeds:
        for task in options.tasks:
            key = {"task": task, "seed": seed, "n_train": options.train_size, "flags": flags}
            if any(all(row[name] == value for name, value in key.items()) for row in done):
                continue
            command = [
                sys.executable, "-m", "jola", "train", "--task", str(options.folder / task), "--seed", str(seed),
                "--train-size", str(options.train_size), "--json", *flags,
            ]  # fmt: skip
            answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            result = json.loads(answer.splitlines()[-1]) | key
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            done.append(result)
            print(_row(result), flush=True)

    for task in options.tasks:
        rows = [row for row in done if row["task"] == task and row["flags"] == flags and row["seed"] in options.seeds]
        if rows:
            values = [row["test"]["accuracy"] for row in rows]
            print(
                f"{task:12} mean {statistics.mean(values):.3f} over {len(values)} seeds "
                f"({min(values):.3f}–{max(values):.3f}), n = {rows[0]['test']['n']} test examples each"
            )


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _row(result: dict[str, Any]) -> str:
    test, closed = result["test"], result["closed"]
    return (
        f"{result['task']:12} seed {result['seed']}  accuracy {test['accuracy']:.3f} "
        f"[{test['low']:.3f}, {test['high']:.3f}] n = {test['n']}  closed: offset {closed['offset']:.0%}, "
        f"scale {closed['scale']:.0%}  {result['seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
