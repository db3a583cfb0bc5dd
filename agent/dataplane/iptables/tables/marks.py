"""Which two bits of a packet's mark are the agent's: such as nobody else on the node uses.

They are set while a packet is judged and clear when it leaves, so that a bit of another program's would be
lost. Bits that the agent's rules in the kernel have stay as long as they are free, whatever else is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names, parse
from agent.dataplane.iptables.tables import markuse, nft
from agent.dataplane.iptables.tables.chain_table import ChainTable
from agent.dataplane.iptables.tables.markuse import Use
from agent.fault import Fault
from agent.kernel import nf_tables
from agent.kernel.netlink import NetlinkSocket
from agent.net import Direction
from agent.words import and_more

RESERVED = 0x4000 | 0x8000
"""kube-proxy's, which may not have started yet."""

ORDER = tuple(1 << number for number in (16, 17, 29, 28, 27, 26, 25, 24, 30, 31, 23, 22, 21, 20, 19, 18))
"""In this order bits are looked at, and then those below. Programs mostly take them from the ends."""
_ALL = (*ORDER, *(1 << number for number in range(13, -1, -1)))
_SHOWN = 3
_REFUSED = (
    ", and connections of others through this node that have it in their own mark are refused (--cut-denied)"
)

_SETTING = {Direction.INGRESS: "--mark-ingress", Direction.EGRESS: "--mark-egress"}

Bits = Mapping[Direction, int]


class Choice(NamedTuple):
    """The bit of each direction, and what is wrong with it."""

    bits: Bits
    faults: tuple[Fault, ...] = ()


def choose(options: Options, uses: Sequence[Use], held: Bits) -> Choice:
    """Choose bits; those that are set by a person stay, and are told where somebody uses them.

    ``held``: those of the agent's rules in the kernel. ``uses``: what others use.
    """
    used = markuse.union(use.bits for use in uses)
    cleared = markuse.union(use.cleared for use in uses)
    bits: dict[Direction, int] = {d: options.mark(d) for d in Direction if d not in options.chosen_marks}
    faults: list[Fault] = []
    for direction in Direction:
        if direction in bits:
            remedy = f"give {_SETTING[direction]} another bit, or auto"
            faults += _in_use(direction, bits[direction], uses, remedy, options)
    for direction in sorted(options.chosen_marks):
        others = [d for d in Direction if d != direction and d not in bits]
        taken = markuse.union([*bits.values(), *(held.get(d, 0) | options.mark(d) for d in others)])
        found = _free(direction, options, held, used, cleared, taken)
        if found is None:
            found = options.mark(direction)
            faults += _in_use(
                direction,
                found,
                uses,
                "none of the 32 bits is free on this node: have one of the programs use another bit",
                options,
            )
        bits[direction] = found
    if options.cut:
        faults += _overwritten(bits[Direction.EGRESS], uses)
    return Choice(bits, tuple(faults))


def _free(
    direction: Direction, options: Options, held: Bits, used: int, cleared: int, taken: int
) -> int | None:
    own = [bit for bit in (held.get(direction), options.mark(direction)) if bit]
    for avoided in (used | cleared | RESERVED | taken, used | RESERVED | taken):
        for bit in (*own, *_ALL):
            if not bit & avoided:
                return bit
        own = []
    return None


def _in_use(
    direction: Direction, bit: int, uses: Iterable[Use], remedy: str, options: Options
) -> list[Fault]:
    users = list(dict.fromkeys(markuse.used_by(uses, bit)))
    if not users:
        return []
    more = and_more(len(users), _SHOWN)
    refused = _REFUSED if options.cut and direction is Direction.EGRESS else ""
    return [
        Fault(
            f"bit {bit:#x} of packets' marks is this agent's for {direction}, and is also used by "
            f"{'; '.join(users[:_SHOWN])}{more}: packets that are judged lose this bit{refused}",
            remedy,
            blocking=False,
        )
    ]


def _overwritten(bit: int, uses: Iterable[Use]) -> list[Fault]:
    """Say which rules take the bit from connections that were ended, which go on then.

    Where a rule writes no more than some bits of marks, another bit has been chosen, if one is free.
    """
    rules = list(dict.fromkeys(use.where for use in uses if use.overwritten & bit))
    if not rules:
        return []
    more = and_more(len(rules), _SHOWN)
    return [
        Fault(
            f"connections that --cut-denied ends go on where another program's rule overwrites their whole "
            f"mark, and bit {bit:#x} of the agent with it: {'; '.join(rules[:_SHOWN])}{more}",
            "have these rules write no more than bits of their own (--set-xmark VALUE/MASK, --save-mark "
            "--mask MASK; nft: ct mark set ct mark and ... or ...)",
            blocking=False,
        )
    ]


def held_by(tables: Iterable[Mapping[str, Sequence[str]]]) -> dict[Direction, int]:
    """Return the bits that the agent's chains in filter tables set."""
    found: dict[Direction, int] = {}
    for table in tables:
        for direction in Direction:
            for rule in table.get(names.allow(direction), ()):
                bit = parse.bit_set(rule)
                if bit is not None and bit not in found.values():
                    found.setdefault(direction, bit)
    return found


class MarkBits:
    """Which bits the agent's rules use, for as long as it runs."""

    def __init__(self, options: Options, uses: Uses, chains: ChainTable) -> None:
        self._options = options
        self._chains = chains
        self.uses = uses
        self.faults: tuple[Fault, ...] = ()

    def choose(self, uses: Sequence[Use]) -> tuple[Options, Options]:
        """Return the options with the bits to use, and with those of our chains until these are rewritten."""
        held = held_by(self._chains.held.values())
        choice = choose(self._options, uses, held)
        self.faults = choice.faults
        chosen = self._options.with_marks(choice.bits)
        return chosen, self._options.with_marks(held) if len(held) == len(Direction) else chosen

    def held(self) -> list[Options]:
        """Return the options with the bits that our chains set, of each family whose chains say both."""
        held = [held_by([self._chains.held[family]]) for family in self._chains.families]
        return [self._options.with_marks(bits) for bits in held if len(bits) == len(Direction)]

    def rechosen(self, uses: Sequence[Use], now: Options) -> bool:
        """Whether other bits than those in use would be chosen."""
        return self._options.with_marks(self._choice(uses, now).bits) != now

    def changed(self, uses: Sequence[Use], now: Options) -> set[Fault]:
        """Return the faults that came or went since the bits were chosen."""
        return {*self._choice(uses, now).faults} ^ {*self.faults}

    def _choice(self, uses: Sequence[Use], now: Options) -> Choice:
        return choose(self._options, uses, {d: now.mark(d) for d in Direction})


class Uses:
    """What others use, read again only as far as it may have changed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generation: int | None = None
        self._of_nft: list[Use] = []

    def read(self) -> list[Use]:
        """Return it. Raises OSError."""
        with NetlinkSocket() as netlink:
            generation = nf_tables.generation(netlink)
        with self._lock:
            if generation is None or generation != self._generation:
                self._of_nft = markuse.of_nft(_is_own)
                self._generation = generation
            of_nft = self._of_nft
        return [*of_nft, *markuse.of_legacy(_is_own), *markuse.of_routing(), *markuse.of_ipvs()]


def _is_own(table: str, chain: str) -> bool:
    return table == nft.FILTER and names.is_ours(chain)
