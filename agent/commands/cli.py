"""The command line: one short function per command.

What a command needs is imported inside it, so that ``--help`` is quick.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from agent import __version__
from agent.commands import asking, changing, guarding, linting, looking, reaching
from agent.commands.options import (
    IN_RENDER,
    LOG_SETTINGS,
    MIGRATE_SETTINGS,
    MORE,
    PLACES,
    RENDER_SETTINGS,
    Flags,
    answering,
    options_for,
    places_of,
    settings_from,
    tell,
    texts_of,
    value_of,
)
from agent.commands.switches import Commands
from agent.commands.variables import unknown_variables
from agent.settings import Settings, given, setting_of, warnings

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _settings_to_enforce(flags: Flags) -> Settings:
    """Return the settings of a command that enforces, and set up logging; say what is odd about them."""
    settings = settings_from(flags)
    if settings.manifests is None:
        from agent.sources.apiserver.kubeconfig import ConfigurationError, check_at_start

        try:
            check_at_start(settings.kubeconfig, settings.context, os.environ)
        except ConfigurationError as error:
            raise click.UsageError(f"no usable API server configuration: {error}.") from None
    from agent import log

    log.configure(settings.log_format, settings.log_level)
    _end_without_privilege()
    for line in unknown_variables(os.environ):
        log.get(__name__).warning("unknown environment variable", detail=line)
    for warning in warnings(settings):
        log.get(__name__).warning("setting may do harm", detail=warning)
    return settings


def _end_without_privilege() -> None:
    from agent import log
    from agent.kernel import capability

    if missing := capability.missing():
        log.get(__name__).error(
            "needs root in the node's network namespace",
            missing=" and ".join(missing),
            remedy="run as root; in a container, add these capabilities",
        )
        sys.exit(1)


@click.group(cls=Commands, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="netpol-agent", message="%(prog)s %(version)s")
def main() -> None:
    """Enforce Kubernetes NetworkPolicy on this node, with iptables and ipset.

    An option can also be set by an environment variable, if its help names one.
    """


@main.command(
    short_help="Enforce policies until stopped.",
    epilog="Example: netpol-agent run --manifests /etc/netpol-agent --node-name worker-1",
)
@options_for()
def run(**flags: Any) -> None:
    """Enforce policies until stopped.

    When the agent ends, its rules stay in the kernel, in force. `cleanup` removes them.

    Exit codes: 0 stopped by a signal, 1 cannot go on, 2 wrong options, or a kubeconfig that cannot be
    used.
    """
    settings = _settings_to_enforce(flags)
    from agent.runtime import start

    sys.exit(start.run(settings))


@main.command(
    short_help="Take a node over from kube-router's firewall.",
    epilog="Example: netpol-agent migrate --node-name worker-1 --dry-run",
)
@options_for(*MIGRATE_SETTINGS)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=300,
    metavar="SECONDS",
    help="How long to wait until this agent's rules are complete.  [default: 300]",
)
@click.option("--dry-run", is_flag=True, help="Only show what kube-router left, and what is in the way.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found and what is left as JSON.")
def migrate(timeout: float, dry_run: bool, as_json: bool, **flags: Any) -> None:
    """Take a node over from kube-router's firewall. Stop that firewall on the node first.

    The rules that it left stay in force while this agent's rules are written in front of them. When this
    agent's rules are complete, kube-router's are removed. Its other parts are not touched. Run this before
    the agent, which then takes over. If nothing of the firewall is left, nothing is done.

    Exit codes: 0 nothing of the firewall is left (with --dry-run: nothing is in the way), 1 something is
    left or in the way (it is named), 2 wrong options, or a kubeconfig that cannot be used.
    """
    settings = settings_from(flags) if dry_run else _settings_to_enforce(flags)
    from agent import log
    from agent.commands import migrate as migrating

    log.configure(settings.log_format, settings.log_level)
    _end_without_privilege()
    outcome = migrating.migrate(settings, timeout, dry_run=dry_run)
    with answering(2 if dry_run else 1):
        if as_json:
            click.echo(migrating.as_json(outcome), nl=False)
        elif dry_run:
            click.echo(migrating.text(outcome), nl=False)
    if not dry_run:
        for fault in outcome.faults:
            log.get(__name__).error("not migrated", what=fault.what, remedy=fault.remedy)
    sys.exit(migrating.exit_code(outcome))


@main.command(
    short_help="Print the rules and sets of a node.",
    epilog="Example: netpol-agent render --manifests examples --node-name demo",
)
@PLACES
@MORE
@options_for(*RENDER_SETTINGS, told=IN_RENDER)
@click.option("--json", "as_json", is_flag=True, help="Print the program and the texts as JSON.")
def render(places: tuple[str, ...], more: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Print the rules and sets that a node would get from manifests. Nothing is changed.

    The same manifests always give the same text. Without --node-name, all pods must be on one node.
    Objects taken from a cluster (kubectl get -o yaml) are read as leniently as the cluster reads them.

    Exit codes: 0 printed, 1 something in the manifests was refused (it is named on standard error, and the
    rest is printed), or there is no such node, 2 wrong options, or --node-name is needed.
    """
    from agent.commands import render as rendering
    from agent.sources.manifests.once import read_once

    manifests = read_once(places_of(places, more))
    tell(manifests.notes, manifests.refused)
    if not given("node_name", texts_of(flags), os.environ):
        try:
            flags["node_name"] = rendering.only_node(manifests)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    variables = setting_of("manifests").environment
    settings = settings_from(flags, {k: v for k, v in os.environ.items() if k not in variables})
    if wrong := rendering.unknown_node(manifests, settings.node_name):
        click.echo(f"Error: {wrong}", err=True)
        sys.exit(1)
    rendered = rendering.render(manifests, settings)
    for key, excess in sorted(rendered.over_budget.items()):
        click.echo(f"over budget: {key} isolates its pods and allows nothing: {excess}", err=True)
    with answering():
        click.echo(rendering.as_json(rendered) if as_json else rendered.text, nl=False)
    sys.exit(1 if manifests.refused else 0)


