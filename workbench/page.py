"""The page: its tabs, and the events that lead from one tab to another."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from jola.errors import InputError
from workbench.compare import tab as compare
from workbench.playground import tab as playground
from workbench.runs import answers_panel
from workbench.runs import tab as runs
from workbench.service.bench import Workbench
from workbench.studies import tab as studies
from workbench.theme import ICON
from workbench.train import tab as train
from workbench.ui import markup
from workbench.ui.events import PRIVATE

PLACES = ("train", "playground", "runs", "compare", "studies")
"""Names of the tabs in an address, as in ``?tab=playground``."""

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

# For reloads and links, the address names the visible tab and what it shows. An address without a tab opens Train.
# Compare and Studies put their own parts into it. While the page opens, the address still says what to open. The
# listeners of an event run one after the other, so the tab may have been left meanwhile.
_PUT_TAB_IN_ADDRESS = """(run, mask) => {{
  const place = "{place}", visible = document.querySelector("#places [role=tab][aria-selected=true]");
  if (!document.documentElement.dataset.ready || visible?.textContent.trim() !== "{label}") return;
  const address = new URL(location), parts = address.searchParams;
  if (["playground", "runs"].includes(place)) parts.set("tab", place);
  else if (parts.get("tab") !== place) parts.delete("tab");
  if (place !== "compare") parts.delete("comparison");
  if (place !== "studies") for (const name of ["study", "cell"]) parts.delete(name);
  if (run && parts.get("run") !== run && (place === "playground" || parts.get("run"))) {{
    parts.set("run", run);
    parts.delete("step");
  }}
  // Before the Playground has opened a run, the address says which one, and with which mask.
  if (mask) parts.set("mask", mask); else if (place !== "playground" || run) parts.delete("mask");
  history.replaceState(null, "", address);
}}"""

Values = tuple[Any, ...]


@dataclass(frozen=True)
class Page:
    """The tabs of the page, and the components that connect them."""

    bench: Workbench
    blocks: gr.Blocks
    remembered: gr.BrowserState
    """The id of the run that this browser showed last."""
    places: gr.Tabs
    tabs: Mapping[str, gr.Tab]
    """By their names in `PLACES`."""
    train: train.TrainTab
    playground: playground.PlaygroundTab
    runs: runs.RunsTab
    compare: compare.CompareTab
    studies: studies.StudiesTab

    @classmethod
    def lay_out(cls, bench: Workbench, blocks: gr.Blocks) -> "Page":
        """Build the bar and the tabs inside ``blocks``; each tab connects its own events."""
        # Both names are fixed: gradio's defaults change with every start, and the browser would lose the value.
        remembered = gr.BrowserState("", storage_key="jola-workbench-run", secret="jola-workbench")
        icon = ICON.read_text(encoding="utf-8").replace("<svg", '<svg aria-hidden="true"', 1)
        gr.HTML(_BAR.format(icon=icon), js_on_load=_BAR_SCRIPT, apply_default_css=False, elem_id="bar")
        tabs = {}
        with gr.Tabs(elem_id="places") as places:
            with gr.Tab("Train", id="train") as tabs["train"]:
                train_tab = train.build(bench, remembered)
            with gr.Tab("Playground", id="playground") as tabs["playground"]:
                playground_tab = playground.build(bench, blocks)
            with gr.Tab("Runs", id="runs") as tabs["runs"]:
                runs_tab = runs.build(bench, blocks)
            with gr.Tab("Compare", id="compare") as tabs["compare"]:
                compare_tab = compare.build(bench, tabs["compare"])
            with gr.Tab("Studies", id="studies") as tabs["studies"]:
                studies_tab = studies.build(bench, tabs["studies"])
        return cls(
            bench, blocks, remembered, places, tabs, train_tab, playground_tab, runs_tab, compare_tab, studies_tab
        )

    def connect(self) -> None:
        """Connect the load event of the page, and the events of one tab that open another."""
        self._connect_address()
        self._connect_load()
        self._connect_runs()
        self._connect_compare()
        self._connect_studies()

    # Opening the page

    def _connect_load(self) -> None:
        outputs = [self.places, *self.train.showing(), *self.compare.showing(), *self.studies.showing()]
        self.blocks.load(self.on_load, self.remembered, outputs, **PRIVATE).then(
            None, None, None, js="() => { document.documentElement.dataset.ready = '1'; }"
        ).then(self.bench.session.warm_up, None, None, **PRIVATE)
        self.tabs["playground"].select(self.on_offer, [self.train.view], self.playground.outputs(), **PRIVATE)

    def on_load(self, last: str | None, request: gr.Request) -> Values:
        """Show the tab, the run, the comparison and the study that the address names."""
        asked = dict(request.query_params)
        run = self.bench.choose_run(asked.get("run"), last)
        place = asked.get("tab") if asked.get("tab") in PLACES else "train"
        shown = train.show(self.bench, run.id if run is not None else "")
        compared = compare.show(self.bench, asked.get("comparison"))
        return gr.Tabs(selected=place), *shown, *compared, *studies.show(self.bench, asked.get("study"))

    def on_offer(self, current: str, request: gr.Request) -> Iterator[Values]:
        """Fill the Playground when it is first shown, with the values in the address if the address names this tab."""
        asked = dict(request.query_params)
        before = self.playground.wiring.state(request).run
        if before or asked.get("tab") != "playground":
            yield from playground.offer(self.playground, self.bench, request, before or current)
            return
        masks, text = asked.get("mask", ""), asked.get("prompt", "")
        run = asked.get("run") or current
        yield from playground.offer(self.playground, self.bench, request, run, masks, text)

    def _connect_address(self) -> None:
        panel = self.playground.panel
        for place, tab in self.tabs.items():
            shown = [panel.run, panel.shared] if place == "playground" else [self.remembered]
            tab.select(None, shown, None, js=_PUT_TAB_IN_ADDRESS.format(place=place, label=tab.label))

    # From Runs to a tab that shows the run

    def _connect_runs(self) -> None:
        events: Any = self.runs.table
        events.train(self.open_in_train, None, [self.places, *self.train.showing()], **PRIVATE)
        in_playground = [self.places, *self.playground.outputs()]
        events.playground(self.open_in_playground, None, in_playground, **PRIVATE)
        examples: Any = self.runs.answers.examples
        shown, message = self.runs.answers.shown, self.runs.answers.message
        examples.open(self.open_example, shown, [message, *in_playground], **PRIVATE)

    def open_in_train(self, event: gr.EventData) -> Values:
        """Show the chosen run in Train."""
        return gr.Tabs(selected="train"), *train.show(self.bench, runs.chosen(event))

    def open_in_playground(self, event: gr.EventData, request: gr.Request) -> Iterator[Values]:
        """Show the chosen run in the Playground."""
        yield from _in_playground(playground.offer(self.playground, self.bench, request, runs.chosen(event)))

    def open_example(self, shown: answers_panel.Shown, event: gr.EventData, request: gr.Request) -> Iterator[Values]:
        """Show a test example with the edits of its run in the Playground."""
        try:
            answer = answers_panel.opened_example(self.bench, shown, event._data)
        except InputError as error:
            yield markup.note(str(error), "error"), gr.skip(), *[gr.skip()] * len(self.playground.outputs())
            return
        offered = playground.offer(self.playground, self.bench, request, shown.run, example=answer.example)
        for values in _in_playground(offered):
            yield "", *values

    # From Compare, with a set of heads

    def _connect_compare(self) -> None:
        panel, chosen = self.compare.panel, self.compare.set()
        train_outputs = [self.places, panel.set_message, *self.train.filling()]
        panel.train.click(self.train_on_set, chosen, train_outputs, **PRIVATE)
        playground_outputs = [self.places, panel.set_message, *self.playground.outputs()]
        panel.playground.click(self.set_in_playground, chosen, playground_outputs, **PRIVATE)

    def train_on_set(self, id: str, pick: str | None) -> Values:
        """Fill the form of Train with the heads of the chosen set."""
        try:
            filled = train.fill(self.train, *compare.training_on(self.bench, id, pick))
        except InputError as error:
            return gr.skip(), markup.note(str(error), "error"), *[gr.skip()] * len(self.train.filling())
        return gr.Tabs(selected="train"), "", *filled

    def set_in_playground(self, id: str, pick: str | None, request: gr.Request) -> Iterator[Values]:
        """Show the heads of the chosen set as a mask in the Playground."""
        shown = self.playground.wiring.state(request).run
        try:
            run, masks = compare.mask_for(self.bench, id, pick, shown)
        except InputError as error:
            yield gr.skip(), markup.note(str(error), "error"), *[gr.skip()] * len(self.playground.outputs())
            return
        for tabs, *values in _in_playground(playground.offer(self.playground, self.bench, request, run, masks)):
            yield tabs, "", *values

    # From Studies, with the run of a cell

    def _connect_studies(self) -> None:
        events: Any = self.studies.view
        events.train(self.open_in_train, None, [self.places, *self.train.showing()], **PRIVATE)
        in_playground = [self.places, *self.playground.outputs()]
        events.playground(self.open_in_playground, None, in_playground, **PRIVATE)
        answers = self.runs.answers
        opening = [self.places, answers.column, *answers.outputs()]
        events.answers(self.open_answers, None, opening, **PRIVATE).then(None, None, None, js=answers.after)

    def open_answers(self, event: gr.EventData, request: gr.Request) -> Values:
        """Show the test answers of the chosen run in Runs."""
        return gr.Tabs(selected="runs"), *self.runs.answers.opened(runs.chosen(event), request.session_hash or "")


def _in_playground(offered: Iterator[Values]) -> Iterator[Values]:
    """Yield values of `playground.offer` after a value for the tabs that opens the Playground once.

    The page can then leave it while the model loads.
    """
    for number, values in enumerate(offered):
        yield gr.Tabs(selected="playground") if number == 0 else gr.skip(), *values
