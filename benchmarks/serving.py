"""Serve the app for benchmarks: in this process, with the sample run, in a temporary home folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jola.system.paths import HOME_VARIABLE, cache_home


def share_assets(home: Path) -> None:
    """Use a folder as the home of runs and downloads, and link the cache of downloaded assets into it."""
    (home / "cache").symlink_to(cache_home(), target_is_directory=True)
    os.environ[HOME_VARIABLE] = str(home)


@contextmanager
def served_app() -> Iterator[tuple[Any, str]]:
    """Yield (workbench, address). The model runs in this process, where its time and memory can be measured."""
    from workbench.app import build
    from workbench.server.serve import serve
    from workbench.service import sample
    from workbench.service.bench import Workbench
    from workbench.settings import Settings

    settings = Settings(port=0, token=False)
    bench = Workbench.from_settings(settings)
    sample.install(bench.store)
    server = serve(build(bench), settings)
    try:
        yield bench, server.address.rstrip("/")
    finally:
        bench.session.close()
        server.close()
