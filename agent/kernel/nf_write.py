"""Tables of nftables, written and read by netlink: messages, and the expressions that rules are made of.

No command is needed for them. Messages, attributes and registers are those of
``linux/netfilter/nf_tables.h``; what an expression is in nft(8) stands beside it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from agent.kernel.netlink import NESTED, Message, NetlinkSocket, attribute, attributes
from agent.kernel.nf_tables import (
    BATCH_BEGIN,
    BATCH_END,
    BATCH_RESOURCE,
    NETDEV,
    SUBSYSTEM,
    elements_of,
    expressions,
    rules_of,
    table_of,
    text,
)

INGRESS = 0
"""NF_NETDEV_INGRESS: the hook for what an interface takes in, whatever it carries."""

_NEW_TABLE, _DELETE_TABLE, _NEW_CHAIN, _GET_CHAIN, _DELETE_CHAIN = 0, 2, 3, 4, 5
_NEW_RULE, _NEW_SET, _NEW_ELEMENTS, _DELETE_ELEMENTS = 6, 9, 12, 14
_CREATE, _APPEND = 0x400, 0x800
_TABLE_NAME, _TABLE_FLAGS = 1, 2
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY, _HOOK_DEVICE, _HOOK_DEVICES, _DEVICE_NAME = 1, 2, 3, 4, 1
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_SET_TABLE, _SET_NAME, _SET_FLAGS, _SET_KEY_TYPE, _SET_KEY_LENGTH, _SET_ID = 1, 2, 3, 4, 5, 10
_ELEMENTS_TABLE, _ELEMENTS_SET, _ELEMENTS_LIST = 1, 2, 3
_LIST_ELEMENT, _NAME, _DATA, _VALUE, _VERDICT, _CODE, _TARGET = 1, 1, 2, 1, 2, 1, 2
_ELEMENT_KEY = 1
_COUNTER_PACKETS = 2
_ACCEPT = 1
_CODES = {"accept": _ACCEPT, "drop": 0, "jump": -3, "goto": -4, "return": -5}
_TYPE_BITS = 6
"""By how many bits nft(8) moves the type of a key's first part, where it is put together of several."""

IIF, L4PROTO = 4, 16
"""NFT_META_IIF, as the host orders bytes, and NFT_META_L4PROTO."""
FORWARD, OUTPUT = 2, 3
"""NF_INET_FORWARD and NF_INET_LOCAL_OUT: the hooks for what the node forwards, and for what it sends."""
RELATED_OR_ESTABLISHED = 6
"""NF_CT_STATE_BIT of the two, replies included."""
_FIB_TYPE, _FIB_SOURCE, _LOCAL = 3, 1, 2
"""NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_SADDR, and RTN_LOCAL."""
LINK, NETWORK, TRANSPORT = 0, 1, 2
"""Where a payload is counted from: NFT_PAYLOAD_LL_HEADER and so on."""
EQUAL, UNEQUAL = 0, 1
_FIRST_REGISTER = 8
"""NFT_REG32_00: registers of four bytes each, of which a key of several parts fills neighbours."""


class KeyType(NamedTuple):
    """A part of a set's key: how nft(8) numbers its type, and its length in bytes."""

    number: int
    length: int


INTERFACE, ETHERNET, IPV4, IPV6 = KeyType(20, 4), KeyType(9, 6), KeyType(7, 4), KeyType(8, 16)


def _number(value: int) -> bytes:
    return struct.pack("!I", value & 0xFFFFFFFF)


def _name(value: str) -> bytes:
    return value.encode() + b"\0"


def _expression(name: str, *fields: tuple[int, bytes]) -> bytes:
    data = b"".join(attribute(kind, payload) for kind, payload in fields)
    return attribute(_LIST_ELEMENT | NESTED, attribute(_NAME, _name(name)) + attribute(_DATA | NESTED, data))


def meta(key: int, word: int = 0) -> bytes:
    """Return ``meta iif`` and the like: load it into the register of this number."""
    return _expression("meta", (2, _number(key)), (1, _number(_FIRST_REGISTER + word)))


