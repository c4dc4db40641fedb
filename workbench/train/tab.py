"""The Train tab: model, data and settings on the left, the live view of the gates on the right."""

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as field_
from typing import Any

import gradio as gr

from jola.config import RunConfig
from jola.data.tasks.registry import REGISTRY
from jola.errors import InputError
from jola.methods import METHODS
from jola.runs.restarts import MOST, attempts
from jola.runs.run import Run
from jola.system.formatting import is_share
from workbench.service import estimate
from workbench.service.bench import Workbench
from workbench.service.devices import AUTO, CPU
from workbench.train.preview import load_preview, preview_html
from workbench.train.run_view import run_view
from workbench.ui import form, markup
from workbench.ui.details import details_box
from workbench.ui.events import PRIVATE, text_of
from workbench.ui.fields import accept_upload, field

__all__ = ["TrainTab", "accept_upload", "build", "cancel", "cost", "pause", "preview", "resume", "show", "start"]

_GROUPS = {"edits": "Method", "model": "Model", "data": "Data", "training": "Training"}
"""Headings of the form in order."""

_PUT_RUN_IN_ADDRESS = """(run) => {
  const address = new URL(location);
  if (address.searchParams.get("run") !== run) for (const name of ["step", "mask"]) address.searchParams.delete(name);
  if (run) address.searchParams.set("run", run); else address.searchParams.delete("run");
  history.replaceState(null, "", address);
}"""


# Actions of the buttons


def start(bench: Workbench, values: Mapping[str, Any], restarts: float | None = 0) -> tuple[str | None, str]:
    """Start or queue a run with the values of the form, and its restarts; return (id, message), or (None, error).

    If a restart cannot be started, the earlier runs are kept, and the message contains the error.
    """
    runs: list[Run] = []
    failed = ""
    try:
        configs = attempts(form.read_form(values), int(restarts or 0))
        for number, config in enumerate(configs, start=1):
            runs.append(bench.jobs.start(config))
            if len(configs) > 1:
                runs[-1].annotate(label=f"{number} of {len(configs)}, seed {config.training.seed}")
    except InputError as error:
        failed = form.in_form_words(str(error)).replace("--restarts", "Restarts")
    if not runs:
        return None, failed
    if failed:
        return runs[0].id, f"Only {len(runs)} of {len(configs)} training runs were started. {failed}"
    if len(runs) == 1:
        return runs[0].id, waiting_words(bench, runs[0].id)
    found = f"{len(runs)} training runs, one after the other, also if this page is closed."
    return runs[0].id, f"{found} {_choice_words(configs[0])}".rstrip()


def _choice_words(config: RunConfig) -> str:
    """Explain how to choose among restarts; empty for a method that does not train and has no validation."""
    if not METHODS[config.method].trains:
        return ""
    info = REGISTRY.get(config.data.task)
    shares = info is None or is_share({"metric": info.metrics[0]})
    what, best = ("accuracy", "highest") if shares else ("cross-entropy", "lowest")
    return f"Select them in Runs to compare their validation {what}, and use the one in which it is {best}."


def waiting_words(bench: Workbench, id: str) -> str:
    """Return the message for a waiting run; empty if it does not wait."""
    place = bench.jobs.waiting.place(id)
    if place is None:
        return ""
    places = bench.jobs.places()
    if (blocked := places.blocker(bench.store.get(id))) is not None:
        device, other = blocked
        return f"Queued: the run {other} is using {device}; this one starts when that one has ended."
    works = {"comparison": bench.comparisons.working, "study": bench.studies.working}
    training = "first training that ends" if places.choice else "running training"
    now = f"the {next((f'running {noun}' for noun, working in works.items() if working()), training)}"
    before = now if place == 0 else f"{place + 1} runs"
    return f"Queued: it starts after {before}, also if this page is closed."


def cancel(bench: Workbench, id: str) -> str:
    """Ask a run to stop, or remove it from the queue; return the message for the user."""
    try:
        waits = bench.jobs.waiting.place(id) is not None
        bench.jobs.cancel(id)
    except InputError as error:
        return str(error)
    if waits:
        return "The run was removed from the queue."
    return "The run stops at its next step and keeps the best edits so far."


