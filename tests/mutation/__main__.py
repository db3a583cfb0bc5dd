"""``python -m tests.mutation``: break a copy of the agent in every known way; every way must be noticed."""

from __future__ import annotations

import json
import queue
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import click

from tests.mutation.bench import Bench, Outcome, unfit
from tests.mutation.catalogue import MUTATIONS
from tests.mutation.model import Mutation, Selection

AT_A_TIME = 2


@click.command(help=__doc__)
@click.option("--only", multiple=True, metavar="NAME", help="Try mutations whose name contains this.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--list", "listing", is_flag=True, help="Print the names of the mutations and stop.")
def main(only: tuple[str, ...], as_json: bool, listing: bool) -> None:
    chosen = [m for m in MUTATIONS if not only or any(part in m.name for part in only)]
    if listing:
        for mutation in chosen:
            click.echo(mutation.name)
        return
    if not chosen:
        raise click.UsageError("no mutation has such a name; --list prints them")
    wrong = unfit(chosen)
    if wrong:
        raise click.ClickException("the list does not fit the code any more:\n" + "\n".join(wrong))
    outcomes: list[Outcome] = []
    began = time.monotonic()
    for outcome in try_all(chosen):
        outcomes.append(outcome)
        if not as_json:
            click.echo(line(outcome))
    survivors = [outcome for outcome in outcomes if not outcome.caught]
    if as_json:
        click.echo(json.dumps([plain(outcome) for outcome in outcomes], indent=2))
    else:
        caught = len(outcomes) - len(survivors)
        click.echo(f"{caught} of {len(outcomes)} caught in {time.monotonic() - began:.0f} s")
    sys.exit(1 if survivors else 0)


def try_all(mutations: Iterable[Mutation]) -> Iterator[Outcome]:
    """Try mutations, some at a time, and give each outcome as it comes.

    Raises ClickException when the tests do not even pass on a copy that nobody broke.
    """
    chosen = list(mutations)
    with tempfile.TemporaryDirectory(prefix="netpol-mutation-") as directory:
        benches: queue.SimpleQueue[Bench] = queue.SimpleQueue()
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            made = [Bench(_folder(directory, number)) for number in range(AT_A_TIME)]
            for bench in made:
                if not bench.origin().is_relative_to(bench.root):
                    raise click.ClickException(f"{bench.root} is not where its tests take the agent from")
                benches.put(bench)

            def on_bench(mutation: Mutation | Selection) -> Outcome | str:
                bench = benches.get()
                try:
                    if isinstance(mutation, Mutation):
                        return bench.try_out(mutation)
                    run = bench.run(mutation)
                    return f"{mutation}: {run.failed or run.broken}" if run.failed or run.broken else ""
                finally:
                    benches.put(bench)

            used = dict.fromkeys(selection for mutation in chosen for selection in mutation.by)
            whole = [found for found in pool.map(on_bench, used) if isinstance(found, str) and found]
            if whole:
                raise click.ClickException("fails where nothing is broken:\n" + "\n".join(whole))
            for future in as_completed([pool.submit(on_bench, mutation) for mutation in chosen]):
                outcome = future.result()
                if isinstance(outcome, Outcome):
                    yield outcome


def _folder(directory: str, number: int) -> Path:
    folder = Path(directory) / str(number)
    folder.mkdir()
    return folder


def line(outcome: Outcome) -> str:
    """Return an outcome for people: the mutation, what caught it, and seconds."""
    caught = ", ".join(outcome.caught_by) or "-"
    text = f"{outcome.mutation.name:<72}  {caught}  {outcome.seconds:.1f} s"
    if outcome.missed_by:
        missed = ", ".join(selection.name for selection in outcome.missed_by)
        text += f"\n    NOT CAUGHT by {missed}"
    if outcome.broken:
        text += f"\n    COULD NOT BE TRIED: {outcome.broken}"
    return text


def plain(outcome: Outcome) -> dict[str, object]:
    """Return an outcome as plain data."""
    return {
        "mutation": outcome.mutation.name,
        "symbol": outcome.mutation.symbol,
        "caught": outcome.caught,
        "caught_by": list(outcome.caught_by),
        "missed_by": [selection.value for selection in outcome.missed_by],
        "seconds": round(outcome.seconds, 1),
        "broken": outcome.broken,
    }


if __name__ == "__main__":
    main()
