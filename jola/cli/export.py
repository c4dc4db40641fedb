"""``jola export``: edits as an adapter, plain weights, an IA3 adapter, a script, a GGUF file or a table."""

import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg, subcommand

from jola.cli import console
from jola.cli.common import find_adapter, quiet_libraries
from jola.cli.runs import Json
from jola.errors import InputError

if TYPE_CHECKING:
    from jola.edits.intervention import EditMask
    from jola.edits.masks import HeadMask
    from jola.jola_model import JoLAModel
    from jola.runs.run import Run

PROMPTS_LIMIT = 1 << 20
"""Bytes of a file with prompts."""

Source = Annotated[str, arg(metavar="SOURCE", help="Adapter directory or zip file, or the id or directory of a run.")]
NewFolder = Annotated[Path, arg(metavar="FOLDER", help="A new folder.")]
Mask = Annotated[str | None, arg(help="A saved mask of the run, to be worked in.")]
Strength = Annotated[float, arg(help="Factor on every edit.")]
Base = Annotated[str | None, arg(help="Base model, when it is not where the adapter says.")]
Device = Annotated[str, arg(help="Device of the model.")]
Form = Annotated[Literal["float32", "float16", "bfloat16"], arg(help="Number format of the weights.")]
Prompts = Annotated[Path | None, arg(help="Text file with a prompt a line to measure on; default: eight of ours.")]
Push = Annotated[
    str | None, arg(help="Upload the folder to this Hub repository, owner/name; the token is read from HF_TOKEN.")
]
Public = Annotated[bool, arg(help="Make a new Hub repository public.")]


@dataclass
class ExportAdapter:
    """The edits alone, in a folder or a .zip file: what `jola` loads together with the base model."""

    source: Positional[Source]
    output: Positional[Annotated[Path, arg(metavar="OUTPUT", help="A new folder, or a new file that ends in .zip.")]]
    whole: Annotated[bool, arg(help="Keep the vectors of closed gates too, which nothing computes with.")] = False
    mask: Mask = None
    strength: Strength = 1.0
    push: Push = None
    public: Public = False
    json: Json = False


@dataclass
class ExportMerged:
    """The edits folded into the weights: a plain checkpoint that transformers loads, measured after writing."""

    source: Positional[Source]
    output: Positional[NewFolder]
    dtype: Form = "float32"
    prompts: Prompts = None
    allow_loss: Annotated[bool, arg(help="Write it also when the number format loses the edits.")] = False
    mask: Mask = None
    strength: Strength = 1.0
    model: Base = None
    device: Device = "auto"
    push: Push = None
    public: Public = False
    json: Json = False


@dataclass
class ExportIA3:
    """The scales as an IA3 adapter, which peft loads; offsets are left out."""

    source: Positional[Source]
    output: Positional[NewFolder]
    mask: Mask = None
    strength: Strength = 1.0
    push: Push = None
    public: Public = False
    json: Json = False


@dataclass
class ExportStandalone:
    """A Python file of one page that puts the edits on the model with plain hooks."""

    source: Positional[Source]
    output: Positional[NewFolder]
    base: Annotated[
        Literal["auto", "include", "leave"],
        arg(help="Put the base model beside it; 'auto' does when it comes with this project."),
    ] = "auto"
    mask: Mask = None
    strength: Strength = 1.0
    model: Base = None
    json: Json = False


@dataclass
class ExportGGUF:
    """The folded model as a GGUF file for llama.cpp (Llama, Qwen2 and Mistral), read back and measured."""

    source: Positional[Source]
    output: Positional[Annotated[Path, arg(metavar="FILE", help="A new file that ends in .gguf.")]]
    dtype: Form = "float16"
    prompts: Prompts = None
    mask: Mask = None
    strength: Strength = 1.0
    model: Base = None
    device: Device = "auto"
    json: Json = False


@dataclass
class ExportEdits:
    """Gates, norms and vectors of all edits, and the saved masks of the run, as CSV or JSON."""

    source: Positional[Source]
    output: Positional[
        Annotated[Path, arg(metavar="FILE", help="A new file that ends in .csv or .json; JSON has the vectors.")]
    ]
    mask: Mask = None
    strength: Strength = 1.0
    json: Json = False


@dataclass
class Export:
    """Take edits elsewhere: adapter, merged, ia3, standalone, gguf, edits."""

    action: (
        Annotated[ExportAdapter, subcommand("adapter")]
        | Annotated[ExportMerged, subcommand("merged")]
        | Annotated[ExportIA3, subcommand("ia3")]
        | Annotated[ExportStandalone, subcommand("standalone")]
        | Annotated[ExportGGUF, subcommand("gguf")]
        | Annotated[ExportEdits, subcommand("edits")]
    )


def export(command: Export) -> None:
    """Do what a command says."""
    action: Any = command.action

    with _ended_like_interrupted(), quiet_libraries(), console.ConsoleProgress() as progress:
        path, run = _find(action.source)
        _check_push(action)
        report = _ACTIONS[type(action)](action, path, run, progress)
        address = _push(action, progress)
    if action.json:
        console.print_json(dataclasses.asdict(report) | ({"address": address} if address else {}))
    else:
        console.print_text(report.describe() + (f"\naddress  {address}" if address else ""))


