"""The settings of what becomes of packets, once they have been judged."""

from __future__ import annotations

from agent.setting import Setting, boolean, choice
from agent.setting_values import AllowedPackets, DeniedPackets

PACKET_SETTINGS: tuple[Setting, ...] = (
    choice(
        "allowed_packets",
        AllowedPackets,
        AllowedPackets.RETURN,
        "What happens to an allowed packet. return: the node's own rules come next. accept: it is accepted "
        "at once.",
    ),
    choice(
        "denied_packets",
        DeniedPackets,
        DeniedPackets.DROP,
        "What happens to a denied packet. drop: no answer. reject: a TCP reset, or else ICMP "
        "administratively prohibited.",
    ),
    boolean(
        "cut_denied",
        False,
        "End established connections that a change forbids. With --no-cut-denied they go on until an end "
        "closes them.",
    ),
    boolean("allow_nodes", False, "Let every node reach every pod. A pod's own node always can."),
)
