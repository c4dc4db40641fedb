"""Measure the latency of a click with many simultaneous users, and check that each gets the answer of a single user.

    python -m benchmarks.many_users [--json] [--users 1 8 50] [--rounds 3]

Uses the sample run and the default model, in a temporary home folder. Every user has different edits switched off and
asks for the next token of the same prompt. One thread computes for each model, so users wait for each other.
"""

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 8, 50], help="numbers of users (default 1 8 50)")
    parser.add_argument("--rounds", type=int, default=3, help="clicks of every user (default 3)")
    options = parser.parse_args()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from benchmarks.serving import served_app, share_assets

    with tempfile.TemporaryDirectory() as folder:
        share_assets(Path(folder))
        with served_app() as (bench, _):
            report = measure(bench, options.users, options.rounds)
    if options.json:
        print(json.dumps(report))
        return
    for users, figures in report.items():
        print(f"{users:>3} users  " + "  ".join(f"{name} {value}" for name, value in figures.items()))


def measure(bench: Any, numbers: list[int], rounds: int) -> dict[int, dict[str, Any]]:
    """Return the median latency for each number of users, as a ratio to that of a single user measured in between."""
    from workbench.service import views
    from workbench.service.examples import first_prompt
    from workbench.service.page_state import columns, edits_of, open_run
    from workbench.service.session import Prompt

    run = bench.find("sample")
    state, prompt = open_run(bench, "sample"), Prompt.of(first_prompt(run))
    opened = [tuple(map(int, place)) for place in (edits_of(run)["heads"].gate_values()["offset"] > 0).nonzero()]
    masks = [
        state.with_mask(state.mask.switched(opened[user : user + 1], "both", False)) for user in range(max(numbers))
    ]

    def click(user: int) -> tuple[float, Any]:
        begin = time.perf_counter()
        ways = columns(bench, masks[user])
        found = views.next_tokens(ways, [one.result() for one in views.ask_next_tokens(bench.session, ways, prompt)])
        return time.perf_counter() - begin, found

    alone = [click(user)[1] for user in range(max(numbers))]
    if len({str(found) for found in alone}) != len(alone):
        raise SystemExit("Two users have the same answer, so mixing them up would go unnoticed.")
    report = {}
    for users in numbers:
        ratios = []
        for _ in range(rounds):
            single = statistics.median(click(user)[0] for user in range(3))
            gate = threading.Barrier(users)

            def begin(user: int, gate: threading.Barrier = gate) -> tuple[float, Any]:
                gate.wait()
                return click(user)

            with ThreadPoolExecutor(users) as pool:
                found = list(pool.map(begin, range(users)))
            if [str(answer) for _, answer in found] != [str(answer) for answer in alone[:users]]:
                raise SystemExit(f"With {users} users, one of them got a different answer than alone.")
            ratios += [seconds / single for seconds, _ in found]
        report[users] = {
            "ratio": round(statistics.median(ratios), 2),
            "longest": round(max(ratios), 2),
            "n": len(ratios),
        }
    return report


if __name__ == "__main__":
    main()
