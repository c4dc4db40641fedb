"""Code that reproduces a run: the command line and Python, with the settings that are not the default."""

import shlex
from dataclasses import fields, replace
from typing import Any

from jola.config import GROUPS, RunConfig
from jola.runs.run import Run
from jola.settings import chosen_by


def reproduce(run: Run) -> dict[str, str]:
    """Return ``shell`` and ``python`` code that trains the run again, and ``read`` code that reads its records.

    Raises `InputError` if the settings of the run are damaged.
    """
    config = run.run_config()
    config = replace(config, training=replace(config.training, output=""))
    return {"shell": shell_command(config), "python": python_lines(config), "read": reading_lines(run)}


def shell_command(config: RunConfig) -> str:
    """Return ``jola train`` with the flags that differ from the defaults, quoted for a shell."""
    return shlex.join(["jola", "train", *config.flags()])


def python_lines(config: RunConfig) -> str:
    """Return Python code that trains with these settings."""
    groups = "".join(
        f"    {group!r}: {changed!r},\n"
        for group, part, usual in zip(GROUPS, config.parts(), RunConfig(method=config.method).parts(), strict=True)
        if (changed := _changed(part, usual))
    )
    if config.method != RunConfig.method:
        groups += f"    'method': {config.method!r},\n"
    settings = f"RunConfig.from_dict({{\n{groups}}})" if groups else "RunConfig()"
    selects = config.method == "jola" and chosen_by(config.edits.heads)
    return (
        "from jola import RunConfig, run_training\n"
        + ("from jola.selectors.choose import chosen_heads\n" if selects else "")
        + f"\nconfig = {settings}\n"
        f"run = run_training(config{', choose=chosen_heads' if selects else ''})\n"
        "print(run.path, run.result())\n"
    )


def reading_lines(run: Run) -> str:
    """Return Python code that reads the recorded edits of each site and the metrics of a run as tables."""
    sites = run.sites()
    gates = "".join(
        f"gates{'' if len(sites) == 1 else f'_{site}'} = run.gates({site!r}).to_frame()\n" for site in sites
    )
    return (
        "import pandas as pd\n"
        "from jola import Run\n\n"
        f"run = Run.open({str(run.path)!r})\n"
        f"{gates}"
        "metrics = pd.DataFrame(run.metrics())\n"
    )


def _changed(part: Any, usual: Any) -> dict[str, Any]:
    """Return the settings of a group that are not the default of the method."""
    names = [field.name for field in fields(part)]
    return {name: value for name in names if (value := getattr(part, name)) != getattr(usual, name)}
