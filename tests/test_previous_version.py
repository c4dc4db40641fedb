"""Files, links and import paths of version 0.1.0 keep working.

``tests/data/previous`` was written by that version: a run of ``jola train`` on `model_folder` with a saved mask, its
adapter exported compactly, its archive, and a comparison of ``jola compare``. ``expected.json`` contains the results
that it computed from them, and every import that its documentation named.
"""

import json
import pkgutil
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jola._moved import MOVED
from jola.edits.masks import HeadMask, SavedMasks
from jola.jola_model import JoLAModel
from jola.runs import RunStore
from jola.runs.archive import import_archive
from jola.studies.results import Comparison
from tests import DATA
from tests.tiny import make_tokenizer
from workbench.service.bench import Workbench
from workbench.service.page_state import masks_text, open_run
from workbench.settings import Settings

PREVIOUS = DATA / "previous"
EXPECTED: dict[str, Any] = json.loads((PREVIOUS / "expected.json").read_text("utf-8"))
IDS = torch.tensor([EXPECTED["ids"]])
MASK = HeadMask(EXPECTED["mask"]["offset"], EXPECTED["mask"]["scale"])


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model of these files; its weights are numbers of NumPy's frozen generator."""
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    numbers = np.random.RandomState(0)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            matrix = parameter.dim() > 1
            values = numbers.standard_normal(parameter.shape) * (0.3 if matrix else 0.1) + (0 if matrix else 1)
            parameter.copy_(torch.from_numpy(values))
    folder = tmp_path_factory.mktemp("previous") / "model"
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A store with the run of the previous version."""
    shutil.copytree(PREVIOUS / "run", tmp_path / "runs" / "run")
    return RunStore(tmp_path / "runs")


def logits(adapter: Path, model: Path, mask: HeadMask | None = None) -> list[float]:
    """Return every tenth logit of the last token."""
    edited = JoLAModel.from_adapter(adapter, model=str(model), dtype="float32").eval()
    with torch.no_grad():
        return edited(IDS, mask=mask and mask.edit_mask()).logits[0, -1, ::10].tolist()


def close_to(name: str) -> Any:
    return pytest.approx(EXPECTED["logits"][name], abs=1e-4)


@pytest.mark.parametrize("form", ["run/adapter", "compact"])
def test_an_adapter_gives_the_same_logits(form: str, model_folder: Path) -> None:
    assert logits(PREVIOUS / form, model_folder) == close_to("whole")
    assert EXPECTED["logits"]["plain"] != close_to("whole")


def test_a_run_opens(store: RunStore) -> None:
    (run,) = store.list()
    assert (run.state, run.status()["step"], len(run.metrics())) == ("finished", 8, 8 + 4)
    assert run.config()["training"]["gate_learning_rate"] == 1.0
    history = run.gates("heads")
    assert history.steps.tolist() == list(range(9))
    result = run.result()
    assert result is not None and result["test"]["n"] == 4
    for half, gates in EXPECTED["gates"].items():
        assert result["closed"][half] == (np.array(gates) == 0).mean()


def test_a_saved_mask_and_a_link_give_the_same_mask(store: RunStore, model_folder: Path) -> None:
    run = store.get("run")
    (saved,) = SavedMasks(run.path).list()
    assert (saved.name, saved.mask) == (EXPECTED["mask"]["name"], MASK)
    state = open_run(Workbench.from_settings(Settings(runs=store.root)), "run", EXPECTED["link"])
    assert state.mask == MASK
    assert masks_text(state) == EXPECTED["link"]
    assert logits(run.adapter_dir, model_folder, state.mask) == close_to("masked")


def test_an_archive_becomes_a_run(store: RunStore, model_folder: Path) -> None:
    run = import_archive(PREVIOUS / "run.zip", store, id="taken")
    for half, gates in EXPECTED["gates"].items():
        assert run.gates("heads").at(8)[f"{half}_gate"] == pytest.approx(np.array(gates), abs=1e-6)
    assert [saved.mask for saved in SavedMasks(run.path).list()] == [MASK]
    assert logits(run.adapter_dir, model_folder) == close_to("whole")


def test_a_comparison_gives_the_same_table() -> None:
    comparison = Comparison.open(PREVIOUS / "comparison")
    frame = comparison.to_frame()
    rows = json.loads(frame[list(EXPECTED["comparison"][0])].to_json(orient="records"))
    assert rows == [pytest.approx(row) for row in EXPECTED["comparison"]]
    assert set(comparison.all_scores(42)) == {"gradient", "jola", "random"}
    assert comparison.scores("gradient-seed42").values.shape == (2, 2)


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_earlier_import_path_is_the_module_itself(old: str, new: str) -> None:
    module = import_module(old)
    assert module is import_module(new)
    assert module.__spec__ is not None and module.__spec__.name == module.__name__ == new


@pytest.mark.parametrize("name", EXPECTED["names"])
def test_a_documented_name_is_where_it_was(name: str) -> None:
    assert pkgutil.resolve_name(name) is not None
