"""What the engine tells of single objects, for people to read."""

from __future__ import annotations

from typing import NamedTuple

from agent.kube.events import Problem
from agent.kube.model import Key, Kind


class LocalPod(NamedTuple):
    """A pod of this node that can be a target, for people to read.

    ``addresses`` are those it owns; ``ingress`` and ``egress`` the policies that isolate it in a direction,
    empty when it is not isolated; ``workload`` what controls it, as ``Kind/name``.
    """

    key: Key
    addresses: tuple[bytes, ...]
    ingress: tuple[Key, ...]
    egress: tuple[Key, ...]
    workload: str = ""


class HeldInvalid(NamedTuple):
    """An object that is held invalid, and what is wrong with it."""

    kind: Kind
    key: Key
    problems: tuple[Problem, ...]
