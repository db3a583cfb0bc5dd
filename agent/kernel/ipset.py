"""Kernel sets by netlink: created, read, and changed by difference.

Messages, attributes and error numbers are those of ``linux/netfilter/ipset/ip_set.h``; what they mean is
said in ipset(8). Changes are encoded by hand: one member costs 0.012 ms against 0.3 ms through pyroute2's
IPSet, 10,000 at once 5 ms against 56 ms for an ``ipset restore``. One message carries a thousand
members and more, one system call many messages.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import struct
import time
from collections.abc import Iterable, Mapping, Sequence

from agent.closing import Closing
from agent.kernel.ipset_errors import Code, SetError, error_of
from agent.kernel.ipset_members import (
    TYPE_REVISION,
    Flow,
    decode_flows,
    decode_members,
    decode_names,
    encode_members,
    unholdable,
)
from agent.kernel.ipset_shapes import LIST, MIN_MAXELEM, SetChange, SetContent, SetHeader, SetShape
from agent.kernel.netlink import (
    F_EXCL,
    NESTED,
    NET_ORDER,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
    picked,
)
from agent.net import Family, Member

NAME_LENGTH = 31
"""IPSET_MAXNAMELEN less its NUL."""

_SUBSYSTEM = 6
"""NFNL_SUBSYS_IPSET"""
CMD_CREATE, CMD_DESTROY, CMD_FLUSH, CMD_SWAP, CMD_LIST, CMD_ADD, CMD_DEL = 2, 3, 4, 6, 7, 9, 10
FLAG_LIST_HEADER = 4
_ATTR_PROTOCOL, _ATTR_SETNAME, _ATTR_SETNAME2, _ATTR_TYPENAME = 1, 2, 3, 3
_ATTR_REVISION, _ATTR_FAMILY, _ATTR_FLAGS, _ATTR_DATA, _ATTR_ADT, _ATTR_LINENO = 4, 5, 6, 7, 8, 9
_ATTR_TIMEOUT = 6
_ATTR_BITMASK, _ATTR_NETMASK = 12, 20
_ATTR_NAME = 18
_ATTR_HASHSIZE, _ATTR_MAXELEM, _ATTR_ELEMENTS, _ATTR_REFERENCES = 18, 19, 24, 25

_PROTOCOL = attribute(_ATTR_PROTOCOL, b"\x06")
"""Version 6: IPSET_PROTOCOL_MIN of kernels today, and the only one before 4.20."""
_LINENO = attribute(_ATTR_LINENO, bytes(4))
_HEADERS_ONLY = attribute(_ATTR_FLAGS | NET_ORDER, struct.pack("!I", FLAG_LIST_HEADER))
"""IPSET_FLAG_LIST_HEADER"""
_AF_UNSPEC, _AF_INET, _AF_INET6 = 0, 2, 10

_MAX_HASHSIZE = 1 << 20
_DIGEST_BYTES = 16

_TRANSIENT = frozenset({errno.EBUSY, errno.EAGAIN, errno.EINTR})
_RETRY_SECONDS = (0.001, 0.004, 0.016)


class IpSets(Closing):
    """The sets of the network namespace of the thread that makes this. Not thread-safe.

    Raises OSError when made where there is no netfilter netlink. Every method raises SetError.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket()

    def close(self) -> None:
        self._socket.close()

    def list_shapes(self, prefix: str = "") -> dict[str, SetHeader]:
        """Return the sets whose name begins with ``prefix``, from their headers alone."""
        found: dict[str, SetHeader] = {}
        for name, shape, data, _ in self._list(_HEADERS_ONLY):
            if name.startswith(prefix) and shape is not None:
                found[name] = _header(shape, data)
        return found

    def header(self, name: str) -> SetHeader:
        """Return how the kernel describes one set, without its members."""
        for _, shape, data, _ in self._list(_name(name) + _HEADERS_ONLY, name):
            if shape is not None:
                return _header(shape, data)
        raise error_of(name, errno.ENOENT)

    def members(self, name: str) -> set[Member]:
        """Return a set's members; SetError (``missing``) when there is no such set."""
        return self.content(name).members

    def content(self, name: str) -> SetContent:
        """Return one set's shape and members."""
        return self.content_and_digest(name)[0]

    def content_and_digest(self, name: str) -> tuple[SetContent, bytes]:
        """Return one set's shape and members, and the :meth:`digest` of the same answer."""
        shape: SetShape | None = None
        members: set[Member] = set()
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for _, found, _, elements in self._list(_name(name), name):
            shape = found or shape
            if shape is not None and elements is not None:
                members |= decode_members(shape.type, elements)
                digest.update(elements)
        if shape is None:
            raise error_of(name, errno.ENOENT)
        return SetContent(shape, members), digest.digest()

    def digest(self, name: str) -> bytes:
        """Return a digest of the members as the kernel tells them, the same as long as the set is.

        A tenth of the work of :meth:`content`. Equal members may be told in another order after a change.
        """
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        try:
            for body in self._socket.dump(_message(CMD_LIST, _name(name))):
                digest.update(picked(body, (_ATTR_ADT,)).get(_ATTR_ADT, b""))
        except OSError as error:
            raise error_of(name, error.errno or 0) from error
        return digest.digest()

    def flows(self, name: str) -> set[Flow]:
        """Return the members of a set of type ``hash:ip,port,ip``."""
        parts = (elements for _, _, _, elements in self._list(_name(name), name) if elements is not None)
        return {flow for elements in parts for flow in decode_flows(elements)}

    def listed(self, name: str) -> set[str]:
        """Return the names of the sets that a set of type ``list:set`` holds."""
        parts = (elements for _, _, _, elements in self._list(_name(name), name) if elements is not None)
        return {found for elements in parts for found in decode_names(elements)}

    def read(self, prefix: str) -> dict[str, SetContent]:
        """Return the sets whose name begins with ``prefix``, whole."""
        # One by one: a dump of everything would read other people's sets too, and these may be large.
        found: dict[str, SetContent] = {}
        for name in self.list_shapes(prefix):
            try:
                found[name] = self.content(name)
            except SetError as error:
                if not error.missing:
                    raise
        return found

    def _list(
        self, request: bytes, name: str = ""
    ) -> Iterable[tuple[str, SetShape | None, memoryview | bytes, memoryview | None]]:
        """Yield for each message (name, shape, header attributes, elements).

        The elements of a large set come in several messages, of which the first alone has the shape.
        """
        try:
            for body in self._socket.dump(_message(CMD_LIST, request)):
                fields = dict(attributes(body))
                data: memoryview | bytes = fields.get(_ATTR_DATA, b"")
                yield _text(fields[_ATTR_SETNAME]), _shape(fields, data), data, fields.get(_ATTR_ADT)
        except OSError as error:
            raise error_of(name or "(all)", error.errno or 0) from error

    def create(
        self, name: str, shape: SetShape, members: Iterable[Member] = (), *, hashsize: int = 0
    ) -> None:
        """Make a new set and fill it; on an error nothing is left of it.

        ``hashsize``: into how many buckets; 0: as fits the members it is made with.
        """
        members = list(members)
        _check_name(name)
        self._command(name, CMD_CREATE, _creation(name, shape, hashsize or _buckets(len(members))))
        try:
            self.add(name, members)
        except SetError:
            self.destroy(name)
            raise

    def create_all(self, wanted: Mapping[str, SetContent]) -> list[SetError]:
        """Make many new sets and fill them, all in two messages; return what failed.

        Of a set that failed nothing is left, and one that was there is as it was; where the socket itself
        fails, what was made is unknown.
        """
        made = [
            (name, _message(CMD_CREATE, _creation(name, shape, _buckets(len(members))), F_EXCL))
            for name, (shape, members) in wanted.items()
        ]
        failed = {name: code for name, _, code in self._carry_out(made)}
        errors = [error_of(name, code) for name, code in failed.items() if code not in _TRANSIENT]
        for error in self.change(SetChange(n, m) for n, (_, m) in wanted.items() if n not in failed):
            errors.append(error)
            self._undo(error.name)
        for name in (name for name, code in failed.items() if code in _TRANSIENT):
            try:
                self.create(name, *wanted[name])
            except SetError as error:
                errors.append(error)
        return errors

    def _undo(self, name: str) -> None:
        with contextlib.suppress(SetError):
            self.destroy(name)

    def add(self, name: str, members: Iterable[Member]) -> None:
        """Add members. One that cannot be held does not keep out the others."""
        for error in self.change([SetChange(name, added=members)]):
            raise error

    def remove(self, name: str, members: Iterable[Member]) -> None:
        """Remove members."""
        for error in self.change([SetChange(name, removed=members)]):
            raise error

    def change(self, changes: Iterable[SetChange], emptied: Iterable[str] = ()) -> list[SetError]:
        """Carry out many changes at once; return what failed, one error at most for each set and operation.

        All additions go before all removals, so that what is in one set before and in another after is never
        in neither. No failure holds back anything else; additions to a full set are tried again after
        the removals. ``emptied``: sets that lose all members before anything else is done; one that is
        missing is no error.
        """
        errors: dict[tuple[str, int], SetError] = {}
        additions: list[tuple[str, Message]] = []
        removals: list[tuple[str, Message]] = []
        for name, added, removed in changes:
            _encode(CMD_ADD, name, added, additions, errors)
            _encode(CMD_DEL, name, removed, removals, errors)
        flushes = [(name, _message(CMD_FLUSH, _name(name))) for name in emptied]
        failed = self._carry_out(flushes + additions + removals)
        if removals:
            again = [(name, message) for name, message, code in failed if code == Code.HASH_FULL]
            failed = [entry for entry in failed if entry[2] != Code.HASH_FULL] + self._carry_out(again)
        for name, message, code in failed:
            if message.kind & 0xFF == CMD_FLUSH and code == errno.ENOENT:
                continue
            errors.setdefault((name, message.kind & 0xFF), error_of(name, code))
        return list(errors.values())

    def _carry_out(self, named: Sequence[tuple[str, Message]]) -> list[tuple[str, Message, int]]:
        if not named:
            return []
        try:
            failed = self._socket.request([message for _, message in named])
        except OSError as error:
            # What was done is not known: each set concerned has to be read again.
            return [(name, message, error.errno or errno.EIO) for name, message in named]
        return [(*named[index], code) for index, code in failed]

    def enlist(self, name: str, member: str) -> None:
        """Have a set of type ``list:set`` name another one; it may do so already."""
        body = _name(name) + attribute(_ATTR_DATA | NESTED, attribute(_ATTR_NAME, member.encode() + b"\0"))
        for _, _, code in self._carry_out([(name, _message(CMD_ADD, body))]):
            raise error_of(name, code)

    def swap(self, first: str, second: str) -> None:
        """Exchange two sets' contents under their names; rules that refer to a name see the other content."""
        self._command(first, CMD_SWAP, _name(first) + _second_name(second))

    def destroy(self, name: str) -> None:
        """Remove a set that no rule refers to. None there is no error."""
        try:
            self._command(name, CMD_DESTROY, _name(name))
        except SetError as error:
            if not error.missing:
                raise

    def grow(self, name: str, shape: SetShape) -> None:
        """Put a larger set, of the given shape and the present members, in a set's place.

        Rules may refer to it: they see the same members all along.
        """
        self.replace(name, shape, self.members(name))

    def replace(self, name: str, shape: SetShape, members: Iterable[Member]) -> None:
        """Put a set of these members in a set's place, at once for the rules that refer to it."""
        spare = spare_name(name)
        self.destroy(spare)
        self.create(spare, shape, members)
        try:
            self.swap(name, spare)
        finally:
            self.destroy(spare)

    def _command(self, name: str, command: int, body: bytes) -> None:
        message = _message(command, body, F_EXCL)
        # Someone who lists the sets holds them for an instant.
        for pause in (*_RETRY_SECONDS, None):
            try:
                failed = self._socket.request([message])
            except OSError as error:
                raise error_of(name, error.errno or errno.EIO) from error
            if not failed:
                return
            code = failed[0][1]
            if code not in _TRANSIENT or pause is None:
                raise error_of(name, code)
            time.sleep(pause)


