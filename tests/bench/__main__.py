"""``python -m tests.bench``: how quick the agent is, and what it uses, on generated clusters."""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import msgspec

from agent import __version__
from agent.status.text import plain_console
from tests.bench.arena import Arena
from tests.bench.cold import cold
from tests.bench.latency import latency
from tests.bench.result import Result, Size
from tests.bench.settings import Settings
from tests.bench.stages import stages
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
ON_A_CLUSTER: dict[str, Callable[[Arena], Iterator[Result]]] = {
    "cold": cold,
    "latency": latency,
}
"""Sections measured at each size, on one API server and node."""
ON_A_SIZE: dict[str, Callable[[Size, Settings], Iterator[Result]]] = {"stages": stages}
"""Sections measured at each size, without an API server."""
ON_THEIR_OWN: dict[str, Callable[[Settings], Iterator[Result]]] = {}
"""Sections that make what they need, and are measured once."""


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
    callback=_sizes,
    multiple=True,
    help="small, middle, large or PODS/LOCAL/POLICIES; may be repeated.  [default: the three]",
)
@click.option(
    "--section",
    "sections",
    type=click.Choice([*ON_A_CLUSTER, *ON_A_SIZE, *ON_THEIR_OWN]),
    multiple=True,
    help="What to measure; may be repeated.  [default: all]",
)
@click.option(
    "--rounds", type=click.IntRange(1), help="How often each change is made.  [default: 50, with --quick 10]"
)
@click.option("--mode", type=click.Choice([mode.value for mode in Mode]), default="nft", show_default=True)
@click.option(
    "--layout", type=click.Choice([layout.value for layout in Layout]), default="bridge", show_default=True
)
@click.option(
    "--churn", type=click.IntRange(0), help="Events that stand for an hour of them.  [default: 180000]"
)
@click.option(
    "--quick", is_flag=True, help="Ten rounds, short streams of events, no churn: a look, no figures."
)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here.")
def main(
    sizes: tuple[Size, ...],
    sections: tuple[str, ...],
    rounds: int | None,
    mode: str,
    layout: str,
    churn: int | None,
    quick: bool,
    file: Path | None,
) -> None:
    """Measure the agent against a real kube-apiserver, on one node, with real packets."""
    if os.geteuid() != 0:
        click.echo("This makes network namespaces, so it needs root: sudo make bench", err=True)
        sys.exit(2)
    settings = Settings(
        rounds=rounds or (10 if quick else 50),
        mode=Mode(mode),
        layout=Layout(layout),
        churn=churn if churn is not None else (0 if quick else 180_000),
        quick=quick,
    )
    began, begin = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
    results: list[Result] = []
    failed: list[str] = []
    for size in sizes:
        if chosen := [name for name in ON_A_CLUSTER if not sections or name in sections]:
            _on_cluster(size, chosen, settings, results, failed)
        for name, stage in ON_A_SIZE.items():
            if not sections or name in sections:
                _run(f"{name} at {size.name}", lambda s=stage, z=size: s(z, settings), results, failed)  # type: ignore[misc]
    for name, section in ON_THEIR_OWN.items():
        if not sections or name in sections:
            _run(name, lambda s=section: s(settings), results, failed)  # type: ignore[misc]
    report = Report(
        version=__version__,
        machine=f"Linux {platform.release()} {platform.machine()}",
        processors=os.cpu_count() or 0,
        began=began,
        seconds=round(time.monotonic() - begin, 1),
        settings=settings,
        results=results,
        failed=failed,
    )
    show(results, plain_console(sys.stdout, width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE))
    click.echo(f"{report.machine}, {report.processors} processors; {report.seconds:.0f} s in all")
    if file is not None:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    if failed:
        click.echo(f"failed: {', '.join(failed)}", err=True)
        sys.exit(1)


def _on_cluster(
    size: Size, sections: list[str], settings: Settings, results: list[Result], failed: list[str]
) -> None:
    try:
        with Arena(size, settings, lambda text: _say(f"{size.name}: {text}")) as arena:
            for name in sections:
                section = ON_A_CLUSTER[name]
                _run(f"{name} at {size.name}", lambda s=section: s(arena), results, failed)  # type: ignore[misc]
    except Exception:
        traceback.print_exc()
        failed.append(f"{', '.join(sections)} at {size.name}")


def _run(
    name: str, section: Callable[[], Iterator[Result]], results: list[Result], failed: list[str]
) -> None:
    """Take a section's results; what it fails with is shown, and ends no other."""
    _say(f"measuring {name}")
    try:
        results.extend(section())
    except Exception:
        traceback.print_exc()
        failed.append(name)


def _say(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)


if __name__ == "__main__":
    main()
