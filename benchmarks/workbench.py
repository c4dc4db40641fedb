"""How quickly the app answers, as ratios measured within one run.

    python benchmarks/workbench.py [--json] [--rounds 15] [--only next_token effects map watched]

On the sample run and the default model, in a home of its own; needs Chromium (`tools/browser.py` says which).

* next_token: a click's worth of work, from the call to the finished table ÷ a plain forward pass of the same prompt;
  click_ms is the same in Chromium, from the press of the mouse to the new table on the page
* effects: all edits at once ÷ one pass for each of them
* map_ms: what one update of the live map, 80 layers × 64 heads × 2, takes of the page's main thread
* watched: a training step while a page watches ÷ a step while none does, in turns within one training; the page runs on
  the same processor, which a reader's usually does not
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
MEASURES = ("next_token", "effects", "map", "watched")
WATCHED_STEPS = 12
"""Steps of a turn with, and then without, a page."""


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count (default 15)")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    options = parser.parse_args()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        _share_assets(home)
        with _app() as (bench, address), _chromium() as browser:
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


def _share_assets(home: Path) -> None:
    from jola.paths import HOME_VARIABLE, cache_home

    shared = cache_home()
    (home / "cache").symlink_to(shared, target_is_directory=True)
    os.environ[HOME_VARIABLE] = str(home)


@contextmanager
def _app() -> Iterator[tuple[Any, str]]:
    """The app in this process, so that a plain pass runs in the thread that answers the page."""
    import gradio  # noqa: F401  # before anything that imports nnsight

    from workbench import sample
    from workbench.app import build, launch
    from workbench.bench import Workbench
    from workbench.settings import Settings

    settings = Settings(port=0)
    bench = Workbench.from_settings(settings)
    sample.install(bench.store)
    page = build(bench)
    try:
        yield bench, launch(page, settings).rstrip("/")
    finally:
        bench.session.close()
        page.close(verbose=False)


@contextmanager
def _chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    from tools.browser import ensure

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(ensure()), args=FLAGS)
        yield browser
        browser.close()


def _summary(values: list[float], digits: int = 3) -> dict[str, Any]:
    low, _, high = statistics.quantiles(values, n=4)
    return {
        "median": round(statistics.median(values), digits),
        "quartiles": [round(low, digits), round(high, digits)],
        "n": len(values),
    }


def next_token(bench: Any, address: str, browser: Any, rounds: int) -> dict[str, Any]:
    """A click on the map: the work behind it against a plain pass, and the time until the page shows it."""
    import torch

    from workbench.playground import views
    from workbench.playground.prompts import first_prompt
    from workbench.playground.state import columns, edits_of, open_run
    from workbench.session import Prompt

    state = open_run(bench, "sample")
    prompt = Prompt.of(first_prompt(bench.find("sample")))
    ids = bench.session.ask(columns(bench, state)[0].stack, lambda desk: desk.encode(prompt)).result()

    def plain(desk: Any) -> float:
        begin = time.perf_counter()
        desk.model.base(torch.tensor([ids]), use_cache=False)
        return time.perf_counter() - begin

    def click(number: int) -> float:
        begin = time.perf_counter()
        toggled = state.with_mask(state.mask.switched([(number % 20, number % 9)], "both", False))
        ways = columns(bench, toggled)
        views.next_tokens(ways, [t.result() for t in views.ask_next_tokens(bench.session, ways, prompt)])
        return time.perf_counter() - begin

    pairs = [(bench.session.ask((), plain, base=bench.find("sample")).result(), click(n)) for n in range(rounds + 3)]
    pairs = pairs[3:]

    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.set_default_timeout(90_000)
    page.goto(f"{address}/?tab=playground&run=sample")
    page.wait_for_selector("#tokens table")
    page.wait_for_selector("#answer-shares table")
    page.evaluate(
        """() => {
          addEventListener("pointerdown", () => { window.pressed = performance.now(); window.took = 0; }, true);
          new MutationObserver(() => { window.took ||= performance.now() - window.pressed; })
            .observe(document.querySelector("#tokens"), { subtree: true, childList: true, characterData: true });
        }"""
    )
    gates = edits_of(bench.find("sample"))["heads"].gate_values()["offset"]
    cells = [
        page.evaluate(
            "(cell) => document.querySelector('#edit-map .em').parentElement.editMap.position('offset', ...cell)", cell
        )
        for cell in (gates > 0).nonzero().tolist()
    ]
    clicks = []
    for number in range(rounds + 3):
        page.mouse.click(*cells[number % len(cells)])
        page.wait_for_function("() => window.took > 0")
        clicks.append(page.evaluate("() => window.took"))
        page.wait_for_timeout(400)
    context.close()
    forward = 1000 * statistics.median(before for before, _ in pairs)
    return {
        "next_token": _summary([after / before for before, after in pairs]),
        "plain_ms": {"median": round(forward, 1), "n": rounds, "prompt tokens": len(ids)},
        "click_ms": _summary(clicks[3:], 1),
        "page_ms": {
            "median": round(statistics.median(clicks[3:]) - 1.5 * forward, 1),
            "is": "click − 1.5 plain passes",
        },
    }


def effects(bench: Any, rounds: int) -> dict[str, Any]:
    """All edits of the run at once against one pass for each."""
    from workbench.playground.prompts import first_prompt
    from workbench.playground.state import columns, open_run
    from workbench.session import Prompt

    prompt = Prompt.of(first_prompt(bench.find("sample")))

    def compare(desk: Any) -> tuple[float, float, int, float]:
        import torch

        from jola import insight
        from jola.interventions import EditMask

        ids = desk.encode(prompt)
        begin = time.perf_counter()
        found = insight.edit_effects(desk.model, ids, "positive")
        together = time.perf_counter() - begin
        answer = desk.template.encode_answer("positive")
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
    measured = [bench.session.ask(stack, compare).result() for _ in range(max(3, rounds // 5) + 1)][1:]
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
    """One update of the live map in the page's main thread."""
    from tests.workbench.recorded import Recorder

    Recorder(bench.store.root / "large", steps=4, layers=80, units=64).until(4).finish("cancelled")
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.set_default_timeout(90_000)
    page.goto(f"{address}/?run=large")
    page.wait_for_selector("#run-view .rv[data-run=large]", state="attached")
    page.wait_for_timeout(1500)
    times = page.evaluate(
        """(rounds) => {
          const view = document.querySelector("#run-view .rv").parentElement;
          return Array.from({ length: rounds + 3 }, () => view.measureUpdate()).slice(3);
        }""",
        max(rounds, 15),
    )
    context.close()
    return {"map_ms": _summary(times, 2)}


