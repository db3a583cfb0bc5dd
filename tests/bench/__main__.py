"""``python -m tests.bench``: what compiling, rendering, applying and the way from policy to packet take."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator

import click
from rich.console import Console
from rich.table import Table

from agent.dataplane.mode import Mode
from agent.status.text import plain_console
from tests.bench import measure
from tests.bench.cluster import Size
from tests.bench.measure import Result


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--pods", default=2000, show_default=True, help="Pods of the cluster.")
@click.option("--local", default=110, show_default=True, help="Pods of this node among them.")
@click.option("--policies", default=200, show_default=True, help="Policies of the cluster.")
@click.option("--times", default=20, show_default=True, help="How often each is measured.")
@click.option(
    "--iptables-mode", "mode", type=click.Choice(["nft", "legacy"]), default="nft", show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(pods: int, local: int, policies: int, times: int, mode: Mode, as_json: bool) -> None:
    """Measure compiling, rendering, applying and the way from policy to packet.

    The first three on a made-up cluster, without an API server; the last with the whole agent on the pods of
    examples/. Times are milliseconds of wall clock, so a busy machine shows in them.
    """
    if os.geteuid() != 0:
        click.echo("This makes network namespaces, so it needs root: sudo make bench", err=True)
        sys.exit(2)
    if not 0 < local < pods or policies < 1 or times < 1:
        raise click.UsageError("give at least one of each, and more pods than local ones.")
    size = Size(pods, local, policies)
    results = list(_measured(size, times, mode, plain_console(sys.stderr)))
    if as_json:
        document = {"size": size._asdict(), "milliseconds": [result._asdict() for result in results]}
        click.echo(json.dumps(document, indent=2))
        return
    table = Table("milliseconds", title=f"{pods} pods, {local} of them here, {policies} policies", box=None)
    for heading in ("median", "slowest", "times"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(result.name, f"{result.median:.2f}", f"{result.slowest:.2f}", str(result.times))
    plain_console(sys.stdout).print(table)


def _measured(size: Size, times: int, mode: Mode, progress: Console) -> Iterator[Result]:
    parts = {
        "compiling": measure.compiling(size, times),
        "rendering": measure.rendering(size, times),
        "applying": measure.applying(size, times, mode),
        "packets": measure.packets(times, mode),
    }
    for name, part in parts.items():
        with progress.status(f"{name} ...") if progress.is_terminal else contextlib.nullcontext():
            yield from part


if __name__ == "__main__":
    main()
