"""Measure how quickly the app answers, as ratios within one run.

    python -m benchmarks.workbench [--json] [--rounds 15] [--only next_token effects map watched]

Uses the sample run and the default model, in a temporary home folder; needs Chromium (see `tools/browser.py`).

* next_token: the work of one click, from the call to the finished table ÷ a plain forward pass of the same prompt;
  shown_ms is the time in Chromium from the mouse press to the frame with the table of the new mask, and click_ms is
  shown_ms without the model's pass
* effects: all edits at once ÷ one pass for each of them
* map_ms: time of one update of the live map, 80 layers × 64 heads × 2, in the main thread of the page
* watched: a training step while a page watches ÷ the same step while none does, in two training runs that are watched
  in alternating turns; the page runs on the same processor, unlike that of most users
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
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
MEASURES = ("next_token", "effects", "map", "watched")
WARM = 3
"""Number of warm-up rounds."""
CELLS = 12
"""Number of edits that are clicked in turn."""
WARM_UP_STEPS, TURN_STEPS, WATCHED_STEPS = 5, 40, 20
"""Steps before the first turn, per turn, and measured at the end of a turn, because opening a page takes time."""


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds (default 15)")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    options = parser.parse_args()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from benchmarks.serving import served_app, share_assets

    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        share_assets(home)
        with served_app() as (bench, address), _chromium() as browser:
            if "next_token" in options.only:
                report |= next_token(bench, address, browser, options.rounds)
            if "effects" in options.only:
                report |= effects(bench, options.rounds)
            if "map" in options.only:
                report |= live_map(bench, address, browser, options.rounds)
            if "watched" in options.only:
                report |= watched(bench, address, browser, options.rounds)
    if options.json:
        print(json.dumps(report))
        return
    for name, figures in report.items():
        print(f"{name:12} " + "  ".join(f"{key} {value}" for key, value in figures.items()))


@contextmanager
def _chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    from tools.browser import ensure

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(ensure()), args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def _page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.set_default_timeout(90_000)
    yield page
    context.close()


def _summary(values: list[float], digits: int = 3) -> dict[str, Any]:
    low, _, high = statistics.quantiles(values, n=4)
    return {
        "median": round(statistics.median(values), digits),
        "quartiles": [round(low, digits), round(high, digits)],
        "n": len(values),
    }


def next_token(bench: Any, address: str, browser: Any, rounds: int) -> dict[str, Any]:
    """Measure a click on the map: its work relative to a plain pass, and the time until the page shows it."""
    import torch

    from workbench.service import views
    from workbench.service.examples import first_prompt
    from workbench.service.page_state import columns, open_run
    from workbench.service.session import Prompt

    run = bench.find("sample")
    state, prompt = open_run(bench, "sample"), Prompt.of(first_prompt(run))
    ids = bench.session.ask(columns(bench, state)[0].stack, lambda desk: desk.encode(prompt)).result()
    cells = _strongest(run)

    def plain(desk: Any) -> float:
        begin = time.perf_counter()
        desk.model.base(torch.tensor([ids]), use_cache=False)
        return time.perf_counter() - begin

    def click(number: int) -> float:
        begin = time.perf_counter()
        toggled = state.with_mask(state.mask.switched([cells[number % len(cells)]], "offset", False))
        ways = columns(bench, toggled)
        views.next_tokens(ways, [t.result() for t in views.ask_next_tokens(bench.session, ways, prompt)])
        return time.perf_counter() - begin

    pairs = [(bench.session.ask((), plain, base=run).result(), click(n)) for n in range(rounds + WARM)][WARM:]
    shown = _clicks(bench, address, browser, cells, rounds)
    forward = [1000 * before for before, _ in pairs]
    return {
        "next_token": _summary([after / before for before, after in pairs]),
        "plain_ms": {**_summary(forward, 1), "prompt tokens": len(ids)},
        "click_ms": {**_summary([whole - model for whole, model in shown], 1), "is": "shown − the model's pass"},
        "shown_ms": {**_summary([whole for whole, _ in shown], 1), "is": "from the press to the frame with the table"},
    }


def _strongest(run: Any) -> list[tuple[int, int]]:
    """Return (layer, head) of the offsets with the largest g·‖a‖."""
    from workbench.service.page_state import edits_of

    edits = edits_of(run)["heads"]
    strength = edits.gate_values()["offset"] * edits.norms()["offset"]
    top = strength.flatten().topk(CELLS).indices.tolist()
    return [divmod(place, edits.units) for place in top]


def _clicks(
    bench: Any, address: str, browser: Any, cells: list[tuple[int, int]], rounds: int
) -> list[tuple[float, float]]:
    """Return (milliseconds until Chromium shows the click, milliseconds of the model in them) for each click."""
    from workbench.service.session import Desk

    computed: list[float] = []
    look = Desk.next_log_probabilities

    def timed(desk: Any, ids: list[int]) -> Any:
        begin = time.perf_counter()
        try:
            return look(desk, ids)
        finally:
            computed.append(1000 * (time.perf_counter() - begin))

    with _page(browser) as page:
        page.goto(f"{address}/?tab=playground&run=sample")
        page.wait_for_selector("#tokens table")
        page.wait_for_selector("#answer-shares table")
        page.evaluate(
            """() => {
              const masks = () => document.querySelector("#tokens .jw-picture")?.dataset.masks;
              // The page withholds frames from callbacks that compute with performance.now() themselves, as
              // Gradio's loading indicator does (workbench/server/first_scripts/indicator.js).
              const now = () => performance.now();
              let pressed = 0, before = null;
              window.took = 0;
              addEventListener("pointerdown", () => { pressed = now(); before = masks(); took = 0; }, true);
              new MutationObserver(() => {
                if (before === null || masks() === before) return;
                before = null;
                requestAnimationFrame(() => { took = now() - pressed; });
              }).observe(document.querySelector("#tokens"), { subtree: true, childList: true, attributes: true });
            }"""
        )
        where = "(cell) => document.querySelector('#edit-map .em').parentElement.editMap.position('offset', ...cell)"
        shown: list[tuple[float, float]] = []
        with mock.patch.object(Desk, "next_log_probabilities", timed):
            for number in range(rounds + WARM):
                # The shares of the answers are computed after each table; the next click waits for them.
                bench.session.ask((), lambda desk: None, base=bench.find("sample")).result()
                page.wait_for_timeout(300)
                computed.clear()
                # The position is computed now, because the map moves while the page is laid out.
                page.mouse.click(*page.evaluate(where, list(cells[number % len(cells)])))
                page.wait_for_function("() => took > 0")
                shown.append((page.evaluate("() => took"), sum(computed)))
    return shown[WARM:]


def effects(bench: Any, rounds: int) -> dict[str, Any]:
    """Measure the effects of all edits of the run at once, relative to one pass for each."""
    from workbench.service.examples import first_prompt
    from workbench.service.page_state import columns, open_run
    from workbench.service.session import Prompt

    prompt = Prompt.of(first_prompt(bench.find("sample")))

    def compare(desk: Any) -> tuple[float, float, int, float]:
        import torch

        from jola import insight
        from jola.edits.intervention import EditMask
        from jola.insight.prompts import answer_ids

        ids = desk.encode(prompt)
        begin = time.perf_counter()
        found = insight.edit_effects(desk.model, ids, "positive")
        together = time.perf_counter() - begin
        answer = answer_ids(desk.model, "positive", desk.template)
        tokens = torch.tensor([ids + answer])
        labels = tokens.clone()
        labels[:, : len(ids)] = -100
        begin, worst = time.perf_counter(), 0.0
        for edit, effect in zip(found.edits, found.effect, strict=True):
            mask = EditMask.all(desk.edits[0])
            getattr(mask, edit.half)[edit.layer, edit.unit] = 0
            loss = desk.model.forward(tokens, labels=labels, mask=mask, reduction="answer").loss
            worst = max(worst, abs(float(found.edited + loss) - float(effect)))
        return together, time.perf_counter() - begin, len(found.edits), worst

    stack = columns(bench, open_run(bench, "sample"))[0].stack
    measured = [bench.session.ask(stack, compare).result() for _ in range(max(5, rounds // 3) + 1)][1:]
    return {
        "effects": {
            **_summary([together / single for together, single, _, _ in measured]),
            "edits": measured[0][2],
            "together_s": round(statistics.median(m[0] for m in measured), 2),
            "single_s": round(statistics.median(m[1] for m in measured), 2),
            "largest difference, nats": round(max(m[3] for m in measured), 4),
        }
    }


def live_map(bench: Any, address: str, browser: Any, rounds: int) -> dict[str, Any]:
    """Measure one update of the live map in the main thread of the page."""
    from tests.workbench.recorded import Recorder

    Recorder(bench.store.root / "large", steps=4, layers=80, units=64).until(4).finish("cancelled")
    with _page(browser) as page:
        page.goto(f"{address}/?run=large")
        page.wait_for_selector("#run-view .rv[data-run=large]", state="attached")
        page.wait_for_function("() => document.querySelector('#run-view .rv').dataset.step === '4'")
        page.wait_for_timeout(1000)
        times = page.evaluate(
            """(rounds) => {
              const view = document.querySelector("#run-view .rv").parentElement;
              return Array.from({ length: rounds + 3 }, () => view.measureUpdate()).slice(3);
            }""",
            max(rounds, 15),
        )
    return {"map_ms": _summary(times, 2)}


def watched(bench: Any, address: str, browser: Any, rounds: int) -> dict[str, Any]:
    """Run the same training twice, watched in complementary turns, and compare the steps.

    Steps differ in their tokens, so a step is compared with the same step of the other training.
    """
    turns = max(4, rounds // 2)
    times = [_train_in_turns(bench, address, browser, turns, first) for first in (0, 1)]
    ratios = []
    for turn in range(turns):
        seen, unseen = (times[0], times[1]) if turn % 2 == 0 else (times[1], times[0])
        end = WARM_UP_STEPS + (turn + 1) * TURN_STEPS
        ratios += [seen[step] / unseen[step] for step in range(end - WATCHED_STEPS + 1, end + 1)]
    return {"watched": {**_summary(ratios), "n is": "steps"}}


def _train_in_turns(bench: Any, address: str, browser: Any, turns: int, first: int) -> dict[int, float]:
    """Return the seconds of each step of a training that a page watches in every second turn, from ``first`` on."""
    name = f"watched-{first}"
    steps = WARM_UP_STEPS + turns * TURN_STEPS
    command = [
        *(sys.executable, "-m", "jola", "train", "--output", str(bench.store.root / name)),
        *("--test-size", "1", "--validation-size", "8", "--patience", "0", "--epochs", str(2 + steps // 50)),
    ]

    def times() -> dict[int, float]:
        run = bench.find(name)
        return {m["step"]: m["time"] for m in run.metrics() if "loss" in m} if run else {}

    def reach(step: int) -> None:
        while max(times(), default=0) < step:
            if training.poll() is not None:
                raise SystemExit("The training ended before all turns were measured.")
            time.sleep(0.1)

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT) as training:
        try:
            for turn in range(turns):
                begin = WARM_UP_STEPS + turn * TURN_STEPS
                reach(begin)
                with _page(browser) if turn % 2 == first else nullcontext() as page:
                    if page is not None:
                        page.goto(f"{address}/?run={name}")
                        page.wait_for_selector(f"#run-view .rv[data-run={name}]", state="attached")
                    if max(times()) > begin + TURN_STEPS - WATCHED_STEPS:
                        raise SystemExit("The page did not open within its turn.")
                    reach(begin + TURN_STEPS)
            reached = times()
        finally:
            training.terminate()
    return {step: at - reached[step - 1] for step, at in reached.items() if step - 1 in reached}


if __name__ == "__main__":
    main()
