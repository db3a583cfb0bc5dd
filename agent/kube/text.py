"""YAML and JSON text to plain data, document by document.

YAML means what it means to Kubernetes: YAML 1.1 booleans, times as plain strings, no sexagesimal
numbers, mapping keys as strings; a key written twice is an error. Data is made from the parser's events
without recursion, and what aliases may repeat is limited: no text costs much more than its length.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

DEPTH = 500
"""How deep data may be nested."""

_TOO_DEEP = "nested too deeply; write it flatter"

_REPEATED = 100_000
"""How many values aliases may repeat in a text of any length; a long one may have ten times its own more."""

Document = tuple[int, object]
"""The line where a document begins, from 1, and its data."""


class UnreadableError(Exception):
    """A text that cannot be read whole; its message says where, why, and the remedy."""


class NotJsonError(UnreadableError):
    """A text that is no JSON at all."""


def json_documents(text: bytes) -> Iterator[Document]:
    """Give each document of a JSON text, in which they stand one after another. Raises UnreadableError."""
    line = 1

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise UnreadableError(f"line {line}: key {twice!r} is written twice; keep one of them")
        return found

    decoder = json.JSONDecoder(object_pairs_hook=unique)
    try:
        whole = text.decode(json.detect_encoding(text), "surrogatepass")
        may_have_halves = b"\\ud" in text.lower()
        begin = _content(whole, 0)
        line += whole.count("\n", 0, begin)
        while True:
            data, end = decoder.raw_decode(whole, begin)
            if may_have_halves:
                # Half of a surrogate pair is no character: nothing could be said or kept of it.
                json.dumps(data, ensure_ascii=False).encode()
            yield line, data
            following = _content(whole, end)
            if following == len(whole):
                return
            line += whole.count("\n", begin, following)
            begin = following
    except json.JSONDecodeError as error:
        if not whole.strip():
            raise NotJsonError("line 1: nothing is in it; write an object, or remove the file") from None
        # Some of what the library says waits for a place to follow.
        why = error.msg[:1].lower() + error.msg[1:].removesuffix(" at").removesuffix(" starting")
        raise NotJsonError(f"line {error.lineno}: {why}; correct the JSON") from None
    except UnicodeEncodeError:
        raise UnreadableError(f"line {line}: \\u stands for half a character; write both halves") from None
    except UnicodeDecodeError as error:
        raise UnreadableError(_not_utf8(text, error.start)) from None
    except RecursionError:
        raise UnreadableError(f"line {line}: {_TOO_DEEP}") from None
    except ValueError:
        # The only other is a number of more digits than Python reads.
        raise UnreadableError(f"line {line}: a number that cannot be read; quote it if it is text") from None


def _not_utf8(text: bytes, position: int) -> str:
    line = text.count(b"\n", 0, position) + 1
    return f"line {line}: not UTF-8; write the file in UTF-8"


def _content(text: str, begin: int) -> int:
    """Return where the next document of a JSON text begins, its length when there is none (RFC 8259, ws)."""
    match = _SPACE.match(text, begin)
    return match.end() if match else begin


_SPACE = re.compile(r"[ \t\n\r]*")
_TAG = "tag:yaml.org,2002:"
_PLAIN = (None, "!")
_BOOLEANS = {
    form: value
    for words, value in ((("yes", "true", "on"), True), (("no", "false", "off"), False))
    for word in words
    for form in (word, word.capitalize(), word.upper())
}
_NULLS = ("", "~", "null", "Null", "NULL")
_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)")
_FLOAT = re.compile(
    r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_MERGE = "<<"

_Scalar = str | int | float | None


@functools.lru_cache(maxsize=1 << 15)
def _plain(text: str) -> _Scalar:
    """Return what a scalar without quotes means. Raises ValueError for a number that is none after all."""
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text in _NULLS:
        return None
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    sign, digits = (-1 if digits[0] == "-" else 1), digits.lstrip("+-")
    if digits.startswith(("0b", "0x")):
        return sign * int(digits, 0)
    return sign * int(digits, 8 if digits.startswith("0") else 10)


def _key_text(key: object) -> str | None:
    """Return a mapping's key as text; None when it can be none."""
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, float):
        # As kubectl reads it: ``0E0`` is a number to YAML, and a field that nobody knows to an API server.
        return format(key, "g")
    return str(key) if isinstance(key, str | int) else None


