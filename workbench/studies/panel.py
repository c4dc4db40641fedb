"""The results of a study on the page: tables, scores by number of training examples, and Pareto figures."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from jola.errors import InputError
from jola.studies.tables import TABLES, size_text
from workbench.figures.studies import COSTS
from workbench.service.stored_study import StoredStudy
from workbench.studies import results as made
from workbench.ui import markup
from workbench.ui.view_tools import view_tools

VIEWS = ("tables", "sizes", "pareto")
_TABLE_TITLES = {"results": "Results", "tasks": "By task", "sizes": "By training examples", "models": "By model"}
TABLE_CHOICES = [(_TABLE_TITLES.get(name, name.capitalize()), name) for name in (*TABLES, "methods", "cells")]
_FIRST = "first"
"""Choice in the list of metrics: the first metric of each task."""


@dataclass(frozen=True)
class Panel:
    """The components; `draw` returns updates by the names of these fields."""

    box: gr.Column
    message: gr.HTML
    best: gr.Checkbox
    metric: gr.Dropdown
    task: gr.Dropdown
    model: gr.Dropdown
    size: gr.Dropdown
    cost: gr.Dropdown
    tabs: Mapping[str, gr.Tab]
    view: gr.State
    """Name of the visible view."""
    dark: gr.Checkbox
    table: gr.Radio
    table_text: gr.HTML
    table_tools: gr.HTML
    sizes_plot: gr.Plot
    sizes_tools: gr.HTML
    pareto_plot: gr.Plot
    pareto_tools: gr.HTML

    def choices(self) -> list[Any]:
        """The inputs of `draw` after the study."""
        return [self.view, self.best, self.metric, self.task, self.model, self.size, self.cost, self.table]

    def outputs(self) -> list[Any]:
        """The components that `draw` may change."""
        still = ("tabs", "dark", "best", "cost", "table")
        return [getattr(self, field.name) for field in fields(self) if field.name not in still] + [self.cost]

    def by_component(self, updates: Mapping[str, Any]) -> dict[Any, Any]:
        """Return the updates of `draw`, by component."""
        return {getattr(self, name): update for name, update in updates.items()}

    @staticmethod
    def draw(
        study: StoredStudy | None, view: str, best: bool, metric: Any, task: Any, model: Any, size: Any, cost: Any,
        table: Any, *, dark: bool,
    ) -> dict[str, Any]:  # fmt: skip
        """Return updates by name that show a study in one of `VIEWS`; choices that it does not offer are replaced."""
        if study is None or not study.mark():
            return {"box": gr.Column(visible=False)}
        try:
            found = made.results_of(study, best=bool(best))
            if metric in found.metrics:
                found = made.results_of(study, metric, best=bool(best))
        except InputError as error:
            return {"box": gr.Column(visible=True), "message": markup.note(str(error), "error")}
        tasks, models, sizes = found.tasks(), found.models(), found.sizes()
        task = task if task in [name for _, name in tasks] else tasks[0][1]
        model = model if model in [name for _, name in models] else models[0][1]
        size = size if size in sizes else sizes[-1]
        metrics = [("The first of each task", _FIRST), *((name.replace("_", " "), name) for name in found.metrics)]
        drawing = view in ("sizes", "pareto")
        updates: dict[str, Any] = {
            "box": gr.Column(visible=True),
            "message": "",
            "metric": gr.Dropdown(
                choices=metrics, value=metric if metric in found.metrics else _FIRST, visible=len(found.metrics) > 1
            ),
            "task": gr.Dropdown(choices=tasks, value=task, visible=drawing and len(tasks) > 1),
            "model": gr.Dropdown(choices=models, value=model, visible=drawing and len(models) > 1),
            "size": gr.Dropdown(
                choices=[(size_text(int(one)), one) for one in sizes],
                value=size,
                visible=view == "pareto" and len(sizes) > 1,
            ),
            "cost": gr.Dropdown(visible=view == "pareto"),
        }
        if view == "sizes":
            drawn = made.sizes_view(found, task, model, dark=dark)
            updates |= {"sizes_plot": drawn.figure, "sizes_tools": drawn.tools}
        elif view == "pareto":
            cost = cost if cost in COSTS else next(iter(COSTS))
            drawn = made.pareto_view(found, task, model, int(size), cost, dark=dark)
            updates |= {"pareto_plot": drawn.figure, "pareto_tools": drawn.tools}
        else:
            name = table if table in dict(TABLE_CHOICES).values() else "results"
            text, tools = made.table_view(found, name)
            updates |= {"table_text": text, "table_tools": tools}
        return updates


def build_results() -> Panel:
    """Build the components, hidden until there is a study."""
    parts: dict[str, Any] = {}
    with gr.Column(visible=False, elem_id="studies-results") as box:
        parts["message"] = gr.HTML("", apply_default_css=False, elem_id="studies-results-message")
        parts["view"] = gr.State("tables")
        parts["dark"] = gr.Checkbox(visible=False, label="Dark")
        with gr.Row(elem_classes="sv-choice"):
            parts["best"] = gr.Checkbox(
                False,
                label="One arm per method",
                info="The one that validation chooses.",
                elem_id="studies-best",
            )
            parts["metric"] = _list("Metric", "metric")
            parts["task"] = _list("Task", "task")
            parts["model"] = _list("Model", "model")
            parts["size"] = _list("Training examples", "size")
            costs = [(axis.title, name) for name, axis in COSTS.items()]
            parts["cost"] = _list("Cost", "cost", choices=costs, value=costs[0][1])
        with gr.Tabs(elem_id="studies-views", elem_classes="jw-views"):
            with gr.Tab("Tables", id="tables") as tables, gr.Column(elem_classes="jw-view"):
                parts["table"] = gr.Radio(
                    TABLE_CHOICES, value="results", show_label=False, label="Table", container=False,
                    elem_id="studies-table", elem_classes="jw-radio",
                )  # fmt: skip
                parts["table_tools"] = view_tools("studies-table-tools")
                parts["table_text"] = gr.HTML("", apply_default_css=False, elem_id="studies-table-text")
            with gr.Tab("Data size", id="sizes") as sizes, gr.Column(elem_classes="jw-view"):
                _figure(parts, "sizes")
            with gr.Tab("Pareto", id="pareto") as pareto, gr.Column(elem_classes="jw-view"):
                _figure(parts, "pareto")
    return Panel(box=box, tabs=dict(zip(VIEWS, (tables, sizes, pareto), strict=True)), **parts)


def _list(label: str, name: str, **options: Any) -> gr.Dropdown:
    given = {"choices": [], "visible": False, **options}
    return gr.Dropdown(label=label, filterable=False, elem_id=f"studies-show-{name}", **given)


def _figure(parts: dict[str, Any], name: str) -> None:
    parts[f"{name}_plot"] = gr.Plot(show_label=False, elem_id=f"studies-{name}-plot")
    parts[f"{name}_tools"] = view_tools(f"studies-{name}-tools")
