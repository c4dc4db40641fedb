"""The app: its page, and the command that serves it."""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

# Read by gradio, huggingface_hub and transformers when they are imported: nothing is reported to anybody.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# After every event gradio makes a table of the last 10,000 events for a page that is off: of fewer, and seldom.
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000")

import tyro
from rich.console import Console

from jola.errors import InputError
from jola.system.startup import quick_imports
from workbench.settings import AUTH_VARIABLE, Settings

if TYPE_CHECKING:  # gradio takes seconds to import, and --help and bad settings need none of it
    import gradio as gr

    from workbench.service.bench import Workbench


def build(bench: "Workbench") -> "gr.Blocks":
    """The page, not served yet."""
    from workbench.api import endpoints
    from workbench.page import Page
    from workbench.server.faults import Blocks

    with Blocks(title="JoLA Workbench", fill_width=True, analytics_enabled=False) as blocks:
        Page.lay_out(bench, blocks).connect()
        endpoints.install(bench)
    return blocks


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``jola-workbench``: serve until Ctrl-C or SIGTERM. Exit code 2 for settings that cannot be used."""
    settings = tyro.cli(Settings, prog="jola-workbench", args=arguments)
    console = Console(stderr=True, highlight=False)
    try:
        settings.validate().claim_port()
        os.environ.pop(AUTH_VARIABLE, None)  # read by now, and not for the processes that the app starts
        with _private_temporary_folder():
            return _serve(settings, console)
    except InputError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return 2


@contextmanager
def _private_temporary_folder() -> Iterator[None]:
    """Inside the block, temporary files of this process are in a folder that only this user reads, removed at the end.

    Gradio would keep uploads and downloads in one folder for all users of the computer, after the app has ended too.
    Processes that the app starts keep the usual folder: they may outlive it.
    """
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="jola-workbench-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def _serve(settings: Settings, console: Console) -> int:
    with console.status("Starting JoLA Workbench …"):
        with quick_imports():
            import gradio  # noqa: F401  # before anything that imports nnsight, after which it cannot be imported

            from workbench.server.serve import serve
            from workbench.service import sample
            from workbench.service.bench import Workbench

        bench = Workbench.from_settings(settings)
        sample.install(bench.store)
        sample.install_comparison(bench.comparisons.root)
        server = serve(build(bench), settings)
    console.print(
        f"JoLA Workbench is at {server.address}   (runs in {settings.runs_root}; Ctrl-C ends)", soft_wrap=True
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    active, comparison, study = bench.jobs.active(), bench.comparisons.active(), bench.studies.active()
    bench.session.close()
    server.close()
    if active is not None:
        console.print(f"The run {active.id} continues to train; the app shows it when started again.")
    if comparison is not None:
        console.print(f"The comparison {comparison.id} continues; the app shows it when started again.")
    if study is not None:
        console.print(f"The study {study.id} continues; the app shows it when started again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
