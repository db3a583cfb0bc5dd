"""Where a flow can start or end: anything with a namespace and an address in each family."""

from __future__ import annotations

from typing import Protocol

from agent.net import Family
from tests.lab.netns import Netns


class LabError(Exception):
    """The lab itself is broken: what a test saw would say nothing about policy."""


class Place(Protocol):
    """A pod, a node or a host outside the cluster."""

    @property
    def name(self) -> str: ...

    @property
    def netns(self) -> Netns: ...

    def address(self, family: Family) -> str:
        """Return its address of a family, as text."""
        ...
