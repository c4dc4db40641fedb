"""The app is killed while a run trains: the run continues, and the next app shows it and can cancel it."""

import time
from collections.abc import Callable
from pathlib import Path

from gradio_client import Client

from jola.runs.store import RunStore
from tests.browser.conftest import OpenPage, serve, shown
from tests.browser.test_training import TRAINING
from tests.workbench.served import write_task

PATIENCE = TRAINING / 1000


def test_a_run_outlives_its_app(home: Path, open_page: OpenPage, tiny_folder: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path / "task")
    settings = {"epochs": 100_000, "patience": 0, "record_every": 20, "dtype": "float32"}
    with serve(home) as app:
        client = Client(app.address, verbose=False)
        id = client.predict(str(task), str(tiny_folder), settings, api_name="/start")["run"]
        waiting = client.predict(str(task), str(tiny_folder), {**settings, "epochs": 1}, api_name="/start")["run"]
        run, queued = RunStore(app.runs).get(id), RunStore(app.runs).get(waiting)
        until(lambda: run.status()["step"] > 0)
        trainer = run.status()["pid"]
        assert app.process is not None
        app.process.kill()
        app.process.wait()
    step = run.status()["step"]
    until(lambda: run.status()["step"] > step + 40)
    assert run.alive and run.status()["pid"] == trainer

    with serve(home) as again:
        page = open_page(again)
        page.set_default_timeout(TRAINING)
        shown(page, run=id, state="training")
        assert int(page.get_attribute("#run-view .rv", "data-step")) > step
        page.press("#cancel", "Enter")
        shown(page, run=id, state="cancelled")
        # The new app also continues the queue of the old one.
        until(lambda: queued.state == "finished")
        page.close()
    assert len(run.gates()) > 2 and (run.adapter_dir / "adapter_model.safetensors").is_file()


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)