def pause(bench: Workbench, id: str) -> str:
    """Ask a run to pause; return the message for the user."""
    try:
        bench.jobs.pause(id)
    except InputError as error:
        return str(error)
    return "The run pauses at its next step. Its memory is freed; Resume continues from there."


def resume(bench: Workbench, id: str) -> str:
    """Resume a run; return the message for the user."""
    try:
        bench.jobs.resume(id)
    except InputError as error:
        return str(error)
    return waiting_words(bench, id)


def cost(bench: Workbench, values: Mapping[str, Any]) -> str:
    """Return the cost of a run with the values of the form, or what is wrong with them, as HTML."""
    try:
        config = form.read_form(values)
        bench.jobs.check(config)
    except InputError as error:
        return markup.note(form.in_form_words(str(error)), "plain")
    facts = estimate.describe(estimate.estimate(config, bench.store))
    short = ", ".join(amount for _, amount, _ in facts)
    return markup.costs(short, [(what, f"{amount}; {why}") for what, amount, why in facts])


def preview(bench: Workbench, values: Mapping[str, Any]) -> tuple[str, str]:
    """Return (examples as the model sees them, empty), or (empty, error)."""
    try:
        config = form.read_form(values)
        bench.jobs.check(config)
        return preview_html(load_preview(config)), ""
    except InputError as error:
        return "", form.in_form_words(str(error))


# The page


@dataclass(frozen=True)
class TrainTab:
    """The components that the app connects with other tabs."""

    view: gr.HTML
    picker: gr.Dropdown
    start: gr.Button
    remembered: gr.BrowserState
    inputs: Mapping[str, gr.components.Component]
    """The fields of the form by the keys of their settings, and ``method``."""
    message: gr.HTML

    def showing(self) -> list[Any]:
        """The outputs of `show`."""
        return [self.view, self.picker, self.start, self.remembered]

    def changing(self) -> list[Any]:
        """The outputs of `refresh`."""
        return [self.picker, self.start]

    def filling(self) -> list[Any]:
        """The outputs of `fill`."""
        return [self.message, *self.inputs.values()]


def show(bench: Workbench, id: str) -> tuple[Any, ...]:
    """Show a run: return updates for `TrainTab.showing`."""
    choices = bench.run_choices(also=(id,))
    picker = gr.Dropdown(choices=choices, value=id if bench.find(id) else None, visible=bool(choices))
    return id, picker, _start_button(bench), id


def refresh(bench: Workbench, id: str) -> tuple[Any, ...]:
    """Update what depends on the states of runs, after that of ``id`` changed; return updates for `TrainTab.changing`.

    The run on the page stays, because another one may have been chosen meanwhile.
    """
    choices = bench.run_choices(also=(id,))
    return gr.Dropdown(choices=choices, visible=bool(choices)), _start_button(bench)


def _start_button(bench: Workbench) -> gr.Button:
    others = bench.comparisons.working() or bench.studies.working()
    full = bench.jobs.full() or bench.jobs.waiting.ids() or others
    return gr.Button("Add to the queue" if full else "Start training", interactive=True)


def fill(tab: TrainTab, config: RunConfig, sentence: str) -> tuple[Any, ...]:
    """Fill settings into the form with a sentence on their origin: return updates for `TrainTab.filling`."""
    values = {setting.key: config[setting.name] for setting in form.settings(config.method)} | {"method": config.method}
    updates = [values.get(key, gr.skip()) for key in tab.inputs]
    return markup.note(sentence, "good"), *("" if value is None else value for value in updates)


