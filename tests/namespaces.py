"""Commands in Linux namespaces, with mounts that are invisible outside."""

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
    """Return a command that calls ``mount`` with these arguments and then executes the command that follows it."""
    script = [f"mount {shlex.join(arguments)}" for arguments in mounts]
    return ["unshare", "--mount", "--map-root-user", "sh", "-c", " && ".join([*script, 'exec "$@"']), "sh"]
