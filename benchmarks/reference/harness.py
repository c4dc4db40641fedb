"""Shared code of `figures.py` and `step.py`: the reference package, its trainer for any model, and its versions.

It runs only in the reference environment (see `environment.py`), where `jola` is the reference package and not this
project.
"""

import importlib.metadata
import logging
import platform
import sys
import warnings
from pathlib import Path

from datasets import Dataset, disable_progress_bar
from environment import REFERENCE_VERSION, WHEEL_SHA256
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast, TrainingArguments, default_data_collator

WRONG_PYTHON = (
    f"error: This needs the reference package, jola {REFERENCE_VERSION}: run it with the Python of the "
    "environment that environment.py creates."
)

try:
    from jola import JoLAModel, JoLATrainer
except ImportError:
    sys.exit(WRONG_PYTHON)


def quiet() -> None:
    """Suppress the notices of the libraries (new parameters, deprecations) in the output."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    disable_progress_bar()


def check_package() -> None:
    """Exit if the imported `jola` is not the reference package."""
    try:
        version = importlib.metadata.version("jola")
    except importlib.metadata.PackageNotFoundError:
        version = None
    if version != REFERENCE_VERSION or not hasattr(JoLAModel, "jola_from_pretrained"):
        sys.exit(WRONG_PYTHON)


def origin(command: str) -> dict[str, object]:
    """Return the origin of the values: package, checksum, versions and the command that computes them."""
    names = ("transformers", "trl", "torch", "numpy", "accelerate", "datasets")
    return {
        "package": "jola",
        "version": REFERENCE_VERSION,
        "wheel_sha256": WHEEL_SHA256,
        "versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names},
        "command": command,
    }


def load(folder: Path, **options: object) -> JoLAModel:
    """Load a Llama folder with the package's loader, whose `cache_dir` has no default and is unused."""
    return JoLAModel.jola_from_pretrained(str(folder), cache_dir=None, **options)


def make_trainer(
    model: nn.Module,
    scheduler: str,
    scratch: Path,
    *,
    examples: int = 80,
    batch_size: int = 8,
    epochs: int = 3,
) -> JoLATrainer:
    """Return the package's trainer for `model`.

    Its dataset only sets the length of the linear schedule, (examples // batch_size) · epochs calls; callers pass
    batches to `compute_loss` themselves.
    """
    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "word": 2}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    data = Dataset.from_list([{"text": "word"}] * examples)
    return JoLATrainer(
        model,
        train_dataset=data,
        eval_dataset=data,
        tokenizer=tokenizer,
        data_collator=default_data_collator,
        args=TrainingArguments(
            str(scratch),
            per_device_train_batch_size=batch_size,
            num_train_epochs=epochs,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        callbacks=None,
        gate_scheduler=scheduler,
    )


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the trainable parameters, after `unfreeze_jola_params`."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
