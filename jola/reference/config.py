"""`JoLAConfig`: the settings of scripts of the reference package, with defaults that work here.

The defaults of the reference package name a gated model and a local folder of its authors. Here, they are the default
model and the default data, so that its example runs unchanged.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from jola.config import DataConfig
from jola.data.assets import resolve_model
from jola.data.tasks import load_task
from jola.errors import InputError
from jola.system.files import replace_file
from jola.system.paths import cache_home

GROUPS = ("model_config", "training_config", "data_config", "jola_config")

RENAMED = {"evaluation_strategy": "eval_strategy"}
"""Training arguments that transformers has renamed."""


class JoLAConfig:
    """Settings in four groups: ``model_config``, ``training_config``, ``data_config`` and ``jola_config``.

    Scripts use ``JoLAConfig(...)["model_config"]`` or ``JoLAConfig.get_jola_config(...)``.
    """

    def __init__(self, default: bool = True, config_path: str | Path | None = None) -> None:
        self.default = default
        self.config_path = config_path
        self._values: dict[str, Any] | None = None

    def __getitem__(self, group: str) -> dict[str, Any]:
        if self._values is None:
            self._values = self.get_jola_config(self.default, self.config_path)
        return self._values[group]

    @classmethod
    def get_jola_config(cls, default: bool = True, config_path: str | Path | None = None) -> dict[str, Any]:
        """The default settings, or those of a YAML file.

        Raises:
            InputError: ``default=False`` without a file, or the file cannot be read.
        """
        if default:
            return _default()
        if config_path is None:
            raise InputError("get_jola_config(default=False) needs config_path, the YAML file with the settings.")
        try:
            values = yaml.safe_load(Path(config_path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"Cannot read the settings in {config_path} ({error}).") from error
        if not isinstance(values, dict):
            raise InputError(f"{config_path} contains no groups of settings such as model_config.")
        for group in GROUPS:
            if not isinstance(values.get(group) or {}, dict):
                raise InputError(f"{group} in {config_path} is {values[group]!r}; it must be a group of settings.")
        training = values.get("training_config") or {}
        values["training_config"] = {RENAMED.get(name, name): value for name, value in training.items()}
        return values


def _default() -> dict[str, Any]:
    return {
        "model_config": {
            "pretrained_model_name_or_path": resolve_model("default").path_or_id,
            "device": "auto",
            "cache_dir": None,
            "applied_module": "attention",
            "base_model_name": "default",
        },
        "training_config": {
            "learning_rate": 0.005,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 50,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 8,
            "num_train_epochs": 20,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "load_best_model_at_end": True,
            "save_total_limit": 1,
            "report_to": "none",
            "logging_strategy": "epoch",
            "seed": 42,
            "do_train": True,
            "do_eval": True,
            "bf16": False,
            "output_dir": "./output",
        },
        "data_config": {"train_size": 200, "task_name": "sentiment", "data_path": str(_default_data())},
        "jola_config": {"gate_lambda": 0.00004, "gate_scheduler": "expon"},
    }


def _default_data() -> Path:
    """Write the default task as ``train.json``, ``valid.json`` and ``test.json``, with one object per line."""
    task = load_task(DataConfig(train_size=0, validation_size=0, test_size=0), seed=0)
    folder = cache_home() / "reference-data" / task.fingerprint[:12]
    folder.mkdir(parents=True, exist_ok=True)
    for name, examples in (("train", task.train), ("valid", task.validation), ("test", task.test)):
        rows = [{"instruction": e.prompt[-1].content, "answer": e.completion} for e in examples]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        replace_file(folder / f"{name}.json", text.encode())
    return folder
