"""Keeps the table in the kernel as the links that were found want it."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from agent.closing import Closing
from agent.dataplane.frames import TABLE, table
from agent.dataplane.frames.bindings import Binding, Held, bindings
from agent.dataplane.podlinks import PodLink
from agent.fault import Fault
from agent.kernel import nf_owned
from agent.kernel import nf_write as nf
from agent.kernel.netlink import Message, NetlinkSocket
from agent.kernel.nf_tables import ABSENT

_BUFFER_FORCE, _BUFFER_BYTES = 32, 8 << 20
"""SO_SNDBUFFORCE (socket(7)): a transaction is one datagram, and one of 1,000 pods takes half a megabyte."""
_DORMANT = 1


class Guarding(NamedTuple):
    """What one call did.

    ``commits``: how many transactions the kernel took. ``links``: the links whose frames are guarded now.
    ``drift``: what somebody else had changed, a line for each; it has been put back. ``pending``: it is to be
    called again soon.
    """

    commits: int
    links: frozenset[str]
    faults: tuple[Fault, ...] = ()
    drift: tuple[str, ...] = ()
    pending: bool = False


class _Seen(NamedTuple):
    """What the kernel holds: the table's flags, its chains that see frames, its rules, its sets."""

    flags: int | None
    chains: Mapping[str, nf.BaseChain]
    rules: Mapping[str, list[bytes]]
    keys: Mapping[str, set[bytes]]


_NOTHING = _Seen(None, {}, {}, {})


