"""JoLA: Joint Localization and Activation Editing of language models.

    from jola import JoLAModel

    model = JoLAModel.from_adapter("runs/my-run/adapter")

The method and everything around it that needs no interface. Names are imported on first use, so that
``import jola`` and ``jola --help`` stay quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jola.adapter import load_edits
    from jola.config import DataConfig, EditConfig, ModelConfig, RunConfig, TrainingConfig
    from jola.errors import InputError
    from jola.evaluation import exact_match, option_likelihood
    from jola.examples import Example, Message, Template
    from jola.interventions import EditMask, GatedEdits, Site
    from jola.masks import HeadMask
    from jola.model import JoLAModel
    from jola.reference_api import JoLAConfig
    from jola.reference_data import JoLADataset, data_from_list, make_data_collator
    from jola.run_archive import export_adapter, import_archive
    from jola.run_compare import compare_runs
    from jola.runs import Run, RunStore
    from jola.tasks import load_task
    from jola.trainer import GateRecorder, JoLATrainer
    from jola.training import run_training

__version__ = "0.1.0"

_HOMES = {
    "adapter": ("load_edits",),
    "config": ("DataConfig", "EditConfig", "ModelConfig", "RunConfig", "TrainingConfig"),
    "errors": ("InputError",),
    "evaluation": ("exact_match", "option_likelihood"),
    "examples": ("Example", "Message", "Template"),
    "interventions": ("EditMask", "GatedEdits", "Site"),
    "masks": ("HeadMask",),
    "model": ("JoLAModel",),
    "reference_api": ("JoLAConfig",),
    "reference_data": ("JoLADataset", "data_from_list", "make_data_collator"),
    "run_archive": ("export_adapter", "import_archive"),
    "run_compare": ("compare_runs",),
    "runs": ("Run", "RunStore"),
    "tasks": ("load_task",),
    "trainer": ("GateRecorder", "JoLATrainer"),
    "training": ("run_training",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DataConfig",
    "EditConfig",
    "EditMask",
    "Example",
    "GateRecorder",
    "GatedEdits",
    "HeadMask",
    "InputError",
    "JoLAConfig",
    "JoLADataset",
    "JoLAModel",
    "JoLATrainer",
    "Message",
    "ModelConfig",
    "Run",
    "RunConfig",
    "RunStore",
    "Site",
    "Template",
    "TrainingConfig",
    "compare_runs",
    "data_from_list",
    "exact_match",
    "export_adapter",
    "import_archive",
    "load_edits",
    "load_task",
    "make_data_collator",
    "option_likelihood",
    "run_training",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'jola' has no attribute {name!r}")
    return getattr(import_module(f"jola.{_HOME_OF[name]}"), name)
