"""The rules of nftables as the kernel has them, whoever wrote them and however: by netlink.

The commands of iptables show nothing of a table in which they cannot read one rule. The kernel tells each
chain and rule, of programs that use nft(8) too. Messages and attributes are those of
``linux/netfilter/nf_tables.h``.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from agent.kernel.netlink import NESTED, Message, NetlinkSocket, attribute, attributes
from agent.net import Family

SUBSYSTEM = 10 << 8
BATCH_BEGIN, BATCH_END, BATCH_RESOURCE = 16, 17, 10
FAMILIES = {Family.V4: 2, Family.V6: 10}
NETDEV = 5
"""NFPROTO_NETDEV: the family whose chains see the frames of one interface."""
FAMILY_NAMES = {Family.V4: "ip", Family.V6: "ip6"}
"""As nft(8) calls them."""

ABSENT = (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EINVAL)
"""What a kernel without nftables, or without a family of it, answers: no such table can be there."""

_GET_TABLE, _GET_CHAIN, _NEW_RULE, _GET_RULE, _DELETE_RULE, _GET_GENERATION = 1, 4, 6, 7, 8, 16
_TABLE_NAME, _TABLE_FLAGS, _GENERATION_ID = 1, 2, 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _HOOK_NUMBER, _HOOK_PRIORITY = 1, 3, 4, 1, 2
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS = 1, 2, 3, 4
_LIST_ELEMENT, _EXPRESSION_NAME, _EXPRESSION_DATA = 1, 1, 2
_IMMEDIATE_REGISTER, _IMMEDIATE_DATA, _DATA_VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 1, 2, 2, 1, 2
_LOOKUP_DESTINATION = 3
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2
_GET_ELEMENTS, _ELEMENTS_TABLE, _ELEMENTS_SET, _ELEMENTS_LIST = 13, 1, 2, 3
_GET_SET, _SET_TABLE, _SET_NAME, _SET_FLAGS = 10, 1, 2, 3
_CREATE = 0x400
_JUMP, _GOTO, _RETURN, _DROP, _ACCEPT = -3, -4, -5, 0, 1
_VERDICTS = {_RETURN: "-j RETURN", _DROP: "-j DROP", _ACCEPT: "-j ACCEPT"}
_SIGNED = struct.Struct("!i")

Attributes = dict[int, memoryview]


class Chain(NamedTuple):
    """A chain. ``hook`` is a base chain's number of the hook and its priority."""

    table: str
    name: str
    hook: tuple[int, int] | None


class Rule(NamedTuple):
    """A rule; ``handle`` is its number in its table, ``expressions`` what it is made of, undecoded."""

    table: str
    chain: str
    handle: int
    expressions: bytes


def generation(netlink: NetlinkSocket) -> int | None:
    """Return the number of the ruleset's version in this network namespace; None where there is no nftables.

    Every transaction of anybody counts it up.
    """
    try:
        answer = netlink.get(Message(SUBSYSTEM | _GET_GENERATION, 0, b""))
    except OSError:
        return None
    found = dict(attributes(answer)).get(_GENERATION_ID)
    return None if found is None else int.from_bytes(found, "big")


class Table(NamedTuple):
    """A table: the number of its family, its name, and its flags, of which 1 is ``dormant``."""

    family: int
    name: str
    flags: int


def tables(netlink: NetlinkSocket) -> list[Table]:
    """Return the tables of all families. Raises OSError."""
    found = []
    # The family stands before the attributes.
    for body in netlink.dump(Message(SUBSYSTEM | _GET_TABLE, 0, b""), behind=0):
        fields = dict(attributes(body[4:]))
        flags = int.from_bytes(fields.get(_TABLE_FLAGS, b""), "big")
        found.append(Table(body[0], text(fields.get(_TABLE_NAME, b"")), flags))
    return found


