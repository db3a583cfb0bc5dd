"""One value for each way in which comparisons of some bits may turn out together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

Bits = tuple[int, int]
"""A mask, and the value that the bits in it have."""

_TRIES = 1 << 12
_ALL = 12
"""Of so many bits that are free every value is tried."""
_STEP = 0x9E3779B97F4A7C15F39CC0605CEDC835
"""An odd number, whose multiples are spread over all values: the golden ratio in 128 bits."""


class TooManyError(Exception):
    """No value was found, though there may be one."""


def values(
    bits: int, compared: Iterable[Bits], known: Collection[int], taken: Collection[int]
) -> Iterator[int]:
    """Yield a value for each set of comparisons that can hold together while all others do not.

    ``bits``: how long values are. None is in ``known``, which are asked for by themselves, nor in ``taken``.
    Raises TooManyError where all others are taken.
    """
    yield from _within(bits, (0, 0), list(dict.fromkeys(compared)), [], (known, taken))


_Kept = tuple[Collection[int], Collection[int]]


def _within(bits: int, inside: Bits, pending: list[Bits], outside: list[Bits], kept: _Kept) -> Iterator[int]:
    if not pending:
        found = _member(bits, inside, outside, kept)
        if found is not None:
            yield found
        return
    (mask, value), rest = pending[0], pending[1:]
    held, known = inside
    if (value ^ known) & mask & held == 0:
        yield from _within(bits, (held | mask, known | value), rest, outside, kept)
        if mask & ~held == 0:
            return
        yield from _within(bits, inside, rest, [*outside, (mask, value)], kept)
    else:
        yield from _within(bits, inside, rest, outside, kept)


def _member(bits: int, inside: Bits, outside: list[Bits], kept: _Kept) -> int | None:
    held, fixed = inside
    known, taken = kept
    lacking = False
    free = [1 << at for at in range(bits) if not held >> at & 1]
    every = len(free) <= _ALL
    for number in range(1 << len(free) if every else _TRIES):
        chosen = number if every else number * _STEP
        value = fixed
        for at, bit in enumerate(free):
            if chosen >> at & 1:
                value |= bit
        if value not in known and not any(value & mask == other for mask, other in outside):
            if value not in taken:
                return value
            lacking = True
    if lacking or not every:
        raise TooManyError
    return None
