"""Zip files from strangers: paths out of the folder, zip bombs, and files that are not zip files."""

import io
import random
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from jola.errors import InputError
from jola.system.safe_zip import MAX_ENTRIES, SafeZip

Change = Callable[[zipfile.ZipInfo], None]


def entry(name: str, data: bytes = b"data", change: Change | None = None, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip file with one ordinary entry and one whose fields `change` may set."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ordinary.txt", b"x")
        info = zipfile.ZipInfo(name)
        info.compress_type = method
        if change:
            change(info)
        archive.writestr(info, data)
    return buffer.getvalue()


def mode(kind: int) -> Change:
    def change(info: zipfile.ZipInfo) -> None:
        info.create_system = 3
        info.external_attr = (kind | 0o777) << 16

    return change


def renamed(content: bytes, old: bytes, new: bytes) -> bytes:
    """Replace a name in both places where it is in a zip file; zipfile itself would not write such a name."""
    assert len(old) == len(new) and content.count(old) == 2
    return content.replace(old, new)


def large_number_of_entries() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index in range(MAX_ENTRIES + 1):
            archive.writestr(f"{index}", b"")
    return buffer.getvalue()


def twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", b"{}")
        archive.writestr("Config.json", b"{}")
    return buffer.getvalue()


def long_directory() -> bytes:
    """Return a zip file whose end record claims a list of entries of 2 GiB."""
    content = bytearray(entry("a"))
    at = content.rfind(b"PK\x05\x06")
    struct.pack_into("<L", content, at + 12, 2**31)
    return bytes(content)


def large_format() -> bytes:
    """Return a zip file whose list of entries is described by a ZIP64 record."""
    content = entry("a")
    at = content.rfind(b"PK\x05\x06")
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    return content[:at] + locator + content[at:]


HOSTILE = {
    "an absolute name": (entry("/etc/passwd"), "unsafe name"),
    "a name that climbs": (entry("../../escaped"), "unsafe name"),
    "a name that climbs inside": (entry("a/../../escaped"), "unsafe name"),
    "a backslash": (entry("..\\escaped"), "unsafe name"),
    "a drive": (entry("c:escaped"), "unsafe name"),
    "an empty part": (entry("a//b"), "unsafe name"),
    "a point": (entry("./a"), "unsafe name"),
    "a line break": (entry("a\nb"), "unsafe name"),
    "a zero byte": (renamed(entry("gates.json?.zip"), b"gates.json?.zip", b"gates.json\0.zip"), "unsafe name"),
    "a very long name": (entry("a" * 201), "invalid or unsafe name"),
    "a link": (entry("link", b"/etc/passwd", mode(stat.S_IFLNK)), "a link or a device"),
    "a device": (entry("null", b"", mode(stat.S_IFCHR)), "a link or a device"),
    "a pipe": (entry("pipe", b"", mode(stat.S_IFIFO)), "a link or a device"),
    "a socket": (entry("socket", b"", mode(stat.S_IFSOCK)), "a link or a device"),
    "a bomb": (entry("zeros", bytes(300 << 20)), "to more than 200 times"),
    "another packer": (entry("a", b"x", method=zipfile.ZIP_LZMA), "a method other than deflate"),
    "the same name twice": (twice(), "twice"),
    "very many files": (large_number_of_entries(), f"at most {MAX_ENTRIES}"),
    "a list of gigabytes": (long_directory(), "more files than"),
    "the format for huge files": (large_format(), "more files than"),
    "nothing": (b"", "is not a zip file"),
    "a text": (b"PK is no zip file" * 10, "is not a zip file"),
    "the end alone": (b"PK\x05\x06" + bytes(10), "is not a zip file"),
    "half a zip file": (entry("a", bytes(range(256)) * 40)[:200], "is not a zip file"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused_in_one_sentence(tmp_path: Path, what: str) -> None:
    content, words = HOSTILE[what]
    file = tmp_path / "upload.zip"
    file.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught, SafeZip(file):
        pass
    assert str(caught.value).startswith("upload.zip ")
    assert str(caught.value).count("\n") == 0
    assert str(tmp_path) not in str(caught.value)


def test_encrypted_files_are_refused(tmp_path: Path) -> None:
    content = bytearray(entry("secret"))
    # The encryption flag of the second entry, in its own header and in the list of entries.
    for sign, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.rfind(sign)
        content[at + offset] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match="is encrypted; create it again without a password"):
        SafeZip(tmp_path / "a.zip")


def unpack(file: Path, folder: Path, limit: int = 1 << 20, total: int = 1 << 20) -> None:
    with SafeZip(file) as archive:
        archive.unpack({name: name for name in archive.entries}, folder, lambda name: limit, total)


def test_an_ordinary_file_is_unpacked_byte_for_byte(tmp_path: Path) -> None:
    contents = {"a.txt": b"one", "b/c.bin": random.Random(0).randbytes(1_200_000), "empty": b""}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("b")
        for name, data in contents.items():
            archive.writestr(name, data)
        archive.writestr("__MACOSX/b/._c.bin", b"mac")
        archive.writestr("b/.DS_Store", b"mac")
    unpack(tmp_path / "a.zip", tmp_path / "out", limit=2 << 20, total=4 << 20)
    found = {p.relative_to(tmp_path / "out").as_posix(): p for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == contents
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o111 == 0 for path in found.values())


def test_a_file_may_not_be_larger_than_its_kind(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(entry("a", bytes(range(256)) * 10))
    with pytest.raises(InputError, match="'a', which exceeds the size limit for this file"):
        unpack(tmp_path / "a.zip", tmp_path / "out", limit=2000)


def test_all_files_together_may_not_be_larger_than_the_whole(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for index in range(4):
            archive.writestr(f"{index}", bytes(1000))
    unpack(tmp_path / "a.zip", tmp_path / "fits", total=4000)
    with pytest.raises(InputError, match="'3', which exceeds"):
        unpack(tmp_path / "a.zip", tmp_path / "out", total=3999)


def test_a_size_that_lies_does_not_help(tmp_path: Path) -> None:
    data = bytes(range(256)) * 400
    content = bytearray(entry("a", data))
    for sign, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<L", content, content.rfind(sign) + offset, 10)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError):
        unpack(tmp_path / "a.zip", tmp_path / "out", limit=1000)
    written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written <= 1000


def test_damaged_data_is_noticed(tmp_path: Path) -> None:
    content = bytearray(entry("a", bytes(range(256)) * 400, method=zipfile.ZIP_STORED))
    content[1000] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match="is damaged: 'a' cannot be unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.zip cannot be read"):
        SafeZip(tmp_path / "absent.zip")
