"""Comments that silence findings: ``# netpol-agent: ignore RULE reason``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from agent.lint.finding import Hit

_COMMENT = re.compile(
    r"(?:^|(?<=\s))#\s*netpol-agent:\s*ignore\b[ \t]*([a-z0-9-]*(?:,[a-z0-9-]+)*)[ \t]*(.*)$"
)
_NOTHING = re.compile(r"\s*(#.*)?$")


class Silence(NamedTuple):
    """A comment: its own place, the rules that it names, the reason, and the line that it is about."""

    line: int
    column: int
    rules: tuple[str, ...]
    reason: str
    about: int


def silences(text: bytes) -> list[Silence]:
    """Return the comments of a text that silence something. One above a line is about that line.

    Further comments and blank lines may be between.
    """
    if b"netpol-agent:" not in text:
        return []
    lines = text.decode(errors="replace").splitlines()
    # Of each line, the next one that says something: what a comment above is about.
    below = [0] * len(lines)
    for at in range(len(lines) - 1, 0, -1):
        below[at - 1] = below[at] if _NOTHING.match(lines[at]) else at + 1
    found: list[Silence] = []
    for number, line in enumerate(lines, 1):
        match = _COMMENT.search(line)
        if match is None:
            continue
        about = number
        if not line[: match.start()].strip():
            about = below[number - 1] or number
        rules = tuple(filter(None, match[1].split(",")))
        found.append(Silence(number, match.start() + 1, rules, match[2].strip(), about))
    return found


def faults_of(silence: Silence, known: set[str], used: set[str]) -> Iterator[tuple[str, Hit]]:
    """Give what is wrong with a comment, each with the rule; ``used`` are the rules that it silenced."""
    unknown = [rule for rule in silence.rules if rule not in known]
    if unknown or not silence.rules:
        what = f"no rule is called {', '.join(unknown)}" if unknown else "names no rule"
        yield "ignore-unknown-rule", Hit("", what, "write the id that the finding shows in brackets")
    elif not silence.reason:
        yield (
            "ignore-without-reason",
            Hit(
                "",
                f"silences {', '.join(silence.rules)} without a reason",
                f"write: # netpol-agent: ignore {','.join(silence.rules)} and why",
            ),
        )
    unused = [rule for rule in silence.rules if rule in known and rule not in used]
    if unused and not unknown:
        yield (
            "ignore-unused",
            Hit("", f"nothing of {', '.join(unused)} is found on line {silence.about}", "remove the comment"),
        )
