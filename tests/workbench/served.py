"""The app served by this process on a free port, with runs on a tiny model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jola.runs.run import Run
from tests.tiny import make_model, make_tokenizer
from tests.workbench.edited import edited_run
from workbench.app import build
from workbench.server.serve import Server
from workbench.server.serve import serve as start_server
from workbench.service.bench import Workbench
from workbench.settings import Settings


@dataclass(frozen=True)
class Served:
    """A served app: its workbench, its address, the folder of the tiny model, and its server."""

    bench: Workbench
    address: str
    model: Path
    server: Server

    def run(self, id: str, *, seed: int = 1, task: str = "sentiment") -> Run:
        """Write a finished run on the tiny model into the store of the app."""
        return edited_run(self.bench.store.root / id, self.model, seed=seed, task=task)


@contextmanager
def serve(folder: Path, **settings: object) -> Iterator[Served]:
    """Serve the app with these settings, by default without a token; runs and model are in ``folder``."""
    model = folder / "tiny-llama"
    make_model("llama").save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    chosen = Settings(**{"port": 0, "runs": folder / "runs", "token": False, **settings}).validate()
    bench = Workbench.from_settings(chosen)
    server = start_server(build(bench), chosen)
    try:
        yield Served(bench, server.address.rstrip("/").replace("0.0.0.0", "127.0.0.1"), model, server)
    finally:
        bench.session.close()
        server.close()


def write_task(folder: Path, train: int = 24) -> Path:
    """Write a tiny task with two answers into ``folder``."""
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("validation", 4), ("test", 4)):
        rows = [{"prompt": f"Good or bad? Film {n}", "completion": ("good", "bad")[n % 2]} for n in range(count)]
        (folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder
