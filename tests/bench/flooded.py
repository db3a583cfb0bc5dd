"""How long changes take while a pod of the node is flooded with packets that are denied, logged and not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from agent.kube.logging import DENIED_ANNOTATION
from tests.bench.arena import HERE, Arena, Usage
from tests.bench.changes import labels, policies
from tests.bench.flood import flooding
from tests.bench.latency import measured
from tests.bench.result import Result, summary
from tests.lab.cluster import http_get, wait_until

_DENY = {"podSelector": {"matchLabels": {"app": "victim"}}, "policyTypes": ["Ingress"]}
_SAVE = ("-t", "filter")


def flooded(arena: Arena) -> Iterator[Result]:
    """Make changes in quiet, and in a flood, which is logged at last."""
    agent, node = arena.ensure_agent(), arena.node
    victim, attacker = (arena.lab.pod(node, f"{HERE}/{name}") for name in ("victim", "attacker"))
    arena.create(victim, {"app": "victim"})
    arena.create(attacker, {"app": "attacker"})
    pod = f"/api/v1/namespaces/{HERE}/pods/victim"
    usage = Usage(agent.process.pid)

    def row(name: str, unit: str, value: float) -> Result:
        return summary("flooded", name, unit, [value], size=arena.size)

    with arena.policy("closes-victim", _DENY):
        for make in (policies, labels):
            yield from measured(arena, make, "quiet")
        with flooding(attacker, victim) as (sent, _):
            for logged in ("off", "sampled"):
                arena.client.patch(pod, {"metadata": {"annotations": {DENIED_ANNOTATION: logged}}})
                wanted = logged != "off"
                wait_until(lambda wanted=wanted: _logs(arena) is wanted, 20)  # type: ignore[misc]
                name = f"flood, {'logged' if wanted else 'not logged'}"
                memory, used = usage.memory()[0], usage.cpu_seconds()
                begin, before = time.monotonic(), sent()
                for make in (policies, labels):
                    yield from measured(arena, make, name)
                took = time.monotonic() - begin
                share = 100 * (usage.cpu_seconds() - used) / took
                yield row(f"denied packets sent, {name}", "packets/s", (sent() - before) / took)
                yield row(f"processor of the agent, {name}", "% of one", share)
                yield row(f"memory that it took, {name}", "MB", usage.memory()[0] - memory)
            wait_until(lambda: _untold(arena) > 0, 60, 1)
            yield row("packets told as not logged", "packets", _untold(arena))


def _logs(arena: Arena) -> bool:
    return "NFLOG" in arena.node.run(f"iptables-{arena.node.mode}-save", *_SAVE)


def _untold(arena: Arena) -> int:
    reports = [json.loads(line) for line in http_get(arena.node, "/flows")[1].splitlines()]
    return sum(one["packets"] for one in reports if one["event"] == "not logged" and one.get("pod"))
