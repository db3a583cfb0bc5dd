"""Rules of a netdev table as what they ask of a frame, and what they do, read from the kernel's bytes.

A rule loads parts of a frame into registers and compares these; expressions and attributes are those of
``linux/netfilter/nf_tables.h``. What is not known here is no expression that is passed over:
:attr:`Line.unread` says what it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from agent.kernel.netlink import attributes
from agent.kernel.nf_tables import Attributes, Rule, expressions, text

PAYLOAD, META, EXTENSION = "payload", "meta", "exthdr"
LINK, NETWORK, TRANSPORT = 0, 1, 2
"""``enum nft_payload_bases``."""
INDEX, PROTOCOL, NAME, L4PROTO = 4, 1, 6, 16
"""``enum nft_meta_keys``: by which interface it came, as index and as name, the protocol it is handed on as,
and what IP carries."""
_JUMP, _GOTO, _RETURN, _DROP, _ACCEPT = -3, -4, -5, 0, 1
_WORDS = {_JUMP: "jump", _GOTO: "goto", _RETURN: "return", _DROP: "drop", _ACCEPT: "accept"}
_EQUAL, _UNEQUAL = 0, 1
_NOTING = frozenset(("counter", "log"))
"""Expressions after which a frame goes on, whatever it is."""
_REGISTER, _LARGEST = 4, 16
"""Bytes of the smallest register, and of the largest."""


class Source(NamedTuple):
    """A part of a frame: ``base`` is where a payload is counted from, a key, or an extension header."""

    kind: str
    base: int
    offset: int
    length: int


class Test(NamedTuple):
    """One comparison: of the bits in ``mask`` with ``value``, or of a key of several parts with a set."""

    parts: tuple[Source, ...]
    mask: bytes = b""
    value: bytes = b""
    of_set: str = ""
    negated: bool = False


class Line(NamedTuple):
    """A rule. ``word`` is its verdict, empty for one that has none, ``target`` the chain that this names."""

    tests: tuple[Test, ...]
    word: str = ""
    target: str = ""
    unread: str = ""


class _Loaded(NamedTuple):
    source: Source
    mask: bytes


class _UnknownError(Exception):
    """An expression that is not known here."""


def line(rule: Rule) -> Line:
    """Read a rule."""
    registers: dict[int, _Loaded] = {}
    tests: list[Test] = []
    word = target = ""
    for name, data in expressions(rule):
        if word:
            return Line(tuple(tests), word, target, f"{name} after a verdict")
        try:
            if name == "immediate":
                word, target = _verdict(data)
            elif name not in _NOTING:
                tests += _read(name, data, registers)
        except _UnknownError as error:
            return Line(tuple(tests), "", "", str(error))
    return Line(tuple(tests), word, target)


def _read(name: str, data: Attributes, registers: dict[int, _Loaded]) -> Iterator[Test]:
    """Take in an expression that loads, and yield the test of one that compares."""
    if name in (PAYLOAD, META, EXTENSION):
        source, register = _load(name, data)
        if not 0 < source.length <= _LARGEST:
            raise _UnknownError(name)
        end = register + -(-source.length // _REGISTER) * _REGISTER
        for at, loaded in list(registers.items()):
            if at < end and register < at + loaded.source.length:
                del registers[at]
        registers[register] = _Loaded(source, b"\xff" * source.length)
    elif name == "bitwise":
        _mask(data, registers)
    elif name == "cmp":
        operation, value = _number(data, 2), _value(data, 3)
        found = registers.get(_register(data, 1))
        if found is None or len(value) > found.source.length or operation not in (_EQUAL, _UNEQUAL):
            raise _UnknownError("a comparison")
        # A comparison of fewer bytes is one of the first of them.
        mask = found.mask[: len(value)].ljust(found.source.length, b"\0")
        value = value.ljust(found.source.length, b"\0")
        yield Test((found.source,), mask, value, negated=operation == _UNEQUAL)
    elif name == "lookup":
        if 3 in data:
            raise _UnknownError("a map")
        negated = bool(_number(data, 5)) if 5 in data else False
        yield Test(_parts(_register(data, 2), registers), of_set=text(data.get(1, b"")), negated=negated)
    else:
        raise _UnknownError(name or "an expression without a name")


def _load(name: str, data: Attributes) -> tuple[Source, int]:
    if name == PAYLOAD and 5 not in data:
        return Source(PAYLOAD, _number(data, 2), _number(data, 3), _number(data, 4)), _register(data, 1)
    if name == META and 1 in data:
        key = _number(data, 2)
        length = {INDEX: 4, PROTOCOL: 2, NAME: 16, L4PROTO: 1}.get(key)
        if length is not None:
            return Source(META, key, 0, length), _register(data, 1)
    if name == EXTENSION and 1 in data and not _flags(data, 5) and not _flags(data, 6):
        header = bytes(data.get(2, b""))
        return Source(
            EXTENSION, int.from_bytes(header, "big"), _number(data, 3), _number(data, 4)
        ), _register(data, 1)
    raise _UnknownError(name)


def _mask(data: Attributes, registers: dict[int, _Loaded]) -> None:
    register = _register(data, 1)
    loaded, mask, flipped = registers.get(register), _value(data, 4), _value(data, 5)
    if loaded is None or len(mask) != loaded.source.length or any(flipped) or _register(data, 2) != register:
        raise _UnknownError("bitwise")
    both = bytes(one & other for one, other in zip(loaded.mask, mask, strict=True))
    registers[register] = _Loaded(loaded.source, both)


def _parts(register: int, registers: dict[int, _Loaded]) -> tuple[Source, ...]:
    """Return what stands in a register and in those that follow it, each filled up to whole ones."""
    found: list[Source] = []
    while (loaded := registers.get(register)) is not None:
        if any(byte != 0xFF for byte in loaded.mask):
            raise _UnknownError("a part of a key")
        found.append(loaded.source)
        register += -(-loaded.source.length // _REGISTER) * _REGISTER
    if not found:
        raise _UnknownError("a key")
    return tuple(found)


def _verdict(data: Attributes) -> tuple[str, str]:
    found = dict(attributes(dict(attributes(data.get(2, b""))).get(2, b"")))
    word = _WORDS.get(int.from_bytes(found.get(1, b""), "big", signed=True)) if 1 in found else None
    if word is None:
        raise _UnknownError("a verdict")
    return word, text(found.get(2, b""))


def _register(data: Attributes, kind: int) -> int:
    """Return where a register begins, in bytes: some are numbered by 16 bytes, others by 4."""
    number = _number(data, kind)
    if 1 <= number <= 4:
        return (number - 1) * 16
    if number < 8:
        raise _UnknownError(f"register {number}")
    return (number - 8) * _REGISTER


def _number(data: Attributes, kind: int) -> int:
    found = data.get(kind)
    if found is None or len(found) != 4:
        raise _UnknownError("an expression without a number")
    return int.from_bytes(found, "big")


def _flags(data: Attributes, kind: int) -> int:
    return _number(data, kind) if kind in data else 0


def _value(data: Attributes, kind: int) -> bytes:
    return bytes(dict(attributes(data.get(kind, b""))).get(1, b""))
