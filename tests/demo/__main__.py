"""``python -m tests.demo``: the policies of ``examples/``, one after another, on real packets.

Exit codes: 0 every verdict was as its example says, 1 one was not, 2 it could not be shown here,
130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from agent.observe.text import plain_console
from tests.demo import show
from tests.demo.examples import Example, ExampleError, Examples, read
from tests.demo.show import Seen
from tests.demo.stage import Agent, Stage, StageError, agent
from tests.lab.lab import Lab
from tests.lab.netns import CommandError
from tests.lab.node import Layout, Mode
from tests.lab.place import LabError

EXAMPLES = Path(__file__).parents[2] / "examples"
_IN_FORCE_SECONDS = 10.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--examples",
    "directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=EXAMPLES,
    help="Another directory of examples, laid out as examples/ is.",
)
@click.option(
    "--layout",
    type=click.Choice([layout.value for layout in Layout]),
    default=Layout.BRIDGE.value,
    show_default=True,
    help="How pods are attached to the node.",
)
@click.option(
    "--iptables-mode",
    "mode",
    type=click.Choice([mode.value for mode in Mode]),
    default=Mode.NFT.value,
    show_default=True,
    help="Which iptables to program.",
)
def main(directory: Path, layout: str, mode: str) -> None:
    """Show real packets allowed and denied by the policies of examples/, one after another."""
    console = plain_console(sys.stdout)
    if os.geteuid() != 0:
        console.print("The demo makes network namespaces, so it needs root: sudo make demo")
        sys.exit(2)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        examples = read(directory)
        failures = _play(console, examples, Layout(layout), Mode(mode))
    except KeyboardInterrupt:
        console.print("interrupted; nothing is left behind")
        sys.exit(130)
    except (ExampleError, StageError, LabError, CommandError, OSError) as error:
        console.print(f"The demo cannot go on: {error}", markup=False, soft_wrap=True)
        sys.exit(2)
    sys.exit(1 if failures else 0)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _play(console: Console, examples: Examples, layout: Layout, mode: Mode) -> int:
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        with _busy(console, f"making a node with {len(examples.pods)} pods"):
            lab = stack.enter_context(Lab())
            stage = Stage(lab, examples, layout, mode)
        with _busy(console, "starting the agent"):
            running = stack.enter_context(agent(stage, lab.directory, examples.cluster, mode.value))
            running.wait_until_ready()
        show.legend(console)
        failures = _steps(console, examples, stage, running)
    looks = len(show.expected(examples, examples.reach)) * (len(examples.steps) + 2)
    seconds = time.monotonic() - begin
    if failures:
        console.print(
            f"\n[bold red]{failures} of {looks} verdicts were not as the examples say[/] ({seconds:.0f} s)"
        )
    else:
        console.print(f"\n[bold green]All {looks} verdicts were as the examples say[/] ({seconds:.0f} s)")
    return failures


@contextlib.contextmanager
def _busy(console: Console, what: str) -> Iterator[None]:
    """Say what is being done, with something that moves on a terminal."""
    if not console.is_terminal:
        console.print(f"{what} ...")
        yield
        return
    with console.status(f"{what} ..."):
        yield


def _steps(console: Console, examples: Examples, stage: Stage, running: Agent) -> int:
    """Show the cluster without policy, with each, and without again; return how many verdicts were wrong."""
    bare = show.expected(examples, examples.reach)
    console.print("\n[bold]no policy[/]\nNothing is isolated: everything is reached.")
    seen, failures = _show(console, examples, stage, bare, bare)
    for step in examples.steps:
        seen, wrong = enact(console, examples, stage, running, step, seen)
        failures += wrong
    console.print("\n[bold]no policy again[/]\nEvery policy is removed at once: all is as at the start.")
    for step in examples.steps:
        running.remove(step.path)
    _, wrong = _show(console, examples, stage, seen, bare)
    return failures + wrong


def enact(
    console: Console, examples: Examples, stage: Stage, running: Agent, step: Example, before: Seen
) -> tuple[Seen, int]:
    """Give the agent one more policy and show what changes; return what is seen, and how much is wrong."""
    console.print(f"\n[bold]{step.title}[/]\n{step.explanation}")
    running.add(step.path)
    return _show(console, examples, stage, before, show.expected(examples, step.reach))


def _show(console: Console, examples: Examples, stage: Stage, before: Seen, wanted: Seen) -> tuple[Seen, int]:
    seen, seconds = stage.look_until(wanted, _IN_FORCE_SECONDS)
    console.print(show.table(examples, before, seen, wanted))
    changed = show.changes(before, seen)
    wrong = show.wrong(seen, wanted)
    for line in wrong:
        console.print(f"[bold red]wrong:[/] {line}")
    if changed and not wrong:
        console.print(
            f"[dim]{changed} changed; seen to be in force {seconds * 1000:.0f} ms after the file was there[/]"
        )
    return seen, len(wrong)


if __name__ == "__main__":
    main()
