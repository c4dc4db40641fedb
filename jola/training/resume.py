"""Settings of a resumed run, and checks of settings that depend on the number of processes."""

from dataclasses import fields
from pathlib import Path

from jola.config import GROUPS, RunConfig, flag
from jola.errors import InputError
from jola.model.sharding import check_sharding
from jola.runs.run import Run
from jola.system.distributed import SINGLE_PROCESS
from jola.system.processes import launched

_OF_A_LAUNCH = ("output", "device", "attn_implementation", "shard_base", "gradient_checkpointing")
"""Settings that may differ when a run is resumed."""


def check_processes(config: RunConfig) -> None:
    """Check that the placement of the weights is possible with the number of processes that were started.

    Raises:
        InputError: Sharding with one process, or a device map with several.
    """
    if config.model.shard_base:
        check_sharding(quantize=config.model.quantize, device_map=config.model.device_map)
    if config.model.device_map and launched() > 1:
        raise InputError(SINGLE_PROCESS)


def settings_to_resume(path: Path, config: RunConfig) -> RunConfig:
    """The settings of the run in `path`, with some settings of `config`.

    The directory, the device and the attention implementation of `config` may differ from those of the run.
    ``shard_base`` and ``gradient_checkpointing``, which do not affect the results, are taken from `config`.

    Raises:
        InputError: Another setting of `config` is neither the default nor that of the run, or the settings of the run
            are damaged.
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


def check_restart(path: Path, config: RunConfig) -> None:
    """Check that the run in `path` has the settings of a restart, except those that may differ when it is resumed.

    Raises:
        InputError: Another setting differs, such as the seed or the task, or the settings of the run are damaged.
    """
    stored = Run.open(path).run_config()
    pairs = [("method", config.method, stored.method)]
    if config.method == stored.method:
        parts = zip(config.parts(), stored.parts(), strict=True)
        names = ((part, other, field.name) for part, other in parts for field in fields(part))
        pairs = [(name, getattr(part, name), getattr(other, name)) for part, other, name in names]
    for name, value, before in pairs:
        if name not in _OF_A_LAUNCH and value != before:
            raise InputError(
                f"The run in {path} is not a restart of this training: its {flag(name)} is {before}, not {value}; move "
                "it to another place, or choose another --output."
            )
