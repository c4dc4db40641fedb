"""The code that reproduces a run: the command line and the Python lines, with the settings that are not the default."""

import shlex
from dataclasses import fields, replace
from typing import Any

from jola.config import RunConfig
from jola.runs.run import Run


def reproduce(run: Run) -> dict[str, str]:
    """``shell`` and ``python``, which train the run once more, and ``read``, which reads what it recorded.

    `InputError` when the settings of the run are damaged.
    """
    config = run.run_config()
    config = replace(config, training=replace(config.training, output=""))
    return {"shell": shell_command(config), "python": python_lines(config), "read": reading_lines(run)}


def shell_command(config: RunConfig) -> str:
    """``jola train`` with the flags that differ from the defaults, quoted for a shell."""
    return shlex.join(["jola", "train", *config.flags()])


def python_lines(config: RunConfig) -> str:
    """Python that trains with these settings."""
    groups = "".join(
        f"    {group.name!r}: {changed!r},\n"
        for group, part in zip(fields(RunConfig), config.parts(), strict=True)
        if (changed := _changed(part))
    )
    settings = f"RunConfig.from_dict({{\n{groups}}})" if groups else "RunConfig()"
    return (
        "from jola import RunConfig, run_training\n\n"
        f"config = {settings}\n"
        "run = run_training(config)\n"
        "print(run.path, run.result())\n"
    )


def reading_lines(run: Run) -> str:
    """Python that reads the gates and the metrics of a run as tables."""
    return (
        "import pandas as pd\n"
        "from jola import Run\n\n"
        f"run = Run.open({str(run.path)!r})\n"
        "gates = run.gates().to_frame()\n"
        "metrics = pd.DataFrame(run.metrics())\n"
    )


def _changed(part: Any) -> dict[str, Any]:
    """The settings of a group that are not the default."""
    return {field.name: value for field in fields(part) if (value := getattr(part, field.name)) != field.default}