@main.command(
    short_help="Remove what the agent has put in the kernel.",
    epilog="Example: netpol-agent cleanup --log-format console",
)
@options_for(*LOG_SETTINGS)
@click.option("--json", "as_json", is_flag=True, help="Print what is left as JSON.")
def cleanup(as_json: bool, **flags: Any) -> None:
    """Remove everything that the agent has put in this node's kernel.

    Stop the agent first: while it runs, this is refused, since it would put everything back.

    Exit codes: 0 nothing of it is left, 1 something is left (it is named), 2 wrong options.
    """
    log_format, log_level = value_of("log_format", flags), value_of("log_level", flags)
    from agent import log
    from agent.runtime import start

    log.configure(log_format, log_level)
    _end_without_privilege()
    left = start.cleanup()
    if as_json:
        faults = [{"what": fault.what, "remedy": fault.remedy} for fault in left]
        with answering(1):
            click.echo(json.dumps({"left": faults}, indent=2))
    for fault in left:
        log.get(__name__).error("not removed", what=fault.what, remedy=fault.remedy)
    if not left:
        log.get(__name__).info("removed", detail="nothing of the agent's is left in the kernel")
    sys.exit(start.CANNOT_GO_ON if left else start.STOPPED)


@main.command(
    name="confirm-cluster",
    short_help="Confirm another cluster as the right one.",
    epilog="Example: netpol-agent confirm-cluster",
)
@click.argument("uid", metavar="[UID]", required=False)
def confirm_cluster(uid: str | None) -> None:
    """Confirm that another cluster at the API server's address is the right one.

    An agent that finds another cluster than before at the API server's address reports that and changes
    nothing. This confirms the cluster that it has found, or the cluster with UID, the uid of its namespace
    kube-system. Within seconds the agent enforces what that cluster says. It needs root, since it writes to
    /run/netpol-agent.

    Exit codes: 0 confirmed, 1 no other cluster was found, or it cannot be written, 2 wrong options.
    """
    from agent.kernel.node_lock import LOCK
    from agent.sources.apiserver import identity

    try:
        confirmed = identity.confirm(identity.Records(LOCK.parent), uid)
    except identity.NotConfirmedError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    click.echo(f"confirmed: the cluster whose namespace kube-system has the uid {confirmed}")


main.add_command(guarding.guard)
main.add_command(asking.explain)
main.add_command(asking.report)
main.add_command(looking.status)
main.add_command(looking.verify)
main.add_command(looking.history)
main.add_command(looking.watch)
main.add_command(looking.confirm)
main.add_command(changing.convert)
main.add_command(reaching.matrix)
main.add_command(reaching.list_)
main.add_command(reaching.diff)
main.add_command(changing.replay)
main.add_command(linting.lint)