def build(bench: Workbench, remembered: gr.BrowserState) -> TrainTab:
    """Lay out the tab and connect its own events."""
    bench.jobs.continue_queue()
    with gr.Row(elem_classes="jw-place"):
        with gr.Column(elem_classes="jw-settings", scale=0):
            inputs, parts = _method_choice()
            inputs |= _fields(advanced=False, parts=parts)
            with gr.Accordion("More settings", open=False, elem_classes="jw-more"):
                inputs |= _fields(advanced=True, parts=parts)
                restarts = gr.Number(
                    0,
                    label="Restarts",
                    info="Train this many more times, with the next training seeds on the same examples. [runs]",
                    precision=0,
                    minimum=0,
                    maximum=MOST,
                    elem_id="setting-restarts",
                    elem_classes=["setting"],
                )
            with gr.Column(elem_classes="jw-go"):
                cost_box = details_box("cost")
                message = gr.HTML("", apply_default_css=False, elem_id="start-message")
                with gr.Row(elem_classes="jw-buttons"):
                    # Disabled until the first response, which would overwrite the result of an earlier click.
                    start_button = gr.Button("Start training", variant="primary", interactive=False, elem_id="start")
                    preview_button = gr.Button("Preview", elem_id="preview-open")
        with gr.Column(elem_classes="jw-work", scale=1):
            picker = gr.Dropdown(
                [], label="Run", container=False, filterable=False, visible=False, elem_id="run-picker"
            )
            view = run_view(bench.followers)
            with gr.Column(visible=False, elem_classes="pv", elem_id="preview") as preview_box:
                with gr.Row(elem_classes="pv-head"):
                    gr.HTML("<h1>Examples as the model will see them</h1>", apply_default_css=False)
                    close_button = gr.Button("Close", size="sm", elem_id="preview-close")
                preview_text = gr.HTML("", apply_default_css=False, elem_id="preview-text")
    parts.connect(inputs["learning_rate"])
    tab = TrainTab(view, picker, start_button, remembered, inputs, message)
    fields = list(inputs.values())
    # Only when a page is opened, because listing the devices takes seconds to import.
    gr.on(None, lambda: gr.Dropdown(choices=[AUTO, *bench.jobs.devices(), CPU]), None, inputs["device"], **PRIVATE)
    address: dict[str, Any] = {"fn": None, "inputs": remembered, "outputs": None, "js": _PUT_RUN_IN_ADDRESS}

    def given(values: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(inputs, values, strict=True))

    def on_start(restarts: float | None, *values: Any) -> tuple[Any, ...]:
        id, sentence = start(bench, given(values), restarts)
        if id is None:  # show the error once, not in place of the cost as well
            return "", markup.note(sentence, "error"), gr.skip(), *[gr.skip()] * len(tab.showing())
        return gr.skip(), markup.note(sentence, "busy"), gr.Column(visible=False), *show(bench, id)

    def on_ended(id: str) -> tuple[Any, ...]:
        return "", *refresh(bench, id)

    def on_began(id: str) -> tuple[Any, ...]:
        return gr.skip(), *refresh(bench, id)

    def on_resume(id: str) -> tuple[Any, ...]:
        return markup.note(resume(bench, id), "busy"), *refresh(bench, id)

    def on_cancel(id: str, event: gr.EventData) -> tuple[Any, ...]:
        return markup.note(cancel(bench, text_of(event, "run") or id), "busy"), *refresh(bench, id)

    def on_open(event: gr.EventData) -> tuple[Any, ...]:
        run = bench.find(text_of(event, "run"))
        return show(bench, run.id) if run is not None else tuple(gr.skip() for _ in tab.showing())

    def on_preview(*values: Any) -> tuple[Any, ...]:
        text, sentence = preview(bench, given(values))
        if not text:
            return markup.note(sentence, "error"), gr.skip(), gr.skip(), gr.skip()
        return "", gr.Column(visible=True), text, cost(bench, given(values))

    changing = [message, *tab.changing()]
    start_button.click(on_start, [restarts, *fields], [cost_box, message, preview_box, *tab.showing()], **PRIVATE).then(
        **address
    )
    preview_button.click(on_preview, fields, [message, preview_box, preview_text, cost_box], api_visibility="private")
    close_button.click(lambda: gr.Column(visible=False), None, preview_box, **PRIVATE)
    gr.on(None, lambda *values: cost(bench, given(values)), fields, cost_box, trigger_mode="always_last", **PRIVATE)
    picker.input(lambda id: show(bench, id), picker, tab.showing(), trigger_mode="always_last", **PRIVATE).then(
        **address
    )
    view.pauserun(lambda id: markup.note(pause(bench, id), "busy"), view, message, **PRIVATE)
    view.resumerun(on_resume, view, changing, **PRIVATE)
    # The queue has a button for each run; a click also counts while the previous one is being processed.
    view.cancelrun(on_cancel, view, changing, trigger_mode="multiple", **PRIVATE)
    # All clicks in their order: "always_last" would repeat the first one of them.
    view.openrun(on_open, None, tab.showing(), trigger_mode="multiple", concurrency_limit=1, **PRIVATE).then(**address)
    view.began(on_began, view, changing, **PRIVATE)
    view.ended(on_ended, view, changing, **PRIVATE)
    return tab


