"""Files that several threads and processes write and read at the same time."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jola.system.files import draft_of, json_bytes, read_json, replace_file


def test_threads_that_replace_one_file_do_not_hinder_each_other(tmp_path: Path) -> None:
    path = tmp_path / "status.json"

    def write(thread: int) -> None:
        for step in range(100):
            replace_file(path, json_bytes({"thread": thread, "step": step, "filling": "x" * 1000 * thread}))
            seen = json.loads(path.read_bytes())
            assert len(seen["filling"]) == 1000 * seen["thread"]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    last = read_json(path)
    assert last is not None and last["step"] == 99
    assert list(tmp_path.iterdir()) == [path]


def test_drafts_are_hidden_beside_the_file_and_all_different(tmp_path: Path) -> None:
    drafts = {draft_of(tmp_path / "result.json") for _ in range(100)}
    assert len(drafts) == 100
    assert all(draft.parent == tmp_path and draft.name.startswith(".") for draft in drafts)
