"""Read zip files from strangers: entries are checked before anything is written, and sizes again while writing.

The format guarantees little. Names may lead out of the folder, sizes may be wrong, entries may be links, and a few
kilobytes may unpack to gigabytes. So a caller specifies which files it expects and how large each may be, and gets
those files or an error of one sentence.
"""

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from jola.errors import InputError
from jola.system.files import disk_errors

MAX_ENTRIES = 256
MAX_RATIO = 200
"""Maximum ratio of unpacked to packed bytes, for entries of more than a megabyte."""
_SMALL = 1 << 20
_DIRECTORY_LIMIT = 1 << 18  # bytes of the list of entries, which zipfile reads into memory as a whole
_CHUNK = 1 << 20
_END = b"PK\x05\x06"
_END_OF_LARGE = b"PK\x06\x07"
_END_SIZE = 22
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_IGNORED = re.compile(r"__MACOSX/.*|(?:.*/)?\.DS_Store", re.DOTALL)  # added by macOS to every zip file
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, RuntimeError, ValueError)

Entries = dict[str, zipfile.ZipInfo]


class SafeZip:
    """A zip file whose entries were checked; use it in a ``with`` block.

    Raises:
        InputError: The file is not a zip file, or is damaged or encrypted, or an entry is not a plain file below the
            folder into which it is unpacked, or occurs twice, or unpacks to far more than its packed size.
    """

    def __init__(self, file: Path, name: str | None = None) -> None:
        self.name = name or file.name
        with ExitStack() as opened:
            try:
                self._file: IO[bytes] = opened.enter_context(open(file, "rb"))
            except OSError as error:
                raise InputError(f"{self.name} cannot be read ({error.strerror}).") from error
            try:
                self._check_end()
                self._zip = opened.enter_context(zipfile.ZipFile(self._file))
                self.entries = self._checked_entries()
            except InputError:
                raise
            except (*_DAMAGED, OSError) as error:
                raise self._refused("is not a zip file, or a damaged one") from error
            self._opened = opened.pop_all()

    def __enter__(self) -> "SafeZip":
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def _refused(self, what: str) -> InputError:
        return InputError(f"{self.name} {what}; nothing was imported.")

    def _check_end(self) -> None:
        """Limit the list of entries before zipfile reads it: a file of one megabyte may list tens of thousands."""
        size = self._file.seek(0, 2)
        self._file.seek(max(0, size - _END_SIZE - 0xFFFF))
        tail = self._file.read()
        at = len(tail) - _END_SIZE
        if at < 0 or not (tail[at:].startswith(_END) and tail.endswith(b"\0\0")):
            at = tail.rfind(_END)
        if at < 0 or len(tail) - at < _END_SIZE:
            raise zipfile.BadZipFile
        (directory,) = struct.unpack_from("<L", tail, at + 12)
        if directory > _DIRECTORY_LIMIT or tail[max(0, at - 20) : at].startswith(_END_OF_LARGE):
            raise self._refused("contains more files than an adapter or a run")
        self._file.seek(0)

    def _checked_entries(self) -> Entries:
        found: Entries = {}
        seen: set[str] = set()
        infos = self._zip.infolist()
        if len(infos) > MAX_ENTRIES:
            raise self._refused(f"contains {len(infos)} files, but at most {MAX_ENTRIES} are allowed")
        for info in infos:
            self._check_entry(info)
            if info.is_dir() or _IGNORED.fullmatch(info.filename):
                continue
            # Names that differ only in case are one file on some disks.
            if info.filename.casefold() in seen:
                raise self._refused(f"contains {info.filename!r} twice")
            seen.add(info.filename.casefold())
            found[info.filename] = info
        return found

    def _check_entry(self, info: zipfile.ZipInfo) -> None:
        # zipfile ends a name at a null byte, but other programs may not.
        name = info.orig_filename
        parts = name.removesuffix("/").split("/")
        if re.search(r"[\\:\x00-\x1f\x7f]", name) or any(part in ("", ".", "..") for part in parts) or len(name) > 200:
            raise self._refused(f"contains a file with the invalid or unsafe name {name[:80]!r}")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise self._refused(f"contains {name!r}, which is a link or a device, not a regular file")
        if info.flag_bits & 0x1:
            raise self._refused("is encrypted; create it again without a password")
        if info.compress_type not in _METHODS:
            raise self._refused(f"compresses {name!r} with a method other than deflate")
        if info.file_size > _SMALL and info.file_size > MAX_RATIO * info.compress_size:
            raise self._refused(f"unpacks {name!r} to more than {MAX_RATIO} times its size")

    def unpack(self, names: Mapping[str, str], folder: Path, limit_of: Callable[[str], int], total: int) -> None:
        """Unpack entries into a new folder.

        Args:
            names: Destination of each entry, as a path in the folder.
            folder: A directory that the caller removes if this fails.
            limit_of: Returns the maximum bytes of a path.
            total: Maximum bytes of all files together.
        """
        for name, place in names.items():
            limit = min(limit_of(place), total)
            if self.entries[name].file_size > limit:
                raise self._too_large(name)
            target = folder / place
            with disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                total -= self._copy(name, target, limit)

    def _copy(self, name: str, target: Path, limit: int) -> int:
        """Unpack one entry and return its bytes, which are counted because the list of entries may be wrong."""
        size = 0
        with open(target, "xb") as out:
            for chunk in self._chunks(name):
                size += len(chunk)
                if size > limit:
                    raise self._too_large(name)
                out.write(chunk)
        return size

    def _chunks(self, name: str) -> Iterator[bytes]:
        try:
            with self._zip.open(self.entries[name]) as source:
                while chunk := source.read(_CHUNK):
                    yield chunk
        except (*_DAMAGED, OSError) as error:
            raise self._refused(f"is damaged: {name!r} cannot be unpacked") from error

    def _too_large(self, name: str) -> InputError:
        return self._refused(f"contains {name!r}, which exceeds the size limit for this file")
