import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.ipset_members import decode_members, encode_members, unholdable
from agent.net import AddressPort, Member, Network, NetworkMember, Protocol

addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
ports = st.builds(AddressPort, addresses, st.sampled_from(Protocol), st.integers(0, 65535))
networks = st.builds(NetworkMember, st.builds(Network, addresses, st.integers(1, 32)), st.booleans())


def there_and_back(kind: str, members: list[Member]) -> set[Member]:
    read: set[Member] = set()
    for payload in encode_members(members):
        assert len(payload) < 65532
        read |= decode_members(kind, memoryview(payload))
    return read


@given(st.lists(addresses, max_size=50))
def test_addresses(members: list[Member]) -> None:
    assert there_and_back("hash:ip", members) == set(members)


@given(st.lists(ports, max_size=50))
def test_address_ports(members: list[Member]) -> None:
    assert there_and_back("hash:ip,port", members) == set(members)


@given(st.lists(networks, max_size=50))
def test_networks(members: list[Member]) -> None:
    assert there_and_back("hash:net", members) == set(members)


@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize("kind", ["hash:ip", "hash:ip,port", "hash:net"])
def test_many_are_split_into_attributes_that_can_be_so_long(kind: str, size: int) -> None:
    members: list[Member] = []
    for number in range(1, 20_001):
        address = number.to_bytes(size, "big")
        if kind == "hash:ip":
            members.append(address)
        elif kind == "hash:ip,port":
            members.append(AddressPort(address, Protocol.TCP, number % 65536))
        else:
            members.append(NetworkMember(Network(address, 8 * size), nomatch=True))
    assert there_and_back(kind, members) == set(members)


def test_no_members_make_no_message() -> None:
    assert list(encode_members([])) == []


def test_another_type_is_not_read() -> None:
    assert decode_members("list:set", memoryview(b"anything")) == set()


def test_unholdable_members_are_named() -> None:
    good: list[Member] = [b"\x0a\0\0\1", NetworkMember(Network(bytes(4), 1))]
    bad: dict[Member, str] = {
        bytes(4): "0.0.0.0",
        bytes(16): "::",
        AddressPort(bytes(16), Protocol.TCP, 80): "::",
        NetworkMember(Network(bytes(4), 0)): "0.0.0.0/0",
        NetworkMember(Network(bytes(16), 0), nomatch=True): "::/0",
    }
    assert unholdable([*good, *bad]) == bad