@dataclass
class _MethodParts:
    """Parts of the form that are shown only for some methods."""

    choice: gr.Dropdown
    summary: gr.HTML
    of_methods: list[tuple[str, gr.Column]] = field_(default_factory=list)
    """Names of methods, each with the box of its own settings."""
    of_training: dict[str, gr.components.Component] = field_(default_factory=dict)
    """Settings of training except the learning rate; some methods use only some of them."""

    def connect(self, rate: gr.components.Component) -> None:
        """Show the parts of the chosen method; a learning rate that is still a default changes with it."""

        def on_method(name: str, rate: float | None) -> tuple[Any, ...]:
            chosen = METHODS[name]
            untouched = chosen.trains and rate in {method.learning_rate for method in METHODS.values()}
            shown = gr.update(visible=chosen.trains)
            return (
                method_summary(name),
                {**shown, "value": chosen.learning_rate} if untouched else shown,
                *(gr.Column(visible=own == name) for own, _ in self.of_methods),
                *(gr.update(visible=key not in chosen.unused_settings) for key in self.of_training),
            )

        boxes = [box for _, box in self.of_methods]
        outputs = [self.summary, rate, *boxes, *self.of_training.values()]
        self.choice.change(on_method, [self.choice, rate], outputs, trigger_mode="always_last", **PRIVATE)


def method_summary(name: str) -> str:
    """Return what a method trains and where it was published, as HTML."""
    method = METHODS[name]
    return f'<p class="jw-summary">{markup.escape(method.summary)} <cite>{markup.escape(method.source)}</cite></p>'


def _method_choice() -> tuple[dict[str, gr.components.Component], _MethodParts]:
    """Build the first field of the form: the method."""
    gr.HTML(markup.section(_GROUPS["edits"]), apply_default_css=False)
    method = gr.Dropdown(
        [(method.title, name) for name, method in METHODS.items()],
        value=RunConfig.method,
        label="Method",
        filterable=False,
        elem_id="setting-method",
        elem_classes=["setting", "jw-wide"],
    )
    summary = gr.HTML(method_summary(RunConfig.method), apply_default_css=False, elem_id="method-summary")
    return {"method": method}, _MethodParts(method, summary)


def _fields(*, advanced: bool, parts: _MethodParts) -> dict[str, gr.components.Component]:
    """Build the basic or the advanced fields, by key: those of each method, then the common ones."""
    inputs: dict[str, gr.components.Component] = {}
    for name in METHODS:
        own = [setting for setting in form.settings(name) if setting.method and setting.advanced == advanced]
        if not own:
            continue
        with gr.Column(visible=name == RunConfig.method, elem_classes="jw-method") as box:
            if advanced:
                gr.HTML(markup.section(_GROUPS["edits"]), apply_default_css=False)
            inputs |= {setting.key: field(setting) for setting in own}
        parts.of_methods.append((name, box))
    group = ""
    for setting in form.settings():
        if setting.method or setting.advanced != advanced:
            continue
        if setting.group != group:
            group = setting.group
            gr.HTML(markup.section(_GROUPS[group]), apply_default_css=False)
        inputs[setting.key] = field(setting)
        if setting.group == "training" and setting.key != "learning_rate":
            parts.of_training[setting.key] = inputs[setting.key]
    return inputs
