"""The sets of the program in the kernel: which there are, how large they may grow, and their changes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from agent.dataplane.iptables.ipset.set_table import SetTable, alike
from agent.dataplane.iptables.rules import names
from agent.fault import Fault
from agent.kernel.ipset import IpSets
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_shapes import SetChange, SetContent, SetShape, needed_maxelem
from agent.net import Direction, Family, Member, Network, NetworkMember
from agent.policy.lower.lowered import SetId, SetKind

_TYPES = {
    SetKind.ADDRESSES: "hash:ip",
    SetKind.ADDRESS_PORTS: "hash:ip,port",
    SetKind.NETWORKS: "hash:net",
}


def shape_of(set_id: SetId, count: int) -> SetShape:
    """Return the shape of a set that has to hold so many members."""
    return SetShape(_TYPES[set_id.kind], set_id.family, needed_maxelem(count))


def addresses_shape(family: Family, count: int) -> SetShape:
    return SetShape("hash:ip", family, needed_maxelem(count))


def networks_shape(family: Family, count: int) -> SetShape:
    return SetShape("hash:net", family, needed_maxelem(count))


def network_members(networks: Iterable[Network], family: Family) -> set[Member]:
    """Return the members of a set of networks in a family."""
    return {NetworkMember(network) for network in networks if network.family is family}


def isolated_in(content: Mapping[str, SetContent], families: Iterable[Family]) -> dict[Direction, set[bytes]]:
    """Return the addresses that sets hold isolated, under the usual names of these sets and the alternate."""
    found: dict[Direction, set[bytes]] = {direction: set() for direction in Direction}
    for direction in Direction:
        for family in families:
            usual = names.isolated_set(direction, family)
            for name in (usual, names.alternate(usual)):
                if name in content:
                    found[direction].update(m for m in content[name].members if isinstance(m, bytes))
    return found


class KernelSets:
    """Reads and writes our sets, and keeps the record of them true."""

    def __init__(self, ipsets: IpSets, table: SetTable) -> None:
        self._ipsets = ipsets
        self.table = table
        self.writes = 0

    def load(self) -> dict[str, SetContent]:
        """Read our sets, whole. Raises SetError."""
        found = {n: c for n, c in self._ipsets.read(names.SET_PREFIX).items() if names.is_our_set(n)}
        self.table.take(found)
        return found

    def sizes_in_kernel(self) -> dict[str, int | None]:
        """Read how many members our sets have, without reading these. Raises SetError."""
        headers = self._ipsets.list_shapes(names.SET_PREFIX)
        return {name: header.size for name, header in headers.items() if names.is_our_set(name)}

    def reuse(self, name: str, members: Iterable[Member]) -> list[Fault]:
        """Give garbage other members, in place: nothing that packets reach looks at it. Raises SetError."""
        self.writes += 1
        return self._refill(name, set(members))

    def create(
        self, name: str, shape: SetShape, members: Iterable[Member] = (), *, hashsize: int = 0
    ) -> list[Fault]:
        """Make a set that no rule of ours refers to yet, in place of one of that name that nothing needs.

        Where a rule of somebody else refers to that one, it is given the members. ``hashsize``: see
        :meth:`agent.kernel.ipset.IpSets.create`.
        """
        wanted = set(members)
        self.writes += 1
        try:
            if name in self.table.shapes:
                try:
                    with self.table.written([name]):
                        self._ipsets.destroy(name)
                except SetError as error:
                    if not error.referenced or not alike(self.table.shapes[name], shape):
                        raise
                    return self._refill(name, wanted)
                self.table.gone(name)
            with self.table.written([name]):
                self._ipsets.create(name, shape, wanted, hashsize=hashsize)
        except SetError as error:
            return [self._failed(error, name)]
        self.table.made(name, shape, len(wanted))
        return []

    def create_all(self, wanted: Mapping[str, SetContent]) -> dict[str, list[Fault]]:
        """Make many sets at once, as :meth:`create` does; return why some could not be made, by name."""
        new = {name: content for name, content in wanted.items() if name not in self.table.shapes}
        failed: dict[str, list[Fault]] = {}
        if new:
            self.writes += 1
            with self.table.written(new):
                errors = self._ipsets.create_all(new)
            for error in errors:
                failed.setdefault(error.name, []).append(self._failed(error, error.name))
            for name in new.keys() - failed.keys():
                self.table.made(name, new[name].shape, len(new[name].members))
        for name in wanted.keys() - new.keys():
            if faults := self.create(name, *wanted[name]):
                failed[name] = faults
        return failed

    def _refill(self, name: str, wanted: set[Member]) -> list[Fault]:
        held = self._ipsets.members(name)
        self.table.sizes[name] = len(held)
        self.table.garbage.discard(name)
        return self.change({name: (wanted - held, held - wanted)})

    def members(self, name: str) -> set[Member]:
        """Read the members of a set; none when there is no such set. Raises SetError."""
        return self._ipsets.members(name) if name in self.table.shapes else set()

    def change(
        self, changes: Mapping[str, tuple[Iterable[Member], Iterable[Member]]], emptied: Iterable[str] = ()
    ) -> list[Fault]:
        """Add and remove members of live sets, additions first, each set growing when it has to.

        ``emptied``: sets whose members are not the program's, which lose all before that is done.
        """
        faults: list[Fault] = []
        todo = []
        for name, (added, removed) in changes.items():
            gains, losses = set(added), set(removed)
            if not gains and not losses:
                continue
            if name not in self.table.shapes:
                self.table.doubtful.add(name)
                faults.append(
                    Fault(f"set {name} is missing", "the agent makes it again by itself", reason="sets")
                )
                continue
            size = self.table.sizes[name] + len(gains)
            if size > self.table.shapes[name].maxelem:
                faults += self._grow(name, size)
            todo.append(SetChange(name, gains, losses))
            self.table.sizes[name] = size - len(losses)
        emptied = list(emptied)
        self.writes += bool(todo)
        if todo or emptied:
            with self.table.written([*(change.name for change in todo), *emptied]):
                errors = self._ipsets.change(todo, emptied)
            faults += [self._failed(error, error.name) for error in errors]
        return faults

    def _failed(self, error: SetError, name: str) -> Fault:
        """Note that a set may not be as it is to be."""
        self.table.doubtful.add(name)
        return error.fault()

    def measure(self, chosen: Iterable[str]) -> None:
        """Ask the kernel how many members sets have, of which that is not known for sure."""
        for name in set(chosen) & self.table.shapes.keys():
            with contextlib.suppress(SetError):
                size = self._ipsets.header(name).size
                self.table.sizes[name] = self.table.sizes[name] if size is None else size

    def _grow(self, name: str, size: int) -> list[Fault]:
        shape = self.table.shapes[name]._replace(maxelem=needed_maxelem(size))
        try:
            with self.table.written([name]):
                self._ipsets.grow(name, shape)
        except SetError as error:
            return [self._failed(error, name)]
        self.table.shapes[name] = shape
        return []

    def replace(self, name: str, shape: SetShape, members: Iterable[Member]) -> list[Fault]:
        """Put a set in the place of one that is not as it should be, and that rules refer to."""
        wanted = set(members)
        self.writes += 1
        try:
            with self.table.written([name]):
                self._ipsets.replace(name, shape, wanted)
        except SetError as error:
            return [self._failed(error, name)]
        self.table.made(name, shape, len(wanted))
        return []

    def sweep(self) -> list[Fault]:
        """Destroy the garbage; what rules still refer to stays for another time."""
        faults = []
        # What an open verdict cache names cannot be destroyed.
        self._ipsets.change((), sorted(filter(names.is_lookup, self.table.garbage)))
        for name in sorted(self.table.garbage):
            try:
                with self.table.written([name]):
                    self._ipsets.destroy(name)
            except SetError as error:
                if not error.referenced:
                    faults.append(self._failed(error, name)._replace(blocking=False))
                continue
            self.table.gone(name)
            self.writes += 1
        return faults
