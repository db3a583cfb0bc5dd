"""How the tests are spread over the workers of pytest-xdist, so that few of them wait at the end.

Tests of one group run on one worker, one after the other: they share a lab or a server that is dear to make.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

LONGEST_FIRST = (
    "image",
    "documents",
    "semantics-",
    "deploy",
    "outages",
    "exact-",
    "foreign-",
    "systemd",
    "conformance",
    "api-source",
    "lies-",
    "upgrade",
    "cluster-",
    "tests/chaos",
    "large",
    "tests/cluster",
    "tests/deploy",
    "tests/property",
    "tests/mutation",
    "killed-",
    "migrate-refused",
    "tests/kernel",
    "tests/unit/sources",
)
"""How groups, and paths of files, begin: what takes longest first. All others follow, file by file.

A group that begins late is what the other workers wait for at the end.
"""


def grouped(name: str, values: Iterable[Any]) -> list[Any]:
    """Return parameters for a fixture: the tests of each value are a group of their own."""
    return [
        pytest.param(value, id=str(value), marks=pytest.mark.xdist_group(f"{name}-{value}"))
        for value in values
    ]


def turn(item: pytest.Item) -> int:
    """Return the place of a test in :data:`LONGEST_FIRST`, to sort by."""
    names = [item.nodeid, *(str(mark.args[0]) for mark in item.iter_markers("xdist_group"))]
    places = (n for n, begins in enumerate(LONGEST_FIRST) if any(name.startswith(begins) for name in names))
    return next(places, len(LONGEST_FIRST))