@contextmanager
def _ended_like_interrupted() -> Iterator[None]:
    """SIGTERM takes away what was written, as Ctrl-C does, which a process in the background may not get."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _adapter(command: ExportAdapter, path: Path, run: "Run | None", progress: Any) -> Any:
    from jola.export import export_adapter, run_facts, run_results

    if command.push and command.output.suffix == ".zip":
        raise InputError("The Hub shows folders and not zip files; give --push together with a folder.")
    return export_adapter(
        path,
        command.output,
        compact=not command.whole,
        mask=_masks(command.mask, path, run),
        strength=command.strength,
        facts=run_facts(run) if run else None,
        results=run_results(run) if run else (),
    )


def _merged(command: ExportMerged, path: Path, run: "Run | None", progress: Any) -> Any:
    from jola.export import export_merged

    prompts, masks = _prompts(command.prompts), _masks(command.mask, path, run)
    model = _load(path, command.model, command.device, progress)
    return export_merged(
        model,
        command.output,
        command.dtype,
        prompts,
        not command.allow_loss,
        mask=masks,
        strength=command.strength,
        progress=progress,
    )


def _ia3(command: ExportIA3, path: Path, run: "Run | None", progress: Any) -> Any:
    from jola.export import export_ia3

    return export_ia3(path, command.output, mask=_masks(command.mask, path, run), strength=command.strength)


def _standalone(command: ExportStandalone, path: Path, run: "Run | None", progress: Any) -> Any:
    from jola.adapters.directory import read_adapter
    from jola.data.catalogue import ASSETS
    from jola.export import export_standalone
    from jola.runs.adapter_source import local_adapter

    masks = _masks(command.mask, path, run)
    with local_adapter(path) as folder:
        ours = read_adapter(folder).base_model in ASSETS
    include = command.base == "include" or (command.base == "auto" and ours)
    what = _load(path, command.model, "cpu", progress) if include else path
    progress.phase("Writing")
    return export_standalone(what, command.output, include_model=include, mask=masks, strength=command.strength)


def _gguf(command: ExportGGUF, path: Path, run: "Run | None", progress: Any) -> Any:
    from jola.export import export_gguf

    prompts, masks = _prompts(command.prompts), _masks(command.mask, path, run)
    model = _load(path, command.model, command.device, progress)
    return export_gguf(
        model, command.output, command.dtype, prompts, mask=masks, strength=command.strength, progress=progress
    )


def _edits(command: ExportEdits, path: Path, run: "Run | None", progress: Any) -> Any:
    from jola.export import export_edits

    saved: dict[str, dict[str, HeadMask]] = {}
    for site in _sites(path) if run else ():
        for entry in _saved(run, site).list() if run else ():
            saved.setdefault(entry.name, {})[site] = entry.mask
    chosen = _masks(command.mask, path, run)
    return export_edits(path, command.output, mask=chosen, strength=command.strength, masks=saved)


def _find(name: str) -> tuple[Path, "Run | None"]:
    """The adapter directory or zip file that a name means, and its run when there is one."""

    return (Path(name), None) if Path(name).is_file() else find_adapter(name)


def _load(path: Path, model: str | None, device: str, progress: Any) -> "JoLAModel":
    """The edited model, in float32: what is exported is rounded once, when it is written."""
    from jola import JoLAModel

    progress.phase("load")
    return JoLAModel.from_adapter(path, model=model, dtype="float32", device=device)


def _sites(path: Path) -> list[str]:
    from jola.adapters.directory import read_adapter
    from jola.edits.sites import sites_of
    from jola.runs.adapter_source import local_adapter

    with local_adapter(path) as folder:
        return [str(site) for site in sites_of(read_adapter(folder).edits)]


def _saved(run: "Run", site: str) -> Any:
    from jola.edits.masks import SavedMasks

    return SavedMasks(run.path, site)


def _masks(name: str | None, path: Path, run: "Run | None") -> "Mapping[str, EditMask] | None":
    """The saved mask of this name, for each site that has one."""
    if name is None:
        return None
    if run is None:
        raise InputError("Masks are saved with runs; name a run to use --mask.")
    found = {
        site: entry.mask.edit_mask()
        for site in _sites(path)
        for entry in _saved(run, site).list()
        if entry.name == name.strip()
    }
    if not found:
        names = ", ".join(sorted({entry.name for site in _sites(path) for entry in _saved(run, site).list()}))
        raise InputError(f"The run {run.id} has no mask named '{name}'; it has {names or 'none'}.")
    return found


def _prompts(file: Path | None) -> list[str] | None:
    if file is None:
        return None
    try:
        if file.stat().st_size > PROMPTS_LIMIT:
            raise InputError(f"{file} is larger than {PROMPTS_LIMIT >> 20} MB; a few prompts are enough.")
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise InputError(f"{file} cannot be read as UTF-8 text ({error}).") from error
    return [line for line in lines if line.strip()]


def _check_push(command: Any) -> None:
    """Refuse before anything is written what could not be uploaded."""
    if getattr(command, "push", None):
        from jola.export.hub import check_repo, check_token

        check_repo(command.push)
        check_token()


def _push(command: Any, progress: Any) -> str | None:
    if not getattr(command, "push", None):
        return None
    from jola.export import push_to_hub

    progress.phase("Uploading")
    return push_to_hub(command.output, command.push, private=not command.public)


_ACTIONS: dict[type, Callable[..., Any]] = {
    ExportAdapter: _adapter,
    ExportMerged: _merged,
    ExportIA3: _ia3,
    ExportStandalone: _standalone,
    ExportGGUF: _gguf,
    ExportEdits: _edits,
}
