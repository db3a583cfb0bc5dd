"""The rooms of the agent one by one, without an API server, so that what has become slower has a name.

The clusters are the generated ones, decoded from the JSON that an API server would send.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.text import render_text
from agent.kube.events import Delete, Event, Synced, Upsert
from agent.kube.model import Key, Kind
from agent.kube.wire import Page, decode_page, object_from
from agent.net import Family
from agent.policy.engine import Engine
from tests.bench import cluster
from tests.bench.cluster import Json
from tests.bench.result import Result, Size, summary
from tests.bench.settings import Settings
from tests.lab.backends import BACKENDS
from tests.lab.netns import Netns
from tests.lab.reading import decode_watch_line

_PAGE = 500
"""As many objects as the agent asks for at once."""
_FAMILIES = (Family.V4, Family.V6)
_FEW = 3
"""How often what handles a whole cluster is measured."""


def stages(size: Size, settings: Settings) -> Iterator[Result]:
    """Decode, compile, render and restore: a whole cluster at first, then one event at a time."""

    def row(name: str, taken: list[float], note: str = "") -> Result:
        return summary("stages", name, "ms", taken, size=size, note=note)

    pages = list(_pages(size))
    events: list[Event] = []
    taken = []
    for kind, body in pages:
        begin = time.perf_counter()
        page = decode_page(kind, body)
        if kind is Kind.POD:
            taken.append((time.perf_counter() - begin) * 1000)
        events += _told(page)
    yield row("decode: a page of pods", taken, f"{min(_PAGE, size.pods)} pods")
    line = _line(cluster.pod(size.local, size))
    yield row(
        "decode: one watch event",
        [_timed(lambda: decode_watch_line(Kind.POD, line)) for _ in range(100)],
    )
    del pages
    events += [Synced(kind) for kind in (Kind.NAMESPACE, Kind.POD, Kind.POLICY)]
    engines: list[Engine] = []
    yield row("compile: the whole cluster", [_timed(lambda: _compile(events, engines)) for _ in range(_FEW)])
    engine = engines[-1]
    changes = _changes(size, settings.rounds)
    for name, change in changes.items():
        yield row(f"compile: {name}", [_timed(partial(engine.apply, [e], 0.0)) for e in change])
    program = engine.lowered
    yield row(
        "render: the whole node", [_timed(lambda: render_text(program, Options())) for _ in range(_FEW)]
    )
    yield from _restore(engine, changes, settings, row)


def _restore(
    engine: Engine,
    changes: dict[str, list[Event]],
    settings: Settings,
    row: Callable[[str, list[float]], Result],
) -> Iterator[Result]:
    """From program to kernel, in a namespace of its own, until the call returns; compiling not counted."""
    netns = Netns("bench")
    with netns.entered():
        backend = BACKENDS[settings.mode].make()
        backend.adopt()
        yield row("restore: the whole node", [_timed(lambda: backend.sync(engine.lowered))])
        for name, change in changes.items():
            taken = []
            for event in change:
                delta = engine.apply([event], 0.0)
                taken.append(_timed(partial(backend.apply, engine.lowered, delta)))
                backend.tidy(engine.lowered)
            yield row(f"restore: {name}", taken)
        backend.close()
    netns.close()


def _pages(size: Size) -> Iterator[tuple[Kind, bytes]]:
    """Yield the cluster as an API server's lists of it."""
    spaces = (cluster.namespace(n, size) for n in range(cluster.namespace_count(size)))
    yield from _lists(Kind.NAMESPACE, spaces)
    yield from _lists(Kind.POD, (cluster.pod(n, size) for n in range(size.pods)))
    yield from _lists(Kind.POLICY, (cluster.policy(n, size) for n in range(size.policies)))


def _lists(kind: Kind, made: Iterable[Json]) -> Iterator[tuple[Kind, bytes]]:
    rest = iter(made)
    while items := list(itertools.islice(rest, _PAGE)):
        yield kind, cluster.encode({"metadata": {"resourceVersion": "1"}, "items": items})


def _told(page: Page) -> Iterator[Event]:
    for item in page.items:
        yield item.event


def _line(made: Json) -> bytes:
    return cluster.encode({"type": "MODIFIED", "object": made})


def _compile(events: list[Event], engines: list[Engine]) -> None:
    engine = Engine(cluster.NODE)
    engine.apply(events, 0.0)
    engines[:] = [engine]


def _changes(size: Size, times: int) -> dict[str, list[Event]]:
    """Return events of each kind; each pair leaves the cluster as it was."""
    remote = range(size.local, size.pods)
    concern: list[Event] = []
    elsewhere: list[Event] = []
    for place in range(times):
        number = remote[place % len(remote)]
        back = _pod(cluster.pod(number, size))
        concern += [_pod(cluster.pod(number, size, role="role-9")), back]
        elsewhere += [_pod(cluster.pod(number, size, revision="rev-2")), back]
    added: list[Event] = []
    removed: list[Event] = []
    for place in range(times):
        made = cluster.policy(place % size.policies, size)
        meta = made["metadata"]
        meta["name"] = f"new-{place}"
        # As on the whole node's pods of the namespace, so that it always concerns one.
        made["spec"]["podSelector"] = {}
        added.append(Upsert(Kind.POLICY, object_from(Kind.POLICY, cluster.encode(made))))
        removed.append(Delete(Kind.POLICY, Key(meta["namespace"], meta["name"])))
    return {
        "remote pod that concerns this node": concern,
        "remote pod that does not": elsewhere,
        "policy added": added,
        "policy removed": removed,
    }


def _pod(made: Json) -> Event:
    return Upsert(Kind.POD, object_from(Kind.POD, cluster.encode(made)))


def _timed(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return (time.perf_counter() - begin) * 1000
