"""The served app: its exit codes, its answers to strangers, and its end."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import httpx
import pytest

from tests import ROOT
from workbench.api.endpoints import ENDPOINTS
from workbench.page import _in_playground

APP = [sys.executable, str(ROOT / "app.py")]


def run_app(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*APP, *flags], capture_output=True, text=True, timeout=120)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, which other users can read too."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def app(home: Path, temporary: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running app and its address."""
    with subprocess.Popen([*APP, "--port", "0", "--no-token"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = next(word for line in process.stderr for word in line.split() if word.startswith("http"))
        yield process, address.rstrip("/")
        process.kill()


def test_a_taken_port_is_one_sentence_and_exit_code_2() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        ended = run_app("--port", str(port))
    assert ended.returncode == 2
    assert ended.stderr == f"error: Port {port} on 127.0.0.1 is in use, or the address does not belong to this " + (
        "computer; choose another --port or --host.\n"
    )
    assert ended.stdout == ""


def test_a_public_address_without_a_password_is_refused() -> None:
    ended = run_app("--host", "0.0.0.0")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --host 0.0.0.0") and ended.stderr.count("\n") == 1


def test_help_is_complete_and_quick_to_load() -> None:
    ended = run_app("--help")
    assert ended.returncode == 0
    for flag in ("--host", "--port", "--runs", "--open-browser", "--auth", "--no-token"):
        assert flag in ended.stdout


def test_the_served_app(app: tuple[subprocess.Popen[str], str], temporary: Path) -> None:
    process, address = app
    page = httpx.get(address)
    assert page.status_code == 200 and "JoLA Workbench" in page.text
    # Programs can call only the endpoints for programs, not the functions of the page.
    offered = httpx.get(f"{address}/gradio_api/info").json()
    assert list(offered["named_endpoints"]) == [f"/{name}" for name in ENDPOINTS]
    assert offered["unnamed_endpoints"] == {}
    # A name that was made to point here (DNS rebinding) is not a name of this computer.
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 400
    # Files of this computer are not served.
    assert httpx.get(f"{address}/gradio_api/file={ROOT / 'pyproject.toml'}").status_code == 403
    # Only this user can read uploads, and they are deleted when the app ends.
    assert httpx.post(f"{address}/gradio_api/upload", files={"files": ("secret.csv", b"a,b")}).status_code == 200
    kept = [path for path in temporary.rglob("secret.csv")]
    assert kept and all(temporary in path.parents for path in kept)
    assert [folder.stat().st_mode & 0o077 for folder in temporary.iterdir() if folder in kept[0].parents] == [0]
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) == 0
    assert not list(temporary.rglob("secret.csv"))


def test_the_printed_line_has_the_address_with_its_token(home: Path) -> None:
    with subprocess.Popen([*APP, "--port", "0"], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "http" in line)
            found = re.fullmatch(
                r"JoLA Workbench is at (http://127\.0\.0\.1:\d+/)(\?token=[\w-]{32})   \(runs in .*\)\n", line
            )
            assert found, line
            assert httpx.get(found[1]).status_code == 401
            assert httpx.get(found[1] + found[2], follow_redirects=True).status_code == 200
        finally:
            process.kill()


def test_importing_the_app_reports_to_nobody() -> None:
    program = (
        "import workbench.app, os; print(os.environ['GRADIO_ANALYTICS_ENABLED'], 'gradio' in __import__('sys').modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env={**os.environ}, timeout=300
    )
    assert ended.stdout.split() == ["False", "False"], ended.stderr


def test_the_page_is_built_without_pytorch(home: Path) -> None:
    """PyTorch takes seconds to import, and the first page does not need it."""
    program = (
        "import sys, workbench.app, gradio; sys.modules['torch'] = None; from workbench.settings import Settings; "
        "from workbench.service.bench import Workbench; workbench.app.build(Workbench.from_settings(Settings())); "
        "print('built')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert ended.stdout.split() == ["built"], ended.stderr


def test_opening_the_playground_chooses_its_tab_once() -> None:
    first, *later = _in_playground(iter([("loading",), ("loading",), ("tokens",)]))
    assert isinstance(first[0], gr.Tabs) and first[1:] == ("loading",)
    assert later == [(gr.skip(), "loading"), (gr.skip(), "tokens")], "another tab may have been chosen meanwhile"