def watched(bench: Any, address: str, browser: Any, rounds: int) -> dict[str, Any]:
    """Steps of one training, in turns with and without a page that watches."""
    path = bench.store.root / "watched"
    command = [sys.executable, "-m", "jola", "train", "--output", str(path), "--test-size", "1", "--epochs", "40"]
    turns = max(4, rounds // 2)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT) as training:
        try:
            return {"watched": _turns(bench, address, browser, turns)}
        finally:
            training.terminate()


def _turns(bench: Any, address: str, browser: Any, turns: int) -> dict[str, Any]:
    def steps() -> dict[int, float]:
        run = bench.find("watched")
        return {m["step"]: m["time"] for m in run.metrics() if "loss" in m} if run else {}

    def reach(step: int) -> int:
        while max(steps(), default=0) < step:
            time.sleep(0.1)
        return max(steps())

    spans: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    at = reach(5)
    for turn in range(2 * turns):
        context = browser.new_context(viewport={"width": 1440, "height": 900}) if turn % 2 else None
        if context is not None:
            page = context.new_page()
            page.goto(f"{address}/?run=watched")
            page.wait_for_selector("#run-view .rv[data-run=watched]", state="attached", timeout=90_000)
        begin = reach(at + 2)
        at = reach(begin + WATCHED_STEPS)
        spans[turn % 2 == 1].append((begin, at))
        if context is not None:
            context.close()
    times = steps()

    def pace(span: tuple[int, int]) -> float:
        known = sorted(step for step in times if span[0] <= step <= span[1])
        return (times[known[-1]] - times[known[0]]) / (known[-1] - known[0])

    ratios = [pace(seen) / pace(unseen) for unseen, seen in zip(spans[False], spans[True], strict=True)]
    return {**_summary(ratios), "steps of a turn": WATCHED_STEPS}


if __name__ == "__main__":
    main()
