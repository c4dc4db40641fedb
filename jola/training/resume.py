"""Settings with which a run is resumed, and those that need a launch of several processes."""

from dataclasses import fields
from pathlib import Path

from jola.config import GROUPS, RunConfig, flag
from jola.errors import InputError
from jola.model.sharding import check_sharding
from jola.runs.run import Run
from jola.system.distributed import SINGLE_PROCESS
from jola.system.processes import launched

_OF_A_LAUNCH = ("output", "device", "attn_implementation", "shard_base", "gradient_checkpointing")
"""Settings that may be others when a run is resumed."""


def check_processes(config: RunConfig) -> None:
    """Refuse places of the weights that are impossible with the number of processes that were started.

    Raises:
        InputError: One process is to divide the weights, or several are to spread them over devices.
    """
    if config.model.shard_base:
        check_sharding(quantize=config.model.quantize, device_map=config.model.device_map)
    if config.model.device_map and launched() > 1:
        raise InputError(SINGLE_PROCESS)


def settings_to_resume(path: Path, config: RunConfig) -> RunConfig:
    """The settings of the run in `path`; those of `config` that are neither the default nor the same are refused.

    The directory, the device and the attention implementation may be others. ``shard_base`` and
    ``gradient_checkpointing``, which change no number, are those of `config`.

    Raises:
        InputError: A setting differs, or the settings of the run are damaged.
    """
    stored = Run.open(path).run_config()
    if config.method not in (stored.method, RunConfig.method):
        raise InputError(
            f"--method is {config.method}, but the run in {path} was started with {stored.method}; resume it with its "
            "own settings, or choose another --output."
        )
    usual = RunConfig(method=config.method)
    groups = zip(GROUPS, config.parts(), stored.parts(), usual.parts(), strict=True)
    for group, part, stored_part, usual_part in groups:
        if group == "edits" and config.method != stored.method:
            continue
        for setting in fields(part):
            value, before = getattr(part, setting.name), getattr(stored_part, setting.name)
            if setting.name not in _OF_A_LAUNCH and value not in (before, getattr(usual_part, setting.name)):
                raise InputError(
                    f"{flag(setting.name)} is {value}, but the run in {path} was started with {before}; resume it "
                    "with its own settings, or choose another --output."
                )
    stored.training.output = config.training.output
    stored.training.gradient_checkpointing = config.training.gradient_checkpointing
    stored.model.shard_base = config.model.shard_base
    for name in ("device", "attn_implementation"):
        if (value := getattr(config.model, name)) != getattr(usual.model, name):
            setattr(stored.model, name, value)
    return stored
