"""Which sets are read and decoded, when, and what is said of them."""

from __future__ import annotations

import errno
import gc
import weakref
from collections.abc import Callable, Iterable
from typing import cast

from agent.closing import Closing
from agent.dataplane.differences import What
from agent.dataplane.iptables.ipset.set_table import SetTable
from agent.dataplane.iptables.ipset.watch import MOST_MEMBERS, OVERTAKEN, SetsReading, SetWatch
from agent.kernel.ipset import IpSets
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_shapes import SetContent, SetShape
from agent.net import Family, Member

SHAPE = SetShape("hash:ip", Family.V4)
ONE, TWO, THREE = (bytes((10, 0, 0, number)) for number in (1, 2, 3))


class Sets(Closing):
    """Sets of a kernel, that notes which of them are decoded."""

    def __init__(self, **members: set[Member]) -> None:
        self.sets = members
        self.moved = 0
        self.decoded: list[str] = []
        self.meanwhile: Callable[[str], None] = lambda _: None

    def close(self) -> None:
        pass

    def digest(self, name: str) -> bytes:
        if name not in self.sets:
            raise SetError(name, "gone", code=errno.ENOENT)
        self.meanwhile(name)
        return repr((self.moved, sorted(map(str, self.sets[name])))).encode()

    def content_and_digest(self, name: str) -> tuple[SetContent, bytes]:
        digest = self.digest(name)
        self.decoded.append(name)
        return SetContent(SHAPE, set(self.sets[name])), digest

    def members(self, name: str) -> set[Member]:
        return self.content_and_digest(name)[0].members


class Round:
    """A watch over some sets, which should hold what they hold now."""

    def __init__(self, **members: set[Member]) -> None:
        self.kernel = Sets(**members)
        self.table = SetTable()
        self.wanted: dict[str, set[Member]] = {name: set(held) for name, held in members.items()}
        self.watch = SetWatch(self.table, lambda: cast(IpSets, self.kernel), self.kernel.members)

    def expected(self) -> dict[str, Callable[[], Iterable[Member]]]:
        return {name: lambda name=name: self.wanted[name] for name in self.wanted}  # type: ignore[misc]

    def read(self) -> SetsReading:
        self.kernel.decoded.clear()
        reading = self.watch.begin(self.wanted)
        reading.run()
        return reading

    def look(self) -> list[str]:
        found = self.watch.compare(self.read(), self.expected())
        assert not found.unfinished
        return list(map(str, found.differences))


def test_a_set_is_decoded_once_and_again_only_when_the_kernel_tells_it_otherwise() -> None:
    look = Round(a={ONE}, b={TWO})
    assert look.look() == []
    assert look.kernel.decoded == ["a", "b"]
    assert look.look() == []
    assert look.kernel.decoded == []
    # As when the kernel moves members to more buckets.
    look.kernel.moved = 1
    assert look.look() == []
    assert look.kernel.decoded == ["a", "b"]
    assert look.look() == []
    assert look.kernel.decoded == []


def test_a_member_in_anothers_place_is_found_by_the_next_look_and_what_differs_is_told() -> None:
    look = Round(a={ONE, TWO}, b={TWO}, c={ONE})
    look.look()
    look.kernel.sets["a"] = {ONE, THREE}
    del look.kernel.sets["c"]
    told = "set a lacks 1 member (10.0.0.2) and has 1 member too many (10.0.0.3)"
    assert [said for said in look.look() if told in said]
    # Until it is put back it is found each time; that a set is gone is told by others.
    assert len(look.look()) == 1
    look.kernel.sets["a"] = {ONE, TWO}
    assert look.look() == []


def test_a_set_that_this_agent_has_written_is_compared_anew() -> None:
    look = Round(a={ONE})
    look.look()
    with look.table.written(["a"]):
        look.wanted["a"] = look.kernel.sets["a"] = {ONE, TWO}
    assert look.look() == []
    assert look.kernel.decoded == ["a"]
    with look.table.written(["a"]):
        look.wanted["a"] = {ONE}
    assert len(look.look()) == 1


def test_a_set_that_is_written_while_it_is_read_is_read_again_and_at_last_waited_for() -> None:
    look = Round(a={ONE}, b={TWO})

    def written(name: str) -> None:
        if name == "a":
            with look.table.written(["a"]):
                pass

    look.kernel.meanwhile = written
    for looks in range(OVERTAKEN):
        assert look.watch.compare(look.read(), look.expected()) == ([], True)
        assert look.kernel.decoded == (["a"] if looks else ["a", "b"])
        look.kernel.sets["a"] = {THREE}
    reading = look.read()
    look.kernel.meanwhile = lambda _: None
    found = look.watch.compare(reading, look.expected())
    assert [difference.name for difference in found.differences] == ["a"]
    assert not found.unfinished


def test_one_look_decodes_some_and_the_next_goes_on() -> None:
    many = {number.to_bytes(4, "big") for number in range(1, MOST_MEMBERS + 1)}
    look = Round(a=set(many), b=set(many), c={ONE})
    assert look.watch.compare(look.read(), look.expected()).unfinished
    assert look.kernel.decoded == ["a"]
    assert look.watch.compare(look.read(), look.expected()).unfinished
    assert look.kernel.decoded == ["b"]
    assert look.look() == []
    assert look.kernel.decoded == ["c"]


def test_sets_that_are_needed_no_more_and_those_that_come_are_no_difference() -> None:
    look = Round(a={ONE}, b={TWO})
    reading = look.read()
    del look.wanted["b"]
    look.wanted["c"] = {THREE}
    found = look.watch.compare(reading, look.expected())
    assert found == ([], False)
    look.kernel.sets["c"] = {THREE}
    assert look.look() == []
    assert look.kernel.decoded == ["c"]


def test_a_set_that_cannot_be_read_is_told() -> None:
    look = Round(a={ONE})

    def refused(name: str) -> None:
        raise SetError(name, "out of memory", code=errno.ENOMEM)

    look.kernel.meanwhile = refused
    found = look.watch.compare(look.read(), look.expected())
    assert [difference.what for difference in found.differences] == [What.SET_UNREAD]


def test_a_reading_goes_by_itself_though_a_set_was_gone() -> None:
    """Garbage is looked for once in a while: an error that is kept would keep the reading until then."""
    looked = Round(a={ONE})
    gc.disable()
    try:
        reading = looked.watch.begin([*looked.wanted, "gone"])
        reading.run()
        looked.watch.compare(reading, looked.expected())
        alive = weakref.ref(reading)
        del reading
        assert alive() is None
    finally:
        gc.enable()


def test_sets_are_taken_in_while_another_thread_writes_some() -> None:
    table = SetTable()

    class Read(dict[str, SetContent]):
        """What was read, during which addresses are withdrawn."""

        def __contains__(self, name: object) -> bool:
            with table.written([f"{name}, and more"]):
                return super().__contains__(name)

    with table.written(["here", "gone"]):
        pass
    table.take(Read(here=SetContent(SHAPE, set())))
    assert table.version("gone") == 0
    assert table.version("here")
    assert table.version("here, and more")
