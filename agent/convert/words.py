"""A line taken apart into words, each with its column, and what is wrong with one of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Word(NamedTuple):
    """A word, or one of the marks ``,`` and ``;``. ``column`` counts characters from 1."""

    text: str
    column: int


class LineError(Exception):
    """A line that cannot be read. The message names column and word, and says what to write."""

    def __init__(self, word: Word, wrong: str) -> None:
        shown = repr(word.text) if word.text else "the end of the line"
        # What is wrong with a name begins with the name.
        told = wrong if wrong.startswith(shown) else f"{shown}: {wrong}"
        super().__init__(f"column {word.column}: {told}")


class Words:
    """The words of a line, read from left to right."""

    def __init__(self, line: str) -> None:
        """Take a line apart. Raises LineError where a brace or parenthesis is not closed."""
        self._words = [*_split(line), Word("", len(line.rstrip()) + 1)]
        self._next = 0

    @property
    def next(self) -> Word:
        """The next word, left where it is; at the end an empty one."""
        return self._words[self._next]

    def take(self) -> Word:
        """Return the next word and go on."""
        word = self.next
        self._next = min(self._next + 1, len(self._words) - 1)
        return word

    def skip(self, text: str) -> bool:
        """Go on if the next word is this one; say whether it was."""
        if self.next.text != text:
            return False
        self.take()
        return True


_OPENS = {"{": "}", "(": ")"}


def _split(line: str) -> Iterator[Word]:
    text, column, open_at = "", 1, list[Word]()
    for at, char in enumerate(line, 1):
        last = line[at : at + 1] in ("", " ", "\t")
        # What a console writes after a block, parted by commas without a space, is one word.
        parts = not open_at and (char.isspace() or char == ";" or (char == "," and ("|" not in text or last)))
        if parts:
            if text:
                yield Word(text, column)
            text = ""
            if not char.isspace():
                yield Word(char, at)
            continue
        if char in _OPENS:
            open_at.append(Word(char, at))
        elif open_at and char == _OPENS[open_at[-1].text]:
            open_at.pop()
        column = column if text else at
        text += char
    if open_at:
        raise LineError(open_at[-1], f"is not closed; write {_OPENS[open_at[-1].text]!r}")
    if text:
        yield Word(text, column)