def payload(base: int, offset: int, length: int, word: int = 0) -> bytes:
    """Return ``@nh,...``: load bytes of a header; a packet without them does not match the rule."""
    return _expression(
        "payload",
        (1, _number(_FIRST_REGISTER + word)),
        (2, _number(base)),
        (3, _number(offset)),
        (4, _number(length)),
    )


def extension(header: int, offset: int, length: int) -> bytes:
    """Return ``exthdr``: load bytes of an IPv6 extension header; a packet without one does not match."""
    return _expression(
        "exthdr",
        (1, _number(_FIRST_REGISTER)),
        (2, bytes([header])),
        (3, _number(offset)),
        (4, _number(length)),
        (5, _number(0)),
    )


def masked(mask: bytes) -> bytes:
    """Return ``& mask`` of what was loaded."""
    register = _number(_FIRST_REGISTER)
    return _expression(
        "bitwise",
        (1, register),
        (2, register),
        (3, _number(len(mask))),
        (4 | NESTED, attribute(_VALUE, mask)),
        (5 | NESTED, attribute(_VALUE, bytes(len(mask)))),
    )


def compared(value: bytes, operation: int = EQUAL) -> bytes:
    """Return ``== value``, or ``!= value``, of what was loaded."""
    return _expression(
        "cmp",
        (1, _number(_FIRST_REGISTER)),
        (2, _number(operation)),
        (3 | NESTED, attribute(_VALUE, value)),
    )


def tracked(states: int) -> bytes:
    """Return ``ct state``: match a packet of one of some states of connection tracking."""
    loaded = _expression("ct", (1, _number(_FIRST_REGISTER)), (2, _number(0)))
    return loaded + masked(struct.pack("=I", states)) + compared(bytes(4), UNEQUAL)


def not_from_here() -> bytes:
    """Return ``fib saddr type != local``: match a packet whose source is no address of the node."""
    loaded = _expression(
        "fib", (1, _number(_FIRST_REGISTER)), (2, _number(_FIB_TYPE)), (3, _number(_FIB_SOURCE))
    )
    return loaded + compared(struct.pack("=I", _LOCAL), UNEQUAL)


def looked_up(name: str, *, absent: bool = False) -> bytes:
    """Return ``@set``, or ``!= @set``: whether the set holds what was loaded."""
    flags = [(5, _number(1))] if absent else []
    return _expression("lookup", (1, _name(name)), (2, _number(_FIRST_REGISTER)), *flags)


def counted() -> bytes:
    """Return ``counter``."""
    return _expression("counter", (1, bytes(8)), (2, bytes(8)))


def verdict(word: str, target: str = "") -> bytes:
    """Return ``accept``, ``drop``, ``return``, ``jump target`` or ``goto target``."""
    said = attribute(_CODE, _number(_CODES[word])) + (attribute(_TARGET, _name(target)) if target else b"")
    data = attribute(_VERDICT | NESTED, said)
    return _expression("immediate", (1, _number(0)), (2 | NESTED, data))


def add_table(table: str, family: int = NETDEV, flags: int = 0) -> Message:
    """Return the message that makes a table, if it is not there; ``family``: its number, here and below.

    Without a family it is a table of interfaces' chains. ``flags``: see :mod:`agent.kernel.nf_owned`.
    """
    made = attribute(_TABLE_NAME, _name(table))
    made += attribute(_TABLE_FLAGS, _number(flags)) if flags else b""
    return Message(SUBSYSTEM | _NEW_TABLE, family, made, _CREATE)


def delete_table(table: str, family: int = NETDEV) -> Message:
    """Return the message that removes one and everything in it."""
    return Message(SUBSYSTEM | _DELETE_TABLE, family, attribute(_TABLE_NAME, _name(table)))


def add_chain(table: str, chain: str, device: str = "", priority: int = 0, family: int = NETDEV) -> Message:
    """Return the message that makes a chain; ``device``: it is the first that takes what comes in there."""
    made = _chain(table, chain)
    if device:
        made += _seeing(INGRESS, priority, attribute(_HOOK_DEVICE, _name(device)))
    return Message(SUBSYSTEM | _NEW_CHAIN, family, made, _CREATE)


