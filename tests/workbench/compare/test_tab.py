"""Actions and contents of the Compare tab, without a browser."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jola.config import DataConfig, RunConfig
from jola.edits.masks import HeadMask
from jola.errors import InputError
from jola.runs.run import Run
from jola.selectors import HeadSet
from jola.studies.results import Comparison
from tests.workbench.compare.compared import OPEN, SHAPE, make_comparison
from tests.workbench.edited import edited_run
from tools import sample_comparison
from workbench.compare import compare_view
from workbench.compare import results as compare_results
from workbench.compare import tab as compare
from workbench.compare.panel import READINGS, Panel
from workbench.service import sample
from workbench.service.bench import Workbench
from workbench.service.comparison_plan import Plan
from workbench.service.comparisons import Comparisons
from workbench.service.jobs import Jobs
from workbench.service.processes import Turns
from workbench.settings import Settings
from workbench.train import tab as train
from workbench.ui import form, work_list

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]
HOSTILE = "<img src=x onerror=alert(1)>"
PLAN = Plan(("jola", "gradient", "random"), ("dsp",), ("auto", "3"), (1, 2))


@pytest.fixture
def bench(bench: Workbench) -> Workbench:
    turns = Turns(bench.store.root)
    comparisons = Comparisons(bench.comparisons.root, turns, SLEEPS, bench.comparisons.check)
    return replace(bench, comparisons=comparisons, jobs=Jobs(bench.store, SLEEPS, turns=turns))


@pytest.fixture
def made(bench: Workbench) -> Comparison:
    return make_comparison(bench.comparisons.root / "one", PLAN)


def draw(bench: Workbench, id: str, view: str = "heads", **choice: Any) -> dict[str, Any]:
    given = {"methods": None, "known": {}, "k": None, "seed": None, "pick": None, "reading": None, **choice}
    return Panel.draw(bench.comparisons.find(id), view, *given.values(), dark=False)


def test_the_form_has_every_setting_of_a_comparison_once() -> None:
    names = [setting.name for setting in compare._settings()]
    assert len(names) == len(set(names))
    assert {"sites", "layers", "heads", "seed"}.isdisjoint(names)
    assert set(compare._BASIC) <= set(names)
    assert set(compare.SMALL) <= {*names, "selectors", "swaps", "ks", "seeds"}


def test_start_stop_resume_and_what_is_told(bench: Workbench) -> None:
    id, sentence = compare.start(bench, {"epochs": 0})
    assert (id, sentence) == (None, "Epochs is 0; it must be at least 1.")
    assert compare.start(bench, {"selectors": ["offset"], "ks": "many"})[1].startswith(
        "K is 'many'; it must be auto, halves or a number"
    )
    id, sentence = compare.start(bench, {"epochs": 1, "selectors": ["offset"], "ks": "3"})
    assert id is not None and sentence == ""
    assert work_list.first(bench.comparisons) == id
    assert "Another comparison is running" in compare.start(bench, compare.SMALL)[1]
    run, words = train.start(bench, {})
    assert run is not None and words.startswith("Queued: it starts after the running comparison")
    train.cancel(bench, run)
    assert "stop it" in work_list.remove(bench.comparisons, id)[1]
    bench.comparisons.stop(id)
    assert bench.comparisons.wait(id, 300)
    bench.comparisons.resume(id)
    bench.comparisons.stop(id)
    assert bench.comparisons.wait(id, 300)
    assert work_list.remove(bench.comparisons, id) == ("", "")
    assert work_list.restore(bench.comparisons, id) == (id, "")
    assert "comparison no longer exists" in work_list.refusal(lambda: bench.comparisons.resume("none"))


def test_the_one_shown_goes_on_when_its_settings_are_in_the_form(bench: Workbench, made: Comparison) -> None:
    values, sentence = compare.more(bench, "one")
    assert sentence.startswith("The form has the settings of this comparison")
    assert (values["selectors"], values["swaps"]) == (["jola", "gradient", "random"], ["dsp"])
    assert (values["ks"], values["seeds"], values["task"]) == ("auto,3", "1,2", "sentiment")
    assert compare.read(values)[1] == PLAN
    # Nothing is left to do; then one selector for each K and seed.
    assert "All of this is done already" in compare.cost(bench, values, "one")
    assert compare.start(bench, values, "one")[0] is None
    wider = values | {"selectors": [*values["selectors"], "offset"]}
    assert "Continues the comparison shown: 4 training runs and 2 selections" in compare.cost(bench, wider, "one")
    assert "22 training runs" in compare.cost(bench, wider) and "22 training runs" in compare.cost(bench, wider, "none")
    assert compare.start(bench, wider, "one") == ("one", "")
    bench.comparisons.stop("one")
    assert bench.comparisons.wait("one", 300)
    # Other settings start another comparison.
    other = wider | {"epochs": 3}
    assert "Continues" not in compare.cost(bench, other, "one")
    id, _ = compare.start(bench, other, "one")
    assert id not in (None, "one")
    bench.comparisons.stop(str(id))
    assert bench.comparisons.wait(str(id), 300)


def test_the_cost_is_told_before_the_start(bench: Workbench) -> None:
    html = compare.cost(bench, compare.SMALL)
    assert "3 training runs and 2 selections, time known after the first training run" in html
    html = compare.cost(bench, compare.SMALL | {"ks": "<b>"})
    assert "<b>" not in html and "K is &#x27;&lt;b&gt;&#x27;" in html


def test_the_home_of_nobody_is_only_a_name(bench: Workbench) -> None:
    for changed in ({"task": "~nobody-here/x.jsonl"}, {"model": "~nobody-here/x"}):
        assert "3 training runs" in compare.cost(bench, compare.SMALL | changed)


def test_a_page_that_others_reach_compares_no_file_of_this_computer(tmp_path: Path) -> None:
    bench = Workbench.from_settings(Settings(host="0.0.0.0", auth="me:secret"))
    for changed in ({"task": str(tmp_path)}, {"model": str(tmp_path)}):
        values = compare.SMALL | changed
        assert "not allowed for this page" in compare.start(bench, values)[1]
        assert "not allowed for this page" in compare.cost(bench, values)
    asked = RunConfig(data=DataConfig(task=str(tmp_path)))
    make_comparison(bench.comparisons.root / "one", config=asked, undone=1)
    assert "not allowed for this page" in work_list.refusal(lambda: bench.comparisons.resume("one"))


def test_the_list_tells_what_is_compared_and_how_far_it_is(bench: Workbench, made: Comparison) -> None:
    make_comparison(bench.comparisons.root / "half", config=RunConfig(data=DataConfig(task=HOSTILE)), undone=2)
    found = compare_view.snapshot(bench.comparisons, "half")
    rows = {row["id"]: row for row in found["list"]}
    assert rows["one"]["words"] == "JoLA's gates, Gradient importance, Random, DSP gates · K auto, 3 · 2 seeds"
    assert (rows["one"]["state"], rows["one"]["done"], rows["one"]["planned"]) == ("finished", 18, 18)
    assert (rows["half"]["state"], rows["half"]["done"], rows["half"]["planned"]) == ("stopped", 5, 7)
    assert found["chosen"]["id"] == "half" and "Resume" in found["chosen"]["message"]
    assert compare_view.snapshot(bench.comparisons, "half")["token"] == found["token"]
    assert compare_view.snapshot(bench.comparisons, "one")["token"] != found["token"]
    assert compare_view.snapshot(bench.comparisons, "../one")["chosen"] is None


def test_the_title_names_few_methods_and_counts_many(bench: Workbench) -> None:
    plan = Plan(("jola", "dsp", "pass", "gradient", "random"), ("dsp", "pass"), ("auto",), (1, 2, 3))
    assert plan.words() == "5 selectors and 2 gate swaps · K auto · 3 seeds"
    make_comparison(bench.comparisons.root / "many", plan)
    row = compare_view.snapshot(bench.comparisons, "many")["chosen"]
    assert row["methods"] == "JoLA's gates, DSP, PASS, Gradient importance, Random, DSP gates, PASS gates"


def test_the_map_has_three_readings(bench: Workbench, made: Comparison) -> None:
    fresh = draw(bench, "one")
    assert fresh["reading"].value == "sets"
    titles = {}
    for reading in READINGS:
        updates = draw(bench, "one", reading=reading, known=fresh["known"], methods=list(PLAN.selectors))
        assert "reading" not in updates, "what is chosen is not sent back"
        titles[reading] = updates["heads_plot"].layout.title.text
        code = json.loads(updates["heads_tools"])["code"].replace(".show()", "")
        *before, last = code.rstrip().split("\n")
        names: dict[str, Any] = {}
        exec("\n".join([*before, f"figure = {last}"]), names)
        assert names["figure"].to_json() == updates["heads_plot"].to_json()
    assert len(set(titles.values())) == 3
    many = Plan(("jola", "dsp", "smp", "gradient", "random"), (), ("3",), (1,))
    make_comparison(bench.comparisons.root / "many", many)
    assert draw(bench, "many")["reading"].value == "agreement"


def test_accuracy_against_k_needs_several_k(bench: Workbench, made: Comparison) -> None:
    assert draw(bench, "one", "accuracy")["by_k"].visible is True
    make_comparison(bench.comparisons.root / "single", Plan(("jola", "random"), (), ("3",), (1, 2)))
    updates = draw(bench, "single", "accuracy")
    assert updates["by_k"].visible is False and "accuracy_plot" not in updates
    assert updates["forest_plot"].data


class TestSample:
    def test_it_is_installed_once_and_shown(self, bench: Workbench) -> None:
        root = bench.comparisons.root
        assert sample.install_comparison(root) == root / sample.SAMPLE_ID
        assert sample.install_comparison(root) is None
        found = compare_view.snapshot(bench.comparisons, work_list.first(bench.comparisons))
        chosen = found["chosen"]
        assert (chosen["id"], chosen["state"], chosen["label"]) == (sample.SAMPLE_ID, "finished", "Sample")
        assert "not which selector is best" in chosen["note"]
        for view in ("heads", "overlap", "accuracy"):
            assert draw(bench, sample.SAMPLE_ID, view)["message"] == ""
        rows = Comparison.open(root / sample.SAMPLE_ID).rows()
        assert {row.seeds for row in rows if row.protocol != "base"} == {3}
        assert all(row.low is not None for row in rows)

    def test_it_has_the_settings_of_its_script_and_is_small(self, bench: Workbench) -> None:
        sample.install_comparison(bench.comparisons.root)
        found = bench.comparisons.get(sample.SAMPLE_ID)
        assert found.has_settings(sample_comparison.settings())
        assert found.plan() == Plan(**vars(sample_comparison.GRID))
        assert sample.COMPARISON_ARCHIVE.stat().st_size < sample_comparison.LARGEST

    def test_the_archive_is_packed_from_its_own_results(self, bench: Workbench, tmp_path: Path) -> None:
        folder = sample.install_comparison(bench.comparisons.root)
        assert folder is not None
        comparison = Comparison.open(folder)
        sample_comparison.pack(comparison, tmp_path / "again.zip")
        words = sample_comparison.check(tmp_path / "again.zip", tmp_path / "unpacked", comparison)
        assert f"{len(comparison.cells())} cells" in words
        (comparison.cell_folder("jola-seed1") / "result.json").unlink()
        with pytest.raises(InputError, match="lacks jola-seed1"):
            sample_comparison.pack(comparison, tmp_path / "again.zip")

    def test_a_deleted_sample_does_not_come_back(self, bench: Workbench) -> None:
        sample.install_comparison(bench.comparisons.root)
        assert work_list.remove(bench.comparisons, sample.SAMPLE_ID) == ("", "")
        assert sample.install_comparison(bench.comparisons.root) is None
        assert bench.comparisons.list() == []
        assert work_list.restore(bench.comparisons, sample.SAMPLE_ID) == (sample.SAMPLE_ID, "")

    def test_a_folder_that_cannot_be_written_does_not_stop_the_app(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("")
        assert sample.install_comparison(tmp_path / "file" / "comparisons") is None
        assert "sample comparison is left out" in caplog.text


def test_nothing_is_shown_of_a_comparison_without_results(bench: Workbench) -> None:
    make_comparison(bench.comparisons.root / "one").cell_folder("base-seed0")
    for path in (bench.comparisons.root / "one").glob("*/*"):
        for file in [path, *path.glob("*")]:
            if file.is_file():
                file.unlink()
    assert set(draw(bench, "one")) == set(draw(bench, "none")) == {"box", "known"}


def test_every_view_is_drawn_with_its_tools(bench: Workbench, made: Comparison) -> None:
    figures = {
        "heads": {"heads": "heads-sets"},
        "overlap": {"overlap": "overlap", "ranks": "ranks", "layers": "layers"},
        "accuracy": {"forest": "accuracy", "accuracy": "accuracy-by-k", "costs": "costs"},
    }
    for view, parts in figures.items():
        updates = draw(bench, "one", view)
        for part, name in parts.items():
            assert updates[f"{part}_plot"].data
            tools = json.loads(updates[f"{part}_tools"])
            assert tools["name"] == name and len(tools["csv"].splitlines()) > 1
            compile(tools["code"], name, "exec")
        assert {name for name in updates if name.endswith("_plot")} == {f"{part}_plot" for part in parts}
    rows = draw(bench, "one", "accuracy")["forest_text"]
    assert rows.count("<tr>") == 1 + 2 + 2 * 4
    assert "40 × 2" in rows and "JoLA</th>" in rows


def test_the_code_of_a_view_draws_it_again(bench: Workbench, made: Comparison) -> None:
    updates = draw(bench, "one", methods=["gradient"], known={"id": "one", "methods": PLAN.selectors}, k="3", seed="2")
    code = (
        json.loads(updates["heads_tools"])["code"].replace(".show()", "").replace("head_sets({", "figure = head_sets({")
    )
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["figure"].to_json() == updates["heads_plot"].to_json()


def test_choices_stay_as_far_as_there_are_such(bench: Workbench, made: Comparison) -> None:
    fresh = draw(bench, "one")
    assert fresh["methods"].value == ["jola", "gradient", "random"]
    assert (fresh["k"].value, fresh["seed"].value) == ("auto", "1")
    choice: dict[str, Any] = {"methods": ["random"], "k": "3", "seed": "2", "pick": "edit-random-k3-seed2"}
    same = draw(bench, "one", **choice, known=fresh["known"])
    # Unchanged choices are not sent back: that would undo choices made before the answer arrives.
    assert {"methods", "k", "seed"}.isdisjoint(same) and "value" not in same["pick"].constructor_args
    assert ("Random", "edit-random-k3-seed2") in same["pick"].choices
    assert set(choice).isdisjoint(draw(bench, "one", **choice, known=same["known"]))
    # A method that was added meanwhile is shown; one that was unticked is not.
    seen = {"id": "one", "methods": ["jola", "random"]}
    assert draw(bench, "one", methods=["random"], known=seen)["methods"].value == ["gradient", "random"]
    other = draw(bench, "one", methods=["random"], known={"id": "two", "methods": []}, k="99", seed="x", pick="../x")
    assert other["methods"].value == ["jola", "gradient", "random"] and other["k"].value == "auto"
    # The set of a selector replaces JoLA's own set as soon as it exists, unless JoLA's was chosen.
    make_comparison(bench.comparisons.root / "begun", undone=6)
    begun = draw(bench, "begun")
    assert begun["pick"].value == "jola-seed42"
    make_comparison(bench.comparisons.root / "begun")
    choice = {"methods": ["jola"], "known": begun["known"], "k": "auto", "seed": "42", "pick": "jola-seed42"}
    later = draw(bench, "begun", **choice)
    assert later["pick"].value == "edit-gradient-kauto-seed42"
    assert "pick" not in draw(bench, "begun", **choice | {"known": later["known"]})
    # If JoLA leaves all heads open, K auto selects all heads, so the next K is shown.
    make_comparison(bench.comparisons.root / "all", jola_open=SHAPE[0] * SHAPE[1])
    assert draw(bench, "all")["k"].value == "3"


def test_a_damaged_result_is_a_sentence(bench: Workbench, made: Comparison) -> None:
    (made.cell_folder("jola-seed1") / "result.json").write_text('{"format": 99}')
    updates = draw(bench, "one")
    assert "result.json is not valid: format is 99" in updates["message"]


def test_a_set_trains_with_the_settings_of_its_comparison(bench: Workbench, made: Comparison) -> None:
    config, sentence = compare.training_on(bench, "one", "edit-gradient-k3-seed2")
    heads = made.head_sets(2, "3")["gradient"]
    assert config.validate().edits.heads == heads.to_text() and config.edits.gates == "none"
    assert config.training.seed == 2 and config.data.train_size == 200
    assert sentence.startswith("The form is filled in: 3 heads of Gradient importance (K 3, seed 2)")
    # Reading the form returns the same settings.
    values = {setting.name: config[setting.name] for setting in form.settings()}
    assert form.read_form({name: "" if value is None else value for name, value in values.items()}) == config
    for pick in (None, "base-seed0", "../x"):
        with pytest.raises(InputError, match="Choose a set of heads first"):
            compare.training_on(bench, "one", pick)


def test_a_set_is_a_mask_in_a_run_of_the_same_shape(bench: Workbench, tiny_folder: Path) -> None:
    make_comparison(bench.comparisons.root / "one", shape=(3, 4))
    make_comparison(bench.comparisons.root / "other")
    with pytest.raises(InputError, match="No run has edits yet"):
        compare.mask_for(bench, "one", "jola-seed42", "")
    first, second = (edited_run(bench.store.root / id, tiny_folder) for id in ("first", "second"))
    assert isinstance(first, Run)
    id, mask = compare.mask_for(bench, "one", "edit-gradient-k3-seed42", "first")
    assert id == "first" and mask.startswith("heads:1")
    chosen = HeadMask.from_text(mask.removeprefix("heads:"), 3, 4)
    assert chosen.counts().on == 6 and chosen.counts().total == 24
    assert compare.mask_for(bench, "one", "jola-seed42", "gone")[0] in (first.id, second.id)
    with pytest.raises(InputError, match="6 layers of 4 heads, but no run here has that shape"):
        compare.mask_for(bench, "other", "jola-seed42", "first")


def test_a_set_can_be_taken_along_as_json(bench: Workbench, made: Comparison) -> None:
    updates = draw(bench, "one", pick="jola-seed1", known={"id": "one", "methods": []})
    taken = HeadSet.from_dict(json.loads(json.loads(updates["set_tools"])["json"]))
    assert taken == made.head_sets(1, "auto")["jola"] and len(taken) == OPEN
    assert f"{OPEN} heads of 24" in updates["set_text"] and taken.to_text() in updates["set_text"]
    found = bench.comparisons.get("one")
    picks = compare_results.results_of(found.folder, found.mark()).picks(1, "auto")
    assert picks[0] == ("JoLA: heads with an open gate", "jola-seed1")
    assert ("DSP gates", "swap-dsp-kauto-seed1") in picks
