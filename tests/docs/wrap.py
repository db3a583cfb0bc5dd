"""Break the lines of a document at one width."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

WIDTH = 120

_ITEM = re.compile(r"( *)([-*]|\d+\.) +")
_OPENING = ("|", "#", "<", "![", "```", "---")
"""What begins a line that stays as it is: a table's row, a heading, a comment, a picture, a fence."""

# Spaces that no line may end at: inside code, since a reader copies it, and before what would begin a list.
_CODE = re.compile(r"(`+)[^`]+\1")
_LIKE_AN_ITEM = re.compile(r" (?=([-+*#>|]|\d+[.)])( |$))")
_KEPT = "\0"


def wrapped(text: str) -> str:
    """Return a document with its paragraphs and list items filled to ``WIDTH``; all else as it is."""
    return "".join(_parts(text.splitlines()))


def too_long(text: str) -> list[int]:
    """Return the numbers of the lines of prose over ``WIDTH`` that could be broken."""
    there, could_be = set(wrapped(text).splitlines()), enumerate(text.splitlines(), 1)
    return [number for number, line in could_be if len(line) > WIDTH and line not in there]


def _parts(lines: list[str]) -> Iterator[str]:
    paragraph, fenced, code, after_blank = list[str](), False, False, True
    for line in lines:
        blank = not line.strip()
        code = (code and (blank or line.startswith("    "))) or (after_blank and line.startswith("    "))
        fence = line.lstrip().startswith("```")
        stays = blank or code or fenced or line.lstrip().startswith(_OPENING)
        if paragraph and (stays or _ITEM.match(line)):
            yield _filled(paragraph)
            paragraph = []
        if stays:
            yield line + "\n"
        else:
            paragraph.append(line)
        fenced ^= fence
        after_blank = blank
    if paragraph:
        yield _filled(paragraph)


def _filled(lines: list[str]) -> str:
    item = _ITEM.match(lines[0])
    first = item[0] if item else lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    text = " ".join(line.strip() for line in [lines[0][len(first) :], *lines[1:]])
    text = _CODE.sub(lambda code: code[0].replace(" ", _KEPT), text)
    text = _LIKE_AN_ITEM.sub(_KEPT, text)
    filled = textwrap.fill(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return filled.replace(_KEPT, " ") + "\n"
