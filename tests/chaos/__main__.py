"""``python -m tests.chaos``: every promise of docs/guarantees.md, tried with faults while packets flow.

Exit codes: 0 every promise held, 1 one was broken or could not be shown, 2 it cannot run here or is asked
for what is not there, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import click

from agent.observe.text import plain_console
from tests.chaos import table
from tests.chaos.catalogue import chosen, files_of, scenarios
from tests.chaos.run import Result, run_all, run_one
from tests.chaos.scenario import Length

WORKERS = 4
"""Also on two cores: most of the time a scenario waits, and its probe and agents use a third of one."""
_WIDTH = 120
"""Letters in a line of the table where nobody says how many there are."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only",
    multiple=True,
    metavar="WHAT",
    help="A section (3), a promise (3.2), or a part of a scenario's name.",
)
@click.option(
    "--length",
    type=click.Choice([length.value for length in Length]),
    default=Length.LONG.value,
    show_default=True,
    help="How much each scenario does; make test runs some in their short form.",
)
@click.option(
    "--workers", type=click.IntRange(1), default=WORKERS, show_default=True, help="How many run at once."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--list", "listing", is_flag=True, help="Print the scenarios and stop.")
@click.option("--one", hidden=True, help="Run this one here, and print what it has shown.")
def main(
    only: tuple[str, ...], length: str, workers: int, as_json: bool, listing: bool, one: str | None
) -> None:
    """Try every promise of docs/guarantees.md, with faults while packets flow."""
    found = chosen(scenarios(), only)
    if not found:
        wanted = " or ".join(repr(each) for each in only)
        raise click.UsageError(
            f"--only is {wanted}: no scenario has that section, promise or name; --list prints them. "
            + (
                f"Ordinary tests show it: .venv/bin/pytest {' '.join(files)}"
                if (files := sorted({file for each in only for file in files_of(each)}))
                else "What no packet can show is tested by make test alone."
            )
        )
    if listing:
        for scenario in found:
            click.echo(scenario.title)
        return
    if os.geteuid() != 0:
        raise click.UsageError("this makes network namespaces: run it as root")
    if one is not None:
        run_one(next(scenario for scenario in found if scenario.title == one), Length(length))
        return
    began = time.monotonic()
    results: list[Result] = []
    running: dict[str, float] = {}
    interrupted = False
    with _progress(results, len(found), running) as tell:
        try:
            for result in run_all(found, Length(length), workers, running):
                results.append(result)
                tell(result)
        except KeyboardInterrupt:
            interrupted = True
    if as_json:
        click.echo(json.dumps(table.plain(results), indent=2))
    else:
        console = plain_console(sys.stdout)
        if not console.is_terminal:
            console.width = _WIDTH
        table.show(results, console, time.monotonic() - began)
    if interrupted:
        click.echo(
            f"interrupted: {len(found) - len(results)} of {len(found)} scenarios are not shown", err=True
        )
        sys.exit(130)
    sys.exit(0 if all(result.held for result in results) else 1)


@contextlib.contextmanager
def _progress(
    results: list[Result], of: int, running: dict[str, float]
) -> Iterator[Callable[[Result], object]]:
    """Say once a second on a terminal what runs; elsewhere a line for each result that is given."""
    if not sys.stderr.isatty():
        yield lambda result: click.echo(f"{len(results)} of {of}: {table.line(result)}", err=True)
        return
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(1):
            now = time.monotonic()
            names = ", ".join(f"{title} ({now - began:.0f} s)" for title, began in dict(running).items())
            broken = sum(not result.held for result in list(results))
            line = f"{len(results)} of {of}{f', {broken} broken' if broken else ''} | {names}"
            width = os.get_terminal_size(sys.stderr.fileno()).columns
            sys.stderr.write(f"\r\033[K{line[: width - 1]}")
            sys.stderr.flush()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield lambda _: None
    finally:
        ended.set()
        thread.join()
        sys.stderr.write("\r\033[K")


if __name__ == "__main__":
    try:
        main(prog_name="python -m tests.chaos", standalone_mode=True)
    except KeyboardInterrupt:
        sys.exit(130)
