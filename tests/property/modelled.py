"""The backend with a model of the kernel behind it in place of iptables and netlink.

It refuses what the kernel refuses, and shows every state that a packet could meet: after each restore of a
family, and after each single member.
"""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from pyroute2.netlink.nfnetlink import ipset as uapi

from agent.dataplane.iptables.access import Access
from agent.dataplane.iptables.backend import IptablesBackend
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.tables import marks
from agent.dataplane.iptables.tables.markuse import Use
from agent.dataplane.iptables.tables.tables import Table, TableError, Tables
from agent.dataplane.iptables.verdict_cache import Flusher
from agent.dataplane.turns import FOR_EVER, Patience, Waits, Work, whole
from agent.kernel.conntrack import ConntrackError
from agent.kernel.ipset import IpSets
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_shapes import SetChange, SetContent, SetHeader, SetShape
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nft_writes import RuleWrites
from agent.kernel.surroundings import NONE
from agent.net import Family, Member
from tests.property.kernel_model import UPLINK, Kernel, compiled


class ModelTables:
    """In place of :class:`agent.dataplane.iptables.tables.tables.Tables`."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.mode = "nft"

    def close(self) -> None:
        pass

    def prime(self, family: Family, chain: str, rule: str) -> None:
        assert rule in self.kernel.tables[family][chain]

    def read(self, family: Family) -> Table:
        return dict(self.kernel.tables[family])

    def restore(
        self,
        lines: Mapping[Family, list[str]],
        done: Callable[[Family], None] = lambda _: None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> dict[Family, TableError]:
        return whole(self.restoring(lines, done, meanwhile, FOR_EVER))

    def restoring(
        self,
        lines: Mapping[Family, list[str]],
        done: Callable[[Family], None],
        meanwhile: Callable[[], object],
        patience: Patience,
    ) -> Work[dict[Family, TableError]]:
        del patience
        meanwhile()
        failed = {}
        for family, family_lines in lines.items():
            while self.kernel.slow():
                yield Waits((), 1.0, self.kernel.soon())
            killed = self.kernel.killed()
            try:
                if family_lines and (self.kernel.fails() or self.kernel.unwritten()):
                    raise ValueError("out of luck")
                table, touched = _restored(self.kernel, family, family_lines)
            except ValueError as error:
                failed[family] = TableError(
                    "iptables-restore", str(error), refused=not killed, unknown=killed
                )
                continue
            self.kernel.tables[family] = table
            self.kernel.changed(*((family, chain) for chain in touched))
            if killed:
                failed[family] = TableError("iptables-restore", "killed", refused=False, unknown=True)
            else:
                done(family)
        return failed


def _restored(kernel: Kernel, family: Family, lines: Iterable[str]) -> tuple[Table, set[str]]:
    """Return the table after some lines of iptables-restore, and the chains that they name."""
    table: Table = dict(kernel.tables[family])
    touched: dict[str, list[str]] = {}
    deleted = set()

    def rules_of(chain: str) -> list[str]:
        if chain not in touched:
            if chain in deleted or chain not in table:
                raise ValueError(f"no chain {chain}")
            touched[chain] = list(table[chain])
        return touched[chain]

    for line in lines:
        command, rest = line[:1] if line.startswith(":") else line.split(" ", 1)[0], line
        if command == ":":
            touched[rest[1:].split(" ", 1)[0]] = []
            continue
        _, chain, *tail = rest.split(" ", 2)
        if command == "-X":
            if rules_of(chain):
                raise ValueError(f"chain {chain} is not empty, or not there")
            del touched[chain]
            deleted.add(chain)
            continue
        rules = rules_of(chain)
        (rule,) = tail
        if command == "-I":
            number, rule = rule.split(" ", 1)
            rules.insert(int(number) - 1, rule)
        elif command == "-D":
            if rule not in rules:
                raise ValueError(f"no such rule in {chain}: {rule}")
            rules.remove(rule)
        else:
            assert command == "-A", line
            rules.append(rule)
    for chain in deleted - touched.keys():
        # Not there before, if these lines made it too.
        table.pop(chain, None)
    table |= {chain: tuple(rules) for chain, rules in touched.items()}
    # What no line names leads where it did, but for what is deleted; sets that rules refer to stay.
    for chain in table if deleted else touched:
        for rule in table[chain]:
            read = compiled(rule)
            target = read.target
            if target.startswith("KUBE-") and target not in table:
                raise ValueError(f"no chain {target}")
            assert len(read.sets) <= 2, rule
            for name in read.sets:
                if name not in kernel.sets:
                    raise ValueError(f"no set {name}")
    return table, touched.keys() | deleted


class ModelIpSets:
    """In place of :class:`agent.kernel.ipset.IpSets`."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def read(self, prefix: str) -> dict[str, SetContent]:
        sets = self.kernel.sets.items()
        return {n: SetContent(shape, set(members)) for n, (shape, members) in sets if n.startswith(prefix)}

    def list_shapes(self, prefix: str = "") -> dict[str, SetHeader]:
        sets = self.kernel.sets.items()
        return {n: SetHeader(shape, len(members), 0) for n, (shape, members) in sets if n.startswith(prefix)}

    def create(
        self, name: str, shape: SetShape, members: Iterable[Member] = (), *, hashsize: int = 0
    ) -> None:
        assert not hashsize or not members
        if name in self.kernel.sets:
            raise SetError(name, "a set of that name exists", code=errno.EEXIST)
        self._try(name)
        self.kernel.sets[name] = (shape, set(members))
        self.kernel.changed(name)

    def replace(self, name: str, shape: SetShape, members: Iterable[Member]) -> None:
        self._try(name)
        self.kernel.sets[name] = (shape, set(members))
        self.kernel.changed(name)

    def create_all(self, wanted: Mapping[str, SetContent]) -> list[SetError]:
        errors = []
        for name, (shape, members) in wanted.items():
            try:
                self.create(name, shape, members)
            except SetError as error:
                errors.append(error)
        return errors

    def destroy(self, name: str) -> None:
        if self.kernel.references(name):
            raise SetError(name, "a rule still refers to the set", code=uapi.IPSET_ERR_BUSY)
        self._try(name)
        self.kernel.sets.pop(name, None)
        self.kernel.changed(name)

    def change(self, changes: Iterable[SetChange], emptied: Iterable[str] = ()) -> list[SetError]:
        changes = [SetChange(name, list(added), list(removed)) for name, added, removed in changes]
        failed = []
        for name in emptied:
            if self.kernel.fails():
                failed.append(SetError(name, "out of luck"))
            elif self._has(name):
                self.kernel.cached.pop(name, None)
                self.kernel.sets[name][1].clear()
                self.kernel.changed(name)
        missing = [SetError(c.name, "missing", code=errno.ENOENT) for c in changes if not self._has(c.name)]
        missing += [SetError(c.name, "out of luck") for c in changes if self.kernel.fails()]
        lost = {error.name for error in missing}
        changes = [change for change in changes if change.name not in lost]
        for name, added, _ in changes:
            for member in added if self._has(name) else ():
                self.kernel.sets[name][1].add(member)
                self.kernel.changed(name)
        for name, _, removed in changes:
            for member in removed if self._has(name) else ():
                self.kernel.sets[name][1].discard(member)
                self.kernel.changed(name)
        return [*failed, *missing]

    def enlist(self, name: str, member: str) -> None:
        self._try(name)
        if member not in self.kernel.sets:
            raise SetError(name, "missing", code=errno.ENOENT)
        self.kernel.sets[name][1].add(cast(Member, member))
        self.kernel.changed(name)

    def _try(self, name: str) -> None:
        if self.kernel.fails() or self.kernel.unwritten():
            raise SetError(name, "out of luck", code=errno.ENOMEM)

    def header(self, name: str) -> SetHeader:
        shape, members = self.kernel.sets[name]
        return SetHeader(shape, len(members), 0)

    def members(self, name: str) -> set[Member]:
        return set(self.kernel.sets[name][1])

    def _has(self, name: str) -> bool:
        return name in self.kernel.sets

    def close(self) -> None:
        pass


