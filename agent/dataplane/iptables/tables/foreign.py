"""Filter tables that iptables cannot show as a whole, since another program put something of its own there.

One rule that was written by nft(8), or with an extension that this node's iptables lacks, and
``iptables-save`` shows nothing of the table, or ends in the middle. The kernel takes rules of ours all the
same. So the chains are listed one by one, in one command: ``-S CHAIN`` is a line that restores take, too.
What that cannot show is read by netlink, in nft mode, and stands in a :data:`Table` as

- ``[nft 7] -j CHAIN``: the rule with handle 7, which does no more than that;
- ``[nft 7 ?] … -j ACCEPT``: one that does more than can be said in words of iptables;
- ``[unread ?]``: in legacy mode, one of which nothing is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables.nft import FILTER
from agent.dataplane.iptables.variant import PROGRAMS, Mode
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nf_tables import FAMILY_NAMES, Rule, chains, expressions, rules, verdict
from agent.net import Family

Table = Mapping[str, tuple[str, ...]]

ROUNDS = 64
"""As many chains that cannot be shown are found by asking again for the rest; then all the rest is taken for
such."""
_UNREAD = "[unread ?]"
_BY_MAP = "by other means"
_HARMLESS = frozenset(
    {
        "counter",
        "immediate",
        "match",
        "payload",
        "meta",
        "cmp",
        "bitwise",
        "ct",
        "limit",
        "log",
        "range",
        "fib",
    }
)
"""Expressions that decide nothing without a verdict; ``lookup`` does where it has a map of verdicts."""
_LOT = 100
_NFT = re.compile(r"\[nft (\d+)( \?)?\] ?")
_BUILT_IN = {"INPUT": (1, 0), "FORWARD": (2, 0), "OUTPUT": (3, 0)}
"""Where iptables has its built-in chains: the hook (NF_INET_LOCAL_IN and so on) and the priority."""
_SAID = re.compile(r"chain `([^']+)'")
_ORDINARY = re.compile(r"[A-Za-z0-9_.:+/@][A-Za-z0-9_.:+/@-]*")
"""Names that need no quotes in what a restore is given."""


class Listing(NamedTuple):
    """What a command printed and complained of, and how it ended."""

    printed: str
    said: str
    code: int


Lister = Callable[[Iterable[str]], Listing]
"""Runs one restore with a line ``-S …`` for each of some arguments; it stops at the first that fails."""


def handle(rule: str) -> int | None:
    """Return a rule's handle, where netlink told of it."""
    found = _NFT.match(rule)
    return int(found[1]) if found else None


def is_unclear(rule: str) -> bool:
    """Whether it cannot be said what a rule does."""
    found = _NFT.match(rule)
    return rule == _UNREAD or (found is not None and found[2] is not None)


def decides_unseen(rule: str) -> bool:
    """Whether a rule that netlink told of decides by a map of verdicts, or what else iptables lacks."""
    return rule.endswith(_BY_MAP)


def plain(rule: str) -> str:
    """Return a rule as iptables would print it; one that is unclear, as it is."""
    return rule if is_unclear(rule) else _NFT.sub("", rule, count=1)


def unclear_chains(table: Table) -> list[str]:
    """Return the chains with rules of which it cannot be said what they do."""
    return [chain for chain, found in table.items() if any(map(is_unclear, found))]


def where(mode: Mode, family: Family, chain: str) -> str:
    """Return the command that shows a chain of the filter table, whoever wrote it."""
    if mode == "legacy":
        return f"{PROGRAMS[family]}-legacy -n -L {chain}"
    return f"nft list chain {FAMILY_NAMES[family]} {FILTER} {chain}"


def read(netlink: NetlinkSocket, family: Family, lister: Lister) -> dict[str, tuple[str, ...]]:
    """Read the filter table of nft mode chain by chain; nothing where there is none. Raises OSError."""
    there = {chain.name: chain.hook for chain in chains(netlink, family) if chain.table == FILTER}
    # Ours first: what others have must not keep them from being read. Of a chain that is hooked otherwise
    # than iptables has it, only the name and the policy would be shown.
    order = sorted(there, key=lambda name: not names.is_ours(name))
    shown = [n for n in order if _ORDINARY.fullmatch(n) and there[n] == _BUILT_IN.get(n)]
    listed = _listed(shown, lister)
    return {name: listed[name] if name in listed else read_chain(netlink, family, name) for name in there}


def read_chain(netlink: NetlinkSocket, family: Family, chain: str) -> tuple[str, ...]:
    """Read one chain of the filter table of nft mode by netlink. Raises OSError."""
    return tuple(map(_text, rules(netlink, family, FILTER, chain)))


def _text(rule: Rule) -> str:
    said, target, clear, unseen = [], "", True, False
    for name, data in expressions(rule):
        decided = verdict(name, data)
        target = decided or target
        clear = clear and name in ("counter", "immediate")
        unseen = unseen or decided == "" or (decided is None and name not in _HARMLESS and name != "lookup")
        if name == "match" and bytes(data.get(1, b"")) == b"comment\0":
            comment = bytes(data.get(3, b"")).split(b"\0", 1)[0].decode(errors="surrogateescape")
            said.append(f'-m comment --comment "{comment}"')
    mark = f"[nft {rule.handle}{'' if clear and target else ' ?'}]"
    end = [_BY_MAP] if unseen else [target] if target else []
    return " ".join([mark, *said, *end])


def read_piecewise(there: Iterable[str], lister: Lister) -> dict[str, tuple[str, ...]]:
    """Read the chains of legacy mode one by one, and rule by rule those that cannot be shown."""
    order = sorted(there, key=lambda name: not names.is_ours(name))
    listed = _listed(order, lister)
    return {name: listed[name] if name in listed else _rule_by_rule(name, lister) for name in order}


def _listed(waiting: list[str], lister: Lister) -> dict[str, tuple[str, ...]]:
    """List chains; leave out those that cannot be shown."""
    found: dict[str, tuple[str, ...]] = {}
    for _ in range(ROUNDS):
        if not waiting:
            break
        listing = lister(waiting)
        shown = _parse(listing.printed)
        if listing.code == 0:
            found |= shown
            break
        said = _SAID.search(listing.said)
        # One may have been shown in part. Where none was, it is the first.
        failed = said[1] if said else next(reversed(shown), waiting[0])
        shown.pop(failed, None)
        found |= shown
        waiting = waiting[waiting.index(failed) + 1 :] if failed in waiting else []
    return found


def _parse(printed: str) -> dict[str, tuple[str, ...]]:
    """Parse what lines ``-S`` print; a last line that is not whole is left out."""
    found: dict[str, list[str]] = {}
    for line in printed.split("\n")[:-1]:
        words = line.split(" ", 2)
        if words[0] in ("-P", "-N") and len(words) > 1:
            found[words[1]] = []
        elif words[0] == "-A" and len(words) > 1:
            found.setdefault(words[1], []).append(words[2] if len(words) > 2 else "")
    return {chain: tuple(shown) for chain, shown in found.items()}


def _rule_by_rule(chain: str, lister: Lister) -> tuple[str, ...]:
    found: list[str] = []
    for _ in range(ROUNDS):
        first = len(found) + 1
        listing = lister(f"{chain} {number}" for number in range(first, first + _LOT))
        shown = _parse(listing.printed).get(chain, ())
        found += shown
        if listing.code:
            found.append(_UNREAD)
        elif len(shown) < _LOT:
            return tuple(found)
    return (*found, _UNREAD)
