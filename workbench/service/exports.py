"""Exports of a run: the formats, the command that writes each of them, and where the files are written.

Unlike a training, an export belongs to the page that started it and ends with it. Its progress and its report are read
from pipes, and it is not continued after a restart of the app.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jola.errors import InputError
from jola.runs.run import Run
from jola.runs.summary import method_in
from jola.runs.trash import folder_size
from jola.system.paths import is_there
from workbench.service.bench import uploads_home
from workbench.service.loader import Loader, refuse_unasked_fetch
from workbench.service.processes import environment
from workbench.settings import Settings

EXPORT_COMMAND = (sys.executable, "-m", "jola", "export")
_KEPT = 2
_PACKED = frozenset({".safetensors", ".gguf"})
"""Suffixes of files that do not compress."""


@dataclass(frozen=True)
class Form:
    """One format to export edits in.

    ``kind`` is the subcommand of ``jola export``, empty for the whole run; ``ending`` the suffix of the file, empty for
    a folder; ``formats`` the formats to choose from, the default first; ``model`` whether the base model is loaded.
    """

    kind: str
    title: str
    help: str
    code: str
    ending: str = ""
    formats: tuple[str, ...] = ()
    model: bool = False


_NUMBERS = ("float32", "float16", "bfloat16")
FORMS: dict[str, Form] = {
    form.title: form
    for form in (
        Form(
            "",
            "Whole run",
            "Edits, settings, metrics and the history of the gates, to import in another JoLA Workbench.",
            "from jola import RunStore\nfrom jola.runs.archive import import_archive\n\n"
            "run = import_archive({place!r}, RunStore())",
            ".zip",
        ),
        Form(
            "adapter",
            "Adapter",
            "Only the open edits, with a README about the run; JoLA loads them with the base model.",
            "from jola import JoLAModel\n\nmodel = JoLAModel.from_adapter({place!r})",
            ".zip",
        ),
        Form(
            "merged",
            "Plain checkpoint",
            "The edits folded into the weights; transformers loads it without JoLA, at the speed of the base model.",
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            "model = AutoModelForCausalLM.from_pretrained({place!r})\n"
            "tokenizer = AutoTokenizer.from_pretrained({place!r})",
            formats=_NUMBERS,
            model=True,
        ),
        Form(
            "standalone",
            "Python script",
            "One short file with plain hooks; needs only torch, transformers and safetensors.",
            "import sys\n\nsys.path.insert(0, {place!r})\nfrom jola_edits import attach\n\n"
            "attach(model)  # a model of transformers",
            model=True,
        ),
        Form(
            "ia3",
            "IA3 adapter",
            "The scales, without the offsets, as an adapter that peft loads.",
            "from peft import PeftModel\n\nmodel = PeftModel.from_pretrained(base, {place!r})",
        ),
        Form(
            "gguf",
            "GGUF file",
            "The folded model for llama.cpp and what is built on it; for Llama, Qwen2 and Mistral.",
            "llama-cli --model {quoted}",
            ".gguf",
            formats=("float16", "float32", "bfloat16"),
            model=True,
        ),
        Form(
            "edits",
            "Table",
            "Gates, norms and saved masks of every edit for statistics; JSON has the vectors too.",
            "import pandas\n\nedits = pandas.read_csv({place!r})",
            formats=("CSV", "JSON"),
        ),
    )
}


@dataclass(frozen=True)
class Exported:
    """A finished export: its path, its size in bytes, the report of ``jola export``, and the code that loads it."""

    place: Path
    size: int
    report: dict[str, Any]
    code: str
    download: bool
    """Whether it is in a folder of the app, for the page to download."""


@dataclass
class RunningExport:
    """A running export; `lines` yields its progress, and `report` waits for its end."""

    process: "subprocess.Popen[str]"
    stopped: bool = False
    _said: list[str] = field(default_factory=list)

    def stop(self) -> None:
        """Ask it to end and to remove what it has written."""
        self.stopped = True
        self.process.terminate()

    def lines(self) -> Iterator[str]:
        """Yield the lines of progress."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words := line.strip():
                self._said.append(words)
                yield words

    def report(self) -> dict[str, Any]:
        """Return the report of ``jola export``. Raises `InputError` with its message if it failed or was stopped."""
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        code = self.process.wait()
        if self.stopped:
            raise InputError("Stopped; nothing was written.")
        if code:
            said = self._said[-1] if self._said else f"it ended with code {code}"
            raise InputError(said.removeprefix("error: "))
        return json.loads(out)


