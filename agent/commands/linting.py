"""The command that checks policies before they are applied.

What it needs is imported inside it, as in :mod:`agent.commands.cli`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from agent.commands.options import IN_LINT, answering, end, options_for, tell, value_of


@click.command(
    short_help="Find what is wrong with policies.",
    epilog="Example: netpol-agent lint examples",
)
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@options_for("kubeconfig", "context", told=IN_LINT)
@click.option("--pod-cidr", "pods", multiple=True, metavar="CIDR", help="A range of pod addresses.")
@click.option("--service-cidr", "services", multiple=True, metavar="CIDR", help="A range of ClusterIPs.")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning"]),
    default="warning",
    help="The mildest severity that gives exit code 1.  [default: warning]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "sarif", "github"]),
    default="text",
    help="How to print findings; github: as annotations of a workflow.  [default: text]",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--fix", "mend", is_flag=True, help="Rewrite API versions that are no longer served.")
def lint(
    paths: tuple[str, ...],
    pods: tuple[str, ...],
    services: tuple[str, ...],
    fail_on: str,
    form: str,
    as_json: bool,
    mend: bool,
    **flags: Any,
) -> None:
    """Find what is wrong with the policies in each PATH: a file, a directory, or - for standard input.

    What an API server would refuse is found, and what it takes but is likely not meant. Pods, workloads,
    namespaces and Services among the files let more be found. With --kubeconfig the objects of a cluster are
    looked at beside the files, or without files by themselves. Every rule is in docs/lint.md.

    A comment "# netpol-agent: ignore RULE reason" on the line, or the line above, silences a finding.

    Exit codes: 0 nothing was found, or nothing as bad as --fail-on says, 1 findings, 2 input that cannot be
    used, or wrong options.
    """
    from agent.commands import lint as checking
    from agent.lint.finding import Severity
    from agent.sources.apiserver.once import ReadError
    from agent.sources.manifests.once import read_texts

    from_server = flags["kubeconfig"] is not None or flags["context"] is not None
    if not paths and not from_server:
        raise click.UsageError("give a file, a directory, or - for standard input, or --kubeconfig FILE.")
    if mend and ("-" in paths or not paths):
        raise click.UsageError("--fix rewrites files: give files or directories.")
    try:
        ranges = [checking.range_of("--pod-cidr", text) for text in pods]
        service_ranges = [checking.range_of("--service-cidr", text) for text in services]
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    found = read_texts([Path(path) for path in paths])
    failed: list[str] = []
    if mend:
        found, changed, failed = checking.mend(found)
        for line in changed:
            click.echo(f"fixed: {line}", err=True)
    cluster = None
    if from_server:
        cluster = checking.Cluster(value_of("kubeconfig", flags) or None, value_of("context", flags) or None)
    try:
        outcome = checking.look_at(found, cluster, ranges, service_ranges)
    except ReadError as error:
        end(str(error))
    tell(outcome.notes, (*outcome.unusable, *failed))
    with answering():
        checking.show(outcome.report, "json" if as_json else form)
    sys.exit(2 if failed else checking.exit_code(outcome, Severity(fail_on)))