class ModelFlusher(Flusher):
    """Does at once what the thread does in its time; what fails is left to the next change."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(lambda: kernel.judged())
        self._kernel = kernel

    def _follow(self) -> None:
        with contextlib.suppress(SetError):
            self.open(cast(IpSets, ModelIpSets(self._kernel)))


class ModelNetlink:
    """In place of a netlink socket: of nf_tables, which nobody else uses, it has nothing to tell."""

    def get(self, message: object) -> bytes:
        del message
        raise OSError(errno.ENOENT, "there is no such table")

    def close(self) -> None:
        pass


class Uses(marks.Uses):
    """Who else uses bits of packets' marks: nobody, unless told so."""

    found: Sequence[Use] = ()

    def read(self) -> list[Use]:
        return list(self.found)


def access(kernel: Kernel) -> Access:
    """Return this kernel as the backend reaches it; nothing is in any other mode."""

    def forget(addresses: Iterable[bytes]) -> int:
        if kernel.fails():
            raise ConntrackError("out of luck", "")
        kernel.forgotten.append(frozenset(addresses))
        kernel.changed()
        return 0

    def untold() -> RuleWrites:
        raise OSError(errno.EPROTONOSUPPORT, "a model tells nothing")

    return Access(
        tables=lambda _, **__: cast(Tables, ModelTables(kernel)),
        ipsets=lambda: cast(IpSets, ModelIpSets(kernel)),
        netlink=lambda: cast(NetlinkSocket, ModelNetlink()),
        forget=forget,
        writes=untold,
        flusher=lambda: ModelFlusher(kernel),
        uses=Uses,
        look=lambda: NONE,
        uplinks=lambda networks: frozenset({UPLINK} if list(networks) else ()),
        elsewhere=lambda *_: ({}, {}),
        remove=lambda *_: [],
        lift=lambda _: None,
    )


def make_backend(
    kernel: Kernel,
    options: Options | None = None,
    *,
    patience: float = math.inf,
    reached: Access | None = None,
) -> IptablesBackend:
    """Return a backend that has this kernel, with both families; ``reached``: not in the usual way."""
    return IptablesBackend(
        "nft", tuple(Family), options or Options(), patience=patience, access=reached or access(kernel)
    )
