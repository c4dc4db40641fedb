"""Commands in Linux namespaces: file systems and a network of their own, which nothing outside sees."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence

import pytest


def _allowed(flag: str) -> bool:
    command = ["unshare", flag, "--map-root-user", "true"]
    return bool(shutil.which("unshare")) and not subprocess.call(command, stderr=subprocess.DEVNULL)


needs_mounts = pytest.mark.skipif(not _allowed("--mount"), reason="this user may not make mount namespaces")


def with_mounts(*mounts: Sequence[str]) -> list[str]:
    """A command that executes the one after it, in its own process, where ``mount`` was called with these arguments."""
    script = [f"mount {shlex.join(arguments)}" for arguments in mounts]
    return ["unshare", "--mount", "--map-root-user", "sh", "-c", " && ".join([*script, 'exec "$@"']), "sh"]
