"""Adapters with random damage: reading their files succeeds or fails with a one-sentence error."""

import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jola.adapters.directory import CONFIG_NAME, WEIGHTS_NAME, read_adapter, read_edits
from jola.config import EditConfig
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.runs.adapter_source import local_adapter

COUNT = 2000
ZIPS = 300

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 7, 2**31, 2**63, -(2**63), 10**30, 10**400),
    *(0.0, -0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "all", "0-2", "0-999999999", "0:0", "1:1,2:2", ":", "-", ",", "é" * 40, "\x00", "../..", "a" * 5000),
    *("both", "heads", "mlp", "two", "none", "scale", "expectation"),
    *([], [0], [[]], {}, {"": 0}, {"x": "y"}, [None] * 50),
]
BYTES = [b"\x00", b"\xff", b"{", b"}", b'"', b"\\", b"9" * 40, b"[" * 200, b"null", b"NaN", b"-", b"\xed\xa0\x80"]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values nested in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def change(content: Any, rng: random.Random) -> Any:
    """Replace or remove a random value of a JSON object, or add a key next to it."""
    path = rng.choice([p for p in places(content) if p])
    owner = content
    for key in path[:-1]:
        owner = owner[key]
    kind = rng.randrange(4)
    if kind == 0 and isinstance(owner, dict):
        del owner[path[-1]]
    elif kind == 1 and isinstance(owner, dict):
        owner[rng.choice(["x", "gates", "layers", "num_layers", "", path[-1].upper(), "é"])] = rng.choice(VALUES)
    else:
        owner[path[-1]] = rng.choice(VALUES)
    return content


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    try:
        content = json.loads(data)
    except ValueError:  # damaged before
        return mutate_bytes(data, rng)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        content = change(content, rng)
    return json.dumps(content, ensure_ascii=rng.random() < 0.5).encode("utf-8", errors="surrogatepass")


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(changed) + 1) if changed else 0
        kind = rng.randrange(4)
        if kind == 0:
            changed[at:at] = rng.choice(BYTES)
        elif kind == 1:
            del changed[at : at + rng.choice([1, 4, 64, 10**6])]
        elif kind == 2 and changed:
            changed[min(at, len(changed) - 1)] = rng.randrange(256)
        else:
            piece = rng.choice(BYTES)
            changed[at : at + len(piece)] = piece
    return bytes(changed)


def mutate_header(data: bytes, rng: random.Random) -> bytes:
    """Change the JSON header of a safetensors file; its stated length may be wrong."""
    if len(data) < 8:
        return data
    (size,) = struct.unpack_from("<Q", data)
    header = mutate_json(data[8 : 8 + size], rng) if rng.random() < 0.8 else mutate_bytes(data[8 : 8 + size], rng)
    claimed = len(header) if rng.random() < 0.8 else rng.choice([0, 1, len(header) - 1, 2**20, 2**40, 2**63, 2**64 - 1])
    return struct.pack("<Q", claimed) + header + data[8 + size :]


Mutation = Callable[[bytes, random.Random], bytes]
MUTATIONS: list[tuple[str, Mutation]] = [
    (CONFIG_NAME, mutate_json),
    (CONFIG_NAME, mutate_json),
    (CONFIG_NAME, mutate_bytes),
    (WEIGHTS_NAME, mutate_header),
    (WEIGHTS_NAME, mutate_bytes),
]


@pytest.fixture
def adapters(tiny: Callable[..., JoLAModel], tmp_path: Path) -> list[dict[str, bytes]]:
    """Adapters of several kinds, as the bytes of their files."""
    kinds = [EditConfig(), EditConfig(sites="both", gates="shared"), EditConfig(gates="none", heads="0:1", layers="0")]
    folders = [
        tiny("llama", edits).save_pretrained(tmp_path / f"{i}-{compact}", compact=compact)
        for i, edits in enumerate(kinds)
        for compact in (False, True)
    ]
    return [{name: (folder / name).read_bytes() for name in (CONFIG_NAME, WEIGHTS_NAME)} for folder in folders]


def outcome(call: Callable[[], Any]) -> str:
    """Return 'read', or 'refused' for an `InputError`; other errors are raised."""
    try:
        call()
    except InputError as error:
        assert str(error) and "\n" not in str(error), repr(str(error))
        return "refused"
    return "read"


def test_a_damaged_adapter_is_read_or_refused(adapters: list[dict[str, bytes]], tmp_path: Path) -> None:
    folder, found = tmp_path / "damaged", []
    folder.mkdir()
    for seed in range(COUNT):
        rng = random.Random(seed)
        files = dict(rng.choice(adapters))
        for name, mutation in rng.sample(MUTATIONS, rng.choice([1, 1, 2])):
            files[name] = mutation(files[name], rng)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        try:
            found.append(outcome(lambda: read_edits(folder)))
            if found[-1] == "read":
                assert all(tensor.isfinite().all() for tensor in read_adapter(folder).tensors.values())
        except Exception as error:
            error.add_note(f"seed {seed}, files {sorted(files)}")
            raise
    # A fuzzer that breaks every file, or none, would test only one line of the reader.
    assert found.count("refused") > COUNT // 4 and found.count("read") > COUNT // 20


def test_a_damaged_zip_is_read_or_refused(adapters: list[dict[str, bytes]], tmp_path: Path) -> None:
    file, found = tmp_path / "damaged.zip", []
    for seed in range(ZIPS):
        rng = random.Random(seed)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in adapters[seed % len(adapters)].items():
                archive.writestr(name, data)
        file.write_bytes(mutate_bytes(file.read_bytes(), rng))

        def read() -> None:
            with local_adapter(file) as folder:
                read_edits(folder)

        try:
            found.append(outcome(read))
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    assert found.count("refused") > ZIPS // 4 and found.count("read") > 0
    assert [p.name for p in tmp_path.glob("*.zip")] == ["damaged.zip"]
