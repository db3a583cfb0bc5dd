"""Findings: what a rule has to say of one object, and where in the input that is."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Severity(enum.StrEnum):
    """How bad a finding is: refused or without doubt wrong, likely wrong, or worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """Its place among severities, the worst first."""
        return list(Severity).index(self)


class Hit(NamedTuple):
    """What a rule found in an object: the field's path as Kubernetes writes it, what is wrong, the remedy."""

    path: str
    message: str
    remedy: str


class Finding(NamedTuple):
    """A rule's finding with its place.

    ``line`` and ``column`` count from 1; ``line`` is 0 for objects of a cluster, which are in no file.
    ``object`` is the kind and name, empty where a text could not be read.
    """

    file: str
    line: int
    column: int
    severity: Severity
    rule: str
    object: str
    field: str
    message: str
    remedy: str
    fixable: bool = False
