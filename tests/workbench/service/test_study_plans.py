"""Plans of studies: learning rates, cells and refusals."""

import pytest

from jola.config import RunConfig
from jola.errors import InputError
from workbench.service.study_plan import StudyPlan, grid_settings, learning_rates, size_words

MANY = ",".join(map(str, range(700)))


def test_every_method_has_the_same_number_of_learning_rates() -> None:
    settings, _ = grid_settings(RunConfig())
    chosen = StudyPlan(methods=("lora", "jola", "zero-shot"), tries=3, factor=2.0)
    axes, arms = chosen.expanded(settings)
    rates: dict[str, list[float]] = {}
    for label in axes.arms:
        rates.setdefault(arms[label].method, []).append(arms[label].settings["training"]["learning_rate"])
    assert rates["jola"] == [0.005, 0.0025, 0.01]
    assert sorted(rates["lora"])[1] / sorted(rates["lora"])[0] == pytest.approx(2, rel=0.01)
    # An arm that trains nothing has no learning rates to try.
    assert [label for label in axes.arms if label.startswith("zero")] == ["zero-shot"]
    assert learning_rates(1.0, 5, 10.0) == ["0.01", "0.1", "10", "100"]
    assert size_words(axes, len(list(axes.cells(arms)))) == "19 cells: 7 arms × 3 seeds"


def test_more_learning_rates_keep_the_cells_with_the_default_one() -> None:
    settings, _ = grid_settings(RunConfig())
    names = []
    for tries in (1, 3):
        axes, arms = StudyPlan(methods=("jola",), tries=tries).expanded(settings)
        names.append({cell.name for cell in axes.cells(arms)})
    assert names[0] < names[1]


def test_a_preset_has_the_cells_of_the_command_line() -> None:
    settings, _ = grid_settings(RunConfig())
    for name, cells in (("main", 416), ("components", 36), ("schedules", 24), ("data-size", 72), ("model-size", 72)):
        axes, arms = StudyPlan.of_preset(name).expanded(settings)
        assert len(list(axes.cells(arms))) == cells, name


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (StudyPlan(methods=()), "No method is chosen"),
        (StudyPlan(methods=("jolla",)), "There is no method 'jolla'"),
        (StudyPlan(variants="jola:gate=none"), "'gate' in 'jola:gate=none' is not a setting of jola"),
        (StudyPlan(tasks=()), "No task is chosen"),
        (StudyPlan(tasks=("bo0lq",)), "There is no task, group, folder or file 'bo0lq'"),
        (StudyPlan(models=()), "No model is chosen"),
        (StudyPlan(seeds="4.5"), "Seeds names '4.5'"),
        (StudyPlan(seeds=""), "Seeds is empty"),
        (StudyPlan(train_sizes="many"), "Training examples names 'many'"),
        (StudyPlan(tries=3, factor=1.0), "Factor is 1; it must be above 1"),
        (StudyPlan(tries=2), "Learning rates is 2"),
        (StudyPlan(seeds=MANY, tasks=("commonsense",), tries=3), "the app plans at most 20,000"),
        (StudyPlan(variants="jola:learning_rate=" + "/".join("1" * 1200)), "requires 1,202 arms"),
        (StudyPlan(variants="jola" + ":epochs=1/2/3/4" * 200), "give fewer values in Variants"),
        (StudyPlan(variants="x" * 5000), "Variants is longer than 4,000 characters"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_a_sentence(plan: StudyPlan, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        plan.expanded(grid_settings(RunConfig())[0])