class Exports:
    """Runs exports for all pages of an app, one at a time."""

    def __init__(self, settings: Settings, command: Sequence[str] = EXPORT_COMMAND) -> None:
        self._settings, self._command = settings, tuple(command)
        self._kept: deque[tempfile.TemporaryDirectory[str]] = deque()
        self._busy = threading.Lock()
        self._at_work: dict[str, RunningExport] = {}

    @property
    def writes(self) -> bool:
        """Whether a page may choose a folder of this computer to write to."""
        return self._settings.loopback or bool(self._settings.folders)

    def working(self, page: str) -> bool:
        """Whether an export of a page is running that was not asked to stop."""
        work = self._at_work.get(page)
        return work is not None and not work.stopped

    def stop(self, page: str) -> None:
        """Stop the export of a page."""
        if work := self._at_work.get(page):
            work.stop()

    def export(
        self, page: str, run: Run, form: Form, chosen: str | None = None, folder: str = ""
    ) -> Iterator[str | Exported]:
        """Export a run: yield progress messages, and finally an `Exported`.

        Args:
            page: The page that exports, for `stop`.
            chosen: One of the form's formats.
            folder: A folder of this computer to write to; empty for a download.

        Raises:
            InputError: Another export is running, the page may not use the model or the folder, the model of an
                imported run would have to be fetched, the run has no adapter, the form cannot represent its edits, or
                the export was stopped.
        """
        if form.kind:
            method_in(run.raw_config()).refuse_export(form.kind)
        if form.model:
            self._settings.check_sources(run.run_config(), uploads_home())
            # The export loads the model that the adapter names, which may differ in an imported run.
            from jola.adapters.directory import read_adapter

            name, _ = Loader().model_of(run)
            self._settings.check_model(name)
            refuse_unasked_fetch(run, name, read_adapter(run.adapter_dir).revision)
        if chosen not in (form.formats or (chosen,)):
            raise InputError(f"{form.title} has no format {chosen!r}; choose one of {', '.join(form.formats)}.")
        into = self._folder(folder)
        if not self._busy.acquire(blocking=False):
            raise InputError("Another export is running; wait for it or stop it.")
        try:
            yield from self._export(page, run, form, chosen, into)
        finally:
            self._at_work.pop(page, None)
            self._busy.release()

    def _export(self, page: str, run: Run, form: Form, chosen: str | None, into: Path | None) -> Iterator[Any]:
        place = (into or self._fresh()) / _name(run, form, chosen)
        if place.exists():
            raise InputError(f"{place} already exists; choose another folder, or remove it first.")
        report: dict[str, Any] = {}
        if not form.kind:
            from jola.runs.archive import export_archive  # imports PyTorch, which the page does not need at startup

            export_archive(run, place)
        else:
            work = RunningExport(self._start(run, form, chosen, place))
            self._at_work[page] = work
            try:
                yield from work.lines()
                report = work.report()
            finally:
                if work.process.poll() is None:  # the page was closed
                    work.stop()
        size = place.stat().st_size if place.is_file() else folder_size(place)
        code = form.code
        if chosen == "JSON":
            code = "import json\n\nedits = json.load(open({place!r}))"
        if into is None and place.is_dir():
            yield "Packing …"
            place = _packed(place)
            code = f"# after unpacking {place.name}\n{code}"
        name = str(place) if into else place.name.removesuffix(".zip") if not form.ending else place.name
        yield Exported(place, size, report, code.format(place=name, quoted=shlex.quote(name)), into is None)

    def _start(self, run: Run, form: Form, chosen: str | None, place: Path) -> "subprocess.Popen[str]":
        flags = ["--dtype", chosen] if chosen and form.model else []
        asked = run.run_config().model.model
        if form.model and is_there(asked):
            flags += ["--model", asked]
        return subprocess.Popen(
            [*self._command, form.kind, str(run.path), str(place), "--json", *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment(),
        )

    def _folder(self, folder: str) -> Path | None:
        if not folder.strip():
            return None
        path = Path(os.path.expanduser(folder.strip()))
        roots = [root.expanduser().resolve() for root in self._settings.folders]
        inside = "\0" not in folder and any(path.resolve().is_relative_to(root) for root in roots)
        if not self._settings.loopback and not inside:
            raise InputError(
                f"The folder {folder[:200]!r} is not allowed for this page; leave it empty to download, or start the "
                "app with --folders to allow it."
            )
        if not path.is_absolute() or not os.path.isdir(path):
            raise InputError(f"There is no folder {folder[:200]!r}; give the absolute path of an existing folder.")
        return path

    def _fresh(self) -> Path:
        """Create a folder and remove old ones, whose files the app copied before they were downloaded."""
        folder = tempfile.TemporaryDirectory(prefix="jola-export-")
        self._kept.append(folder)
        while len(self._kept) > _KEPT:
            self._kept.popleft().cleanup()
        return Path(folder.name)


def _name(run: Run, form: Form, chosen: str | None) -> str:
    stem = re.sub(r"[^\w.-]+", "-", run.id) + (f"-{form.kind}" if form.kind else "")
    if form.kind == "edits":
        return f"{stem}.{(chosen or 'CSV').lower()}"
    return stem + (f"-{chosen}" if chosen else "") + form.ending


def _packed(folder: Path) -> Path:
    """Replace a folder with a zip file of it."""
    file = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            kind = zipfile.ZIP_STORED if path.suffix in _PACKED else zipfile.ZIP_DEFLATED
            if path.is_file():
                archive.write(path, f"{folder.name}/{path.relative_to(folder)}", kind)
    shutil.rmtree(folder)
    return file
