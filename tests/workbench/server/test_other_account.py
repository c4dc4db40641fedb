"""What another account on the app's computer can request and read."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.workbench.started import started

OTHER = "nobody"
SECRET = "an unpublished review"
# Imports only the standard library: the other account may not be able to read the environment of the tests.
LOOKS = """
import json, os, pathlib, sys, urllib.error, urllib.request

place, temporary, *secrets = sys.argv[1:]
found = {"account": os.geteuid(), "answers": {}, "read": []}
body = b'{"data": [], "fn_index": 0, "session_hash": "x"}'
for path in ("", "?run=one", "?token=x", "config", "gradio_api/info", "gradio_api/heartbeat/x",
             "gradio_api/file=/etc/passwd", "POST gradio_api/call/runs", "POST gradio_api/run/predict",
             "POST gradio_api/queue/join", "POST gradio_api/component_server", "POST gradio_api/upload"):
    method, _, route = path.rpartition(" ")
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(place + route, data=body if method else None, headers=headers)
    try:
        found["answers"][path] = urllib.request.urlopen(request, timeout=300).status
    except urllib.error.HTTPError as error:
        found["answers"][path] = error.code
own = f"/proc/{os.getpid()}/"  # this program was told what to look for
files = [f"{folder}/{name}" for folder, _, names in os.walk(temporary) for name in names]
files += [f"{folder}/{name}" for folder in pathlib.Path("/proc").glob("[0-9]*") for name in ("cmdline", "environ")]
for file in files:
    try:
        content = b"" if file.startswith(own) else pathlib.Path(file).read_bytes()
    except OSError:
        continue
    found["read"] += [secret for secret in secrets if secret.encode() in content]
print(json.dumps(found))
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder for temporary files of all accounts, like ``/tmp``."""
    folder = Path(tempfile.mkdtemp(prefix="jola-test-shared-", dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def python_of_others(account: int) -> str:
    """Return a Python that ``account`` may execute; the tests' own may be in a private folder."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            subprocess.run([python, "-c", ""], user=account, check=True, capture_output=True, cwd="/")
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip(f"there is no Python that the account {OTHER} may execute")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as another account")
def test_it_reads_and_asks_nothing(home: Path, shared: Path) -> None:
    account = pwd.getpwnam(OTHER)
    python = python_of_others(account.pw_uid)

    def looks(**other: Any) -> dict[str, Any]:
        """Return what `LOOKS` finds as root, or as another account."""
        command = [python, "-c", LOOKS, f"{app.address}/", str(shared), app.token, SECRET]
        ended = subprocess.run(command, capture_output=True, text=True, cwd="/", env={}, timeout=300, **other)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    # The browser is a program that does nothing, so the file that leads it to the page with the token remains.
    with started(home, shared, flags=("--open-browser",), variables={"BROWSER": "true"}) as app:
        sent = {"Authorization": f"Bearer {app.token}"}
        files = {"files": ("reviews.csv", SECRET.encode())}
        assert httpx.post(f"{app.address}/gradio_api/upload", files=files, headers=sent, timeout=300).status_code == 200
        found = looks(user=account.pw_uid, group=account.pw_gid, extra_groups=[])
        assert found["account"] == account.pw_uid
        assert set(found["answers"].values()) == {401} and len(found["answers"]) == 12, found["answers"]
        assert found["read"] == []
        # The control: root can find both.
        assert set(looks()["read"]) == {app.token, SECRET}
