"""Find a Chromium for the browser tests, or install one.

Candidates, in order: the environment variable ``JOLA_CHROMIUM``, playwright's own browser, then ``chromium``,
``chromium-browser`` and ``google-chrome`` on the path. If none of them starts, playwright downloads its browser; if
this fails and the user is root, apt-get installs the one of the distribution (Debian, Ubuntu).

As a script, it prints the path of the browser on standard output and everything else on standard error.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "JOLA_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome")

START_SECONDS = 30
DOWNLOAD_SECONDS = 120
APT_SECONDS = 600


class NoBrowser(RuntimeError):
    """No Chromium is available; the message is one sentence that says what to install."""


def find() -> Path | None:
    """Return the path of a Chromium that starts, or None; download nothing.

    Raises:
        NoBrowser: The program that ``JOLA_CHROMIUM`` names does not start.
    """
    named = os.environ.get(VARIABLE, "").strip()
    if named:
        if not _starts(Path(named)):
            raise NoBrowser(f"{VARIABLE} is {named}, which does not start; correct it or unset it.")
        return Path(named)
    return next((path for path in _candidates() if _starts(path)), None)


def ensure() -> Path:
    """Return the path of a Chromium that starts; install one if there is none.

    Raises:
        NoBrowser: There is none, and none could be installed.
    """
    path = find()
    if path is None:
        _say("No Chromium found; asking playwright to download one.")
        _run([sys.executable, "-m", "playwright", "install", "chromium"], DOWNLOAD_SECONDS)
        path = find()
    if path is None and _is_root() and shutil.which("apt-get"):
        _say("Playwright has no Chromium for this machine; installing the distribution's with apt-get.")
        apt = ["apt-get", "-o", "DPkg::Lock::Timeout=120"]
        _run([*apt, "update"], APT_SECONDS)
        _run([*apt, "install", "-y", "--no-install-recommends", "chromium"], APT_SECONDS)
        path = find()
    if path is None:
        raise NoBrowser(
            "The browser tests need a Chromium: install Chromium or Google Chrome, or set "
            f"{VARIABLE} to the path of one (`make test-fast` runs the tests that need no browser)."
        )
    return path


def _candidates() -> Iterator[Path]:
    own = _playwright_browser()
    if own:
        yield own
    for name in NAMES:
        found = shutil.which(name)
        if found:
            yield Path(found)


def _playwright_browser() -> Path | None:
    """Return the path of playwright's Chromium, downloaded or not; None without playwright or if its driver fails."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        return None
    try:
        with sync_playwright() as playwright:
            return Path(playwright.chromium.executable_path)
    except Error:  # its driver does not run here, or it already runs in this thread
        return None


def _starts(path: Path) -> bool:
    """Return whether the program answers ``--version``: a stub, or a program without a shared library, does not."""
    try:
        subprocess.run([path, "--version"], check=True, capture_output=True, timeout=START_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _run(command: list[str], seconds: float) -> None:
    """Run a command that may fail, with output on standard error; end it and its children after `seconds`."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment, start_new_session=True
        )
    except OSError as error:
        _say(f"{command[0]} cannot be run: {error}")
        return
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        _say(f"Giving up after {seconds:g} s: {' '.join(command)}")
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGTERM)
        raise


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Print the path of a Chromium and return 0, or print one sentence and return 1."""
    try:
        print(ensure())
    except NoBrowser as error:
        _say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
