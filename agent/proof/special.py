"""Rules about packets of which no policy says anything: those that the agent writes, and no others.

Each asks for something that only a few packets have. The proof does not say which: a rule of this kind that
the agent would not write may concern any packet, such as one for each segment that begins a connection.
"""

from __future__ import annotations

from agent.dataplane.iptables.rules import names
from agent.proof.lines import Condition, Line, mark_of

_DROPPED = frozenset(
    (
        # Redirects, and routers' advertisements on a bridge.
        frozenset((("-p", "icmp", ""), ("--icmp-type", "5", ""))),
        frozenset((("-p", "ipv6-icmp", ""), ("--icmpv6-type", "137", ""))),
        frozenset((("-p", "ipv6-icmp", ""), ("--icmpv6-type", "134", ""))),
        # Refusals that the node sends in the name of others.
        frozenset((("-p", "tcp", ""), ("--tcp-flags", "RST", "RST"))),
    )
)
_OTHERS = Condition("--src-type", "LOCAL", negated=True)


def is_ours(rule: Line, chain: str) -> bool:
    """Whether what a rule of a chain says of packets that no policy knows is what the agent says."""
    if rule.target == "DROP":
        return _asked(rule) in _DROPPED
    if rule.target in (names.CUT, names.CUT_OUT):
        return _is_of_cut(rule)
    if rule.target in ("ACCEPT", "RETURN"):
        return is_discovery(rule) or (chain == names.CUT_ASK and _is_of_cut(rule))
    return False


def _asked(rule: Line) -> frozenset[tuple[str, str, str]]:
    """Return what a rule asks for; nothing where it is written otherwise than the agent does."""
    if any(condition.negated for condition in rule.conditions):
        return frozenset()
    return frozenset((c.option, c.value, c.more) for c in rule.conditions)


def _is_of_cut(rule: Line) -> bool:
    """Whether a rule asks for a bit in a connection's mark, which only one that was cut has.

    It may leave alone what the node sends in its own name.
    """
    asked = [condition for condition in rule.conditions if condition != _OTHERS]
    if [c.option for c in asked] != ["--connmark"] or asked[0].negated:
        return False
    try:
        value, mask = mark_of(asked[0])
    except ValueError:
        return False
    return bool(value & mask)


def is_discovery(rule: Line) -> bool:
    """Whether a rule is about what IPv6 itself needs on a bridge, which is never judged.

    Router and neighbour discovery with the hop limit that no router passes on (RFC 4861), and multicast
    listener discovery, to a group alone (RFC 2710, RFC 3810).
    """
    asked = {(c.option, c.value) for c in rule.conditions if not c.negated}
    kinds = {value for option, value in asked if option == "--icmpv6-type"}
    if len(asked) != len(rule.conditions) or ("-p", "ipv6-icmp") not in asked or len(kinds) != 1:
        return False
    if kinds <= {"133", "134", "135", "136"}:
        if kinds == {"134"} and not any(option == "--physdev-in" for option, _ in asked):
            return False
        return ("--hl-eq", "255") in asked
    return kinds <= {"130", "131", "132", "143"} and {("--hl-eq", "1"), ("-d", "ff00::/8")} <= asked
