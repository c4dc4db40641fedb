"""Folders of studies: opened, refused, listed and deleted; and the facts of their cells."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jola.errors import InputError
from jola.runs.run import Run
from jola.studies.axes import checked_axes, expand_arms
from jola.system.processes import at_work
from tests.jola.studies.grids import SETTINGS, fill, plan, result
from tests.workbench.service.study_programs import SLEEPS, Make, makes
from workbench.service.bench import Workbench
from workbench.service.stored_study import StoredStudy
from workbench.service.study_matrix import Matrix, cell_facts
from workbench.settings import Settings
from workbench.studies.study_view import StudyViews


def test_a_grid_of_the_command_line_is_opened_and_stays_where_it_is(studies: Make, tmp_path: Path) -> None:
    one = studies(makes())
    grid = plan(tmp_path / "elsewhere" / "first", ["siqa"], ["jola"], [1])
    found = one.open(str(grid.folder))
    assert found.folder == grid.folder and found.opened and one.open(str(grid.folder)).id == found.id
    assert [study.id for study in one.list()] == [found.id]
    with at_work(grid.folder):  # a shell that runs the grid does not prevent removing it from the list
        assert found.row()["removable"]
    one.remove(found.id)
    assert one.list() == [] and (grid.folder / "grid.json").exists()
    assert one.restore(found.id).folder == grid.folder
    one.resume(found.id)
    assert one.wait(found.id, 300)
    assert found.state()[0] == "finished"
    grid.folder.rename(tmp_path / "moved")
    state, message = found.state()
    assert state == "damaged" and "no longer contains a grid" in message
    assert StudyViews(one).snapshot(found.id)[1]


def test_folders_of_something_else_are_refused_and_not_listed(studies: Make, tmp_path: Path) -> None:
    one = studies(SLEEPS)
    (tmp_path / "empty").mkdir()
    newer = plan(tmp_path / "newer", ["siqa"], ["jola"], [1]).folder / "grid.json"
    newer.write_text(json.dumps({**json.loads(newer.read_text()), "format": 2}))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "grid.json").write_text("[1, 2")
    for folder, words in (
        ("", "The folder is empty"),
        (str(tmp_path / "nowhere"), "no grid"),
        (str(tmp_path / "empty"), "no grid"),
        (str(newer.parent), "newer version"),
        (str(broken), "grid.json"),
    ):
        with pytest.raises(InputError, match=words):
            one.open(folder)
    assert one.list() == [] and sorted(path.name for path in broken.iterdir()) == ["grid.json"]


def test_an_opened_grid_reports_to_no_tracker(studies: Make, tmp_path: Path) -> None:
    one = studies(makes())
    grid = plan(tmp_path / "elsewhere", ["siqa"], ["jola"], [1])
    content = json.loads((grid.folder / "grid.json").read_text())
    content["neutral"] = {"report_to": "wandb"}
    damage_setting(content, "training", "report_to", "tensorboard")
    (grid.folder / "grid.json").write_text(json.dumps(content))
    found = one.open(str(grid.folder))
    with pytest.raises(InputError, match="reports to the experiment tracker 'wandb'"):
        one.resume(found.id)
    arms = expand_arms(["jola"], SETTINGS)
    with pytest.raises(InputError, match="reports to the experiment tracker 'wandb'"):
        one.extend(found.id, checked_axes(arms, ["siqa"], [8], [2], ["default"]), arms, SETTINGS)
    content["neutral"] = {}
    (grid.folder / "grid.json").write_text(json.dumps(content))
    (config,) = (found.grid().config(name) for name in found.grid().planned)
    assert config.training.report_to == "none"
    one.resume(found.id)
    assert one.wait(found.id, 300) and found.state()[0] == "finished"


def test_an_opened_study_is_not_removed_while_the_app_works_on_it(studies: Make, tmp_path: Path) -> None:
    one = studies(SLEEPS)
    found = one.open(str(plan(tmp_path / "elsewhere", ["siqa"], ["jola"], [1]).folder))
    one.resume(found.id)
    assert not found.row()["removable"]
    with pytest.raises(InputError, match="running; stop it"):
        one.remove(found.id)
    assert one.find(found.id) is found


@pytest.mark.parametrize("folder", ["~nosuchuser/x", "\ud800", "~\ud800", "/" + "x" * 5000])
def test_texts_that_are_no_folder_are_a_sentence(studies: Make, folder: str) -> None:
    with pytest.raises(InputError, match="contains no grid; give the path of a folder"):
        studies(SLEEPS).open(folder)


def damage_arm(content: dict[str, Any], **changes: Any) -> None:
    for arm in content["arms"].values():
        arm["settings"] |= changes


def damage_setting(content: dict[str, Any], group: str, name: str, value: Any) -> None:
    content["arms"]["jola"]["settings"][group][name] = value


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "it plans the arm 'jola'": lambda content: content.update(arms={}),
    "of the method 'new', which this version does not have": lambda content: damage_arm(content, method="new"),
    "of the method {}, which": lambda content: damage_arm(content, method={}),
    "has no settings of edits": lambda content: damage_arm(content, edits="x"),
    "in the arm 'jola', --epochs is '3'; it must be of type int": lambda content: damage_setting(
        content, "training", "epochs", "3"
    ),
    "in the arm 'jola', --epochs is -3; it must be at least 1": lambda content: damage_setting(
        content, "training", "epochs", -3
    ),
    "in the arm 'jola', --gates is 'many'; choose one of": lambda content: damage_setting(
        content, "edits", "gates", "many"
    ),
    "in the arm 'jola', --revision is '../x'": lambda content: damage_setting(content, "model", "revision", "../x"),
    "in the arm 'jola', Unknown setting evil in data": lambda content: damage_setting(content, "data", "evil", 1),
    "in settings, --dtype is 3": lambda content: content["settings"]["model"].update(dtype=3),
    "in neutral, --record-every is 0": lambda content: content["neutral"].update(record_every=0),
    "epochs is in neutral, and changes results": lambda content: content["neutral"].update(epochs=3),
    "plans.0.seeds.0 is 4294967296": lambda content: content["plans"][0].update(seeds=[2**32]),
    "plans.0.extra": lambda content: content["plans"][0].update(extra=[1]),
    "plans.0.seeds is": lambda content: content["plans"][0].update(seeds=[]),
    "plans is": lambda content: content.update(plans=[]),
    "but the app shows at most 200,000": lambda content: content["plans"][0].update(seeds=list(range(200_001))),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_grid_is_refused_and_the_other_studies_are_shown(studies: Make, words: str) -> None:
    one = studies(SLEEPS)
    plan(one.root / "good", ["siqa"], ["jola"], [1])
    grid = plan(one.root / "bad", ["siqa"], ["jola"], [1])
    content = json.loads((grid.folder / "grid.json").read_text())
    DAMAGES[words](content)
    (grid.folder / "grid.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=re.escape(words)):
        one.open(str(grid.folder))
    rows = json.loads(StudyViews(one).snapshot("bad")[1])["list"]
    assert {row["id"]: row["state"] for row in rows} == {"good": "planned", "bad": "damaged"}
    one.remove("bad")
    assert [found.id for found in one.list()] == ["good"]


def test_a_study_that_cannot_be_read_for_any_reason_hides_no_other(
    studies: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: StoredStudy) -> str:
        if self.id == "bad":
            raise KeyError("x")
        return "A title"

    one = studies(SLEEPS)
    for name in ("good", "bad"):
        plan(one.root / name, ["siqa"], ["jola"], [1])
    monkeypatch.setattr(StoredStudy, "title", broken)
    view = json.loads(StudyViews(one).snapshot("bad")[1])
    assert {row["id"]: row["state"] for row in view["list"]} == {"good": "planned", "bad": "damaged"}
    assert "cannot be read (KeyError)" in view["chosen"]["message"]


def test_only_studies_that_exist_are_kept_in_memory(studies: Make) -> None:
    one = studies(SLEEPS)
    plan(one.root / "mine", ["siqa"], ["jola"], [1])
    assert one.find("mine") is one.find("mine")
    assert not any(one.find(f"absent{number}") for number in range(10))
    one.remove("mine")
    assert one.find("mine") is None and not one._known


def test_what_was_opened_is_listed_only_where_it_may_be_opened(studies: Make, tmp_path: Path) -> None:
    found = studies(SLEEPS).open(str(plan(tmp_path / "elsewhere", ["siqa"], ["jola"], [1]).folder))
    for folders, listed in (((), []), ((tmp_path / "elsewhere",), [found.id])):
        exposed = studies(SLEEPS, check_path=Settings(host="0.0.0.0", folders=folders).check_path)
        assert [study.id for study in exposed.list()] == listed


def test_a_deleted_study_comes_back(studies: Make) -> None:
    one = studies(SLEEPS)
    grid = plan(one.root / "mine", ["siqa"], ["jola"], [1])
    fill(grid, lambda cell: 0.5)
    one.remove("mine")
    assert one.find("mine") is None
    assert one.restore("mine").state()[0] == "finished"
    with pytest.raises(InputError, match="can no longer be restored"):
        one.restore("other")


def test_ids_do_not_lead_out_of_the_folder(studies: Make, tmp_path: Path) -> None:
    one = studies(SLEEPS)
    plan(tmp_path / "outside", ["siqa"], ["jola"], [1])
    one.root.mkdir()
    (one.root / "link").symlink_to(tmp_path / "outside")
    for id in ("../outside", "link", "", "a/b", ".app"):
        assert one.find(id) is None
    assert one.find_run("../outside/x") is None


def test_the_folder_is_beside_the_runs_or_in_those_that_are_named(home: Path, tmp_path: Path) -> None:
    assert Settings().studies_root == home / "studies"
    assert Settings(runs=tmp_path / "mine").studies_root == tmp_path / "mine" / "studies"


def test_the_matrix_has_a_place_for_every_cell(tmp_path: Path) -> None:
    grid = plan(tmp_path / "grid", ["siqa", "boolq"], ["jola", "zero-shot"], [1, 2], sizes=(8, 0))
    matrix = Matrix(grid)
    assert set(matrix.names.values()) == set(grid.planned)
    assert matrix.labels() == {
        "rows": ["jola · n 8", "jola · all", "zero-shot · n 8"],
        "columns": [["siqa", "1"], ["siqa", "2"], ["boolq", "1"], ["boolq", "2"]],
    }
    names = list(grid.planned)
    mean = {"value": 0.01, "low": 0.005, "high": 0.02}
    effects = {"text": "plain", "passages": 9, "tokens": 900, "kl": mean, "change": mean}
    effects |= {"base_cross_entropy": mean, "cross_entropy": mean}
    grid.cell(names[0]).write_result(result(0.5, side_effects=effects))
    facts = dict(cell_facts(StoredStudy(tmp_path, "grid"), names[0])["facts"])
    assert facts["KL on plain text"] == "0.010 (0.005 to 0.020) nats per token, n = 900 tokens"
    assert facts["Task"] == "siqa" and facts["Trained parameters"] == "216"
    # An arm that trains nothing has one cell per task.
    assert matrix.codes(grid.states()) == "dooooooo" + "o-o-"


def test_the_run_of_a_cell_is_found_by_an_id_of_its_own(home: Path) -> None:
    bench = Workbench.from_settings(Settings())
    grid = plan(bench.studies.root / "mine", ["siqa"], ["jola"], [1])
    (name,) = grid.planned
    assert bench.find(f"mine/{name}") is None
    run = Run.create(grid.cell(name).run.path, grid.config(name))
    run.write_status(state="finished")
    found = bench.must_find(f"mine/{name}")
    assert found.id == f"mine/{name}" and found.path == run.path
    assert bench.find("mine/other") is None and bench.find(f"mine/../mine/cells/{name}/run") is None
    follower = bench.followers.get(f"mine/{name}")
    assert follower is not None
    # It can be paused and continued only with its study.
    assert follower.snapshot()["can"] == [] and follower.snapshot()["run"] == f"mine/{name}"
    assert (f"mine/{name}" in [id for _, id in bench.run_choices(also=[f"mine/{name}"])]) and not bench.run_choices()