def table_of(netlink: NetlinkSocket, family: int, table: str) -> Attributes | None:
    """Return what the kernel says of a table of a family, by its number; None where there is none.

    Raises OSError.
    """
    message = Message(SUBSYSTEM | _GET_TABLE, family, attribute(_TABLE_NAME, _name(table)))
    try:
        answer = netlink.get(message)
    except FileNotFoundError:
        return None
    return dict(attributes(answer))


def chains(netlink: NetlinkSocket, family: Family) -> list[Chain]:
    """Return all chains of a family. Raises OSError."""
    found = []
    for body in netlink.dump(Message(SUBSYSTEM | _GET_CHAIN, FAMILIES[family], b"")):
        fields = dict(attributes(body))
        hook = None
        if _CHAIN_HOOK in fields:
            numbers = dict(attributes(fields[_CHAIN_HOOK]))
            hook = _number(numbers.get(_HOOK_NUMBER)), _number(numbers.get(_HOOK_PRIORITY))
        found.append(Chain(text(fields[_CHAIN_TABLE]), text(fields[_CHAIN_NAME]), hook))
    return found


def rules(netlink: NetlinkSocket, family: Family, table: str = "", chain: str = "") -> Iterator[Rule]:
    """Yield the rules of a family, or only a table's or a chain's, in their order. Raises OSError."""
    return rules_of(netlink, FAMILIES[family], table, chain)


def rules_of(
    netlink: NetlinkSocket, family: int, table: str = "", chain: str = "", containing: tuple[bytes, ...] = ()
) -> Iterator[Rule]:
    """Yield rules of a family, given by its number, such as NFPROTO_INET; see :func:`rules`.

    ``containing``: only those in whose message one of these is, of which most rules hold none.
    """
    wanted = attribute(_RULE_TABLE, _name(table)) if table else b""
    wanted += attribute(_RULE_CHAIN, _name(chain)) if chain else b""
    for body in netlink.dump(Message(SUBSYSTEM | _GET_RULE, family, wanted)):
        if containing:
            whole = bytes(body)
            if not any(part in whole for part in containing):
                continue
        fields = dict(attributes(body))
        # Linux before 4.5 takes no notice of what is wanted.
        rule = Rule(
            text(fields[_RULE_TABLE]),
            text(fields[_RULE_CHAIN]),
            int.from_bytes(fields[_RULE_HANDLE], "big"),
            bytes(fields.get(_RULE_EXPRESSIONS, b"")),
        )
        if rule.table == (table or rule.table) and rule.chain == (chain or rule.chain):
            yield rule


def elements_of(netlink: NetlinkSocket, family: int, table: str, name: bytes) -> Iterator[Attributes]:
    """Yield what is in a set, each with its attributes by number. Raises OSError."""
    wanted = attribute(_ELEMENTS_TABLE, _name(table)) + attribute(_ELEMENTS_SET, name)
    for body in netlink.dump(Message(SUBSYSTEM | _GET_ELEMENTS, family, wanted)):
        for _, element in attributes(dict(attributes(body)).get(_ELEMENTS_LIST, b"")):
            yield dict(attributes(element))


def set_flags(netlink: NetlinkSocket, family: int, table: str) -> dict[str, int]:
    """Return the sets of a table, each with its flags (``enum nft_set_flags``). Raises OSError."""
    found = {}
    for body in netlink.dump(Message(SUBSYSTEM | _GET_SET, family, attribute(_SET_TABLE, _name(table)))):
        fields = dict(attributes(body))
        if text(fields.get(_SET_TABLE, b"")) == table:
            found[text(fields.get(_SET_NAME, b""))] = _number(fields.get(_SET_FLAGS))
    return found


def expressions(rule: Rule) -> Iterator[tuple[str, Attributes]]:
    """Yield the expressions of a rule: each one's name, and its attributes by number."""
    for _, element in attributes(rule.expressions):
        fields = dict(attributes(element))
        data = fields.get(_EXPRESSION_DATA, memoryview(b""))
        yield text(fields.get(_EXPRESSION_NAME, b"")), dict(attributes(data))