def spare_name(name: str) -> str:
    """Return the name under which a set is built that is to take ``name``'s place."""
    return f"{name[: NAME_LENGTH - 2]}-g"


def _encode(
    command: int,
    name: str,
    wanted: Iterable[Member],
    messages: list[tuple[str, Message]],
    errors: dict[tuple[str, int], SetError],
) -> None:
    members = list(wanted)
    bad = unholdable(members)
    if bad:
        what = f"cannot hold {', '.join(sorted(bad.values()))}"
        errors[name, command] = SetError(name, what, "the program must not ask for it")
        members = [member for member in members if member not in bad]
    head = _name(name) + _LINENO
    for elements in encode_members(members):
        body = head + attribute(_ATTR_ADT | NESTED, elements)
        messages.append((name, _message(command, body)))


def _message(command: int, body: bytes, flags: int = 0) -> Message:
    return Message(_SUBSYSTEM << 8 | command, _AF_INET, _PROTOCOL + body, flags)


def _creation(name: str, shape: SetShape, hashsize: int) -> bytes:
    data = b""
    if shape.type != LIST:
        data += attribute(_ATTR_MAXELEM | NET_ORDER, struct.pack("!I", shape.maxelem))
    if hashsize:
        data += attribute(_ATTR_HASHSIZE | NET_ORDER, struct.pack("!I", hashsize))
    if shape.timeout:
        data += attribute(_ATTR_TIMEOUT | NET_ORDER, struct.pack("!I", shape.timeout))
    family = _AF_UNSPEC if shape.type == LIST else _AF_INET if shape.family is Family.V4 else _AF_INET6
    return (
        _name(name)
        + attribute(_ATTR_TYPENAME, shape.type.encode() + b"\0")
        + attribute(_ATTR_REVISION, bytes([TYPE_REVISION[shape.type]]))
        + attribute(_ATTR_FAMILY, bytes([family]))
        + attribute(_ATTR_DATA | NESTED, data)
    )