class FrameGuard(Closing):
    """Holds the table. One thread at a time calls it, in the node's network namespace.

    The first call replaces the table of an earlier run by one transaction, so that there is no gap. From then
    on the table belongs to this guard's socket, where the kernel knows that (:mod:`agent.kernel.nf_owned`):
    nobody else changes it, and it stays when this process ends, however it ends. After that a link costs one
    transaction when it comes, changes or goes. What cannot be written leaves all as it was, and is tried
    again by the next call.
    """

    def __init__(self) -> None:
        self._bound: dict[int, Binding] = {}
        self._rules: Mapping[str, list[bytes]] | None = None
        """As the kernel told them after the last write; None: nothing was written yet."""
        self._netlink: NetlinkSocket | None = None
        """None: the table is to be made anew, by a new socket."""
        self._flags = 0
        self._doubted = False

    def close(self) -> None:
        """Let go of the table, which stays."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def follow(self, links: Iterable[PodLink]) -> Guarding:
        """Guard these links, and no others; what somebody else changed in the table is put back."""
        commits: list[int] = []
        drift: tuple[str, ...] = ()
        wanted: Mapping[int, Binding] = {}
        try:
            anew = self._netlink is None
            netlink = self._netlink or self._open()
            seen = _read(netlink)
            held = seen.keys if self._rules is None else table.keys(self._bound.values())
            wanted = _present(bindings(links, table.held_by(held)))
            drift = () if self._rules is None else tuple(_differences(self._bound, self._rules, seen))
            if anew or drift or self._doubted:
                nf.transact(netlink, _whole(wanted, self._flags))
                commits.append(len(wanted))
                self._bound, self._doubted = dict(wanted), False
                faults: list[Fault] = []
            else:
                faults = self._change(netlink, seen, wanted, commits)
            self._rules = _read(netlink).rules if commits else seen.rules
        except OSError as error:
            # The socket may be what is broken. The next call takes the table over by another.
            self.close()
            # An interface may have gone meanwhile: then the next call sees that.
            went = len(_present(wanted)) < len(wanted)
            failed = () if went else (_fault("frames of pods", error),)
            return Guarding(len(commits), self._links(), failed, pending=True)
        return Guarding(len(commits), self._links(), tuple(faults), drift, pending=bool(faults))

    def _open(self) -> NetlinkSocket:
        """Open the socket that the table is to belong to. Raises OSError."""
        self._netlink = netlink = NetlinkSocket()
        # Refused in a user namespace, where some hundred pods fit all the same.
        with contextlib.suppress(OSError):
            netlink.set_option(socket.SOL_SOCKET, _BUFFER_FORCE, _BUFFER_BYTES)
        self._flags = nf_owned.flags(netlink)
        return netlink

    @property
    def held(self) -> Held:
        """As what each link may send, by its index: hardware and IP addresses."""
        return {number: one.hardware | one.addresses for number, one in self._bound.items()}

    def forget(self) -> None:
        """Have the next call replace the whole table, whatever it holds."""
        self._doubted = True

    def _links(self) -> frozenset[str]:
        return frozenset(binding.name for binding in self._bound.values())

    def _change(
        self, netlink: NetlinkSocket, seen: _Seen, wanted: Mapping[int, Binding], commits: list[int]
    ) -> list[Fault]:
        """Write what is different, one link after the other; return what could not be written."""
        faults = []
        # Those that went first: another interface may have the name now.
        for number in (*(self._bound.keys() - wanted.keys()), *wanted):
            before, after = self._bound.get(number), wanted.get(number)
            if before == after:
                continue
            try:
                nf.transact(netlink, _one(seen, before, after))
            except OSError as error:
                # Its interface may have gone meanwhile: then the next call sees that.
                if after is None or _number(after.name) == number:
                    faults.append(_fault(f"frames of interface {(after or before or _NOBODY).name}", error))
                continue
            commits.append(number)
            self._bound.pop(number, None)
            if after is not None:
                self._bound[number] = after
        return faults


_NOBODY = Binding("", 0, frozenset(), frozenset())


def dropped() -> dict[str, int]:
    """Return how many frames were dropped since the table was made, by the reason. Raises OSError."""
    with NetlinkSocket() as netlink:
        counts = nf.counted_by(netlink, TABLE)
    return {chain.removeprefix("wrong-"): counts.get(chain, 0) for chain in table.DENIALS}


def remove() -> tuple[Fault, ...]:
    """Remove the table from the kernel, if it is there; return what is left, and why."""
    try:
        with NetlinkSocket() as netlink:
            if nf.table_flags(netlink, TABLE) is not None:
                nf.transact(netlink, table.remove())
    except OSError as error:
        if error.errno in ABSENT:
            return ()
        what, remedy = (
            f"nftables table netdev {TABLE} is left: {error.strerror}",
            f"nft delete table netdev {TABLE}",
        )
        if owner := _other_owner(error):
            what, remedy = (
                f"nftables table netdev {TABLE} is left: it belongs to {owner}",
                f"end {owner} first",
            )
        return (Fault(what, remedy, blocking=False),)
    return ()


def _other_owner(error: OSError) -> str:
    """Say whose the table is, where that is why something was refused; else ""."""
    return nf_owned.owner_of(TABLE) if error.errno == errno.EPERM else ""


def _fault(what: str, error: OSError) -> Fault:
    if owner := _other_owner(error):
        why = f"nftables table netdev {TABLE} belongs to {owner}, such as another agent of this node"
        return Fault(
            f"{what} are not guarded: {why}", f"end {owner}; the agent takes over then", reason="rules"
        )
    remedy = "the agent tries again by itself"
    if error.errno in (*ABSENT, errno.ENOENT):
        remedy = "a kernel with nftables for interfaces (CONFIG_NF_TABLES_NETDEV), or --no-guard-frames"
    return Fault(f"{what} are not guarded: {error.strerror or error}", remedy, reason="rules")


def _read(netlink: NetlinkSocket) -> _Seen:
    """Read the table. Raises OSError."""
    flags = nf.table_flags(netlink, TABLE)
    if flags is None:
        return _NOTHING
    chains = {chain.name: chain for chain in nf.base_chains(netlink, TABLE)}
    keys = {}
    for name in table.SETS:
        try:
            keys[name] = nf.keys_of(netlink, TABLE, name)
        except FileNotFoundError:
            keys[name] = set()
    return _Seen(flags, chains, nf.rule_texts(netlink, TABLE), keys)


def _number(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _present(found: Mapping[int, Binding]) -> dict[int, Binding]:
    """Return those whose interface is still there, under its name."""
    return {number: binding for number, binding in found.items() if _number(binding.name) == number}


def _differences(
    bound: Mapping[int, Binding], rules: Mapping[str, list[bytes]], seen: _Seen
) -> Iterator[str]:
    """Say what is not as it was left, interfaces that went aside."""
    if seen.flags is None:
        yield f"table netdev {TABLE} is gone"
        return
    if seen.flags & _DORMANT:
        yield f"table netdev {TABLE} is dormant"
    for name, keys in table.keys(bound.values()).items():
        if keys != seen.keys.get(name):
            yield f"set {name} of table netdev {TABLE} has other elements"
    here = {table.link_chain(binding.name): binding.name for binding in _present(bound).values()}
    for chain, device in here.items():
        hook = seen.chains.get(chain)
        if hook is None or (hook.number, hook.priority) != (nf.INGRESS, table.PRIORITY):
            yield f"chain {chain} of table netdev {TABLE} does not see frames of {device}"
    gone = {table.link_chain(binding.name) for binding in bound.values()} - here.keys()
    for chain in sorted((rules.keys() | seen.rules.keys()) - gone):
        if rules.get(chain) != seen.rules.get(chain):
            yield f"chain {chain} of table netdev {TABLE} is not as it was left"


def _whole(wanted: Mapping[int, Binding], flags: int) -> list[Message]:
    messages = [*table.remove(), *table.make(flags)]
    for name, keys in table.keys(wanted.values()).items():
        messages += nf.add_elements(TABLE, name, keys)
    return messages + [message for binding in wanted.values() for message in table.add_link(binding)]


def _one(seen: _Seen, before: Binding | None, after: Binding | None) -> list[Message]:
    """Return the messages of one link's change, in an order that the kernel takes."""
    old = table.keys([before] if before is not None else [])
    new = table.keys([after] if after is not None else [])
    messages: list[Message] = []
    for name in table.SETS:
        messages += nf.add_elements(TABLE, name, new[name] - old[name])
    if before is not None and (after is None or after.name != before.name):
        # An interface that is gone has taken its chain along, or left it behind, as the kernel is.
        messages += [table.remove_link(before.name)] if table.link_chain(before.name) in seen.chains else []
    if after is not None and (before is None or after.name != before.name):
        messages += table.add_link(after)
    for name in table.SETS:
        messages += nf.delete_elements(TABLE, name, old[name] - new[name])
    return messages
