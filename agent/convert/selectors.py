"""Label selectors as kubectl writes them, in braces: ``{app=web,tier!=db,env in (a,b),!old}``."""

from __future__ import annotations

import re

from agent.convert.words import LineError, Word
from agent.kube import names
from agent.kube.model import Operator, Requirement, Selector

_PART = re.compile(
    r"\s*(?:(?P<absent>!)\s*(?P<no>[^\s,=!()]+)"
    r"|(?P<key>[^\s,=!()]+)\s*(?:(?P<equal>==?|!=)\s*(?P<value>[^\s,=!()]*)"
    r"|\s(?P<among>in|notin)\s*\((?P<values>[^()]*)\))?)\s*(?P<end>,|$)"
)


def read_selector(word: Word) -> Selector:
    """Read what is in a word's braces. Raises LineError, with the column of the wrong part."""
    inside, at = word.text[1:-1], 0
    found: set[Requirement] = set()
    if not inside.strip():
        return Selector()
    while True:
        match = _PART.match(inside, at)
        part = Word(inside[at:], word.column + 1 + at)
        if match is None:
            raise LineError(
                part, "is no part of a selector; write key=value, key!=value, key in (a,b), key, !key"
            )
        found.add(_requirement(match, part))
        at = match.end()
        if match["end"] != ",":
            return Selector(tuple(sorted(found)))


def _requirement(match: re.Match[str], part: Word) -> Requirement:
    key = match["no"] or match["key"]
    if wrong := names.qualified_name(key):
        raise LineError(part, wrong)
    if match["absent"]:
        return Requirement(key, Operator.DOES_NOT_EXIST)
    if match["equal"] is None and match["among"] is None:
        return Requirement(key, Operator.EXISTS)
    values = [match["value"]] if match["among"] is None else [v.strip() for v in match["values"].split(",")]
    for value in values:
        if wrong := names.label_value(value):
            raise LineError(part, wrong)
    negative = match["equal"] == "!=" or match["among"] == "notin"
    return Requirement(key, Operator.NOT_IN if negative else Operator.IN, tuple(sorted(set(values))))


def write_selector(selector: Selector) -> str:
    """Return a selector in braces."""
    return "{" + ",".join(map(_text, selector.requirements)) + "}"


def _text(requirement: Requirement) -> str:
    key, operator, values = requirement
    if operator is Operator.EXISTS:
        return key
    if operator is Operator.DOES_NOT_EXIST:
        return f"!{key}"
    if len(values) == 1:
        return f"{key}{'=' if operator is Operator.IN else '!='}{values[0]}"
    return f"{key} {'in' if operator is Operator.IN else 'notin'} ({','.join(values)})"