def add_hooked_chain(table: str, chain: str, hook: int, priority: int, family: int) -> Message:
    """Return the message that makes a chain of a family that sees what comes to a hook, by its number."""
    made = _chain(table, chain) + _seeing(hook, priority)
    return Message(SUBSYSTEM | _NEW_CHAIN, family, made, _CREATE)


def _chain(table: str, chain: str) -> bytes:
    return attribute(_CHAIN_TABLE, _name(table)) + attribute(_CHAIN_NAME, _name(chain))


def _seeing(number: int, priority: int, rest: bytes = b"") -> bytes:
    hook = attribute(_HOOK_NUMBER, _number(number)) + attribute(_HOOK_PRIORITY, _number(priority)) + rest
    made = attribute(_CHAIN_HOOK | NESTED, hook) + attribute(_CHAIN_POLICY, _number(_ACCEPT))
    return made + attribute(_CHAIN_TYPE, _name("filter"))


def delete_chain(table: str, chain: str) -> Message:
    """Return the message that removes a chain, with its rules."""
    return Message(SUBSYSTEM | _DELETE_CHAIN, NETDEV, _chain(table, chain))


def add_rule(table: str, chain: str, *expressions: bytes, family: int = NETDEV) -> Message:
    """Return the message that adds a rule at a chain's end."""
    made = attribute(_RULE_TABLE, _name(table)) + attribute(_RULE_CHAIN, _name(chain))
    made += attribute(_RULE_EXPRESSIONS | NESTED, b"".join(expressions))
    return Message(SUBSYSTEM | _NEW_RULE, family, made, _CREATE | _APPEND)


def add_set(table: str, name: str, number: int, *parts: KeyType) -> Message:
    """Return the message that makes a set; its key is made of parts, each filled up to four bytes.

    ``number``: unlike those of the batch's other sets.
    """
    kind = 0
    for part in parts:
        kind = kind << _TYPE_BITS | part.number
    made = attribute(_SET_TABLE, _name(table)) + attribute(_SET_NAME, _name(name))
    made += attribute(_SET_FLAGS, _number(0)) + attribute(_SET_KEY_TYPE, _number(kind))
    made += attribute(_SET_KEY_LENGTH, _number(sum(_filled(part.length) for part in parts)))
    made += attribute(_SET_ID, _number(number))
    return Message(SUBSYSTEM | _NEW_SET, NETDEV, made, _CREATE)


def _filled(length: int) -> int:
    return (length + 3) & ~3


def key(*parts: bytes) -> bytes:
    """Return a set's key of several parts."""
    return b"".join(part + bytes(-len(part) % 4) for part in parts)


_MOST_ELEMENTS = 500
"""In one message: an attribute holds 64 kB."""


def add_elements(table: str, name: str, keys: Iterable[bytes]) -> list[Message]:
    """Return the messages that put keys into a set; one that is there already changes nothing."""
    return _elements(_NEW_ELEMENTS, table, name, sorted(keys), _CREATE)


def delete_elements(table: str, name: str, keys: Iterable[bytes]) -> list[Message]:
    """Return the messages that take keys out of a set, which must be there."""
    return _elements(_DELETE_ELEMENTS, table, name, sorted(keys), 0)


def _elements(kind: int, table: str, name: str, keys: Sequence[bytes], flags: int) -> list[Message]:
    where = attribute(_ELEMENTS_TABLE, _name(table)) + attribute(_ELEMENTS_SET, _name(name))
    found = []
    for at in range(0, len(keys), _MOST_ELEMENTS):
        listed = b"".join(
            attribute(
                _LIST_ELEMENT | NESTED,
                attribute(_ELEMENT_KEY | NESTED, attribute(_VALUE, element)),
            )
            for element in keys[at : at + _MOST_ELEMENTS]
        )
        found.append(
            Message(SUBSYSTEM | kind, NETDEV, where + attribute(_ELEMENTS_LIST | NESTED, listed), flags)
        )
    return found


