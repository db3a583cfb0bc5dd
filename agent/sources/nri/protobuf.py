"""As much of Protocol Buffers' encoding as NRI's messages need: numbers, and what has a length.

The library for it would be loaded on every node, for six small messages.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


class MalformedError(Exception):
    """Bytes that are no message."""


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield each field's number and value, in the order of the bytes. Raises MalformedError."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _LENGTH:
            length, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise MalformedError(f"wire type {kind}")
        if length > len(message) - at:
            raise MalformedError("a field is longer than its message")
        yield number, message[at : at + length]
        at += length


def text(value: int | bytes) -> str:
    """Return a field's text. Raises MalformedError."""
    return _bytes(value).decode(errors="replace")


def embedded(value: int | bytes) -> bytes:
    """Return a field's bytes, such as another message. Raises MalformedError."""
    return _bytes(value)


def whole(value: int | bytes) -> int:
    """Return a field's number. Raises MalformedError."""
    if not isinstance(value, int):
        raise MalformedError("no number")
    return value


def number_field(number: int, value: int) -> bytes:
    """Encode a field that is a number, not negative."""
    return _encoded(number << 3) + _encoded(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """Encode a field that is text, bytes or another message."""
    return _encoded(number << 3 | _LENGTH) + _encoded(len(value)) + value


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise MalformedError("no bytes")
    return value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(_LONGEST_VARINT):
        if at >= len(message):
            raise MalformedError("a number ends early")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise MalformedError("a number has no end")


def _encoded(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
