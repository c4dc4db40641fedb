"""Shared parts of the commands: flags, finding runs and adapters, settings as flags, quiet libraries."""

import dataclasses
import typing
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from jola.config import GROUPS, DataConfig, RunConfig, flag
from jola.errors import InputError
from jola.methods import METHODS
from jola.system.startup import quick_imports

if TYPE_CHECKING:
    from jola.data.tasks import Task
    from jola.model.edited import EditedModel
    from jola.runs.run import Run
    from jola.system.progress import Progress

Json = Annotated[bool, arg(help="Print the result as one JSON object.")]
RunName = Positional[Annotated[str, arg(metavar="RUN", help="Id or directory of a run.")]]
AdapterName = Annotated[str, arg(help="Adapter directory, or the id or directory of a run.")]
BaseModel = Annotated[str | None, arg(help="Base model, if it is not where the adapter says.")]
Dtype = Annotated[Literal["auto", "float32", "bfloat16", "float16"], arg(help="Data type of the model.")]
Device = Annotated[str, arg(help="Device of the model.")]
DeviceMap = Annotated[
    str | None,
    arg(
        help="Spread the layers over several devices, memory and disk, instead of --device: 'auto', 'balanced', "
        "'sequential', or a JSON file with the device of each module."
    ),
]
Quantize = Annotated[
    Literal["none", "4bit", "8bit", "int8"] | None,
    arg(help="Store the weights of the base model in fewer bits; default: as in training."),
]
Remote = Annotated[
    bool,
    arg(
        help="Run the model on NDIF instead of this machine: prompts and edits are sent there. It needs an API key in "
        "NDIF_API_KEY."
    ),
]
ShardBase = Annotated[bool, arg(help="Divide the weights of the base model among the processes that torchrun started.")]
PromptFormat = Annotated[Literal["auto", "chat", "plain"], arg(help="How prompts are formatted.")]
Strength = Annotated[float, arg(help="Factor applied to every edit.")]


@dataclass(frozen=True)
class Loading:
    """Base model of an adapter, and how it is loaded."""

    model: BaseModel = None
    dtype: Dtype = "auto"
    device: Device = "auto"
    device_map: DeviceMap = None
    quantize: Quantize = None
    shard_base: ShardBase = False
    remote: Remote = False

    def load(self, folder: Path, progress: "Progress") -> "EditedModel":
        """Load the model of an adapter on this machine, or use it remotely."""
        if not self.remote:
            from jola import JoLAModel

            return JoLAModel.from_adapter(
                folder,
                model=self.model,
                dtype=self.dtype,
                device=self.device,
                device_map=self.device_map,
                quantize=self.quantize,
                shard_base=self.shard_base,
            )
        if self != Loading(self.model, remote=True):
            raise InputError(
                "NDIF decides how it runs a model; leave out --dtype, --device, --device-map, --quantize and "
                "--shard-base."
            )
        from jola.system.ndif import privacy, require_key

        require_key()
        progress.note(privacy())
        from jola.remote import RemoteModel

        return RemoteModel.from_adapter(folder, model=self.model)


LoadingFlags = Annotated[Loading, arg(name="")]
BY_DEFAULT = Loading()


def setting_names(config: RunConfig) -> set[str]:
    """Return the names of the settings that a method uses: those of gates only if it has gates."""
    return {f.name for part in config.parts() for f in dataclasses.fields(part)} - config.tuning.unused_settings


def settings_type(config: RunConfig, omit: Container[str] = ()) -> type:
    """Return a dataclass with the same groups and defaults as a configuration, annotated for tyro.

    Args:
        config: Its groups become groups of flags, without the settings that its method does not use; its values become
            the defaults.
        omit: Names of settings that the command does not take.
    """
    names = setting_names(config)
    groups: list[tuple[str, Any, Any]] = []
    for group, part in zip(GROUPS, config.parts(), strict=True):
        hints = typing.get_type_hints(type(part))
        flags: list[tuple[str, Any, Any]] = []
        for name, metadata in ((field.name, field.metadata) for field in dataclasses.fields(part)):
            if name in names and name not in omit:
                help = metadata["help"] + (f" [{metadata['unit']}]" if metadata["unit"] else "")
                flags.append((name, Annotated[hints[name], arg(help=help)], getattr(part, name)))
        if flags:
            made = dataclasses.make_dataclass(type(part).__name__, flags, namespace={"__doc__": type(part).__doc__})
            groups.append((group, made, dataclasses.field(default_factory=made)))
    return dataclasses.make_dataclass("Settings", groups)