def transact(netlink: NetlinkSocket, messages: Sequence[Message]) -> None:
    """Have the kernel carry out all messages in one step, or none. Raises OSError."""
    netlink.transact(BATCH_BEGIN, messages, BATCH_END, BATCH_RESOURCE)


class BaseChain(NamedTuple):
    """A chain that sees an interface's frames.

    ``number`` is that of its hook, ``devices`` are those of which it sees any now, ``accepts``: it lets pass
    what no rule of it decides.
    """

    table: str
    name: str
    number: int
    priority: int
    devices: tuple[str, ...]
    accepts: bool = True


def table_flags(netlink: NetlinkSocket, table: str, family: int = NETDEV) -> int | None:
    """Return the flags of a table, of which 1 is ``dormant``; None without one. Raises OSError."""
    found = table_of(netlink, family, table)
    return None if found is None else int.from_bytes(found.get(_TABLE_FLAGS, b""), "big")


def base_chains(netlink: NetlinkSocket, table: str) -> Iterator[BaseChain]:
    """Yield the chains of a table that see frames. Raises OSError."""
    for body in netlink.dump(Message(SUBSYSTEM | _GET_CHAIN, NETDEV, b"")):
        found = base_chain_of(body)
        if found is not None and found.table == table:
            yield found


def base_chain_of(body: memoryview | bytes) -> BaseChain | None:
    """Return a chain that sees frames from the attributes of its message; None for another chain."""
    fields = dict(attributes(body))
    if _CHAIN_HOOK not in fields:
        return None
    hook = dict(attributes(fields[_CHAIN_HOOK]))
    return BaseChain(
        text(fields.get(_CHAIN_TABLE, b"")),
        text(fields.get(_CHAIN_NAME, b"")),
        int.from_bytes(hook.get(_HOOK_NUMBER, b""), "big"),
        int.from_bytes(hook.get(_HOOK_PRIORITY, b""), "big", signed=True),
        _devices(hook),
        int.from_bytes(fields.get(_CHAIN_POLICY, b"\0\0\0\1"), "big") == _ACCEPT,
    )


def _devices(hook: dict[int, memoryview]) -> tuple[str, ...]:
    listed = [
        text(payload) for kind, payload in attributes(hook.get(_HOOK_DEVICES, b"")) if kind == _DEVICE_NAME
    ]
    if not listed and _HOOK_DEVICE in hook:
        listed = [text(hook[_HOOK_DEVICE])]
    return tuple(listed)


def keys_of(netlink: NetlinkSocket, table: str, name: str) -> set[bytes]:
    """Return the keys in a set of a table of interfaces' chains. Raises OSError."""
    return {
        bytes(dict(attributes(element[_ELEMENT_KEY])).get(_VALUE, b""))
        for element in elements_of(netlink, NETDEV, table, _name(name))
        if _ELEMENT_KEY in element
    }


def rule_texts(netlink: NetlinkSocket, table: str) -> dict[str, list[bytes]]:
    """Return the rules of each chain of a table, as bytes to be compared: without what they counted.

    Raises OSError.
    """
    found: dict[str, list[bytes]] = {}
    for rule in rules_of(netlink, NETDEV, table):
        found.setdefault(rule.chain, []).append(uncounted(rule.expressions))
    return found


def counted_by(netlink: NetlinkSocket, table: str) -> dict[str, int]:
    """Return how many packets the counters of each chain of a table have seen. Raises OSError."""
    found: dict[str, int] = {}
    for rule in rules_of(netlink, NETDEV, table, containing=(b"counter\0",)):
        for name, data in expressions(rule):
            if name == "counter":
                packets = int.from_bytes(data.get(_COUNTER_PACKETS, b""), "big")
                found[rule.chain] = found.get(rule.chain, 0) + packets
    return found


def uncounted(expressions: bytes) -> bytes:
    """Return what a rule is made of, to be compared: each expression, of counters only the name."""
    parts = []
    for _, element in attributes(expressions):
        fields = dict(attributes(element))
        name = bytes(fields.get(_NAME, b""))
        parts.append(name if name == b"counter\0" else bytes(element))
    return b"".join(parts)
