"""Who waits until the kernel enforces a pod: nobody waits for what other pods' policies lack."""

from __future__ import annotations

import threading

import pytest

from agent.kube.events import Delete, Upsert
from agent.kube.model import Key, Kind, Pod
from agent.policy.engine import Engine
from agent.runtime.enforced import Enforced
from agent.runtime.inbox import Inbox
from agent.sources.nri.messages import Sandbox
from tests.patience import PATIENCE
from tests.unit.runtime.events import deny
from tests.unit.runtime.events import pod as another
from tests.unit.runtime.rig import FAILED, Rig

WEB = Key("shop", "web")
V4, OTHER = bytes((10, 1, 0, 2)), bytes((10, 1, 0, 3))
SANDBOX = Sandbox("c1", WEB, "u1", (V4,))


def pod(*addresses: bytes, uid: str = "u1") -> Pod:
    return Pod("shop", "web", uid, node="here", addresses=addresses)


class Waiting:
    """A thread that waits for a sandbox, and the loop that a test plays."""

    def __init__(self, sandbox: Sandbox = SANDBOX) -> None:
        self.enforced_pods: set[Key] = set()
        self.engine, self.inbox = Engine("here"), Inbox()
        self.waits = Enforced(self.engine, self.inbox, lambda found: found.key in self.enforced_pods)
        self.told: list[bool] = []
        self.thread = threading.Thread(
            target=lambda: self.told.append(self.waits.wait(sandbox, 20.0)), daemon=True
        )
        self.thread.start()
        for call in self.inbox.take(20.0).calls:
            call()

    def take(self, *events: Upsert | Delete) -> None:
        self.engine.apply(list(events), 0.0)
        self.waits.settle()

    @property
    def waiting(self) -> int:
        return len(self.waits._waiters)


@pytest.mark.guarantee("1.4")
def test_a_pod_is_waited_for_until_it_is_enforced_with_its_addresses() -> None:
    waiting = Waiting()
    waiting.enforced_pods = {WEB}
    for found in (pod(), pod(OTHER), pod(V4, uid="u0")):
        waiting.take(Upsert(Kind.POD, found))
        assert waiting.waiting == 1
    waiting.enforced_pods = set()
    waiting.take(Upsert(Kind.POD, pod(V4)))
    assert waiting.waiting == 1
    waiting.enforced_pods = {WEB}
    waiting.waits.settle()
    waiting.thread.join(PATIENCE)
    assert (waiting.told, waiting.waiting) == ([True], 0)


@pytest.mark.guarantee("1.4")
def test_what_the_kernel_refuses_of_other_pods_holds_up_nobody(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: rig.ready)
    reconcile = rig.agent._reconcile
    assert reconcile.enforces(pod(V4))
    rig.backend.applies, rig.backend.syncs = [FAILED], [FAILED] * 99
    # Another pod is isolated, by a policy that the kernel does not take.
    rig.source.sink([Upsert(Kind.POD, pod(V4)), another(1), deny()])
    rig.until(lambda: rig.agent._calls.retry.pending)
    assert not reconcile.enforces(pod(V4))
    rig.backend.enforced = {WEB}
    assert reconcile.enforces(pod(V4))
