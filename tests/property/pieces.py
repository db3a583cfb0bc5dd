"""Random objects, and what they consist of: the one description that every random test draws from.

Corners are common, and half of everything is of the plainest kind, so that pods are selected, and sets
shared, more often than not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from agent.kube.mode import NO_MODE, Mode, ModeSaid
from agent.kube.model import (
    UNATTACHED,
    Attached,
    IPBlock,
    Key,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Node,
    Operator,
    Peer,
    Pod,
    Port,
    Requirement,
    Rule,
    Selector,
)
from agent.kube.validate import METADATA_NAME
from agent.net import Network, Protocol
from agent.policy.lower.cost import MANY_PEERS
from tests.property.choices import Choices, Maker, either, rarely
from tests.property.networks import network_of
from tests.property.words import APP_A, HERE, PROTOCOLS, THERE, Words

Side = tuple[Rule, ...] | None

# --- Labels and selectors -----------------------------------------------------------------------------------


_COMMON_LABELS: tuple[dict[str, str], ...] = (
    {"app": "a"},
    {"app": "b"},
    {},
    {"app": "a", "tier": "a"},
    {"app": "a", "tier": "b"},
)


def labels(choices: Choices, words: Words) -> dict[str, str]:
    def any_labels(choices: Choices) -> dict[str, str]:
        return dict(
            choices.several(
                lambda choices: (choices.one_of(words.label_keys), choices.one_of(words.label_values)), 0, 3
            )
        )

    return either(choices, lambda choices: dict(choices.one_of(_COMMON_LABELS)), any_labels)


def requirement(choices: Choices, words: Words) -> Requirement:
    key, operator = choices.one_of(words.label_keys), choices.one_of(tuple(Operator))
    if operator not in (Operator.IN, Operator.NOT_IN):
        return Requirement(key, operator)
    values = choices.several(lambda choices: choices.one_of(words.label_values), 1, 2)
    return Requirement(key, operator, tuple(sorted(set(values))))


def selector(choices: Choices, words: Words) -> Selector:
    plain = (Selector(), Selector(), Selector((APP_A,)))

    def one(choices: Choices) -> Selector:
        return Selector((requirement(choices, words),))

    def more(choices: Choices) -> Selector:
        found = choices.several(partial(requirement, words=words), 2, 3)
        return Selector(tuple(sorted(set(found))))

    return either(
        choices, lambda choices: choices.one_of(plain), lambda choices: choices.one_of(plain), one, more
    )


def namespace_selector(choices: Choices, words: Words) -> Selector:
    """Return a selector of namespaces: one in three is of one by its name."""
    if choices.integer(0, 2) < 2:
        return selector(choices, words)
    return _named(choices.one_of(words.namespaces))


def _named(namespace: str) -> Selector:
    return Selector((Requirement(METADATA_NAME, Operator.IN, (namespace,)),))


# --- Rules --------------------------------------------------------------------------------------------------


def block(choices: Choices, words: Words) -> IPBlock:
    """Return a block whose ends are where addresses are, with up to three excepts, nested or the like."""
    pool = choices.one_of((words.addresses_4, words.addresses_6))
    bits = 8 * len(pool[0])
    common = (0, 0, 1, 2, 8, bits - 8, bits - 2, bits - 1, bits, bits)
    cidr = network_of(choices.one_of(pool), choices.one_of(common))
    if cidr.prefix == bits:
        return IPBlock(cidr)
    inside = [address for address in pool if network_of(address, cidr.prefix) == cidr]
    # One bit longer than the cidr is the least there is: half of it.
    longer = [cidr.prefix + 1, *(prefix for prefix in (*common, cidr.prefix + 2) if prefix > cidr.prefix)]

    def excepted(choices: Choices) -> Network:
        return network_of(choices.one_of(inside), min(choices.one_of(longer), bits))

    count = choices.one_of((0, 0, 1, 1, 2, 3))
    excepts = choices.several(excepted, count, count)
    # Decoding puts them in order.
    return IPBlock(cidr, tuple(sorted(set(excepts)) if words.strict else excepts))


def of_block(choices: Choices, words: Words) -> Peer:
    return Peer(block=block(choices, words))


def peer(choices: Choices, words: Words) -> Peer:
    """Return a peer: pods, namespaces, both, or a block; rarely one of a kind that is not known here."""
    if not words.strict and rarely(choices, 12):
        return Peer()
    return either(
        choices,
        lambda choices: Peer(selector(choices, words)),
        lambda choices: Peer(None, namespace_selector(choices, words)),
        lambda choices: Peer(selector(choices, words), namespace_selector(choices, words)),
        partial(of_block, words=words),
        partial(of_block, words=words),
    )


def peers(choices: Choices, words: Words) -> tuple[Peer, ...]:
    return either(
        choices,
        lambda _: (),
        lambda choices: (peer(choices, words),),
        lambda choices: tuple(choices.several(partial(peer, words=words), 2, 3)),
        lambda choices: tuple(choices.several(partial(of_block, words=words), 2, 3)),
        partial(_many_namespaces, words=words),
        partial(_many_selectors, words=words),
    )


def _many_namespaces(choices: Choices, words: Words) -> tuple[Peer, ...]:
    """Return so many peers that they share a set: namespaces by their names, some of which are none's."""
    pods, more = selector(choices, words), choices.integer(1, 3)
    others = range(MANY_PEERS + more - len(words.namespaces))
    return tuple(Peer(pods, _named(name)) for name in (*words.namespaces, *(f"none-{n}" for n in others)))


