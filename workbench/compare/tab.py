"""The Compare tab: selections of heads compared with JoLA's. Form on the left, comparisons and results on the right."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import gradio as gr

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.run import Run
from workbench.compare.compare_view import compare_view
from workbench.compare.panel import Panel, build_results
from workbench.service import estimate
from workbench.service.bench import Workbench
from workbench.service.comparison_plan import LEFT_OUT, METHODS, SWAPS, Plan, SelectorInfo, cost_words
from workbench.service.comparisons import ALL_DONE
from workbench.service.stored_comparison import StoredComparison
from workbench.ui import form, markup, work_list
from workbench.ui.details import details_box
from workbench.ui.events import DARK, PRIVATE, said
from workbench.ui.fields import GROUP_TITLES, field, grouped_fields

_BASIC = ("model", "task", "train_size", "test_size", "epochs", "l0_weight")
_PLAN = ("selectors", "swaps", "ks", "seeds")
SMALL: dict[str, Any] = {
    "train_size": 16, "validation_size": 8, "test_size": 16, "epochs": 1, "selectors": ["gradient", "offset"],
    "swaps": [], "ks": "16", "seeds": "42",
}  # fmt: skip
"""A first comparison that takes minutes: it shows how the tab works, not which selector is best."""


# Actions of the buttons


def read(values: Mapping[str, Any]) -> tuple[RunConfig, Plan]:
    """Read the settings and the plan from the form. Raises `InputError`, which names the field by its label."""
    config = form.read_form({name: value for name, value in values.items() if name not in _PLAN})
    plan = Plan.read(
        values.get("selectors") or (), values.get("swaps") or (), values.get("ks", "auto"), values.get("seeds", "42")
    )
    return config, plan


def start(bench: Workbench, values: Mapping[str, Any], shown: str = "") -> tuple[str | None, str]:
    """Start a comparison with the values of the form, or continue the one shown if it has the same settings.

    Returns (id, empty), or (None, error).
    """
    try:
        config, plan = read(values)
        heads = _heads_of(config)
        if before := _with_settings(bench, shown, config):
            return bench.comparisons.extend(before.id, plan, heads).id, ""
        return bench.comparisons.start(config, plan, heads).id, ""
    except InputError as error:
        return None, form.in_form_words(str(error))


def more(bench: Workbench, id: str) -> tuple[dict[str, Any], str]:
    """Return the values of the form to continue a comparison, and a sentence for the user. Raises `InputError`."""
    found = bench.comparisons.get(id)
    config, plan = found.config(), found.plan()
    names = [setting.name for setting in _settings()]
    values = {name: "" if config[name] is None else config[name] for name in names}
    values |= {
        "selectors": [name for name in plan.selectors if name in METHODS],
        "swaps": [name for name in plan.swaps if name in SWAPS],
        "ks": ",".join(plan.ks),
        "seeds": ",".join(map(str, plan.seeds)),
    }
    sentence = "The form has the settings of this comparison: tick more selectors, or add a K or a seed, and start."
    return values, sentence


def _with_settings(bench: Workbench, id: str, config: RunConfig) -> StoredComparison | None:
    """Return the comparison with this id if it has these settings, otherwise None."""
    found = bench.comparisons.find(id)
    return found if found is not None and found.has_settings(config) else None


def cost(bench: Workbench, values: Mapping[str, Any], shown: str = "") -> str:
    """Return the cost of a comparison, or why it cannot be started, as HTML."""
    try:
        config, plan = read(values)
        bench.comparisons.check(config)
        plan.check(config, _heads_of(config))
    except InputError as error:
        return markup.note(form.in_form_words(str(error)), "plain")
    one = estimate.estimate(config, bench.store)
    before = _with_settings(bench, shown, config)
    done = before.ended_cells() if before is not None else {}
    if before is not None and not plan.missing(done):
        return markup.note(ALL_DONE, "plain")
    short, known = cost_words(plan, one.seconds, config.training.epochs, done)
    if before is not None:
        short = f"Continues the comparison shown: {short}"
    rows = [
        ("Time", known),
        *((what, f"{much}; {why}") for what, much, why in estimate.describe(one) if what != "Time"),
    ]
    return markup.costs(short, rows)


def _heads_of(config: RunConfig) -> int | None:
    """Return the number of heads of the model; None if it is not on this disk."""
    facts = estimate.find_model(config.model.model, config.model.revision)
    return facts.geometry.num_layers * facts.geometry.num_heads if facts is not None else None


# One set of heads, in other tabs


def training_on(bench: Workbench, id: str, pick: str | None) -> tuple[RunConfig, str]:
    """Return settings that train a set of heads without gates, and a sentence on its origin. Raises `InputError`."""
    found, cell, _ = _picked(bench, id, pick)
    config = found.config()
    edits = dataclasses.replace(cell.heads.edit_config(config.edits), gates="none")
    training = dataclasses.replace(config.training, seed=cell.seed)
    # The other objective weighs gates, which do not exist here.
    training = dataclasses.replace(training, objective="paper")
    sentence = (
        f"The form is filled in: {len(cell.heads):,} heads of {_whose(cell)}, without gates. Start training then edits "
        "only these heads."
    )
    return dataclasses.replace(config, edits=edits, training=training), sentence


def mask_for(bench: Workbench, id: str, pick: str | None, shown: str) -> tuple[str, str]:
    """Return (run, mask) to show a set in the Playground: the run shown there, or the newest one of the same shape.

    Raises `InputError` if no run fits.
    """
    _, cell, _ = _picked(bench, id, pick)
    heads = cell.heads
    before = bench.find(shown)
    runs = [*([before] if before is not None and before.has_adapter else []), *_usable(bench)]
    if not runs:
        raise InputError("No run has edits yet; train one first, then load the heads as its mask.")
    run = next((run for run in runs if _shape_of(run) == heads.shape), None)
    if run is None:
        raise InputError(
            f"These heads belong to a model with {heads.layers} layers of {heads.heads} heads, but no run here has "
            "that shape; train one with this model first."
        )
    return run.id, f"heads:{heads.mask().to_text()}"


def _picked(bench: Workbench, id: str, pick: str | None) -> tuple[StoredComparison, Any, Any]:
    """Return (comparison, cell of the set, all results)."""
    from workbench.compare import results as compare_results  # imports PyTorch, which the page does not need at startup

    found = bench.comparisons.get(id)
    results = compare_results.results_of(found.folder, found.mark())
    return found, results.picked(str(pick)), results


def _whose(cell: Any) -> str:
    from workbench.compare.results import pick_words

    name = "JoLA" if cell.protocol == "jola" else pick_words(cell)
    return f"{name} ({f'K {cell.k}, ' if cell.k else ''}seed {cell.seed})"


def _usable(bench: Workbench) -> list[Run]:
    found = (bench.find(id) for _, id in bench.run_choices(with_adapter=True))
    return [run for run in found if run is not None]


def _shape_of(run: Run) -> tuple[int, int] | None:
    """Return (layers, heads) of a run that edits heads; None for other and damaged runs."""
    from workbench.service.page_state import edits_of

    try:
        edits = edits_of(run).get("heads")
    except InputError:
        return None
    return (edits.layers, edits.units) if edits is not None else None


# The page


@dataclasses.dataclass(frozen=True)
class CompareTab:
    """The components that the app connects with other tabs."""

    view: gr.HTML
    start: gr.Button
    panel: Panel

    def showing(self) -> list[Any]:
        """The outputs of `show`."""
        return [self.view, self.start]

    def set(self) -> list[Any]:
        """The inputs of `training_on` and `mask_for`: the comparison, and the set that is chosen in it."""
        return [self.view, self.panel.pick]


def show(bench: Workbench, asked: str | None) -> tuple[Any, ...]:
    """Show a comparison: return updates for `CompareTab.showing`."""
    return work_list.first(bench.comparisons, asked), gr.Button(interactive=True)


def build(bench: Workbench, place: gr.Tab) -> CompareTab:
    """Lay out the tab and connect its own events."""
    with gr.Row(elem_classes="jw-place"):
        with gr.Column(elem_classes="jw-settings", scale=0):
            inputs = _basic_fields()
            with gr.Accordion("More settings", open=False, elem_classes="jw-more"):
                inputs |= _more_fields()
            with gr.Column(elem_classes="jw-go"):
                cost_box = details_box("compare-cost")
                message = gr.HTML("", apply_default_css=False, elem_id="compare-message")
                with gr.Row(elem_classes="jw-buttons"):
                    # Disabled until the first response, which would overwrite the result of an earlier click.
                    start_button = gr.Button(
                        "Start comparison", variant="primary", interactive=False, elem_id="compare-start"
                    )
        with gr.Column(elem_classes=["jw-work", "jw-compare"], scale=1):
            view = compare_view(bench.comparisons)
            panel = build_results()
    tab = CompareTab(view, start_button, panel)
    fields = list(inputs.values())
    events: Any = view

    def given(values: Iterable[Any]) -> dict[str, Any]:
        return dict(zip(inputs, values, strict=True))

    def on_start(shown: str, *values: Any) -> tuple[Any, ...]:
        id, sentence = start(bench, given(values), shown)
        if id is None:  # show the error once, not in place of the cost as well
            return gr.skip(), markup.note(sentence, "error"), ""
        return id, "", gr.skip()

    def on_cost(shown: str, *values: Any) -> str:
        return cost(bench, given(values), shown)

    def on_small() -> list[Any]:
        return [SMALL.get(name, gr.skip()) for name in inputs]

    def on_more(id: str) -> list[Any]:
        try:
            values, sentence = more(bench, id)
        except InputError as error:
            return [markup.note(str(error), "error"), *(gr.skip() for _ in inputs)]
        return [markup.note(sentence, "good"), *(values[name] for name in inputs)]

    start_button.click(on_start, [view, *fields], [view, message, cost_box], **PRIVATE)
    changes = [change for one in fields if (change := getattr(one, "change", None)) is not None]
    costing: dict[str, Any] = {"fn": on_cost, "inputs": [view, *fields], "outputs": cost_box, **PRIVATE}
    gr.on([place.select, *changes], trigger_mode="always_last", **costing)
    events.redraw(trigger_mode="always_last", **costing)  # another comparison is shown, or it has new results
    events.more(on_more, view, [message, *fields], **PRIVATE)
    events.small(on_small, None, fields, **PRIVATE)
    work_list.connect(view, message, bench.comparisons)
    _connect_results(bench, view, panel)
    return tab


def _connect_results(bench: Workbench, view: gr.HTML, panel: Panel) -> None:
    """Redraw for new results, and when another view, method, K, seed or set is chosen."""
    # One at a time, so that the figure of an earlier choice does not arrive last.
    drawing = {"concurrency_limit": 1, "concurrency_id": "draw compare"}
    always = {**PRIVATE, "trigger_mode": "always_last", **drawing}
    chosen = [view, panel.view, panel.methods, panel.known, panel.k, panel.seed, panel.pick, panel.reading]

    def draw(id: str, *choice: Any, dark: bool) -> dict[Any, Any]:
        return panel.by_component(panel.draw(bench.comparisons.find(id), *choice, dark=dark))

    # Gradio passes the event only to listeners with this annotation, which it does not find after `*choice`.
    def on_news(
        id: str,
        view: str,
        methods: Sequence[str],
        known: Any,
        k: str,
        seed: Any,
        pick: str,
        reading: str,
        event: gr.EventData,
    ) -> dict[Any, Any]:
        return draw(id, view, methods, known, k, seed, pick, reading, dark=bool(said(event).get("dark")))

    def on_choice(id: str, *choice: Any) -> dict[Any, Any]:
        *rest, dark = choice
        return draw(id, *rest, dark=bool(dark))

    events: Any = view
    events.redraw(on_news, chosen, panel.outputs(), **always)
    gr.on(
        [panel.methods.input, panel.k.input, panel.seed.input, panel.pick.input, panel.reading.input],
        on_choice,
        [*chosen, panel.dark],
        panel.outputs(),
        js=DARK,
        **always,
    )
    for name, tab in panel.tabs.items():

        def on_view(id: str, _: str, *choice: Any, name: str = name) -> dict[Any, Any]:
            *rest, dark = choice
            return {**draw(id, name, *rest, dark=bool(dark)), panel.view: name}

        tab.select(on_view, [*chosen, panel.dark], panel.outputs(), js=DARK, **always)


def _settings() -> list[form.Setting]:
    """Return the settings of a run that a comparison has; gates cannot be disabled, because they are compared."""
    found = [setting for setting in form.settings() if setting.name not in LEFT_OUT]
    return [
        dataclasses.replace(setting, kind=Literal["two", "shared"]) if setting.name == "gates" else setting
        for setting in found
    ]


def _basic_fields() -> dict[str, gr.components.Component]:
    """Build the fields of the most important settings and of the plan, by name."""
    settings = {setting.name: setting for setting in _settings()}
    inputs: dict[str, gr.components.Component] = {}
    group = ""
    for name in _BASIC:
        if settings[name].group != group:
            group = settings[name].group
            gr.HTML(markup.section(GROUP_TITLES[group]), apply_default_css=False)
        inputs[name] = field(settings[name], "compare")
    gr.HTML(markup.section("Comparison"), apply_default_css=False)
    inputs["selectors"] = _options(
        "Selectors",
        "Each selects K heads; edits are then trained on these heads only.",
        METHODS,
        Plan().selectors,
        "selectors",
    )
    inputs["ks"] = _text(
        "K (heads)",
        "Comma-separated; 'auto': as many heads as JoLA leaves open; 'halves': as many offsets and scales.",
        "auto,16",
        "k",
    )
    inputs["seeds"] = _text(
        "Seeds", "For data, edits and selectors, comma-separated; everything is repeated for each.", "42", "seeds"
    )
    inputs["swaps"] = _options(
        "Gate swaps",
        "Edits of all heads, trained with the gates of another method instead of JoLA's.",
        SWAPS,
        (),
        "swaps",
    )
    return inputs


def _options(
    label: str, help: str, methods: Mapping[str, SelectorInfo], chosen: Sequence[str], id: str
) -> gr.CheckboxGroup:
    # The style sheet shows the first line as a title and the second one as an explanation.
    choices = [(f"{method.title}\n{method.line}", name) for name, method in methods.items()]
    return gr.CheckboxGroup(
        choices, value=list(chosen), label=label, info=help, elem_id=f"compare-{id}", elem_classes="cv-options"
    )


def _text(label: str, help: str, value: str, id: str) -> gr.Textbox:
    return gr.Textbox(
        value, label=label, info=help, max_lines=1, max_length=400, elem_id=f"compare-{id}", elem_classes=["setting"]
    )


def _more_fields() -> dict[str, gr.components.Component]:
    """Build the fields of the other settings, under the heading of each group."""
    return grouped_fields((setting for setting in _settings() if setting.name not in _BASIC), "compare")
