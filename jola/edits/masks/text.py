"""Masks as text: ``1`` and, unless all edits are as trained, unpadded base64url of

    kind      1 byte: 0 runs, 1 bits
    on        runs: lengths of alternating runs of halves that are on, off, on, … as varints; the first may be 0
              bits: one bit per half, most significant first, the last byte padded with zeros
    strength  absent if all are 1; otherwise runs of equal strength, as varints length and zigzag(hundredths − 100)

Halves are ordered offsets, then scales, each layer by layer; other channels in the order of the mask. The shorter kind
is used (runs if both are equally long), so that every mask has exactly one text. Varints store 7 bits per byte, lowest
first, with the top bit set in all but the last byte.
"""

import base64
import binascii
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jola.errors import InputError

TRAINED = 100
"""Strength 1 in hundredths."""

_VERSION = "1"
_RUNS, _BITS = 0, 1
_DAMAGED = "The text of the mask is damaged or belongs to another model; copy the whole link again."


def encode(on: NDArray[np.bool_], strength: NDArray[Any]) -> str:
    """Encode n flags and n strengths in hundredths."""
    trained = bool((strength == TRAINED).all())
    if trained and bool(on.all()):
        return _VERSION
    values, lengths = _runs(on)
    if not values[0]:
        lengths = [0, *lengths]
    runs = b"".join(map(_varint, lengths))
    bits = np.packbits(on).tobytes()
    data = bytes([_RUNS]) + runs if len(runs) <= len(bits) else bytes([_BITS]) + bits
    if not trained:
        pairs = zip(*_runs(strength), strict=True)
        data += b"".join(_varint(length) + _varint(_zigzag(value - TRAINED)) for value, length in pairs)
    return _VERSION + base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str, n: int, limit: int) -> tuple[NDArray[np.bool_], NDArray[np.int16]]:
    """Decode ``text`` into n flags and n strengths in hundredths, nonzero and at most ``limit`` in absolute value.

    Raises `InputError` if the text is invalid. Several texts may decode to the same mask; encode the result again to
    check for the canonical text.
    """
    on, strength = np.ones(n, dtype=bool), np.full(n, TRAINED, dtype=np.int16)
    # Upper bound for n halves: n/8 bytes of flags, 3 bytes per strength.
    if not isinstance(text, str) or not text.startswith(_VERSION) or len(text) > 8 + 5 * n:
        raise InputError(_DAMAGED)
    if text == _VERSION:
        return on, strength
    try:
        body = text[len(_VERSION) :]
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        kind, place = data[0], 1
        if kind == _BITS:
            packed = np.frombuffer(data, dtype=np.uint8, count=-(-n // 8), offset=place)
            on, place = np.unpackbits(packed, count=n).astype(bool), place + len(packed)
        elif kind == _RUNS:
            start, now = 0, True
            while start < n:
                length, place = _read_varint(data, place)
                on[start : start + length], start, now = now, start + length, not now
            _require(start == n)
        else:
            raise ValueError(kind)
        start = 0
        while place < len(data):
            length, place = _read_varint(data, place)
            value, place = _read_varint(data, place)
            hundredths = _unzigzag(value) + TRAINED
            _require(0 < length <= n - start and 0 < abs(hundredths) <= limit)
            strength[start : start + length], start = hundredths, start + length
        _require(start in (0, n))
    except (ValueError, IndexError, binascii.Error) as error:
        raise InputError(_DAMAGED) from error
    return on, strength


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("not a mask")


def _runs(values: NDArray[Any]) -> tuple[list[int], list[int]]:
    """Value and length of each run of equal values."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1])
    return values[starts].tolist(), np.diff([*starts, len(values)]).tolist()


def _varint(number: int) -> bytes:
    return bytes(_septets(number))


def _septets(number: int) -> Iterator[int]:
    while number > 0x7F:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    """The number at ``place`` and the place after it. `IndexError` at the end, `ValueError` beyond 28 bits."""
    number = 0
    for shift in range(0, 28, 7):
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise ValueError("number too large")


def _zigzag(number: int) -> int:
    return 2 * number if number >= 0 else -2 * number - 1


def _unzigzag(number: int) -> int:
    return number // 2 if number % 2 == 0 else -(number + 1) // 2