def _many_selectors(choices: Choices, words: Words) -> tuple[Peer, ...]:
    """Return so many peers that they share a set, by all kinds of selectors."""

    def one(choices: Choices) -> Peer:
        pods = selector(choices, words) if choices.one_of((False, True)) else None
        return Peer(pods, selector(choices, words))

    return tuple(choices.several(one, MANY_PEERS + 1, MANY_PEERS + 4, unlike=lambda found: found))


_RANGES = ((80, 81), (1, 65535), (1, 1), (65535, 65535), (81, 90), (82, 90), (85, 8080), (8081, 65534))
"""All, one, and such as overlap or begin where another ends."""


def port(choices: Choices, words: Words) -> Port:
    """Return a port: a number, a range, a name, or any of a protocol."""
    protocol = choices.one_of(PROTOCOLS)
    kind = choices.one_of(("number", "range", "name", "any"))
    if kind == "number":
        return Port(protocol, choices.one_of(words.numbers))
    if kind == "name":
        return Port(protocol, choices.one_of(words.port_names))
    if kind == "any":
        return Port(protocol)
    if choices.one_of((True, False)):
        return Port(protocol, *choices.one_of(_RANGES))
    first, last = sorted(choices.one_of(words.numbers) for _ in range(2))
    return Port(protocol, first, last)


def ports(choices: Choices, words: Words) -> tuple[Port, ...]:
    return either(
        choices,
        lambda _: (),
        lambda _: (),
        lambda choices: (port(choices, words),),
        lambda choices: tuple(choices.several(partial(port, words=words), 2, 4)),
        _many_ports,
    )


def _many_ports(choices: Choices) -> tuple[Port, ...]:
    """Return more ports than one match of the kernel takes: 15, of which a range counts two."""
    protocol, count = choices.one_of(PROTOCOLS), choices.one_of((12, 13, 15, 16, 31))
    return tuple(Port(protocol, 1000 + 3 * n, 1000 + 3 * n + 1 if n % 4 == 3 else None) for n in range(count))


_HTTP = Port(Protocol.TCP, "http")
_COMMON_RULES = (
    Rule((Peer(Selector((APP_A,))),)),
    Rule((Peer(None, Selector()),)),
    Rule((Peer(Selector((APP_A,)), Selector()),), (_HTTP,)),
    Rule((Peer(Selector((APP_A,))),), (_HTTP, Port(Protocol.TCP, 80))),
)


def rule(choices: Choices, words: Words) -> Rule:
    def any_rule(choices: Choices) -> Rule:
        return Rule(peers(choices, words), ports(choices, words))

    return either(choices, lambda choices: choices.one_of(_COMMON_RULES), any_rule, any_rule, any_rule)


def side(choices: Choices, rule: Maker[Rule]) -> Side:
    """Return what a policy says of one direction: nothing, that all is denied, or up to three rules."""
    return either(
        choices,
        lambda choices: choices.one_of((None, None, ())),
        lambda choices: choices.one_of((None, ())),
        lambda choices: (rule(choices),),
        lambda choices: (rule(choices),),
        lambda choices: tuple(choices.several(rule, 2, 3)),
        lambda choices: tuple(choices.several(rule, 2, 3)),
    )


# --- Modes --------------------------------------------------------------------------------------------------


