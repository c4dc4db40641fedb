"""The app: its page, and the command that serves it."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

# Read by gradio, huggingface_hub and transformers when they are imported: nothing is reported to anybody.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# After every event gradio makes a table of the last 10,000 events for a page that is off: of fewer, and seldom.
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000")

import tyro
from rich.console import Console

from jola.errors import InputError
from workbench.settings import Settings

if TYPE_CHECKING:  # gradio takes seconds to import, and --help and bad settings need none of it
    import gradio as gr

    from workbench.service.bench import Workbench

PLACES = ("train", "playground", "runs", "compare")
"""Names of the places in an address, as in ``?tab=playground``."""

_BAR = """<div class="jw-top"><span class="jw-brand">{icon}JoLA Workbench</span>
<span class="jw-running" aria-hidden="true"></span></div>"""

_BAR_SCRIPT = """
document.addEventListener("jola-run", ({ detail: run }) => {
  const place = element.querySelector(".jw-running");
  place.dataset.active = String(run.active);
  const state = run.state === "training" ? `training, step ${run.facts.step}` : run.state;
  place.textContent = run.active || run.state === "paused" ? state : "";
});
"""


def build(bench: "Workbench") -> "gr.Blocks":
    """The page, not served yet."""
    import gradio as gr

    from workbench.api import endpoints as api
    from workbench.compare import tab as compare
    from workbench.playground import tab as playground
    from workbench.runs import tab as runs
    from workbench.theme import ICON
    from workbench.train import tab as train
    from workbench.ui import markup
    from workbench.ui.events import PRIVATE

    with gr.Blocks(title="JoLA Workbench", fill_width=True, analytics_enabled=False) as page:
        # Both names are given: gradio's own change with every start, and the browser would forget.
        remembered = gr.BrowserState("", storage_key="jola-workbench-run", secret="jola-workbench")
        icon = ICON.read_text(encoding="utf-8").replace("<svg", '<svg aria-hidden="true"', 1)
        gr.HTML(_BAR.format(icon=icon), js_on_load=_BAR_SCRIPT, apply_default_css=False, elem_id="bar")
        with gr.Tabs(elem_id="places") as places:
            with gr.Tab("Train", id="train"):
                train_tab = train.build(bench, remembered)
            with gr.Tab("Playground", id="playground") as playground_place:
                playground_tab = playground.build(bench, page)

            with gr.Tab("Runs", id="runs"):
                runs_tab = runs.build(bench)
            with gr.Tab("Compare", id="compare") as compare_place:
                compare_tab = compare.build(bench, compare_place)

        def on_load(last: str | None, request: gr.Request) -> tuple[Any, ...]:
            asked = dict(request.query_params)
            run = bench.choose_run(asked.get("run"), last)
            place = asked.get("tab") if asked.get("tab") in PLACES else "train"
            shown = train.show(bench, run.id if run is not None else "")
            return gr.Tabs(selected=place), *shown, *compare.show(bench, asked.get("comparison"))

        def on_offer(current: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
            """Open the Playground when it is first looked at: as the address says, when that names it."""
            asked = dict(request.query_params)
            before = playground_tab.wiring.state(request).run
            if before or asked.get("tab") != "playground":
                yield from playground.offer(playground_tab, bench, request, before or current)
                return
            masks, text = asked.get("mask", ""), asked.get("prompt", "")
            yield from playground.offer(playground_tab, bench, request, asked.get("run") or current, masks, text)

        offering = [train_tab.view], playground_tab.outputs()
        page.load(on_load, remembered, [places, *train_tab.showing(), *compare_tab.showing()], **PRIVATE).then(
            None, None, None, js="() => { document.documentElement.dataset.ready = '1'; }"
        ).then(bench.session.warm_up, None, None, **PRIVATE)
        playground_place.select(on_offer, *offering, **PRIVATE)

        def open_in_train(event: gr.EventData) -> tuple[Any, ...]:
            return gr.Tabs(selected="train"), *train.show(bench, runs.chosen(event))

        def open_in_playground(event: gr.EventData, request: gr.Request) -> Iterator[tuple[Any, ...]]:
            for values in playground.offer(playground_tab, bench, request, runs.chosen(event)):
                yield gr.Tabs(selected="playground"), *values

        runs_tab.table.train(open_in_train, None, [places, *train_tab.showing()], **PRIVATE)
        runs_tab.table.playground(open_in_playground, None, [places, *playground_tab.outputs()], **PRIVATE)

        def train_on_set(id: str, pick: str | None) -> tuple[Any, ...]:
            try:
                filled = train.fill(train_tab, *compare.training_on(bench, id, pick))
            except InputError as error:
                return gr.skip(), markup.note(str(error), "error"), *[gr.skip()] * len(train_tab.filling())
            return gr.Tabs(selected="train"), "", *filled

        def set_in_playground(id: str, pick: str | None, request: gr.Request) -> Iterator[tuple[Any, ...]]:
            shown = playground_tab.wiring.state(request).run
            try:
                run, masks = compare.mask_for(bench, id, pick, shown)
            except InputError as error:
                yield gr.skip(), markup.note(str(error), "error"), *[gr.skip()] * len(playground_tab.outputs())
                return
            for values in playground.offer(playground_tab, bench, request, run, masks):
                yield gr.Tabs(selected="playground"), "", *values

        said, chosen_set = compare_tab.panel.set_message, compare_tab.set()
        compare_tab.panel.train.click(train_on_set, chosen_set, [places, said, *train_tab.filling()], **PRIVATE)
        compare_tab.panel.playground.click(
            set_in_playground, chosen_set, [places, said, *playground_tab.outputs()], **PRIVATE
        )
        api.install(bench)
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``jola-workbench``: serve until Ctrl-C or SIGTERM. Exit code 2 for settings that cannot be used."""
    settings = tyro.cli(Settings, prog="jola-workbench", args=arguments)
    console = Console(stderr=True, highlight=False)
    try:
        settings.validate().claim_port()
        with console.status("Starting JoLA Workbench …"):
            import gradio  # noqa: F401  # before anything that imports nnsight, after which it cannot be imported

            from workbench.server.serve import serve
            from workbench.service import sample
            from workbench.service.bench import Workbench

            bench = Workbench.from_settings(settings)
            sample.install(bench.store)
            page = build(bench)
            server = serve(page, settings)
    except InputError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return 2
    console.print(
        f"JoLA Workbench is at {server.address}   (runs in {settings.runs_root}; Ctrl-C ends)", soft_wrap=True
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    active, comparison = bench.jobs.active(), bench.comparisons.active()
    bench.session.close()
    server.close()
    if active is not None:
        console.print(f"The run {active.id} goes on training; the app shows it when it is started again.")
    if comparison is not None:
        console.print(f"The comparison {comparison.id} goes on; the app shows it when it is started again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
