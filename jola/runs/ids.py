"""The names of run directories."""

import re
import secrets
from datetime import datetime
from pathlib import Path


def fresh_id(task: str) -> str:
    """Return an id from the time, the task and four random hexadecimal digits: ``20260102-150405-sentiment-3f2a``."""
    name = re.sub(r"[^a-z0-9]+", "-", Path(task.split(":")[-1]).stem.lower()).strip("-")[:32].strip("-")
    return f"{datetime.now():%Y%m%d-%H%M%S}-{name or 'run'}-{secrets.token_hex(2)}"


def is_plain_name(run_id: object) -> bool:
    """Whether the id, which may be any JSON value, is a plain file name on every platform."""
    return isinstance(run_id, str) and (
        bool(run_id) and len(run_id) <= 200 and not run_id.startswith(".") and not re.search(r"[/\\:\x00-\x1f]", run_id)
    )
