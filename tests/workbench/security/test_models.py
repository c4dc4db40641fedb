"""Threats in SECURITY.md: models that others name, and what happens to the model and its prompts."""

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError

from jola.errors import InputError
from jola.jola_model import JoLAModel
from tests import ROOT
from tests.workbench.security.password import PASSWORD
from tests.workbench.served import Served
from workbench.service import examples
from workbench.train import tab as train

# The two apps are started once, in one worker.
pytestmark = pytest.mark.xdist_group("security")


class TestModels:
    """The name of a model, and the content of its folder."""

    @pytest.mark.parametrize("model", ["evil/model", "/etc", "~", "../..", "\0", "x" * 5000, "~nobody/x", ""])
    def test_others_may_name_no_model_but_those_that_are_open(self, exposed: Served, model: str) -> None:
        check = exposed.bench.settings.check_model
        with pytest.raises(InputError, match="not allowed for this page"):
            check(model)
        check("default")

    def test_a_folder_is_open_with_what_is_in_it_and_not_through_a_link(self, exposed: Served) -> None:
        folder, check = exposed.bench.settings.folders[0], exposed.bench.settings.check_model
        (folder / "mine").mkdir(exist_ok=True)
        check(str(folder / "mine"))
        (folder / "out").unlink(missing_ok=True)
        (folder / "out").symlink_to(exposed.model)
        for path in (folder / "out", folder / ".." / "tiny-llama", folder / "absent"):
            with pytest.raises(InputError):
                check(str(path))

    def test_an_adapter_is_taken_from_open_folders_alone(self, exposed: Served, app: Served) -> None:
        folder = exposed.bench.settings.folders[0]
        check = exposed.bench.settings.check_path
        (folder / "gift").mkdir(exist_ok=True)
        check(str(folder / "gift"))
        for path in (str(exposed.bench.store.root / "one" / "adapter"), "/etc", "../..", "~", "\0", "x" * 5000):
            with pytest.raises(InputError):
                check(path)
        app.bench.settings.check_path("/etc")  # users of this computer may read its files anyway

    def test_neither_form_nor_programs_train_or_preview_others(self, exposed: Served) -> None:
        client = Client(exposed.address, auth=PASSWORD, verbose=False)
        before = len(exposed.bench.store.list())
        for model, task in (("evil/model", "sentiment"), (str(exposed.model), "sentiment"), ("default", "/etc")):
            values = {"model": model, "task": task}
            with pytest.raises(AppError, match="not allowed for this page"):
                client.predict(task, model, api_name="/start")
            assert "not allowed for this page" in train.start(exposed.bench, values)[1]
            html, words = train.preview(exposed.bench, values)
            assert html == "" and "not allowed for this page" in words
            assert "not allowed for this page" in train.cost(exposed.bench, values)
        assert len(exposed.bench.store.list()) == before

    def test_the_playground_loads_no_other_model_and_reads_no_other_data(self, exposed: Served) -> None:
        """Not even for an existing run: an imported run may name any model and data."""
        client = Client(exposed.address, auth=PASSWORD, verbose=False)
        for endpoint, more in (("predict", ()), ("generate", ()), ("effects", ("good",))):
            with pytest.raises(AppError, match="not allowed for this page"):
                client.predict("one", "A film", *more, api_name=f"/{endpoint}")
        run = exposed.bench.store.get("one")
        assert not exposed.bench.session.is_loaded(run)
        with pytest.raises(InputError, match="not allowed for this page"):
            examples.test_examples(exposed.bench, run)

    def test_what_is_open_is_used(self, exposed: Served) -> None:
        inside = exposed.bench.settings.folders[0] / "tiny"
        shutil.copytree(exposed.model, inside)
        Served(exposed.bench, exposed.address, inside, exposed.server).run("open")
        client = Client(exposed.address, auth=PASSWORD, verbose=False)
        assert client.predict("open", "A film", api_name="/predict")["tokens"]

    def test_code_in_the_folder_of_a_model_is_not_run(self, tiny_folder: Path, tmp_path: Path) -> None:
        mark = tmp_path / "ran"
        config = json.loads((tiny_folder / "config.json").read_text())
        config |= {
            "model_type": "evil",
            "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
            "_attn_implementation_internal": "evil/kernel",
        }
        (tiny_folder / "config.json").write_text(json.dumps(config))
        (tiny_folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
        with pytest.raises(InputError):
            JoLAModel.from_pretrained(str(tiny_folder), dtype="float32")
        assert not mark.exists()
        for path, value in keywords("trust_remote_code"):
            assert isinstance(value, ast.Constant) and value.value is False, path


class TestOneModelForAll:
    """Choices of one user do not affect other users; see also test_many_users.py."""

    def test_no_call_changes_the_model(self, app: Served) -> None:
        client = Client(app.address, verbose=False)
        before = client.predict("one", "A film", api_name="/predict")
        loaded = next(iter(app.bench.session._local.bases.values())).model
        weights = {name: value.clone() for name, value in loaded.state_dict().items()}
        client.predict("one", "A film", off=[{"layer": 0, "unit": 0}], strength=-2, api_name="/predict")
        client.predict("one", "A film", off=[{"layer": 1, "unit": 1}], strength=0.5, new_tokens=3, api_name="/generate")
        client.predict("one", "A film", "good", strength=2, api_name="/effects")
        assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
        assert client.predict("one", "A film", api_name="/predict") == before


class TestThirdParties:
    """Prompts and edits stay on this computer unless the user asks for remote execution."""

    def test_no_call_of_nnsight_asks_for_remote_execution(self) -> None:
        for path in [*ROOT.glob("jola/**/*.py"), *ROOT.glob("workbench/**/*.py")]:
            tree = ast.parse(path.read_text("utf-8"))
            traces = [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("trace", "session")
            ]
            given = {keyword.arg for call in traces for keyword in call.keywords}
            assert "remote" not in given
            assert "backend" not in given or path.name == "remote.py"


def keywords(name: str) -> list[tuple[str, ast.expr]]:
    """Return the file name and value of every keyword argument ``name`` in our packages."""
    return [
        (path.name, node.value)
        for path in [*ROOT.glob("jola/**/*.py"), *ROOT.glob("workbench/**/*.py")]
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.keyword) and node.arg == name
    ]
