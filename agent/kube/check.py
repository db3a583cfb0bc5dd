"""Reading plain data (what JSON and YAML decode to) field by field, gathering what is wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from agent.kube.events import Problem


class Check:
    """Gathers problems, each with its field's path as Kubernetes writes it.

    ``strict`` holds data to everything a create would refuse, unknown fields included; without it only
    what cannot be understood is a problem. A null is an unset field, as in the API. No method raises:
    each returns something of the right type, and ``problems`` tells whether it may be used.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.problems: list[Problem] = []

    def add(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))

    def refuse(self, path: str, wrong: str) -> None:
        """Add a problem when a value's check says that something is wrong, and data is held to it."""
        if wrong and self.strict:
            self.add(path, wrong)

    def mapping(self, value: object, path: str, known: Collection[str] = ()) -> Mapping[str, object]:
        """Return a mapping; with ``known``, its only fields when strict."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.add(path, f"{_shown(value)} is not a mapping; write its fields below it")
            return {}
        if self.strict and known:
            for name in value:
                if name not in known:
                    self.add(f"{path}.{name}" if path else str(name), unknown_field(str(name), known))
        return value

    def sequence(self, value: object, path: str) -> list[object]:
        if value is None:
            return []
        if not isinstance(value, list):
            self.add(path, f"{_shown(value)} is not a list; begin each entry with '- '")
            return []
        return value

    def text(self, value: object, path: str) -> str:
        if value is None:
            return ""
        if not isinstance(value, str):
            self.add(path, f"{_shown(value)} is not a string; put it in quotes")
            return ""
        return value

    def integer(self, value: object, path: str) -> int | None:
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            self.add(path, f"{_shown(value)} is not a whole number; write it in digits without quotes")
            return None
        return value

    def boolean(self, value: object, path: str) -> bool:
        if value is not None and not isinstance(value, bool):
            self.add(path, f"{_shown(value)} is neither true nor false; write one of them without quotes")
            return False
        return bool(value)

    def texts(self, value: object, path: str) -> dict[str, str]:
        """Return a mapping of strings to strings, such as labels."""
        mapping = self.mapping(value, path)
        return {str(k): self.text(v, f"{path}[{k}]") for k, v in mapping.items()}


def unknown_field(name: str, known: Collection[str]) -> str:
    """Say that a field is unknown, and which was likely meant."""
    likely = difflib.get_close_matches(name, known, 1, 0.6)
    if likely:
        remedy = f"did you mean {likely[0]}?"
    elif "matchLabels" in known:
        remedy = f"if {name!r} is a label, write it below matchLabels"
    else:
        remedy = f"known here: {', '.join(sorted(known))}"
    return f"unknown field {name!r}; {remedy}"


def _shown(value: object) -> str:
    """Return a value's text as JSON and YAML write it, cut to a line's length."""
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else _repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _repr(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else repr(value)
