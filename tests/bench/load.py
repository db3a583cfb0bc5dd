"""Changes remote pods in etcd at a steady rate: ``python -m tests.bench.load SIZE FILE KIND RATE COUNT``.

``FILE`` holds a pod as the API server encodes it. ``KIND`` says which events: ``concern`` moves a pod out
of the sets of this node's policies, or back, by its label; ``elsewhere`` changes a label that no policy
asks for; ``mixed`` takes one of each in turn. ``COUNT`` 0: until ended by a signal. Prints ``started`` with
the first event; at the end, a line with how many were written and in how many seconds. What was moved is
moved back before the next thousand, so that every event changes something.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.cluster import Template, fields, pod_key
from tests.bench.result import Size
from tests.lab.etcd import PUTS, Etcd

KINDS = ("concern", "elsewhere", "mixed")
_MOVED = 500
"""How many pods are changed before they are changed back."""
_TICK = 0.005
"""At most so many seconds of events are written at once."""


def changes(size: Size, template: Template, kind: str) -> Iterator[tuple[str, bytes]]:
    """Yield events without end: the key of a remote pod and what it is now."""
    remote = range(size.local, size.pods)
    moved = min(_MOVED, len(remote))
    start = 0
    while True:
        for revision, away in (("rev-2", {"role": "role-9"}), ("rev-1", {})):
            for place in range(moved):
                number = remote[(start + place) % len(remote)]
                concerns = kind == "concern" or (kind == "mixed" and place % 2 == 0)
                made = fields(number, size, revision=revision, **(away if concerns else {}))
                yield pod_key(made), template.pod(made)
        start += moved


def main() -> None:
    text, file, kind, rate_text, count_text = sys.argv[1:]
    template = Template(Path(file).read_bytes())
    size = Size("", *map(int, text.split("/")))
    rate, count = float(rate_text), int(count_text)
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    events = changes(size, template, kind)
    batch = max(1, min(PUTS, round(rate * _TICK)))
    with Etcd() as etcd:
        print("started", flush=True)
        begin, written = time.monotonic(), 0
        while not ended and (not count or written < count):
            etcd.put([next(events) for _ in range(batch)])
            written += batch
            time.sleep(max(0.0, begin + written / rate - time.monotonic()))
        print(written, time.monotonic() - begin, flush=True)


if __name__ == "__main__":
    main()
