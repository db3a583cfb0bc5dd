"""Whether the kernel takes rules that log: tried with a chain that nothing leads to, and that is removed.

A rule that the kernel does not take would keep all others of its restore from being written, and its pod
would be closed. So it is tried first, when the first pod is to be logged.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import cache

from agent import log
from agent.dataplane.iptables.options import LogRules, Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.logging import log_rule
from agent.dataplane.iptables.variant import Mode, find_command
from agent.dataplane.logged import Decided, Judged
from agent.kube.logging import Amount
from agent.kube.model import Key
from agent.net import Direction, Family
from agent.policy.program import PodId

_log = log.get(__name__)

_SECONDS = 10.0
_WAIT = "5"
"""Seconds for which the command waits for the lock of legacy iptables."""


def log_probe(mode: Mode, rules: LogRules) -> Callable[[Family], bool]:
    """Return what says whether rules that log can be written in a family; each is tried once."""

    @cache
    def possible(family: Family) -> bool:
        why = _why_not(mode, family, rules)
        if why:
            _log.warning(
                "the kernel cannot log packets, so connections are not logged",
                family=int(family),
                why=why,
                remedy="load the modules nfnetlink_log, xt_NFLOG and xt_limit (or nft_log and nft_limit)",
            )
        return not why

    return possible


def _why_not(mode: Mode, family: Family, rules: LogRules) -> str:
    command = find_command(family, mode, "restore")
    if command is None:
        return "no command that restores rules"
    options = Options(log=rules)
    pod = PodId(Direction.INGRESS, Key("", ""))
    (rule,) = log_rule(Judged(Decided.DENIED, Direction.INGRESS), Amount.SAMPLED, options, about=pod)
    chain = names.LOG
    why = _restore(command, f":{chain} - [0:0]", f"-A {chain} {rule}")
    # In any case: in legacy mode the chain may be there without the rule.
    _restore(command, f":{chain} - [0:0]", f"-X {chain}")
    return why


def _restore(command: str, *lines: str) -> str:
    """Return what went wrong, or nothing."""
    text = "\n".join(["*filter", *lines, "COMMIT", ""])
    try:
        done = subprocess.run(
            [command, "--noflush", "--wait", _WAIT],
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return " ".join(done.stderr.split())[:200] or f"exit code {done.returncode}" if done.returncode else ""
