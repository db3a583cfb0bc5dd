"""JSON of others, decoded: whatever the bytes are, it ends with a value or with one exception."""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


class UndecodableError(ValueError):
    """Bytes are no JSON, or not of the type that is asked for. The message says what is wrong with them."""


def decode(body: bytes, kind: type[T]) -> T:
    """Return what bytes hold, as a value of a type that msgspec knows. Raises UndecodableError.

    That is also for what is nested more deeply than Python follows (some 1,000 levels), where msgspec raises
    RecursionError, and for text that is not UTF-8.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except RecursionError:
        raise UndecodableError("it is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UndecodableError(str(error)) from None