class _Node:
    """A list or mapping that is being filled."""

    __slots__ = ("anchor", "began", "data", "key", "merged", "merging")

    def __init__(self, data: list[object] | dict[str, object], anchor: str | None, began: int) -> None:
        self.data = data
        self.anchor = anchor
        self.began = began
        """How many values the document had before this one."""
        self.key: str | None = None
        """The mapping's key whose value comes next."""
        self.merging = False
        """Whether what comes next is the value of ``<<``."""
        self.merged: list[object] = []
        """Those values, in order."""

    @property
    def at_key(self) -> bool:
        """Whether a key comes next."""
        return self.key is None and not self.merging and isinstance(self.data, dict)


class _Builder:
    """Makes the data of one document out of its events."""

    def __init__(self) -> None:
        self._stack: list[_Node] = []
        self._anchors: dict[str, tuple[object, int]] = {}
        """Data by anchor, with how many values it holds, those repeated by aliases included."""
        self._unfinished: set[str] = set()
        self._values = 0
        self._repeated = 0
        self.line = 0
        self.data: object = None

    def take(self, event: Any) -> None:
        """Take the next event. Raises UnreadableError, and ValueError for a number that cannot be read."""
        kind = type(event)
        self.line = self.line or event.start_mark.line + 1
        if kind is yaml.ScalarEvent:
            self._values += 1
            data = _scalar(event)
            if event.anchor is not None:
                self._anchors[event.anchor] = data, 1
            merges = data == _MERGE and event.implicit[0]
            self._place(data, event, merges=merges)
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            self._open(event, {} if kind is yaml.MappingStartEvent else [])
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            self._close(event)
        elif kind is yaml.AliasEvent:
            self._repeat(event)

    def _open(self, event: Any, data: list[object] | dict[str, object]) -> None:
        ours = f"{_TAG}{'map' if isinstance(data, dict) else 'seq'}"
        if event.tag not in _PLAIN and event.tag != ours:
            raise _trouble(event, f"tag {event.tag!r} is not known here; remove it")
        if len(self._stack) >= DEPTH:
            raise _trouble(event, _TOO_DEEP)
        if self._stack and self._stack[-1].at_key:
            raise _trouble(event, "a key is not a string; quote it")
        self._stack.append(_Node(data, event.anchor, self._values))
        self._values += 1
        if event.anchor is not None:
            self._unfinished.add(event.anchor)

    def _close(self, event: Any) -> None:
        node = self._stack.pop()
        if node.merged and isinstance(node.data, dict):
            whole: dict[str, object] = {}
            for source in node.merged:
                whole.update(_mergeable(event, source))
            node.data = {**whole, **node.data}
        if node.anchor is not None:
            self._unfinished.discard(node.anchor)
            self._anchors[node.anchor] = node.data, self._values - node.began
        self._place(node.data, event)

    def _repeat(self, event: Any) -> None:
        if event.anchor in self._unfinished:
            raise _trouble(event, f"alias {event.anchor!r} lies in what it stands for; write it out")
        if event.anchor not in self._anchors:
            raise _trouble(
                event, f"alias {event.anchor!r} stands for nothing; write &{event.anchor} before it"
            )
        data, size = self._anchors[event.anchor]
        self._values += size
        self._repeated += size
        if self._repeated > _REPEATED + 10 * (self._values - self._repeated):
            raise _trouble(event, "aliases repeat too much; write less of it by alias")
        self._place(data, event)

    def _place(self, data: object, event: Any, *, merges: bool = False) -> None:
        """Put data where it belongs; ``merges``: it is a ``<<``, if it is a key."""
        if not self._stack:
            self.data = data
            return
        node = self._stack[-1]
        into = node.data
        if isinstance(into, list):
            into.append(data)
        elif node.merging:
            node.merged.append(data)
            node.merging = False
        elif node.key is not None:
            into[node.key] = data
            node.key = None
        elif merges:
            node.merging = True
        else:
            key = _key_text(data)
            if key is None:
                raise _trouble(event, "a key is not a string; quote it")
            if key in into:
                first = len(self._stack) == 1 and key in ("apiVersion", "kind")
                remedy = "write --- between two objects" if first else "keep one of them"
                raise _trouble(event, f"key {key!r} is written twice; {remedy}")
            node.key = key


