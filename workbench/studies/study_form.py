"""The form of the Studies tab: methods, learning rates, tasks, seeds, sizes and models, and the shared settings."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import gradio as gr

from jola.config import RunConfig
from jola.data.assets import ASSETS, DEFAULT_MODEL
from jola.data.tasks.registry import GROUPS, REGISTRY
from jola.errors import InputError
from jola.methods import METHODS
from jola.studies.axes import AXES, Arm, Axes, recipe_notes
from jola.studies.estimates import Pace
from jola.studies.grid import Grid
from jola.studies.tables import size_text
from jola.system.formatting import duration_text
from workbench.service.bench import Workbench
from workbench.service.stored_study import StoredStudy
from workbench.service.study_plan import TRIES, StudyPlan, grid_settings, preset_choices, size_words
from workbench.ui import form, markup
from workbench.ui.fields import field, grouped_fields

_BASIC = ("test_size", "epochs")
_LEFT_OUT = {*AXES, "learning_rate", "record_every"}
NEW, SHOWN = "new", "shown"
PLAN_FIELDS = tuple(one.name for one in dataclasses.fields(StudyPlan))
SMALL: dict[str, Any] = {
    "into": NEW, "methods": ["jola", "lora"], "variants": "", "tries": 1, "tasks": ["sentiment"], "train_sizes": "16",
    "seeds": "42, 43", "models": ["default"], "validation_size": 8, "test_size": 16, "epochs": 1,
}  # fmt: skip
"""A first study that takes minutes: it shows how the tab works, not which method is best."""


# Values of the form


def read(values: Mapping[str, Any]) -> tuple[StudyPlan, dict[str, dict[str, Any]], dict[str, Any]]:
    """Return (plan, shared settings, settings without effect on results). Raises `InputError` naming a label."""
    config = form.read_form({name: value for name, value in values.items() if name not in (*PLAN_FIELDS, "into")})
    factor = values.get("factor")
    plan = StudyPlan(
        methods=tuple(values.get("methods") or ()),
        variants=str(values.get("variants") or ""),
        tries=int(values.get("tries") or 1),
        factor=float(factor if factor is not None else 0.0),
        tasks=tuple(map(str, values.get("tasks") or ())),
        train_sizes=str(values.get("train_sizes") or ""),
        seeds=str(values.get("seeds") or ""),
        models=tuple(map(str, values.get("models") or ())),
    )
    return plan, *grid_settings(config)


def into(bench: Workbench, values: Mapping[str, Any], shown: str) -> StoredStudy | None:
    """Return the study to which the cells of the form are added; None for a new one."""
    return bench.studies.get(shown) if values.get("into") == SHOWN and shown else None


def _expanded(
    bench: Workbench, values: Mapping[str, Any], found: StoredStudy | None
) -> tuple[Axes, dict[str, Arm], dict[str, dict[str, Any]], dict[str, Any]]:
    """Return (axes, arms, shared settings, settings without effect on results) of a new study or of new cells.

    Raises `InputError` for invalid values, and for tasks and models that this app may not use.
    """
    plan, settings, neutral = read(values)
    bench.studies.check_names(plan.tasks, plan.models)
    if found is not None:  # a study from a shell can have one learning rate for all methods
        stored = found.grid().content["settings"].get("training", {})
        settings["training"]["learning_rate"] = stored.get("learning_rate")
    return *plan.expanded(settings), settings, neutral


def start(bench: Workbench, values: Mapping[str, Any], shown: str = "") -> tuple[str | None, str]:
    """Plan a study, or add cells to the one shown, and start it; return (id, empty), or (None, error)."""
    try:
        found = into(bench, values, shown)
        axes, arms, settings, neutral = _expanded(bench, values, found)
        if found is not None:
            return bench.studies.extend(found.id, axes, arms, settings).id, ""
        return bench.studies.start(axes, arms, settings, neutral).id, ""
    except InputError as error:
        return None, form.in_form_words(str(error))


def cost(bench: Workbench, values: Mapping[str, Any], shown: str = "") -> str:
    """Return the number of cells of the form and their time, or what is wrong with the form, as HTML."""
    try:
        found = into(bench, values, shown)
        axes, arms, settings, _ = _expanded(bench, values, found)
        names = [cell.name for cell in axes.cells(arms)]
        time = _time_words(found.grid(), names) if found is not None else ", time known once a cell is done"
    except InputError as error:
        return markup.note(form.in_form_words(str(error)), "plain")
    short = f"{size_words(axes, len(names))}{time}"
    if found is not None:
        short = f"Adds to the study shown: {short}"
    rows = [("Arms", ", ".join(axes.arms)), ("Tasks", ", ".join(axes.tasks)), *_sizes_and_seeds(axes)]
    notes = [form.in_form_words(sentence) for sentence in recipe_notes(arms.values(), settings)]
    return markup.costs(short, rows) + "".join(map(markup.note, notes))


def _time_words(grid: Grid, names: list[str]) -> str:
    """Return how many of these cells are new to a study, and the time of the others at the pace of its cells."""
    pace = Pace(grid)
    states = grid.states()
    planned = [name for name in names if name in grid.planned]
    left = [name for name in planned if states[name] not in ("done", "failed")]
    new = len(names) - len(planned)
    known = pace.estimate(left)
    words = f", {new:,} new" if new else ""
    if known.known:
        words += f", about {duration_text(known.seconds)} for the {known.known:,} planned before"
    return words or ", none of them new"


def _sizes_and_seeds(axes: Axes) -> list[tuple[str, str]]:
    return [
        ("Training examples", ", ".join(map(size_text, axes.train_sizes))),
        ("Seeds", ", ".join(map(str, axes.seeds))),
    ]


def more(bench: Workbench, id: str) -> tuple[dict[str, Any], str]:
    """Return the values of the form to add cells to a study, and a sentence for the user. Raises `InputError`."""
    grid = bench.studies.get(id).grid()
    values = plan_values(StudyPlan.of_grid(grid)) | {"into": SHOWN}
    shared = {name: value for group in grid.content["settings"].values() for name, value in group.items()}
    for setting in settings():
        if setting.name in shared:
            values[setting.name] = "" if shared[setting.name] is None else shared[setting.name]
    return (
        values,
        "The form has the axes and settings of this study: tick more methods, or add a task or seeds, and start.",
    )


def plan_values(plan: StudyPlan) -> dict[str, Any]:
    """Return the values of the fields that are axes."""
    values = dataclasses.asdict(plan)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def of_preset(name: str) -> dict[str, Any]:
    """Return the values of a form with the axes of a table or figure of the paper. Raises `InputError`."""
    return plan_values(StudyPlan.of_preset(name)) | {"into": NEW}


# The fields


def settings() -> list[form.Setting]:
    """Return the settings of a run that all arms share."""
    return [one for one in form.settings(RunConfig.method) if one.group != "edits" and one.name not in _LEFT_OUT]


def basic_fields() -> dict[str, gr.components.Component]:
    """Build the fields of the axes and of the most important settings, by name."""
    inputs: dict[str, gr.components.Component] = {}
    gr.HTML(markup.section("Compare methods"), apply_default_css=False)
    inputs["into"] = gr.Radio(
        [("New study", NEW), ("Add to the one shown", SHOWN)], value=NEW, show_label=False, label="Where",
        container=False, elem_id="studies-into", elem_classes="jw-radio",
    )  # fmt: skip
    choices = [(method.title, name) for name, method in METHODS.items()]
    inputs["methods"] = gr.CheckboxGroup(
        choices, value=list(StudyPlan().methods), label="Methods", elem_id="studies-methods", elem_classes="sv-options"
    )
    inputs["tries"] = gr.Dropdown(
        [(str(count), count) for count in TRIES],
        value=1, filterable=False, label="Learning rates",
        info="How many to try for each method, around its default.",
        elem_id="studies-tries", elem_classes="setting",
    )  # fmt: skip
    inputs["factor"] = gr.Number(
        StudyPlan().factor, label="Factor", info="Between neighboring learning rates.", minimum=1, step=0.5,
        elem_id="studies-factor", elem_classes="setting",
    )  # fmt: skip
    inputs["variants"] = _text(
        "Variants",
        "Methods with other settings, such as jola:gates=none, separated by commas.",
        "",
        "variants",
        "sv-wide",
    )
    gr.HTML(markup.section("Data"), apply_default_css=False)
    tasks = [(info.title, info.name) for info in REGISTRY.values()]
    groups = [(f"All {len(names)} tasks of {group}", group) for group, names in GROUPS.items()]
    inputs["tasks"] = _several(
        "Tasks", "From the list, or a file, a folder or hf:owner/name.", [*groups, *tasks], "tasks"
    )
    inputs["train_sizes"] = _text("Training examples", "One number or several; 0 uses all.", "200", "train-sizes")
    inputs["seeds"] = _text("Seeds", "Every arm is trained with each.", StudyPlan().seeds, "seeds")
    for setting in settings():
        if setting.name == "test_size":
            inputs[setting.name] = field(setting, "studies")
    gr.HTML(markup.section("Model and training"), apply_default_css=False)
    models = [(f"{ASSETS[DEFAULT_MODEL].title} (default)", "default")]
    inputs["models"] = _several("Models", "The default, Hub ids or folders.", models, "models")
    for setting in settings():
        if setting.name == "epochs":
            inputs[setting.name] = field(setting, "studies")
    return inputs


def more_fields() -> dict[str, gr.components.Component]:
    """Build the fields of the other shared settings, under the heading of their group."""
    return grouped_fields((setting for setting in settings() if setting.name not in _BASIC), "studies")


def preset_field() -> gr.Dropdown:
    """Build the list of tables and figures of the paper, which fills in the form."""
    return gr.Dropdown(
        [("None", ""), *preset_choices()], value="", filterable=False, label="Preset of the paper",
        info="Fills in the axes of a table or figure.", elem_id="studies-preset", elem_classes=["setting", "jw-wide"],
    )  # fmt: skip


def _several(label: str, help: str, choices: list[tuple[str, str]], name: str) -> gr.Dropdown:
    default = list(getattr(StudyPlan(), name))
    return gr.Dropdown(
        choices, value=default, multiselect=True, allow_custom_value=True, label=label, info=help,
        elem_id=f"studies-{name}", elem_classes=["setting", "jw-wide"],
    )  # fmt: skip


def _text(label: str, help: str, value: str, id: str, *classes: str) -> gr.Textbox:
    return gr.Textbox(
        value, label=label, info=help, max_lines=1, max_length=4000, elem_id=f"studies-{id}",
        elem_classes=["setting", *classes],
    )  # fmt: skip


def given(inputs: Iterable[str], values: Iterable[Any]) -> dict[str, Any]:
    """Return the values of the form by the names of its fields."""
    return dict(zip(inputs, values, strict=True))
