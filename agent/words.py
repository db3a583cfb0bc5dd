"""Words of messages for people: numbers of things, some of many names, and what others said."""

from __future__ import annotations

from collections.abc import Collection

_SHOWN = 5


def count(number: int, what: str) -> str:
    """Return a number of things, ``what`` being the word for one that takes an s for more: ``1 rule``."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def one_line(text: str, most: int = 300) -> str:
    """Return what somebody else wrote as one line fit for a terminal and a log, cut to so many characters.

    What is not printed (line breaks, the escape character of terminals) becomes a space.
    """
    shown = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * most]).split())
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def printable(text: str) -> str:
    """Return a text with a space for each character that a terminal would not print, but for line breaks."""
    plain = text.replace("\n", "")
    return text if plain.isprintable() else "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def some(names: Collection[str]) -> str:
    """Return the first of some names, in their order; dots stand for the rest: ``a, b, c, d, e, ...``."""
    return ", ".join(sorted(names)[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def and_more(number: int, shown: int) -> str:
    """Return what follows the first of several things: `` and 3 more``, or nothing if all are shown."""
    return f" and {number - shown} more" if number > shown else ""
