"""JoLA: Joint Localization and Activation Editing of language models.

    from jola import JoLAModel

    model = JoLAModel.from_adapter("runs/my-run/adapter")

The library: the method and everything that needs no user interface. Public names are imported on first use, so that
``import jola`` and ``jola --help`` are fast.
"""

from typing import TYPE_CHECKING

from jola._lazy import lazily
from jola._moved import install

if TYPE_CHECKING:
    from jola.adapters.directory import load_edits
    from jola.config import DataConfig, EditConfig, ModelConfig, RunConfig, TrainingConfig
    from jola.data.examples import Example, Message, Template
    from jola.data.tasks import load_task
    from jola.edits.gated import GatedEdits
    from jola.edits.intervention import EditMask
    from jola.edits.masks import HeadMask
    from jola.edits.sites import Site
    from jola.errors import InputError
    from jola.evaluation.scoring import exact_match, option_likelihood
    from jola.jola_model import JoLAModel
    from jola.reference.config import JoLAConfig
    from jola.reference.data import JoLADataset, data_from_list, make_data_collator
    from jola.runs.archive import export_adapter, export_archive, import_archive
    from jola.runs.compare import compare_runs
    from jola.runs.run import Run
    from jola.runs.store import RunStore
    from jola.training.callbacks import GateRecorder
    from jola.training.run import run_training
    from jola.training.trainer import JoLATrainer

__version__ = "0.1.0"

install()

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
    "export_archive",
    "import_archive",
    "load_edits",
    "load_task",
    "make_data_collator",
    "option_likelihood",
    "run_training",
]


__getattr__ = lazily(
    __name__,
    {
        "jola.adapters.directory": ("load_edits",),
        "jola.config": ("DataConfig", "EditConfig", "ModelConfig", "RunConfig", "TrainingConfig"),
        "jola.data.examples": ("Example", "Message", "Template"),
        "jola.data.tasks": ("load_task",),
        "jola.edits.gated": ("GatedEdits",),
        "jola.edits.intervention": ("EditMask",),
        "jola.edits.masks": ("HeadMask",),
        "jola.edits.sites": ("Site",),
        "jola.errors": ("InputError",),
        "jola.evaluation.scoring": ("exact_match", "option_likelihood"),
        "jola.jola_model": ("JoLAModel",),
        "jola.reference.config": ("JoLAConfig",),
        "jola.reference.data": ("JoLADataset", "data_from_list", "make_data_collator"),
        "jola.runs.archive": ("export_adapter", "export_archive", "import_archive"),
        "jola.runs.compare": ("compare_runs",),
        "jola.runs.run": ("Run",),
        "jola.runs.store": ("RunStore",),
        "jola.training.callbacks": ("GateRecorder",),
        "jola.training.run": ("run_training",),
        "jola.training.trainer": ("JoLATrainer",),
    },
)
