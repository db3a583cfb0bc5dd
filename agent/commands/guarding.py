"""The command that closes a node's pod networks from boot until an agent knows its pods."""

from __future__ import annotations

import sys
from typing import Any

import click

from agent.commands.options import Told, options_for, settings_from

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
@click.option("--status", is_flag=True, help="Say whether a guard stands, and change nothing.")
@click.option("--remove", is_flag=True, help="Remove the guard.")
@click.option("--json", "as_json", is_flag=True, help="With --status: print it as JSON.")
def guard(status: bool, remove: bool, as_json: bool, **flags: Any) -> None:
    """Close this node's pods from boot until the agent knows them. Run it before kubelet starts.

    A few rules by themselves drop what the pods' networks send and are sent, but from and to the node itself.
    The first sync of `run` removes them when its own rules stand, with --new-pods deny and with allow.
    Connections that are established go on. Where an agent's rules close new pods already, nothing is done.

    Exit codes: 0 the guard stands or is not needed (with --remove: it is gone; with --status: new pods are
    closed), 1 something failed (with --status: new pods are open), 2 wrong options, or nothing tells which
    networks the pods have.
    """
    if status and remove:
        raise click.UsageError("--status and --remove are given both: give one of the two.")
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
            click.echo(guarding.as_json(found) if as_json else guarding.text(found), nl=False)
            sys.exit(0 if found.closed else 1)
        faults = guarding.remove() if remove else guarding.put(settings)
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
    sys.exit(1 if any(fault.blocking for fault in faults) else 0)