def check_flags(arguments: Sequence[str], method: str) -> None:
    """Refuse a flag that is a setting only of other methods."""
    names = {name: setting_names(RunConfig(method=name)) for name in METHODS}
    for argument in arguments:
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        owners = [other for other, own in names.items() if name in own]
        if argument.startswith("--") and owners and method not in owners:
            listed = " and ".join(filter(None, [", ".join(owners[:-1]), owners[-1]]))
            raise InputError(
                f"{flag(name)} is a setting of {listed}, not of {method}; add --method {owners[0]}, or "
                f"leave {flag(name)} out."
            )


def run_config(settings: Any, *, method: str = RunConfig.method, **training: Any) -> RunConfig:
    """Return the validated configuration of an instance of a `settings_type`; ``training`` overrides that group."""
    values = dataclasses.asdict(settings)
    return RunConfig.from_dict({**values, "training": values["training"] | training, "method": method})


def find_run(name: str) -> "Run":
    """Return the run with this id or directory."""
    from jola.runs.run import Run
    from jola.runs.store import RunStore

    return Run.open(name) if Path(name).is_dir() else RunStore().get(name)


def find_adapter(name: str) -> tuple[Path, "Run | None"]:
    """Return the adapter directory of a name, and the run that it belongs to, if any."""
    from jola.adapters.directory import CONFIG_NAME
    from jola.runs.run import Run

    folder = Path(name)
    if (folder / CONFIG_NAME).is_file():
        parent = folder.resolve().parent
        return folder, Run.open(parent) if (parent / "status.json").is_file() else None
    run = find_run(name)
    if not (run.adapter_dir / CONFIG_NAME).is_file():
        raise InputError(run.why_no_adapter())
    return run.adapter_dir, run


def test_data(run: "Run | None", task: str | None, test_size: int | None, template: Any) -> DataConfig:
    """Return the data to test an adapter on: as given, else those of its run.

    Args:
        run: The run of the adapter, if any.
        task, test_size: None takes those of the run, or 500 examples.
        template: 'auto' takes that of the run.
    """
    settings = run.config().get("data", {}) if run else {}
    name = task or settings.get("task")
    if name is None:
        raise InputError("The adapter does not belong to a run; name the task with --task.")
    if template == "auto":
        template = settings.get("template", "auto")
    own_task = task in (None, settings.get("task"))
    size = int(settings.get("test_size", 500) if own_task else 500) if test_size is None else test_size
    data = DataConfig(task=name, train_size=0, test_size=size, template=template)
    RunConfig(data=data).validate()
    return data


def load_tested(data: DataConfig, seed: int, progress: "Progress", run: "Run | None") -> "Task":
    """Load the task of the data and show its notes.

    A task without a test part carves it from the training examples. A larger test part then includes examples that
    remained for the training of `run`; those that it was trained or validated on are left out.

    Args:
        run: The run of the adapter, if any.

    Raises:
        InputError: There are no test examples, or the settings of the run are damaged.
    """
    from jola import load_task

    progress.phase("load")
    task = load_task(data, seed=seed)
    if run and task.has_carved_test and _is_same_task(data.task, run.config().get("data", {}).get("task")):
        task = _unseen(task, run.run_config())
    if not task.test:
        raise InputError(f"The task {task.name} has no test examples.")
    for sentence in task.notes:
        progress.note(sentence)
    return task


def _is_same_task(name: str, other: str | None) -> bool:
    return other is not None and Path(name).expanduser().resolve() == Path(other).expanduser().resolve()


def _unseen(task: "Task", config: RunConfig) -> "Task":
    """Return a task with the validation part of a run, and without test examples that the run has seen."""
    from jola import load_task

    own = load_task(config.data, config.training.seed)
    seen = {example.prompt for example in (*own.train, *own.validation)}
    test = tuple(example for example in task.test if example.prompt not in seen)
    left_out = len(task.test) - len(test)
    note = f"{left_out} of these test examples are left out, because the run was trained or validated on them."
    notes = (*task.notes, note) if left_out else task.notes
    return dataclasses.replace(task, validation=own.validation, test=test, notes=notes)


@contextmanager
def importing_libraries() -> Iterator[None]:
    """Import large libraries inside the block. Afterwards, those of Hugging Face show no progress bars or warnings."""
    with quick_imports():
        from huggingface_hub.utils import disable_progress_bars
        from transformers.utils import logging

        disable_progress_bars()
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        yield
