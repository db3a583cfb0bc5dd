"""Rules of the kernel as what they ask and what they do, read from the text that iptables-save prints.

What cannot be read is no line that is passed over: :attr:`Line.unread` says why, and the proof fails for
everything that comes to it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_COMMENT = re.compile(r'-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+) ?')
_VALUES = {
    "-s": 1,
    "-d": 1,
    "-i": 1,
    "-o": 1,
    "-p": 1,
    "--dport": 1,
    "--dports": 1,
    "--match-set": 2,
    "--mark": 1,
    "--connmark": 1,
    "--ctstate": 1,
    "--physdev-in": 1,
    "--physdev-out": 1,
    "--physdev-is-bridged": 0,
    "--src-type": 1,
    "--dst-type": 1,
    "--icmp-type": 1,
    "--icmpv6-type": 1,
    "--hl-eq": 1,
    "--tcp-flags": 2,
    "--limit": 1,
    "--limit-burst": 1,
}
"""The matches that the agent writes, each with how many words follow."""
_MATCHES = frozenset(
    {
        *(
            "addrtype",
            "comment",
            "connmark",
            "conntrack",
            "hl",
            "icmp",
            "icmp6",
            "limit",
            "mark",
            "multiport",
        ),
        *("physdev", "sctp", "set", "tcp", "udp"),
    }
)
_OPTIONS = {
    "--reject-with": 1,
    "--nflog-prefix": 1,
    "--nflog-group": 1,
    "--timeout": 1,
    "--exist": 0,
}

SPECIAL = frozenset(("--icmp-type", "--icmpv6-type", "--hl-eq", "--tcp-flags", "--connmark"))
"""What only a few packets have that no policy knows: an ordinary one matches none of these. A new connection
has no mark."""
NOTING = frozenset(("NFLOG", "SET", "LOG"))
"""Targets after which a packet goes on to the next rule."""
ENDS = frozenset(("ACCEPT", "DROP", "REJECT", "RETURN"))


class Condition(NamedTuple):
    """One thing that a rule asks for; it matches where that is not so if it is ``negated``."""

    option: str
    value: str
    more: str = ""
    negated: bool = False


class Line(NamedTuple):
    """A rule.

    ``target`` is empty for one that only counts. ``xmark`` has the value and the mask of a MARK. ``adds`` is
    the set that a SET adds to. ``unread`` says what of it is not known here, empty where all is.
    ``special``: no ordinary packet matches it (:data:`SPECIAL`).
    """

    text: str
    conditions: tuple[Condition, ...]
    target: str
    goto: bool = False
    xmark: tuple[int, int] | None = None
    adds: str = ""
    unread: str = ""
    special: bool = False


@lru_cache(1 << 14)
def line(text: str) -> Line:
    """Read a rule, without the leading ``-A CHAIN``."""
    words = _COMMENT.sub("", text).split()
    conditions: list[Condition] = []
    target, goto, adds, negated, match = "", False, "", False, ""
    xmark: tuple[int, int] | None = None
    at = 0

    def unread(what: str) -> Line:
        return Line(text, tuple(conditions), target, goto, xmark, adds, what)

    while at < len(words):
        word = words[at]
        values = words[at + 1 : at + 3]
        at += 1
        if word == "!":
            negated = True
            continue
        if word in _VALUES:
            number = _VALUES[word]
            given = values[:number]
            if len(given) < number:
                return unread(f"{word} without a value")
            value, more = (*given, "", "")[:2]
            option = "--connmark" if match == "connmark" and word == "--mark" else word
            conditions.append(Condition(option, value, more, negated))
            at += number
        elif word == "-m":
            if values[:1] and values[0] not in _MATCHES:
                return unread(f"-m {values[0]}")
            match = values[0] if values else ""
            at += 1
        elif word in ("-j", "-g") and values:
            target, goto = values[0], word == "-g"
            at += 1
        elif word == "--set-xmark" and values and (found := _mark(values[0])) is not None:
            xmark = found
            at += 1
        elif word == "--add-set" and len(values) == 2:
            adds = values[0]
            at += 2
        elif word in _OPTIONS and target:
            at += _OPTIONS[word]
        else:
            return unread(word)
        negated = False
    if target == "MARK" and xmark is None:
        return unread("-j MARK without --set-xmark")
    special = any(c.option in SPECIAL and not c.negated for c in conditions)
    return Line(text, tuple(conditions), target, goto, xmark, adds, special=special)


def _mark(text: str) -> tuple[int, int] | None:
    value, _, mask = text.partition("/")
    try:
        return int(value, 16), int(mask, 16) if mask else 0xFFFFFFFF
    except ValueError:
        return None


def mark_of(condition: Condition) -> tuple[int, int]:
    """Return the value and the mask that a match on a mark asks for. Raises ValueError."""
    found = _mark(condition.value)
    if found is None:
        raise ValueError(f"--mark {condition.value}")
    return found
