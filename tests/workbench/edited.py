"""Runs with real adapters of tiny models, and a loader that records what it loads."""

import threading
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerFast

from jola.config import DataConfig, ModelConfig, RunConfig
from jola.data.examples import Template
from jola.jola_model import JoLAModel
from jola.runs.run import Run
from tests.conftest import spread_edits
from tests.workbench.recorded import MethodRecorder, Recorder
from workbench.service.loader import Loaded, Loader


def edited_run(
    path: Path,
    folder: Path,
    *,
    seed: int = 1,
    edits: Any = None,
    task: str = "sentiment",
    template: Literal["auto", "chat", "plain"] = "auto",
) -> Run:
    """Write a finished run on the tiny model in ``folder`` with the settings ``edits``; ``seed`` gives the values."""
    model = JoLAModel.from_pretrained(str(folder), edits=edits, dtype="float32")
    config = RunConfig(
        method=model.method.name,
        model=ModelConfig(model=str(folder), dtype="float32"),
        edits=model.edit_config,
        data=DataConfig(task=task, template=template),
    )
    layers = model.geometry.num_layers
    if model.method.has_gates:
        spread_edits(model, seed)
        recorder = Recorder(path, steps=4, layers=layers, units=model.geometry.num_heads, config=config)
    else:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for intervention in model.own_interventions():
                for parameter in intervention.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        recorder = MethodRecorder(path, config, steps=4, layers=layers)
    run = recorder.until(4).finish()
    model.save_pretrained(run.adapter_dir)
    return run


class CountingLoader(Loader):
    """Loader that returns one tiny model for all runs and records the loaded runs and the loading threads."""

    def __init__(self, model: JoLAModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = model
        self.template = Template(tokenizer)
        self.bases: list[str] = []
        self.adapters: list[str] = []
        self.threads: set[int] = set()

    def base_name(self, run: Run, remote: bool = False) -> Hashable:
        return "tiny"

    def base(self, run: Run, remote: bool = False) -> Loaded:
        self.bases.append(run.id)
        self.threads.add(threading.get_ident())
        return Loaded(self.model, {"auto": self.template})

    def edits(self, run: Run, model: JoLAModel) -> list:
        self.adapters.append(run.id)
        return super().edits(run, model)