def _buckets(members: int) -> int:
    """Return the hash size of a set of many members; 0, the kernel's own, where they are few.

    Big enough at once: the kernel would otherwise rehash each time the set doubles.
    """
    if members <= MIN_MAXELEM // 16:
        return 0
    return min(_MAX_HASHSIZE, 1 << (members // 4).bit_length())


def _check_name(name: str) -> None:
    if not 0 < len(name.encode()) <= NAME_LENGTH:
        raise SetError(name, f"a set's name has 1 to {NAME_LENGTH} characters")


def _name(name: str) -> bytes:
    return attribute(_ATTR_SETNAME, name.encode() + b"\0")


def _second_name(name: str) -> bytes:
    return attribute(_ATTR_SETNAME2, name.encode() + b"\0")


def _text(payload: memoryview) -> str:
    return bytes(payload).rstrip(b"\0").decode()


def _number(payload: memoryview | None) -> int | None:
    return None if payload is None else int.from_bytes(payload, "big")


def _header(shape: SetShape, data: memoryview | bytes) -> SetHeader:
    fields = dict(attributes(data))
    references = _number(fields.get(_ATTR_REFERENCES)) or 0
    return SetHeader(shape, _number(fields.get(_ATTR_ELEMENTS)), references)


def _shape(fields: Mapping[int, memoryview], data: memoryview | bytes) -> SetShape | None:
    if _ATTR_TYPENAME not in fields:
        return None
    family = Family.V6 if fields[_ATTR_FAMILY][0] == _AF_INET6 else Family.V4
    found = dict(attributes(data))
    maxelem, timeout = _number(found.get(_ATTR_MAXELEM)), _number(found.get(_ATTR_TIMEOUT))
    kind = _text(fields[_ATTR_TYPENAME])
    if _ATTR_NETMASK in found or _ATTR_BITMASK in found:
        # Its members stand for networks: it is none of the agent's types, whatever it is called.
        kind += " with a mask"
    return SetShape(kind, family, maxelem or 0, timeout or 0)
