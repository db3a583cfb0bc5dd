"""``python -m tests.kernel.exact``: as many clusters as wanted, on as many arenas at once."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict

import click

from tests.kernel.exact.contest import MIXED, Tally
from tests.kernel.exact.workers import Job, run
from tests.lab.backends import BACKENDS
from tests.lab.node import Layout


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--clusters", default=1000, show_default=True, help="Clusters to try, over all arenas.")
@click.option("--layout", type=click.Choice([*Layout, "both"]), default="both", show_default=True)
@click.option(
    "--backend",
    type=click.Choice([*BACKENDS, MIXED]),
    default=MIXED,
    show_default=True,
    help="What programs the node; mixed: each, and the legacy tables for a fifth of the clusters.",
)
@click.option("--seed", default=0, show_default=True, help="Another number tries other clusters.")
@click.option(
    "--arenas", default=0, help="How many work at once.  [default: two for each processor, two at least]"
)
def main(clusters: int, layout: str, backend: str, seed: int, arenas: int) -> None:
    """Program random clusters into a real kernel and hold real packets against the evaluator.

    Progress goes to standard error, a summary in JSON to standard output. Exit code 0: all agree; 1: a
    disagreement, printed with the smallest manifests that show it; 2: the test itself failed.
    """
    if os.geteuid() != 0:
        click.echo("This makes network namespaces, so it needs root.", err=True)
        sys.exit(2)
    count = arenas or 2 * max(1, len(os.sched_getaffinity(0)))
    layouts = list(Layout) if layout == "both" else [Layout(layout)]
    shares = [clusters // count + (index < clusters % count) for index in range(count)]
    jobs = [
        Job(layouts[index % len(layouts)], backend, share, seed * 1009 + index)
        for index, share in enumerate(shares)
        if share
    ]
    begin = time.perf_counter()
    tallies, wrong = run(jobs, lambda text: click.echo(text, err=True))
    seconds = time.perf_counter() - begin
    total = sum(tallies, Tally())
    document = {
        "clusters": total.clusters,
        "probes": total.probes,
        "clusters_per_second": round(total.clusters / seconds, 2),
        "probes_per_second": round(total.probes / seconds, 1),
        "seconds": round(seconds, 1),
        "seed": seed,
        "backend": backend,
        "total": asdict(total),
        "arenas": [
            {"layout": job.layout.value, "start": job.start, **asdict(tally)}
            for job, tally in zip(jobs, tallies, strict=True)
        ],
        "wrong": [one.text for one in wrong],
    }
    click.echo(json.dumps(document, indent=2))
    complete = total.clusters == clusters
    sys.exit(1 if any(one.agent for one in wrong) else 0 if complete and not wrong else 2)


if __name__ == "__main__":
    main()
