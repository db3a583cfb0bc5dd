"""How packets are marked, left and refused: what a person may set of the rules' shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from agent.dataplane.backend import CutMarks
from agent.kube.logging import Amount
from agent.net import Direction, Family


def _always(family: Family) -> bool:
    del family
    return True


class LogRules(NamedTuple):
    """How packets are logged: to which NFLOG group, and where they are sampled, how many.

    ``rate`` is packets a second, ``burst`` packets at once. ``possible``: whether the kernel takes such rules
    in a family. ``default``: how many denied packets are logged of addresses that no pod has any more, of
    which no annotation says it.
    """

    group: int
    rate: int = 10
    burst: int = 20
    possible: Callable[[Family], bool] = _always
    default: Amount | None = None


@dataclass(frozen=True)
class Options:
    """Settings of the rendered rules.

    ``mark_egress`` and ``mark_ingress`` are one bit each, set while a direction is judged and clear on
    leaving it. ``accept``: allowed packets are accepted, else they go on to the node's own rules.
    ``reject``: denied packets are answered (TCP reset, ICMP administratively prohibited), else dropped.
    ``chosen_marks``: the directions of which the bit given is no more than a proposal: the backend takes one
    that nobody else on the node uses.
    ``cache``: seconds for which an allowed connection is cached; 0: every packet is judged.
    ``cut``: whether rules end connections that carry the agent's bit in their own mark (connmark).
    ``log``: how packets of pods are logged for which the program asks it; None: none is.
    """

    mark_egress: int = 0x10000
    mark_ingress: int = 0x20000
    accept: bool = False
    reject: bool = False
    cache: int = 10
    chosen_marks: frozenset[Direction] = frozenset()
    log: LogRules | None = None
    cut: bool = False

    def with_marks(self, bits: Mapping[Direction, int]) -> Options:
        """Return these options with other mark bits."""
        return replace(self, mark_egress=bits[Direction.EGRESS], mark_ingress=bits[Direction.INGRESS])

    def mark(self, direction: Direction) -> int:
        """Return the mark bit of a direction."""
        return self.mark_ingress if direction is Direction.INGRESS else self.mark_egress

    @property
    def both_marks(self) -> int:
        return self.mark_egress | self.mark_ingress

    @property
    def cut_marks(self) -> CutMarks | None:
        """How connections are ended, if they are: by bits that nobody else uses."""
        return CutMarks(self.mark_egress, self.both_marks) if self.cut else None

    @property
    def leave(self) -> str:
        """The target of a packet that may pass."""
        return "ACCEPT" if self.accept else "RETURN"
