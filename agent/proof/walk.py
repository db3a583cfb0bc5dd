"""All packets of one address at once, on their way through the chains of a table.

One end of the packets is fixed, the address that is judged; where they come in and what mark they bear is
fixed, too (:class:`Way`). The other end and the port are any: what a rule does with them is done with areas.
So each chain is walked once, and what it does with every packet is remembered: for all addresses, where none
of its rules looks at the fixed end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from agent.dataplane.iptables.rules import names
from agent.kernel.ipset_shapes import SetContent
from agent.net import Direction
from agent.proof import area
from agent.proof.area import Area, Products
from agent.proof.atoms import Atoms, covered
from agent.proof.lines import ENDS, NOTING, Condition, Line, line, mark_of
from agent.proof.matches import PROTOCOLS, crossed, network, numbers, protocol_number
from agent.proof.special import is_ours
from agent.proof.ways import FIELDS, UnreadError, Way, on_the_way
from agent.reach import intervals
from agent.reach.addresses import of_network
from agent.reach.ports import ALL, NONE, OTHER, Ports

PASSED, DENIED, BACK, UNREAD = "passed", "denied", "back", "unread"
"""What becomes of a packet: accepted, dropped, returned from the chain, or a rule cannot be read."""

ON, CACHED = "on", "cached"
"""It goes on to the next rule; beside what becomes of it, its connection is put into the verdict cache."""

Outcome = tuple[str, int]
"""What becomes of packets, and the mark that they bear then."""
Outcomes = dict[Outcome, Area]

_OTHERS_TOLD_APART = (names.TUNNEL_OUT, names.UNTRACKED)
"""Chains for packets of one of the protocols that policies do not tell apart, such as those of tunnels: an
ordinary packet is of another one."""
_OF_UNKNOWN = tuple(map(names.unknown, Direction))
"""Chains that close addresses that no pod is known to have; what such an other end gets is not asked here."""
_ENDS = {"ACCEPT": PASSED, "RETURN": BACK}
OWN = "own"


class Step(NamedTuple):
    """One rule that a packet matched: its chain, its number from 1, its text, and where it leads."""

    chain: str
    number: int
    text: str
    target: str


class Tables:
    """The chains of a family, with the sets that they look into.

    ``skipped`` are chains to which no packet is sent on: they are proved for themselves. ``lookups`` are the
    sets of the verdict cache, in which no packet counts as being: what they hold is looked at by itself.
    """

    def __init__(
        self,
        chains: Mapping[str, tuple[str, ...]],
        sets: Mapping[str, SetContent],
        lookups: Collection[str],
        noted: Collection[str],
        atoms: Atoms,
    ) -> None:
        """Take what was read; ``noted``: the sets to which rules may add packets."""
        self.chains = chains
        self.sets = sets
        self.lookups = lookups
        self.noted = noted
        self.atoms = atoms
        self._lines: dict[str, tuple[Line, ...]] = {}
        self._nets: dict[str, intervals.Intervals] = {}

    def lines(self, chain: str) -> tuple[Line, ...]:
        """Return the rules of a chain."""
        found = self._lines.get(chain)
        if found is None:
            found = self._lines[chain] = tuple(map(line, self.chains[chain]))
        return found

    def holds(self, name: str, number: int) -> bool:
        """Whether a set of addresses, or of networks, has an address."""
        content = self.sets[name]
        if content.shape.type == "hash:net":
            if name not in self._nets:
                self._nets[name] = covered(content)
            return intervals.holds(self._nets[name], number)
        return bool(self.atoms.of_set[name] >> self.atoms.at(number) & 1)


class Walker:
    """Walks packets of one direction: of ingress their source is any, of egress their destination."""

    def __init__(self, tables: Tables, direction: Direction, skipped: Collection[str] = ()) -> None:
        self._tables = tables
        self._atoms = tables.atoms
        self._inwards = direction is Direction.INGRESS
        self._skipped = skipped
        self._looks: dict[str, tuple[str, ...]] = {}
        self._known: dict[object, Outcomes] = {}
        self._of_own: dict[object, Outcomes] = {}
        """The same of chains that look at the address that is judged: of the last one alone."""
        self._own = -1
        self._products: dict[str, Products] = {}
        self._checked: set[str] = set()

    def walk(self, chain: str, own: int, way: Way) -> Outcomes:
        """Return what becomes of all packets of an address (its place) that come to a chain."""
        if own != self._own:
            self._own, self._of_own = own, {}
        return self._through(chain, own, way, way.mark)

    def _through(self, chain: str, own: int, way: Way, mark: int) -> Outcomes:
        looked = self._looked(chain)
        key = (chain, mark, *(own if what == OWN else getattr(way, what) for what in looked))
        known = self._of_own if OWN in looked else self._known
        found = known.get(key)
        if found is None:
            found = known[key] = self._walked(chain, own, way, mark)
        return found

    def _walked(self, chain: str, own: int, way: Way, mark: int) -> Outcomes:
        found: Outcomes = {}
        here: dict[int, Area] = {mark: area.whole(self._atoms.every)}

        def end(outcome: Outcome, part: Area) -> None:
            if part:
                found[outcome] = area.merged(found.get(outcome, area.NOTHING), part)

        for rule in self._tables.lines(chain):
            if not here:
                break
            then: dict[int, Area] = {}
            for now, coming in here.items():
                try:
                    products = self._matched(rule, chain, own, way, now)
                except UnreadError:
                    end((UNREAD, now), coming)
                    continue
                inside, outside = area.split(coming, products, self._atoms.every)
                if outside:
                    then[now] = area.merged(then.get(now, area.NOTHING), outside)
                for (what, left), part in self._effects(rule, inside, own, way, now) if inside else ():
                    if what == ON:
                        then[left] = area.merged(then.get(left, area.NOTHING), part)
                    else:
                        end((what, left), part)
            here = then
        for now, rest in here.items():
            end((BACK, now), rest)
        return found

    def _effects(
        self, rule: Line, inside: Area, own: int, way: Way, mark: int
    ) -> Iterator[tuple[Outcome, Area]]:
        """Yield what becomes of packets that a rule matches."""
        if rule.xmark is not None:
            value, mask = rule.xmark
            yield (ON, mark & ~mask ^ value), inside
        elif rule.target in NOTING or not rule.target:
            yield (ON, mark), inside
            if names.is_cache(rule.adds):
                yield (CACHED, mark), inside
        elif rule.target in ENDS:
            yield (_ENDS.get(rule.target, DENIED), mark), inside
        else:
            for (what, left), reached in self._through(rule.target, own, way, mark).items():
                if part := area.common(reached, inside):
                    yield (ON if what == BACK and not rule.goto else what, left), part

    def led_to(self, start: str) -> set[str]:
        """Return the chains that packets may come to from one, itself included."""
        found: set[str] = set()
        pending = [start]
        while pending:
            chain = pending.pop()
            if chain in self._tables.chains and chain not in self._skipped and chain not in found:
                found.add(chain)
                pending += [rule.target for rule in self._tables.lines(chain)]
        return found

    def named(self, start: str, options: Collection[str]) -> set[str]:
        """Return the interfaces that rules ask for, by some options, of packets that come to a chain."""
        return {
            # Any that a pattern is for.
            f"{condition.value[:-1]}0" if condition.value.endswith("+") else condition.value
            for chain in self.led_to(start)
            for rule in self._tables.lines(chain)
            if rule.target not in self._skipped and not rule.special
            for condition in rule.conditions
            if condition.option in options
        }

    def way_of(self, chain: str, own: int, way: Way, atom: int, protocol: int, port: int) -> list[Step]:
        """Return the rules that one packet matches, in order, up to the one that decides."""
        found: list[Step] = []
        self._follow(chain, own, way, way.mark, (atom, protocol, port), found)
        return found

    def _follow(
        self, chain: str, own: int, way: Way, mark: int, packet: tuple[int, int, int], found: list[Step]
    ) -> tuple[str, int]:
        atom, protocol, port = packet
        for number, rule in enumerate(self._tables.lines(chain), start=1):
            step = Step(chain, number, rule.text, rule.target)
            try:
                matched = self._matched(rule, chain, own, way, mark)
            except UnreadError:
                found.append(step)
                return UNREAD, mark
            if not any(mask >> atom & 1 and some.has(protocol, port) for mask, some in matched):
                continue
            if rule.xmark is not None:
                value, mask = rule.xmark
                mark = mark & ~mask ^ value
                continue
            if rule.target in NOTING or not rule.target:
                continue
            found.append(step)
            if rule.target in ENDS:
                return _ENDS.get(rule.target, DENIED), mark
            what, mark = self._follow(rule.target, own, way, mark, packet, found)
            if what != BACK or rule.goto:
                return what, mark
        return BACK, mark

    # --- What a rule matches ----------------------------------------------------------------------------

    def _matched(self, rule: Line, chain: str, own: int, way: Way, mark: int) -> Products:
        """Return what a rule matches of any packets. Raises UnreadError."""
        if rule.special:
            if rule.unread or not is_ours(rule, chain):
                raise UnreadError(rule.unread or "packets of a kind that no policy knows")
            return ()
        if rule.target in self._skipped and (not rule.goto or rule.target in _OF_UNKNOWN):
            return ()
        simple = self._products.get(rule.text)
        if simple is not None:
            return simple
        if rule.text not in self._checked:
            self._check(rule)
            self._checked.add(rule.text)
        mask, some, looked = self._atoms.every, ALL, False
        several: Products | None = None
        for condition in rule.conditions:
            found = self._is(condition, rule, own, way, mark)
            if isinstance(found, tuple):
                several = found if several is None else crossed(several, found)
            elif isinstance(found, bool):
                looked = True
                if not found:
                    return ()
            elif isinstance(found, int):
                mask &= found
            else:
                some = some & found
        if several is None:
            result: Products = ((mask, some),) if mask and some else ()
        else:
            result = tuple(
                (mask & atoms, some & each) for atoms, each in several if mask & atoms and some & each
            )
        if not looked and not any(map(self._looks_at, rule.conditions)):
            self._products[rule.text] = result
        return result

    def _check(self, rule: Line) -> None:
        if rule.unread:
            raise UnreadError(rule.unread)
        target = rule.target
        if target in ("MARK", "") or target in ENDS or target in NOTING:
            if rule.goto or (rule.adds and rule.adds not in self._tables.noted):
                raise UnreadError(f"it adds to the set {rule.adds}")
        elif target not in self._tables.chains:
            raise UnreadError(f"there is no chain {target}")
        if target == "NFLOG" or not any(c.option.startswith("--limit") for c in rule.conditions):
            return
        raise UnreadError("a limit")

    def _is(
        self, condition: Condition, rule: Line, own: int, way: Way, mark: int
    ) -> bool | int | Ports | Products:
        """Return what a condition asks for: of the way (True, False), atoms, ports, or atoms with ports."""
        option, value, more, negated = condition
        if option in ("-s", "-d"):
            asked = network(value)
            if (option == "-s") is not self._inwards:
                first, end = of_network(asked)
                return (first <= own < end) is not negated
            found = self._atoms.of_network[asked]
            return self._atoms.every & ~found if negated else found
        if option == "-p":
            some = self._of_protocol(value, rule, way)
            return ALL - some if negated else some
        if option in ("--dport", "--dports"):
            return numbers(rule, value, negated=negated)
        if option == "--match-set":
            return self._in_set(value, more, own, negated=negated)
        if option == "--mark":
            try:
                wanted, masked = mark_of(condition)
            except ValueError as error:
                raise UnreadError(str(error)) from None
            return (mark & masked == wanted) is not negated
        if option.startswith("--limit"):
            return True
        return on_the_way(condition, way) is not negated

    def _of_protocol(self, value: str, rule: Line, way: Way) -> Ports:
        known = PROTOCOLS.get(value)
        if known is not None:
            return known
        if way.protocol:
            return OTHER if protocol_number(value) == way.protocol else NONE
        if rule.target in _OTHERS_TOLD_APART and not rule.goto:
            return NONE
        raise UnreadError(f"-p {value}: policies do not tell other protocols from each other")

    def _in_set(self, name: str, sides: str, own: int, *, negated: bool) -> bool | int | Ports | Products:
        if name in self._tables.lookups and sides == "src,dst,dst":
            return negated
        content = self._tables.sets.get(name)
        if content is None:
            raise UnreadError(f"the set {name} cannot be read")
        kind, every = content.shape.type, self._atoms.every
        if sides in ("src", "dst") and kind in ("hash:ip", "hash:net"):
            if (sides == "src") is not self._inwards:
                return self._tables.holds(name, own) is not negated
            found = self._atoms.of_set[name]
            return every & ~found if negated else found
        if sides == "dst,dst" and kind == "hash:ip,port":
            if self._inwards:
                some = self._atoms.ports_at(name, own)
                return ALL - some if negated else some
            products = self._atoms.of_ports[name]
            if not negated:
                return tuple(products)
            rest = every
            for atoms, _ in products:
                rest &= ~atoms
            return (*((atoms, ALL - some) for atoms, some in products), (rest, ALL))
        raise UnreadError(f"a set of type {kind} matched by {sides}")

    def _looked(self, chain: str) -> tuple[str, ...]:
        """Return what of a packet the rules of a chain look at, besides its other end, its port and mark.

        Fields of :class:`Way`, and :data:`OWN`.
        """
        found = self._looks.get(chain)
        if found is None:
            # A chain that leads to itself the kernel does not take.
            self._looks[chain] = ()
            several: set[str] = set()
            for rule in self._tables.lines(chain):
                several.update(filter(None, map(self._looks_at, rule.conditions)))
                if rule.target in self._tables.chains and rule.target not in self._skipped:
                    several.update(self._looked(rule.target))
            found = self._looks[chain] = tuple(sorted(several))
        return found

    def _looks_at(self, condition: Condition) -> str:
        option, value, sides, _ = condition
        if option in FIELDS and not (option == "-p" and value in PROTOCOLS):
            return FIELDS[option]
        if option in ("-s", "-d") and (option == "-s") is not self._inwards:
            return OWN
        if option == "--match-set" and sides != "src,dst,dst":
            own = self._inwards if "," in sides else (sides == "src") is not self._inwards
            return OWN if own else ""
        return ""
