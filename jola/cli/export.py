"""``jola export``: edits as an adapter, plain weights, an IA3 adapter, a script, a GGUF file or a table."""

import dataclasses
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from jola.cli import console
from jola.cli.common import BaseModel, Device, Json, Strength, find_adapter, importing_libraries
from jola.errors import InputError

if TYPE_CHECKING:
    from jola.edits.intervention import EditMask
    from jola.edits.masks import HeadMask, SavedMask
    from jola.jola_model import JoLAModel
    from jola.runs.run import Run

PROMPTS_LIMIT = 1 << 20
"""Maximum bytes of a file with prompts."""

Source = Positional[
    Annotated[str, arg(metavar="SOURCE", help="Adapter directory or zip file, or the id or directory of a run.")]
]
NewFolder = Positional[Annotated[Path, arg(metavar="FOLDER", help="Folder to create.")]]
Mask = Annotated[str | None, arg(help="Name of a saved mask of the run; edits it switches off are left out.")]
WeightType = Annotated[Literal["float32", "float16", "bfloat16"], arg(help="Data type of the weights.")]
Prompts = Annotated[
    Path | None, arg(help="Text file of prompts to measure with, one per line; default: eight built-in prompts.")
]
Push = Annotated[
    str | None, arg(help="Upload the folder to this Hub repository (owner/name); the token is read from HF_TOKEN.")
]
Public = Annotated[bool, arg(help="Make a new Hub repository public.")]

export = SubcommandApp()


@export.command
def adapter(
    source: Source,
    output: Positional[Annotated[Path, arg(metavar="OUTPUT", help="Folder or .zip file to create.")]],
    whole: Annotated[bool, arg(help="Keep the vectors of closed gates too, which have no effect.")] = False,
    mask: Mask = None,
    strength: Strength = 1.0,
    push: Push = None,
    public: Public = False,
    json: Json = False,
) -> None:
    """The edits only, as a folder or .zip file that `jola` loads onto the base model."""
    if push and output.suffix == ".zip":
        raise InputError("The Hub shows folders and not zip files; give --push together with a folder.")
    with _exporting("adapter", source, mask, json, output, push, public) as job:
        from jola.export import export_adapter, run_facts, run_results

        job.report = export_adapter(
            job.path,
            output,
            compact=not whole,
            mask=job.masks,
            strength=strength,
            facts=run_facts(job.run) if job.run else None,
            results=run_results(job.run) if job.run else (),
        )


@export.command
def merged(
    source: Source,
    output: NewFolder,
    dtype: WeightType = "float32",
    prompts: Prompts = None,
    allow_loss: Annotated[bool, arg(help="Write the checkpoint even if the data type loses the edits.")] = False,
    mask: Mask = None,
    strength: Strength = 1.0,
    model: BaseModel = None,
    device: Device = "auto",
    push: Push = None,
    public: Public = False,
    json: Json = False,
) -> None:
    """The edits folded into the weights: a checkpoint that transformers loads, compared with the edited model."""
    with _exporting("merged", source, mask, json, output, push, public) as job:
        from jola.export import export_merged

        lines, masks = _read_prompts(prompts), job.masks
        job.report = export_merged(
            job.load(model, device),
            output,
            dtype,
            lines,
            not allow_loss,
            mask=masks,
            strength=strength,
            progress=job.progress,
        )


@export.command
def ia3(
    source: Source,
    output: NewFolder,
    mask: Mask = None,
    strength: Strength = 1.0,
    push: Push = None,
    public: Public = False,
    json: Json = False,
) -> None:
    """The scales as an IA3 adapter that peft loads; offsets are left out."""
    with _exporting("ia3", source, mask, json, output, push, public) as job:
        from jola.export import export_ia3

        job.report = export_ia3(job.path, output, mask=job.masks, strength=strength)


@export.command
def standalone(
    source: Source,
    output: NewFolder,
    base: Annotated[
        Literal["auto", "include", "leave"],
        arg(help="Whether to include the base model; 'auto' includes it if it is one of this project's assets."),
    ] = "auto",
    mask: Mask = None,
    strength: Strength = 1.0,
    model: BaseModel = None,
    json: Json = False,
) -> None:
    """A one-page Python script that applies the edits with plain PyTorch hooks."""
    with _exporting("standalone", source, mask, json, output) as job:
        from jola.adapters.directory import read_adapter
        from jola.data.catalogue import ASSETS
        from jola.export import export_standalone
        from jola.runs.adapter_source import local_adapter

        masks = job.masks
        with local_adapter(job.path) as folder:
            ours = read_adapter(folder).base_model in ASSETS
        include = base == "include" or (base == "auto" and ours)
        what = job.load(model, "cpu") if include else job.path
        job.progress.phase("Writing")
        job.report = export_standalone(what, output, include_model=include, mask=masks, strength=strength)


