"""The rules that end connections which carry the agent's bit in their own mark, whoever's packet comes.

The connection stays in the kernel's table, so no packet of it is a new connection's, in neither direction and
whatever ``nf_conntrack_tcp_loose`` says. Both ends of a TCP connection are reset as they send something.
"""

from __future__ import annotations

from agent.dataplane.backend import CutMarks
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.rule import Chains, Guard, Rule, goto, jump


def forward(options: Options) -> tuple[Rule, ...]:
    """Return what FORWARD begins with: before any rule by which known connections leave."""
    marks = options.cut_marks
    return () if marks is None else (goto(names.CUT, _cut(marks)),)


def output(options: Options) -> tuple[Rule, ...]:
    """Return what OUTPUT begins with: for what the agent asks, and for packets of others, as IPVS sends.

    No end of a connection that is cut is the node itself, so what the node sends in its own name is left
    alone, whatever marks other programs have given it.
    """
    marks = options.cut_marks
    if marks is None:
        return ()
    others = "-m addrtype ! --src-type LOCAL"
    return goto(names.CUT_ASK, _asks(marks), others), goto(names.CUT_OUT, _cut(marks), others)


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
        # Of a connection that is gone by now, what the agent asks would be a new connection's first packet.
        names.CUT_ASK: (jump(options.leave, _cut(marks)), jump("DROP", about=Guard.CUT)),
        names.CUT_OUT: (
            # The resets of the first chain are sent by the node, in the name of the other end.
            jump(options.leave, "-m conntrack --ctstate RELATED"),
            goto(names.CUT),
        ),
    }


def _cut(marks: CutMarks) -> str:
    return f"-m connmark --mark {marks.connection:#x}/{marks.connection:#x}"


def _asks(marks: CutMarks) -> str:
    """Match the segments by which the agent asks the ends: nobody else can give a packet both bits."""
    return f"-m mark --mark {marks.packet:#x}/{marks.packet:#x}"
