"""Names in an imported run cause no requests to the Hub.

The Hub is a server of the test that records its requests. A separate process sends them, because the process of the
tests is configured to be offline.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from jola.system.paths import HOME_VARIABLE
from tests import ROOT

TOKEN = "hf_" + "s3cr3t" * 6
# Imports a run and opens it everywhere in the app, then a run of the user's own with the same names.
LOOKS = """
import json, sys, zipfile
from contextlib import suppress
from pathlib import Path
import httpx
from jola.errors import InputError
from jola.runs.archive import export_archive
from tests.soak.test_calls import first_event
from tests.workbench.served import serve
from workbench.api.endpoints import Endpoints
from workbench.runs import tab as runs
from workbench.service import examples
from workbench.service.exports import FORMS, Exports
from workbench.train import tab as train

folder, hub = Path(sys.argv[1]), sys.argv[2]

def asked():
    return httpx.get(hub + "/asked", timeout=120).json()

def renamed(name, content):
    if name == "config.json":
        config = json.loads(content)
        config["model"]["model"], config["data"]["task"], config["task"]["name"] = "evil/model", "hf:evil/data", "evil"
        return json.dumps(config)
    if name.endswith("adapter_config.json"):
        return json.dumps(json.loads(content) | {"base_model_name_or_path": "evil/model"})
    return content

def every_question(app, id):
    run, said = app.bench.store.get(id), {}

    def ask(name, question):
        try:
            said[name] = str(question())
        except InputError as error:
            said[name] = str(error)

    program = Endpoints(app.bench)
    for name, *more in ("status",), ("gates",), ("predict", "film"), ("generate", "film"), ("effects", "film", "good"):
        ask(name, lambda: getattr(program, name)(id, *more))
    load = first_event(httpx.get(app.address + "/config", timeout=120).json())
    for place in ("playground", "runs", "train", "compare"):
        body = {"fn_index": load["id"], "data": [None] * len(load["inputs"]), "session_hash": place}
        address = f"{app.address}/gradio_api/run/predict?tab={place}&run={id}"
        ask(place, lambda: httpx.post(address, json=body, timeout=120).raise_for_status())
    ask("examples", lambda: examples.draw_example(app.bench, run))
    ask("shown", lambda: train.show(app.bench, id))
    exports = Exports(app.bench.settings)
    for title, form in FORMS.items():
        if form.model or title == "Adapter":  # the others do not load a model, and each takes seconds
            ask(title, lambda: list(exports.export("page", run, form, form.formats[0] if form.formats else None)))
    return said

with serve(folder) as app:
    with zipfile.ZipFile(export_archive(app.run("one"), folder / "one.zip")) as archive:
        with zipfile.ZipFile(folder / "gift.zip", "w") as gift:
            for name in archive.namelist():
                gift.writestr(name, renamed(name, archive.read(name)))
    taken = runs.take_in(app.bench.store, str(folder / "gift.zip"))
    found = {"taken": taken, "said": every_question(app, taken["chosen"]), "asked": asked()}
    config = app.bench.store.get(taken["chosen"]).path / "config.json"
    own = json.loads(config.read_text())
    del own["imported"]
    config.write_text(json.dumps(own))
    with suppress(InputError):
        Endpoints(app.bench).predict(taken["chosen"], "film")
    found["asked for the user's own"] = asked()
print(json.dumps(found))
"""


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of a server without content that lists its requests, with their tokens, at ``/asked``."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps(asked).encode() if self.path == "/asked" else b"{}"
            if self.path != "/asked":
                asked.append(f"{self.path} {self.headers['Authorization']}")
            self.send_response(200 if self.path == "/asked" else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if self.command == "GET" else b"")

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_nothing_is_asked_of_the_hub(hub: str, home: Path, tmp_path: Path) -> None:
    variables = {HOME_VARIABLE: str(home), "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub, "HF_TOKEN": TOKEN}
    environment = {**os.environ, **variables}
    del environment["HF_HUB_OFFLINE"]
    command = [sys.executable, "-c", LOOKS, str(tmp_path / "app"), hub]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=400)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["taken"]["kind"] != "error", found["taken"]
    for question in ("predict", "generate", "effects", "Plain checkpoint", "Python script", "GGUF file"):
        assert "Nothing is downloaded for an imported run" in found["said"][question], (question, found["said"])
        assert "evil/model" in found["said"][question]
    assert "'hf:evil/data' on the Hub" in found["said"]["examples"]
    assert found["asked"] == []
    # The control: for a run of the user's own, the same names are looked up, and the token is sent.
    assert any("evil/model" in line and TOKEN in line for line in found["asked for the user's own"]), found