def _mergeable(event: Any, source: object) -> dict[str, object]:
    """Return what ``<<`` merges in: a mapping, or several of which the first with a key holds."""
    if isinstance(source, dict):
        return source
    if isinstance(source, list):
        found: dict[str, object] = {}
        for part in reversed(source):
            if not isinstance(part, dict):
                break
            found.update(part)
        else:
            return found
    raise _trouble(event, "what << names is not a mapping; write a mapping there")


def _scalar(event: Any) -> _Scalar:
    """Return what a scalar means: by its tag, or without quotes by its looks."""
    text: str = event.value
    if event.tag in _PLAIN:
        return _plain(text) if event.implicit[0] else text
    meant = _plain(text)
    accepted = {
        f"{_TAG}str": str,
        f"{_TAG}int": int,
        f"{_TAG}float": float,
        f"{_TAG}bool": bool,
        f"{_TAG}null": type(None),
    }.get(event.tag)
    if accepted is None:
        raise _trouble(event, f"tag {event.tag!r} is not known here; remove it")
    if accepted is str:
        return text
    if type(meant) is not accepted:
        raise _trouble(event, f"{text!r} is not what its tag {event.tag!r} says; remove the tag")
    return meant


def _trouble(event: Any, why: str) -> UnreadableError:
    return UnreadableError(f"line {event.start_mark.line + 1}: {why}")


_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def yaml_documents(text: bytes) -> Iterator[Document]:
    """Give each document of a YAML text as soon as it is read. Raises UnreadableError."""
    line = 0
    try:
        parser = _PARSER(text)
        builder = _Builder()
        while (event := parser.get_event()) is not None:
            kind = type(event)
            line = event.start_mark.line + 1
            if kind is yaml.DocumentStartEvent:
                builder = _Builder()
            elif kind is yaml.DocumentEndEvent:
                yield builder.line, builder.data
            else:
                builder.take(event)
    except (yaml.YAMLError, UnicodeError) as error:
        raise UnreadableError(_yaml_trouble(error, text)) from None
    except ValueError:
        raise UnreadableError(f"line {line}: a number that cannot be read; quote it if it is text") from None


def _yaml_trouble(error: Exception, text: bytes) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        if mark and _open_brackets(text, mark.index) > DEPTH:
            return f"{where}{_TOO_DEEP}"
        return f"{where}{' '.join(str(error.problem or error.context).split())}; correct the YAML"
    try:
        control = _UNPRINTABLE.search(text.decode())
    except UnicodeDecodeError as wrong:
        return _not_utf8(text, wrong.start)
    if control is None:
        return "not text in UTF-8; write the file in UTF-8"
    line = control.string.count("\n", 0, control.start()) + 1
    # What is in UTF-16 or UTF-32 without saying so has a NUL beside each letter.
    remedy = "remove it" if ord(control[0]) else "write the file in UTF-8"
    return f"line {line}: the control character U+{ord(control[0]):04X}; {remedy}"


_UNPRINTABLE = re.compile(r"[^\t\n\r -~\x85\xA0-\uFFFD\U00010000-\U0010FFFF]")
"""What no YAML may hold (YAML 1.1, 5.1, c-printable)."""


def _open_brackets(text: bytes, end: int) -> int:
    """Return how many brackets are open after so many characters, those in quotes and comments counted too.

    Some parsers have a limit of their own for brackets. They look far ahead of the event that they give, so
    that they end before the builder has seen how deep the data is.
    """
    read = text.decode(errors="replace")[:end]
    return sum(map(read.count, "[{")) - sum(map(read.count, "]}"))
