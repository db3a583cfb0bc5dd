"""What the agent's rules have counted, as iptables-save -c prints it.

It is read by a command of its own, on the thread that asks: the loop and its record of the rules have no part
in it. Who counts is told by the comments that the agent writes (:mod:`.rules.comments`).
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterable, Iterator

from agent.dataplane.iptables.rules import comments, names, parse
from agent.dataplane.iptables.variant import INSTALL, PROGRAMS, Mode, find_command
from agent.dataplane.trace import CountedRule
from agent.dataplane.traffic import Amount, RuleCount, Subject, Told
from agent.net import Direction, Family

READ_SECONDS = 15.0
"""How long the command may take."""

_LINE = re.compile(r"\[(\d+):(\d+)\] -A (\S+) (.*)")
_DENIES = f"-g {names.DENY}"
_UNUSED = "[0:0] "
_TELLING = (comments.DENIES, comments.WOULD_DENY)


def read(mode: Mode, families: Iterable[Family], *, policies: bool) -> Iterator[RuleCount]:
    """Read the counters of the agent's rules. Raises OSError where that fails.

    ``policies``: those of the single policies' rules, too.
    """
    for family in families:
        yield from counts(family, lines_of(mode, family), policies=policies)


def counts(family: Family, lines: Iterable[str], *, policies: bool) -> Iterator[RuleCount]:
    """Read the counters out of what ``iptables-save -c`` prints of a family.

    A pod's chain says at its end whose it is, so what it allowed is given then. Rules that have counted
    nothing are given where they tell that there is something to count.
    """
    chain, allowed = "", list[tuple[int, Amount]]()
    for line in lines:
        if not policies and line.startswith(_UNUSED) and not any(part in line for part in _TELLING):
            continue
        found = counted(line)
        if found is None or not names.is_ours(found.chain):
            continue
        amount, rule = Amount(found.packets, found.bytes), found.text
        if found.chain != chain:
            chain, allowed = found.chain, []
        which = hash((family, chain, rule))
        if rule.endswith(_DENIES):
            subject = _denied(chain, rule)
            if subject is not None:
                yield RuleCount(which, subject, amount)
            if subject is not None and subject.told is Told.DENIED:
                mine = subject._replace(told=Told.ALLOWED)
                yield from (RuleCount(one, mine, passed) for one, passed in allowed)
        elif chain.startswith(names.POD_PREFIX):
            if rule.endswith("-j RETURN") or parse.allows(rule):
                allowed.append((which, amount))
        elif chain.startswith(names.AUDIT_POD_PREFIX):
            if (audited := comments.read_would_deny(rule)) is not None:
                told = Subject(Told.WOULD_DENY, audited.direction, audited.namespace)
                yield RuleCount(which, told, amount)
        elif policies and chain.startswith((names.POLICY_PREFIX, names.RULE_PREFIX)) and parse.allows(rule):
            about = comments.read_of_rule(rule)
            if about is not None:
                subject = Subject(Told.BY_POLICY, about.direction, about.namespace, about.name)
                yield RuleCount(which, subject, amount)


def counted(line: str) -> CountedRule | None:
    """Return the rule of a line that ``iptables-save -c`` prints; None where it is of something else."""
    found = _LINE.match(line)
    return None if found is None else CountedRule(found[3], found[4], int(found[1]), int(found[2]))


def _denied(chain: str, rule: str) -> Subject | None:
    if (denied := comments.read_denies(rule)) is not None:
        return Subject(Told.DENIED, denied.direction, denied.namespace)
    if (namespace := comments.read_wrong_link(rule)) is not None:
        return Subject(Told.WRONG_LINK, "", namespace)
    for direction in Direction:
        if chain == names.unknown(direction):
            return Subject(Told.UNKNOWN, direction.value, "")
        # Isolated, and no pod here has the address; or closed, since rules could not be written.
        if chain == names.judge(direction):
            return Subject(Told.DENIED, direction.value, "")
    return None


def lines_of(mode: Mode, family: Family) -> Iterator[str]:
    """Give the lines of the filter table, one at a time: of a large table, all would take much memory."""
    command = find_command(family, mode, "save")
    if command is None:
        raise OSError(f"{PROGRAMS[family]}-{mode}-save is not installed: {INSTALL}")
    with subprocess.Popen(
        [command, "-c", "-t", "filter"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        errors="surrogateescape",
    ) as process:
        watch = threading.Timer(READ_SECONDS, process.kill)
        watch.daemon = True
        watch.start()
        try:
            if process.stdout is not None:
                # Not by splitlines(), which also splits at characters that a comment may hold.
                yield from (line.rstrip("\n") for line in process.stdout)
            code = process.wait()
        finally:
            watch.cancel()
            process.kill()
    if code:
        raise OSError(f"{command} failed with code {code}")
