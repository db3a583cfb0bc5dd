"""The commands that ask: what is enforced between two pods, and what a report needs.

What a command needs is imported inside it, as in :mod:`agent.commands.cli`.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from agent.commands.options import (
    IN_EXPLAIN,
    IN_STATUS,
    MORE,
    PLACES_IF_ANY,
    URL,
    Flags,
    answering,
    end,
    options_for,
    places_if_given,
    tell,
    value_of,
)


@click.command(
    short_help="Say whether a connection is allowed.",
    epilog="Example: netpol-agent explain shop/web shop/api 8080",
)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.argument("service", metavar="PORT[/PROTO]")
@PLACES_IF_ANY
@MORE
@options_for(
    "policy_budget",
    "namespace_budget",
    "kubeconfig",
    "context",
    "health_address",
    "health_port",
    told=IN_EXPLAIN,
)
@URL
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, with every rule.")
def explain(
    source: str,
    destination: str,
    service: str,
    more: tuple[str, ...],
    places: tuple[str, ...],
    url: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Say whether SRC may open a connection to DST, and which policies and rules decide it.

    SRC and DST: namespace/pod, a pod of the namespace default, or an address. PORT: a number, or a name that
    DST gives it; PROTO: tcp (the default), udp or sctp.

    The agent on this node is asked. It knows what its kernel holds, too. A Service (svc/NAME,
    NAMESPACE/svc/NAME, its address or its DNS name) or a workload (deployment/NAME) means its pods.

    With --kubeconfig the objects come from the API server, with --manifests from files or standard input.
    Then name the pod behind a Service, not the Service.

    Exit codes: 0 allowed, 1 denied (of several pairs: any of them), 2 no answer (no such pod, no agent, a
    question or manifests that cannot be used).
    """
    from agent.commands import explain as explaining
    from agent.observe.explain.answer import as_json as json_of
    from agent.policy.budget.limits import Budgets
    from agent.spec.question import QuestionError, question_of

    try:
        question = question_of(source, destination, service)
    except QuestionError as error:
        raise click.UsageError(str(error)) from None
    from_server = flags["kubeconfig"] is not None or flags["context"] is not None
    if bool(places) + from_server + (url is not None) > 1:
        raise click.UsageError("give one of --manifests, --kubeconfig and --url: each is another to ask.")
    chosen = [] if from_server or url is not None else places_if_given(places, more)
    if not chosen and not from_server:
        _explain_live(source, destination, service, url, flags, as_json=as_json)
    budgets = Budgets(value_of("policy_budget", flags), value_of("namespace_budget", flags))
    if chosen:
        known_from, explanation = "the manifests say", explaining.explain(chosen, question, budgets)
    else:
        from agent.sources.apiserver.once import ReadError

        known_from = "the API server's objects say"
        config = value_of("kubeconfig", flags) or None, value_of("context", flags) or None
        try:
            explanation = explaining.explain_cluster(*config, question, budgets)
        except ReadError as error:
            end(str(error))
    tell(explanation.notes, explanation.refused)
    with answering():
        if as_json:
            click.echo(json_of(explanation), nl=False)
        else:
            explaining.show(explanation, known_from)
    sys.exit(explanation.outcome.exit_code)


def _explain_live(
    source: str, destination: str, service: str, url: str | None, flags: Flags, *, as_json: bool
) -> NoReturn:
    """Ask the agent, print its answer and end the command."""
    from agent.observe import client
    from agent.observe.explain.live import Asked

    where = url or client.url_of(value_of("health_address", flags), value_of("health_port", flags))
    try:
        body, answer = client.ask(where, Asked(source, destination, service))
    except client.UnreachableError as error:
        instead = " To do without: --kubeconfig FILE, or --manifests PATH." if url is None else ""
        end(f"{str(error).rstrip('.')}.{instead}")
    with answering():
        if as_json:
            click.echo(body, nl=False)
        else:
            client.show_answer(answer)
    sys.exit(answer.outcome.exit_code)


@click.command(
    short_help="Write an archive for a bug report.",
    epilog="Example: netpol-agent report --output report.tar.gz",
)
@options_for("health_address", "health_port", told=IN_STATUS)
@URL
@click.option(
    "--output",
    metavar="FILE",
    help="The file to write, which must not be there yet, or - for standard output.  "
    "[default: netpol-agent-report-HOST-TIME.tar.gz]",
)
def report(url: str | None, output: str | None, **flags: Any) -> None:
    """Write one archive (tar.gz) of what a bug report or a hand-over needs.

    It has what the agent says of itself (status, health, settings, history, denied connections, metrics), the
    rules and sets that the kernel should hold and those that it holds, facts of the host, versions, and the
    log where systemd keeps it. It has no secrets; it names pods, policies and addresses. Run it as root on
    the node.

    Exit codes: 0 written, 1 written, but something could not be read (it is named), 2 wrong options, or it
    cannot be written.
    """
    import time

    from agent.commands import report as reporting
    from agent.observe import client

    where = url or client.url_of(value_of("health_address", flags), value_of("health_port", flags))
    now = time.time()
    made = reporting.report(where, now, time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)))
    output = output or f"{made.folder}.tar.gz"
    try:
        reporting.write(made.content, output)
    except OSError as error:
        end(f"{output} cannot be written: {error.strerror}; name another by --output")
    for line in made.missing:
        click.echo(f"missing: {line}", err=True)
    if output != "-":
        click.echo(f"written: {output}", err=True)
    sys.exit(1 if made.missing else 0)
