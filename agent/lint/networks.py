"""Networks asked which of them lie around another one, and which within it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from agent.net import Network


class Networks:
    """Some networks. A question costs what lies around or within, and not how many networks there are."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._all = frozenset(networks)
        # Of one family those within a network follow it, and those that are narrower come later.
        self._sorted = sorted((len(address), address, prefix) for address, prefix in self._all)
        self._prefixes = {
            family: sorted({prefix for length, _, prefix in self._sorted if length == family})
            for family in {length for length, _, _ in self._sorted}
        }

    def around(self, network: Network) -> Iterator[Network]:
        """Give those that hold every address of a network, itself included, the widest first."""
        length = len(network.address)
        number = int.from_bytes(network.address)
        for prefix in self._prefixes.get(length, ()):
            if prefix > network.prefix:
                return
            host_bits = 8 * length - prefix
            outer = Network((number >> host_bits << host_bits).to_bytes(length), prefix)
            if outer in self._all:
                yield outer

    def within(self, network: Network) -> Iterator[Network]:
        """Give those of which a network holds every address, itself included, by address."""
        length = len(network.address)
        for at in range(bisect_left(self._sorted, (length, *network)), len(self._sorted)):
            family, address, prefix = self._sorted[at]
            if family != length or not network.holds(address):
                return
            if prefix >= network.prefix:
                yield Network(address, prefix)

    def meet(self, network: Network) -> bool:
        """Whether one of them has an address of a network."""
        return any(True for _ in self.around(network)) or any(True for _ in self.within(network))
