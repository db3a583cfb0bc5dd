"""The rules that end connections which carry the agent's bit in their own mark, whoever's packet comes.

The connection stays in the kernel's table, so no packet of it is a new connection's, in neither direction and
whatever ``nf_conntrack_tcp_loose`` says. Both ends of a TCP connection are reset as they send something.
"""

from __future__ import annotations

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.rule import Chains, Guard, Rule, goto, jump


def forward(options: Options) -> tuple[Rule, ...]:
    """Return what FORWARD begins with: before any rule by which known connections leave."""
    return _rule(names.CUT, options)


def output(options: Options) -> tuple[Rule, ...]:
    """Return what OUTPUT begins with, for packets of others that this node sends, as IPVS does."""
    return _rule(names.CUT_OUT, options)


def chains(options: Options) -> Chains:
    """Return the chains that these lead to."""
    marks = options.cut_marks
    if marks is None:
        return {}
    return {
        names.CUT: (
            jump("REJECT", "-p tcp", options="--reject-with tcp-reset", about=Guard.CUT),
            jump("DROP", about=Guard.CUT),
        ),
        names.CUT_OUT: (
            # The segments by which the agent asks the ends: nobody else can give a packet both bits.
            jump(options.leave, f"-m mark --mark {marks.packet:#x}/{marks.packet:#x}"),
            # The resets of the chain above are sent by the node, in the name of the other end.
            jump(options.leave, "-m conntrack --ctstate RELATED"),
            goto(names.CUT),
        ),
    }


def _rule(chain: str, options: Options) -> tuple[Rule, ...]:
    marks = options.cut_marks
    if marks is None:
        return ()
    return (goto(chain, f"-m connmark --mark {marks.connection:#x}/{marks.connection:#x}"),)
