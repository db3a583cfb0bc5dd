"""Named ports found by address: held against a look at every pod and every set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.kube.model import NamedPort, Pod
from agent.net import Direction, Family, Protocol
from agent.policy.graph import PodRecord
from agent.policy.lower.blocks import Range, in_ranges, range_networks
from agent.policy.lower.live import Area, LiveSet, PortPods
from agent.policy.lower.lowered import SetId, SetKind
from agent.policy.lower.named import NamedPorts
from agent.policy.program import PortName

HTTP = PortName("http", Protocol.TCP)
ADDRESSES = st.integers(0x0A000000, 0x0A000000 + 1023) | st.integers(0, 0xFFFFFFFF)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[Range, ...]:
    ends = sorted(draw(st.sets(ADDRESSES, min_size=2, max_size=8)))
    pairs = zip(ends[::2], ends[1::2], strict=False)
    return tuple(Range(first, last) for first, last in pairs)


def record(number: int, *names: str) -> PodRecord:
    ports = tuple(NamedPort(name, Protocol.TCP, 80 + at) for at, name in enumerate(names))
    addresses = (number.to_bytes(4, "big"), number.to_bytes(16, "big"))
    pod = Pod(namespace="a", name=f"p{number}", uid=str(number), addresses=addresses, ports=ports)
    return PodRecord(pod, None, True)


def asker(number: int, wanted: tuple[Range, ...] | None, family: Family = Family.V4) -> LiveSet:
    set_id = SetId(SetKind.ADDRESS_PORTS, Direction.EGRESS, family, str(number))
    area = None
    if wanted is not None:
        around = Range(wanted[0].first, wanted[-1].last)
        area = Area(wanted, tuple(range_networks(around, family)))
    return LiveSet(set_id, PortPods((HTTP, PortName("more", Protocol.UDP)), area=area))


@given(st.sets(ADDRESSES, max_size=12), st.lists(st.none() | ranges(), max_size=6))
def test_each_finds_the_other_and_nothing_stays(
    numbers: set[int], asked: list[tuple[Range, ...] | None]
) -> None:
    named = NamedPorts()
    pods = [record(number, "http", "other", "http") for number in numbers]
    strangers = [record(number, "https") for number in numbers]
    sets = [asker(at, wanted) for at, wanted in enumerate(asked)]
    for pod in (*pods, *strangers):
        named.add_pod(pod)
    for live in sets:
        named.add_set(live)
    for live in sets:
        found = set(named.holders(live))
        assert found <= set(pods)
        assert found >= {p for p in pods if _asks(live, p.pod.addresses[0])}
    for pod in pods:
        v4, v6 = pod.pod.addresses
        assert list(named.askers(pod, v6)) == []
        found_sets = {live.id for live in named.askers(pod, v4)}
        # Those whose area lies around the address are asked too, and look again.
        assert found_sets >= {live.id for live in sets if _asks(live, v4)}
    for pod in strangers:
        assert list(named.askers(pod, pod.pod.addresses[0])) == []
    for live in sets:
        named.remove_set(live)
    for pod in (*strangers, *pods):
        named.remove_pod(pod)
    assert set(named.sizes().values()) == {0}


def test_a_block_is_not_held_against_pods_that_lie_elsewhere() -> None:
    named = NamedPorts()
    for number in range(0x0A000000, 0x0A000000 + 4096, 16):
        named.add_pod(record(number, "http"))
    near = Range(0x0A000100, 0x0A00013F)
    found = {pod.pod.name for pod in named.holders(asker(0, (near,)))}
    assert found == {f"p{number}" for number in range(0x0A000100, 0x0A000200, 16)}


def _asks(live: LiveSet, address: bytes) -> bool:
    return live.area is None or in_ranges(address, live.area.ranges)
