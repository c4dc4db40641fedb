"""Build the page of the app and serve it."""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

# gradio, huggingface_hub and transformers read these variables at import; they disable telemetry.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# After every event, gradio builds a table of the last 10,000 events for a page that is disabled; use fewer, less often.
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000")

import tyro
from rich.console import Console

from jola.errors import InputError
from jola.system.startup import quick_imports
from workbench.settings import AUTH_VARIABLE, Settings

if TYPE_CHECKING:  # importing gradio takes seconds; --help and invalid settings do not need it
    import gradio as gr

    from workbench.service.bench import Workbench


def build(bench: "Workbench") -> "gr.Blocks":
    """Build the page, without serving it."""
    from workbench.api import endpoints
    from workbench.page import Page
    from workbench.server.blocks import Blocks

    with Blocks(title="JoLA Workbench", fill_width=True, analytics_enabled=False) as blocks:
        Page.lay_out(bench, blocks).connect()
        endpoints.install(bench)
    return blocks


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command ``jola-workbench`` until Ctrl-C or SIGTERM. Returns exit code 2 for invalid settings."""
    settings = tyro.cli(Settings, prog="jola-workbench", args=arguments)
    console = Console(stderr=True, highlight=False)
    try:
        settings.validate().claim_port()
        os.environ.pop(AUTH_VARIABLE, None)  # already read; child processes must not inherit it
        with _private_temporary_folder():
            return _serve(settings, console)
    except InputError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return 2


@contextmanager
def _private_temporary_folder() -> Iterator[None]:
    """Use a private folder for the temporary files of this process; it is removed at the end of the block.

    Otherwise Gradio would store uploads and downloads in one folder for all users of the computer and leave them there.
    Child processes use the default folder, because they may outlive the app.
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
            import gradio  # noqa: F401  # must come before nnsight, after which the import fails

            from workbench.server.serve import serve
            from workbench.service import sample
            from workbench.service.bench import Workbench

        bench = Workbench.from_settings(settings)
        sample.install(bench.store)
        sample.install_comparison(bench.comparisons.root)
        server = serve(build(bench), settings)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # before the address is known, after which the app may be ended
        signal.signal(number, lambda *_: stop.set())
    console.print(
        f"JoLA Workbench is at {server.address}   (runs in {settings.runs_root}; Ctrl-C ends)", soft_wrap=True
    )
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
