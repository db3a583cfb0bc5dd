"""Numbers in messages for people."""

from __future__ import annotations


def count(number: int, what: str) -> str:
    """Return a number of things, ``what`` being the word for one that takes an s for more: ``1 rule``."""
    return f"{number} {what}" + ("" if number == 1 else "s")