def verdict(name: str, data: Attributes) -> str | None:
    """Return what an expression does with a packet, as iptables writes it; None if it decides nothing.

    The empty text stands for what cannot be said in one word, such as a map of verdicts.
    """
    if name == "target":
        return f"-j {text(data.get(1, b''))}"
    if name == "lookup":
        return "" if _number(data.get(_LOOKUP_DESTINATION), missing=-1) == 0 else None
    if name != "immediate" or _number(data.get(_IMMEDIATE_REGISTER), missing=-1) != 0:
        return None
    found = dict(attributes(dict(attributes(data.get(_IMMEDIATE_DATA, b""))).get(_DATA_VERDICT, b"")))
    code = _number(found.get(_VERDICT_CODE))
    if code in (_JUMP, _GOTO):
        return f"-{'j' if code == _JUMP else 'g'} {text(found.get(_VERDICT_CHAIN, b''))}"
    return _VERDICTS.get(code)


def delete_rules(
    netlink: NetlinkSocket, family: Family, table: str, doomed: Iterable[tuple[str, int]]
) -> None:
    """Delete rules, by chain and handle, all of them or none. Raises OSError."""
    _transact(netlink, _deletions(family, table, doomed))


def put_jump_first(
    netlink: NetlinkSocket, family: Family, table: str, chain: str, target: str, doomed: Iterable[int] = ()
) -> None:
    """Put a jump before all rules of a chain, and delete some of these, in one step. Raises OSError.

    It is written as iptables writes it in nft mode: with a counter.
    """
    counter = attribute(_COUNTER_BYTES, bytes(8)) + attribute(_COUNTER_PACKETS, bytes(8))
    jump = attribute(_VERDICT_CODE, _SIGNED.pack(_JUMP)) + attribute(_VERDICT_CHAIN, _name(target))
    immediate = attribute(_IMMEDIATE_REGISTER, bytes(4)) + attribute(
        _IMMEDIATE_DATA | NESTED, attribute(_DATA_VERDICT | NESTED, jump)
    )
    made = b"".join(
        attribute(
            _LIST_ELEMENT | NESTED,
            attribute(_EXPRESSION_NAME, _name(name)) + attribute(_EXPRESSION_DATA | NESTED, data),
        )
        for name, data in (("counter", counter), ("immediate", immediate))
    )
    where = attribute(_RULE_TABLE, _name(table)) + attribute(_RULE_CHAIN, _name(chain))
    # Without NLM_F_APPEND it comes first.
    rule = where + attribute(_RULE_EXPRESSIONS | NESTED, made)
    new = Message(SUBSYSTEM | _NEW_RULE, FAMILIES[family], rule, _CREATE)
    _transact(netlink, [*_deletions(family, table, ((chain, handle) for handle in doomed)), new])


def _deletions(family: Family, table: str, doomed: Iterable[tuple[str, int]]) -> list[Message]:
    return [
        Message(
            SUBSYSTEM | _DELETE_RULE,
            FAMILIES[family],
            attribute(_RULE_TABLE, _name(table))
            + attribute(_RULE_CHAIN, _name(chain))
            + attribute(_RULE_HANDLE, handle.to_bytes(8, "big")),
        )
        for chain, handle in doomed
    ]


def _transact(netlink: NetlinkSocket, messages: list[Message]) -> None:
    if messages:
        netlink.transact(BATCH_BEGIN, messages, BATCH_END, BATCH_RESOURCE)


def _name(text: str) -> bytes:
    return text.encode(errors="surrogateescape") + b"\0"


def text(data: memoryview | bytes) -> str:
    """Return the text of an attribute."""
    return bytes(data).rstrip(b"\0").decode(errors="surrogateescape")


def _number(data: memoryview | None, missing: int = 0) -> int:
    return missing if data is None or len(data) != 4 else int(_SIGNED.unpack(data)[0])
