"""``python -m tests.bench``: how quick the agent is, and what it uses, on generated clusters."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from agent import __version__
from agent.observe.text import plain_console
from tests.bench.plot import draw
from tests.bench.result import Result, Size
from tests.bench.run import SECTIONS, Run
from tests.bench.settings import Settings
from tests.bench.table import show
from tests.lab.node import Layout, Mode

SIZES = {
    size.name: size
    for size in (
        Size("small", 300, 30, 50),
        Size("middle", 10_000, 110, 1_000),
        Size("large", 100_000, 240, 5_000),
    )
}
_WIDTH_OF_A_FILE = 160


class Report(msgspec.Struct, frozen=True):
    """What is written as JSON."""

    version: str
    machine: str
    processors: int
    began: str
    seconds: float
    settings: Settings
    results: list[Result]
    failed: list[str]


def _sizes(_: click.Context, __: click.Parameter, texts: Sequence[str]) -> tuple[Size, ...]:
    return tuple(map(_size, texts)) or tuple(SIZES.values())


def _size(text: str) -> Size:
    parts = text.split("/")
    if text in SIZES:
        return SIZES[text]
    if len(parts) == 3 and all(part.isdecimal() for part in parts):
        pods, local, policies = map(int, parts)
        if 0 < local < pods and policies > 0:
            return Size(text, pods, local, policies)
    known = ", ".join(SIZES)
    raise click.BadParameter(f"{text!r} is none of {known}, nor PODS/LOCAL/POLICIES such as 1000/110/50")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--size",
    "sizes",
    metavar="SIZE",
    callback=_sizes,
    multiple=True,
    help="small, middle, large or PODS/LOCAL/POLICIES; may be repeated.  [default: the three]",
)
@click.option(
    "--section",
    "sections",
    type=click.Choice(SECTIONS),
    multiple=True,
    help="What to measure; may be repeated.  [default: all]",
)
@click.option(
    "--rounds", type=click.IntRange(1), help="How often each change is made.  [default: 50, with --quick 10]"
)
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    default="nft",
    show_default=True,
    help="Which iptables.",
)
@click.option(
    "--layout",
    type=click.Choice([layout.value for layout in Layout]),
    default="bridge",
    show_default=True,
    help="How pods are attached.",
)
@click.option(
    "--churn",
    type=click.IntRange(0),
    help="How many events stand for an hour of them; 0 for none.  [default: 180000, with --quick 0]",
)
@click.option("--quick", is_flag=True, help="Few rounds, short streams of events: a look, no figures.")
@click.option(
    "--json",
    "file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every row as JSON.",
)
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the section growth as SVG, such as docs/event-cost.svg.",
)
def main(
    sizes: tuple[Size, ...],
    sections: tuple[str, ...],
    rounds: int | None,
    mode: str,
    layout: str,
    churn: int | None,
    quick: bool,
    file: Path | None,
    plot: Path | None,
) -> None:
    """Measure the agent against a real kube-apiserver, on one node, with real packets.

    \b
    cold      from the process's start to the first packet denied, and to ready
    latency   from an API call to the first packet treated the new way: quiet,
              and under 50 and 500 remote pod events a second
    events    processor time per remote pod event, and when idle
    rate      the greatest sustained rate of remote pod events
    memory    resident memory, and after an hour's worth of events
    scrapes   what it costs to be scraped by Prometheus
    tenant    while one tenant applies its worst, another's revocations
    flooded   changes while a pod is flooded with denied packets
    stages    the rooms one by one, without an API server
    packets   what the rules cost packets between two pods of the node
    growth    the same node in clusters of 1,000 to 100,000 pods
    flood     what logging costs others while one pod is flooded

    The clusters are written straight into the API server's etcd, and so are the streams of events, so that
    making them leaves the machine to what is measured. What is timed is an API call. Figures mean something
    on a machine that does nothing else.
    """
    if os.geteuid() != 0:
        click.echo("This makes network namespaces, so it needs root: sudo make bench", err=True)
        sys.exit(2)
    if plot is not None and sections and "growth" not in sections:
        raise click.UsageError("--plot draws the section growth: add --section growth")
    settings = Settings(
        rounds=rounds or (10 if quick else 50),
        mode=Mode(mode),
        layout=Layout(layout),
        churn=churn if churn is not None else (0 if quick else 180_000),
        quick=quick,
    )
    began, begin = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
    run = Run(settings)
    try:
        run.measure(sizes, sections or SECTIONS)
    except KeyboardInterrupt:
        run.failed.append("interrupted: what would have followed is missing")
    report = Report(
        version=__version__,
        machine=f"Linux {platform.release()} {platform.machine()}",
        processors=os.cpu_count() or 0,
        began=began,
        seconds=round(time.monotonic() - begin, 1),
        settings=settings,
        results=run.results,
        failed=run.failed,
    )
    show(run.results, plain_console(sys.stdout, width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE))
    click.echo(f"{report.machine}, {report.processors} processors; {report.seconds:.0f} s in all")
    if file is not None:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    if plot is not None and "growth" in run.done:
        plot.write_text(draw(run.results))
    if run.failed:
        click.echo(f"failed: {'; '.join(run.failed)}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
