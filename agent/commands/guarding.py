"""The command that closes a node's pod networks from boot until an agent knows its pods."""

from __future__ import annotations

import sys
from typing import Any

import click

from agent.commands.options import Told, answering, options_for, settings_from

_IN_GUARD = {
    "pod_networks": Told(
        "The networks of this node's pods, commas between them.",
        "what the agent closed last, else the host-local subnets in /etc/cni/net.d",
    ),
    "state_dir": Told("Where the agent has kept the networks that it closed last."),
}


@click.command(
    short_help="Close this node's pods from boot until the agent knows them.",
    epilog="Example: netpol-agent guard --pod-networks 10.244.1.0/24,fd00:10:244:1::/64",
)
@options_for(
    "iptables_mode",
    "pod_networks",
    "state_dir",
    "fix_host",
    "log_format",
    "log_level",
    told=_IN_GUARD,
)
@click.option("--hold", is_flag=True, help="Stay, so that no other program can remove the guard.")
@click.option("--status", is_flag=True, help="Say whether a guard stands, and change nothing.")
@click.option("--remove", is_flag=True, help="Remove the guard.")
@click.option("--json", "as_json", is_flag=True, help="With --status: print it as JSON.")
def guard(hold: bool, status: bool, remove: bool, as_json: bool, **flags: Any) -> None:
    """Close this node's pods from boot until the agent knows them. Run it before kubelet starts.

    A few rules by themselves drop what the pods' networks send and are sent, but from and to the node itself.
    The first sync of `run` removes them when its own rules stand, with --new-pods deny and with allow.
    Connections that are established go on. Where an agent's rules close new pods already, nothing is done.

    With --hold the command stays until that sync, and the guard's tables of nftables belong to it (Linux
    6.9): no other program can change or remove them. It tells systemd when it is ready. When it is stopped or
    killed, the guard stays.

    Exit codes: 0 the guard stands or is not needed (with --remove: it is gone; with --status: new pods are
    closed), 1 something failed (with --status: new pods are open), 2 wrong options, or nothing tells which
    networks the pods have.
    """
    told = {"--hold": hold, "--status": status, "--remove": remove}
    if len(given := [name for name, is_given in told.items() if is_given]) > 1:
        raise click.UsageError(f"{' and '.join(given)} are given together: give one of them.")
    if as_json and not status:
        raise click.UsageError("--json is for --status.")
    settings = settings_from(flags)
    from agent import log
    from agent.kernel import capability
    from agent.runtime import backends
    from agent.runtime import guard as guarding

    log.configure(settings.log_format, settings.log_level)
    logger = log.get(__name__)
    if missing := capability.missing():
        logger.error(
            "needs root in the node's network namespace",
            missing=" and ".join(missing),
            remedy="run as root; in a container, add these capabilities",
        )
        sys.exit(1)
    try:
        if status:
            found = guarding.status()
            with answering():
                click.echo(guarding.as_json(found) if as_json else guarding.text(found), nl=False)
            sys.exit(0 if found.closed else 1)
        faults, holder = (guarding.remove(), None) if remove else guarding.put(settings, hold=hold)
    except guarding.NoNetworksError as error:
        raise click.UsageError(f"{error}.") from None
    except (backends.TableError, backends.UndecidedError) as error:
        logger.error("the guard cannot be looked at or put", detail=str(error))
        sys.exit(1)
    for fault in faults:
        tell = logger.error if fault.blocking else logger.warning
        tell("guard", what=fault.what, remedy=fault.remedy)
    if remove and not faults:
        logger.info("removed", detail="nothing of a guard is left in the kernel")
    if any(fault.blocking for fault in faults):
        sys.exit(1)
    if hold:
        try:
            guarding.hold(holder, settings)
        except OSError as error:
            logger.error("the guard stands, and is not held", detail=str(error))
            sys.exit(1)