@export.command
def gguf(
    source: Source,
    output: Positional[Annotated[Path, arg(metavar="FILE", help=".gguf file to create.")]],
    dtype: WeightType = "float16",
    prompts: Prompts = None,
    mask: Mask = None,
    strength: Strength = 1.0,
    model: BaseModel = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """The folded model as a GGUF file for llama.cpp (Llama, Qwen2 and Mistral), compared with the edited model."""
    with _exporting("gguf", source, mask, json, output) as job:
        from jola.export import export_gguf

        lines, masks = _read_prompts(prompts), job.masks
        loaded = job.load(model, device)
        job.report = export_gguf(loaded, output, dtype, lines, mask=masks, strength=strength, progress=job.progress)


@export.command
def edits(
    source: Source,
    output: Positional[
        Annotated[Path, arg(metavar="FILE", help=".csv or .json file to create; only JSON includes the vectors.")]
    ],
    mask: Mask = None,
    strength: Strength = 1.0,
    json: Json = False,
) -> None:
    """A table of all edits, as CSV or JSON: gates, norms, vectors, and the saved masks of the run."""
    with _exporting("edits", source, mask, json, output) as job:
        from jola.export import export_edits

        saved: dict[str, dict[str, HeadMask]] = {}
        for site, entry in job.saved_masks:
            saved.setdefault(entry.name, {})[site] = entry.mask
        job.report = export_edits(job.path, output, mask=job.masks, strength=strength, masks=saved)


@dataclass
class _Export:
    """One export: its source, and the report that is printed at the end."""

    path: Path
    run: "Run | None"
    mask: str | None
    progress: console.ConsoleProgress
    report: Any = None

    @cached_property
    def saved_masks(self) -> "list[tuple[str, SavedMask]]":
        """(site, mask) of every mask saved with the run."""
        from jola.adapters.directory import read_edits
        from jola.edits.masks import SavedMasks
        from jola.runs.adapter_source import local_adapter

        if self.run is None:
            return []
        with local_adapter(self.path) as folder:
            sites = [str(edits.site) for edits in read_edits(folder)]
        return [(site, entry) for site in sites for entry in SavedMasks(self.run.path, site).list()]

    @property
    def masks(self) -> "Mapping[str, EditMask] | None":
        """The mask named by --mask, for each site that has one."""
        if self.mask is None:
            return None
        if self.run is None:
            raise InputError("Masks are saved with runs; name a run to use --mask.")
        found = {site: entry.mask.edit_mask() for site, entry in self.saved_masks if entry.name == self.mask.strip()}
        if not found:
            names = ", ".join(sorted({entry.name for _, entry in self.saved_masks}))
            raise InputError(f"The run {self.run.id} has no mask named '{self.mask}'; it has {names or 'none'}.")
        return found

    def load(self, model: str | None, device: str) -> "JoLAModel":
        """Load the edited model in float32, so that weights are rounded only once, when they are written."""
        with importing_libraries():
            from jola import JoLAModel

        self.progress.phase("load")
        return JoLAModel.from_adapter(self.path, model=model, dtype="float32", device=device, quantize="none")


@contextmanager
def _exporting(
    form: str, source: str, mask: str | None, json: bool, output: Path, push: str | None = None, public: bool = False
) -> Iterator[_Export]:
    """Find the source and refuse a form that its method lacks; at the end, upload for --push and print the report."""
    address = {}
    with _terminated_as_interrupted(), console.ConsoleProgress() as progress:
        with importing_libraries():
            from jola.export.hub import check_repo, check_token, push_to_hub
            from jola.export.source import refuse_export

        path, run = (Path(source), None) if Path(source).is_file() else find_adapter(source)
        refuse_export(path, form)
        if push:
            # Checked first, so that nothing is written that cannot be uploaded.
            check_repo(push)
            check_token()
        job = _Export(path, run, mask, progress)
        yield job
        if push:
            progress.phase("Uploading")
            address["address"] = push_to_hub(output, push, private=not public)
    if json:
        console.print_json(dataclasses.asdict(job.report) | address)
    else:
        console.print_text("\n".join([job.report.describe(), *(f"address  {url}" for url in address.values())]))


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM remove unfinished files as Ctrl-C does, which a background process may not receive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _read_prompts(file: Path | None) -> list[str] | None:
    if file is None:
        return None
    try:
        if file.stat().st_size > PROMPTS_LIMIT:
            raise InputError(f"{file} is larger than {PROMPTS_LIMIT >> 20} MB; a few prompts are enough.")
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise InputError(f"{file} cannot be read as UTF-8 text ({error}).") from error
    return [line for line in lines if line.strip()]
