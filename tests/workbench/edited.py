"""Runs with real adapters of tiny models, and a loader that counts what it loads."""

import threading
from collections.abc import Hashable
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from jola.config import DataConfig, EditConfig, ModelConfig, RunConfig
from jola.data.examples import Template
from jola.jola_model import JoLAModel
from jola.runs.run import Run
from tests.conftest import spread_edits
from tests.workbench.recorded import Recorder
from workbench.service.session import Loaded, Loader


def edited_run(
    path: Path, folder: Path, *, seed: int = 1, edits: EditConfig | None = None, task: str = "sentiment"
) -> Run:
    """A finished run on the tiny model in ``folder``, with the gates and edits that the seed gives."""
    model = JoLAModel.from_pretrained(str(folder), edits=edits, dtype="float32")
    spread_edits(model, seed)
    config = RunConfig(
        model=ModelConfig(model=str(folder), dtype="float32"), edits=model.edit_config, data=DataConfig(task=task)
    )
    geometry = model.geometry
    run = Recorder(path, steps=4, layers=geometry.num_layers, units=geometry.num_heads, config=config).until(4).finish()
    model.save_pretrained(run.adapter_dir)
    return run


class CountingLoader(Loader):
    """Gives one tiny model to all runs, and remembers which runs were loaded, and in which threads."""

    def __init__(self, model: JoLAModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = model
        self.template = Template(tokenizer)
        self.bases: list[str] = []
        self.adapters: list[str] = []
        self.threads: set[int] = set()

    def base_name(self, run: Run) -> Hashable:
        return "tiny"

    def base(self, run: Run) -> Loaded:
        self.bases.append(run.id)
        self.threads.add(threading.get_ident())
        return Loaded(self.model, self.template)

    def edits(self, run: Run, model: JoLAModel) -> list:
        self.adapters.append(run.id)
        return super().edits(run, model)
