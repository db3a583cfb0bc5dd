"""Rules that log a packet of a pod before it is denied or allowed, as iptables-save prints them.

The kernel counts for the limit, for each rule by itself: a flood of one pod's leaves the others theirs.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules.rule import About, Guard, Rule, jump
from agent.dataplane.logged import Cause, Decided, Judged
from agent.kube.logging import Amount, Logging
from agent.net import Direction, Family
from agent.policy.program import PodId

_SCALE = 10_000
"""XT_LIMIT_SCALE: so many parts of a second the kernel counts in."""

_ALL = 1_000
"""Packets a second, and at once, where all are to be logged. A tenant's annotation may ask for that: a flood
of one pod must not take the room in which others' packets wait for their reader."""

_USUAL_BURST = 5
"""The burst that iptables does not print."""


def nearest_rate(rate: int) -> int:
    """Return the rate that the kernel makes of a rate, packets a second: that is what is printed."""
    return _SCALE // (_SCALE // rate)


def log_rule(
    judged: Judged, amount: Amount | None, options: Options, *matches: str, about: About
) -> list[Rule]:
    """Return the rule that logs a packet, or none where none is to be logged."""
    if options.log is None or amount in (None, Amount.OFF):
        return []
    rate, burst = (options.log.rate, options.log.burst) if amount is Amount.SAMPLED else (_ALL, _ALL)
    limit = f"-m limit --limit {nearest_rate(rate)}/sec"
    limit += f" --limit-burst {burst}" if burst != _USUAL_BURST else ""
    target = f"--nflog-prefix {judged.prefix} --nflog-group {options.log.group}"
    return [jump("NFLOG", *matches, limit, options=target, about=about)]


def logging_allowed(
    rules: Iterable[Rule], pod: PodId, logging: Logging, family: Family, options: Options
) -> list[Rule]:
    """Return the rules by which a pod's chain asks its policies, those between that log what one allowed."""
    found = list(rules)
    if not can_log(logging, family, options):
        return found
    bit = f"{options.mark(pod.direction):#x}"
    log = log_rule(
        Judged(Decided.ALLOWED, pod.direction),
        logging.allowed,
        options,
        f"-m mark --mark {bit}/{bit}",
        about=pod,
    )
    return [one for rule in found for one in ((*log, rule) if rule.target == "RETURN" else (rule,))]


def logging_denied(pod: PodId, logging: Logging, family: Family, options: Options) -> list[Rule]:
    """Return the rule that logs what no policy of a pod has allowed, if it is to be logged."""
    if not can_log(logging, family, options):
        return []
    return log_rule(Judged(Decided.DENIED, pod.direction), logging.denied, options, about=pod)


def logging_would_deny(pod: PodId, logging: Logging, family: Family, options: Options) -> list[Rule]:
    """Return the rule that logs what no audited policy of a pod would allow.

    It is logged where denied packets are not, too: a policy is audited to be told of them. Whoever asks for
    all denied packets gets all of these.
    """
    if options.log is None or not options.log.possible(family):
        return []
    amount = Amount.ALL if logging.denied is Amount.ALL else Amount.SAMPLED
    return log_rule(Judged(Decided.WOULD_DENY, pod.direction), amount, options, about=pod)


def logging_strange(
    judged: Judged, match: str, logging: Logging, family: Family, options: Options
) -> list[Rule]:
    """Return the rule that logs what is denied by a pod's link, if the pod's denied packets are logged."""
    if not can_log(logging, family, options):
        return []
    return log_rule(judged, logging.denied, options, match, about=Guard.LINKS)


def logging_nobodys(direction: Direction, match: str, family: Family, options: Options) -> list[Rule]:
    """Return the rule that logs what is denied of isolated addresses that no pod has any more."""
    if options.log is None or not can_log(Logging(options.log.default), family, options):
        return []
    judged = Judged(Decided.DENIED, direction)
    return log_rule(judged, options.log.default, options, match, about=Guard.NO_POD)


def logging_unknown(direction: Direction, family: Family, options: Options) -> list[Rule]:
    """Return the rule that logs what is denied of addresses that no pod is known to have."""
    if options.log is None or not can_log(Logging(options.log.default), family, options):
        return []
    judged = Judged(Decided.DENIED, direction, Cause.UNKNOWN)
    return log_rule(judged, options.log.default, options, about=Guard.UNKNOWN)


def can_log(logging: Logging, family: Family, options: Options) -> bool:
    """Whether there is something to log, and the kernel can: that is asked only then."""
    return logging.logs() and options.log is not None and options.log.possible(family)