def staging(choices: Choices, one_in: int = 1) -> ModeSaid:
    """Return what a policy or a namespace says of modes: half of those that say something, that it audits."""
    if one_in > 1 and not rarely(choices, one_in):
        return NO_MODE
    audit = ModeSaid(Mode.AUDIT)
    return choices.one_of(
        (
            NO_MODE,
            NO_MODE,
            NO_MODE,
            ModeSaid(Mode.ENFORCE),
            ModeSaid(Mode.ENFORCE, "enforced"),
            audit,
            audit,
            audit,
            ModeSaid(Mode.DISABLED),
        )
    )


# --- Objects ------------------------------------------------------------------------------------------------


def key(choices: Choices, namespaces: Sequence[str], names: Sequence[str]) -> Key:
    return Key(choices.one_of(namespaces), choices.one_of(names))


def policy_key(choices: Choices, words: Words) -> Key:
    return key(choices, (*words.namespaces, words.unknown), words.policies)


def pod_key(choices: Choices, words: Words) -> Key:
    return key(choices, (*words.namespaces, words.unknown), words.names)


def policy(choices: Choices, words: Words, key: Key | None = None) -> NetworkPolicy:
    namespace, name = key or policy_key(choices, words)
    any_rule = partial(rule, words=words)
    return NetworkPolicy(
        namespace,
        name,
        selector(choices, words),
        side(choices, any_rule),
        side(choices, any_rule),
        staging=staging(choices),
    )


def named_ports(choices: Choices, words: Words) -> tuple[NamedPort, ...]:
    def one(choices: Choices) -> NamedPort:
        name, protocol = choices.one_of(words.port_names), choices.one_of(PROTOCOLS)
        return NamedPort(name, protocol, choices.one_of(words.numbers))

    def two_of_one_name(choices: Choices) -> tuple[NamedPort, ...]:
        name = choices.one_of(words.port_names)
        return NamedPort(name, Protocol.UDP, 53), NamedPort(name, Protocol.TCP, 80)

    return either(
        choices,
        lambda choices: tuple(choices.several(one, 0, 3, unlike=lambda port: (port.name, port.protocol))),
        two_of_one_name,
    )


def addresses(choices: Choices, words: Words) -> tuple[bytes, ...]:
    """Return a pod's addresses: one of each family, and where words are for that, now and then any."""
    if words.any_addresses and rarely(choices, 3):
        return tuple(choices.several(lambda choices: choices.one_of(words.addresses), 0, 3))
    both = (words.addresses_4, words.addresses_6)
    pools = choices.one_of((both, both, both, both[::-1], both[:1], both[1:], ()))
    return tuple(choices.one_of(pool) for pool in pools)


def pod(choices: Choices, words: Words, key: Key | None = None) -> Pod:
    namespace, name = key or pod_key(choices, words)
    nodes = (HERE, HERE, HERE, THERE) if words.strict or not rarely(choices, 8) else ("",)
    node, owned = choices.one_of(nodes), addresses(choices, words)
    return Pod(
        namespace,
        name,
        uid=choices.one_of(("", "1", "2")),
        labels=labels(choices, words),
        node=node,
        addresses=owned,
        ports=named_ports(choices, words),
        host_network=rarely(choices, 9),
        finished=rarely(choices, 9),
        started=choices.one_of(words.times),
        created=choices.one_of(words.times[:2]),
        attached=attached(choices, owned) if node == HERE and not words.strict else UNATTACHED,
    )


def attached(choices: Choices, owned: tuple[bytes, ...]) -> Attached:
    """Return what a network plugin says of a pod: of few pods anything, of some of their addresses."""
    if not rarely(choices, 4):
        return UNATTACHED
    given = tuple(address for address in owned if not rarely(choices, 3))
    return Attached(choices.one_of((1, 2)), given, rarely(choices, 2))


def namespace(choices: Choices, words: Words, name: str | None = None) -> Namespace:
    name = name or choices.one_of(words.namespaces)
    # Servers before 1.21 do not give it.
    own = {METADATA_NAME: name} if words.strict or not rarely(choices, 4) else {}
    isolated = rarely(choices, 9)
    return Namespace(name, {**labels(choices, words), **own}, isolated, staging=staging(choices, 4))


def node(choices: Choices, words: Words) -> Node:
    networks = (
        network_of(words.addresses_4[1], 24),
        network_of(words.addresses_4[1], 32),
        network_of(words.addresses_6[1], 64),
    )
    return Node(
        choices.one_of((HERE, THERE)),
        tuple(choices.several(lambda choices: choices.one_of(words.addresses), 0, 2)),
        tuple(choices.several(lambda choices: choices.one_of(networks), 0, 2)),
    )
