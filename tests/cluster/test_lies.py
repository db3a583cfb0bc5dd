"""What an API server answers wrongly opens nothing: judged by packets, with a gate before a real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.cluster.behind import Behind, closed_behind
from tests.cluster.scene import pods
from tests.lab.cluster import Cluster, http_get, wait_until
from tests.lab.gate import Gate, Reply, pass_on
from tests.lab.node import Layout, Mode

POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"
GONE = Reply(410, json.dumps({"kind": "Status", "code": 410, "message": "too old"}).encode())


_VARIANTS = [
    pytest.param(
        (layout, mode), id=f"{layout}-{mode}", marks=pytest.mark.xdist_group(f"lies-{layout}-{mode}")
    )
    for layout, mode in ((Layout.ROUTED, Mode.NFT), (Layout.BRIDGE, Mode.LEGACY))
]
_ONE_VARIANT = pytest.mark.parametrize("behind", _VARIANTS[:1], indirect=True)
"""For what the source refuses: nothing of it comes to where a layout or a mode matters."""


@pytest.fixture(scope="module", params=_VARIANTS)
def behind(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Behind]:
    layout, mode = request.param
    with closed_behind(cluster, f"behind-{layout}-{mode}", layout, mode) as found:
        yield found


def policies(**changed: object) -> bytes:
    whole = {
        "kind": "NetworkPolicyList",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {"resourceVersion": str(10**12)},
        "items": [],
    }
    return json.dumps({**whole, **changed}).encode()


def lie(gate: Gate, list_reply: Reply | None, watch_reply: Reply = GONE) -> None:
    """Have the policies listed again, and answered so."""

    def instead(path: str) -> Reply | None:
        asked = urlsplit(path)
        if asked.path != POLICIES:
            return None
        return watch_reply if "watch" in parse_qs(asked.query) else list_reply

    gate.instead = instead
    gate.cut()


NO_LISTS = {
    "an empty object": b"{}",
    "a Status with code 500": b'{"kind":"Status","apiVersion":"v1","status":"Failure","code":500,"items":[]}',
    "an error with items": b'{"error":"no healthy upstream","items":[]}',
    "a PodList with no items": policies(kind="PodList", apiVersion="v1"),
    "items null and no resourceVersion": policies(items=None, metadata={}),
    "items null": policies(items=None),
    "no JSON": b"<html>welcome</html>",
    "cut off": policies()[:-3],
}


@pytest.mark.guarantee("4.2")
@_ONE_VARIANT
@pytest.mark.parametrize("name", NO_LISTS)
def test_a_200_that_is_no_list_opens_nothing(behind: Behind, name: str) -> None:
    lie(behind.gate, Reply(200, NO_LISTS[name]))
    behind.until_ready_says("gave an answer that is not used")
    assert http_get(behind.node, "/readyz")[0] == 200
    behind.expect(open=False)
    behind.in_step()
    behind.expect(open=False)


NO_LINES = {
    "garbage": b"garbage\n",
    "a deletion of another kind": json.dumps(
        {
            "type": "DELETED",
            "object": {
                "kind": "Pod",
                "apiVersion": "v1",
                "metadata": {"name": "closed", "namespace": "a", "uid": "u", "resourceVersion": str(10**12)},
            },
        }
    ).encode()
    + b"\n",
    "a bookmark without a version": b'{"type":"BOOKMARK","object":{"kind":"NetworkPolicy","metadata":{}}}\n',
    "an error that is no 410": b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"lost"}}\n',
}


@_ONE_VARIANT
@pytest.mark.parametrize("name", NO_LINES)
def test_a_line_that_cannot_be_read_is_never_passed(behind: Behind, name: str) -> None:
    """What the watch would have told after it is in the list: a policy that is made at that moment holds."""
    asked = len(behind.gate.asked)
    lie(behind.gate, None, Reply(200, NO_LINES[name]))

    def lists() -> int:
        news = [urlsplit(path) for path in behind.gate.asked[asked:]]
        return sum(path.path == POLICIES and "watch" not in parse_qs(path.query) for path in news)

    wait_until(lambda: lists() > 0)
    behind.until_ready_says("cache/NetworkPolicy warning")
    behind.expect(open=False)
    behind.in_step()


@pytest.mark.guarantee("4.2")
def test_all_policies_gone_from_a_list_stay_until_a_second_list_says_so(behind: Behind) -> None:
    lie(behind.gate, Reply(200, policies()))
    behind.until_ready_says("that were there; what is in force stays until a second list")
    behind.expect(open=False)
    # The second list has them: they were never gone.
    behind.in_step()
    behind.expect(open=False)
    # And now it says the same.
    lie(behind.gate, Reply(200, policies()))
    behind.until_ready_says("that were there; what is in force stays until a second list")
    behind.expect(open=True)
    # Its resourceVersion was invented: the real ones are behind, and are confirmed too.
    behind.in_step()
    behind.expect(open=False)


def test_a_restart_in_doubt_opens_nothing(behind: Behind) -> None:
    agent = behind.cluster.agents[behind.node.name]
    agent.stop()
    lie(behind.gate, Reply(200, policies()))
    agent = behind.start()
    wait_until(lambda: "there were some before this agent started" in behind.said(), 30)
    assert http_get(behind.node, "/readyz")[0] == 503
    behind.expect(open=False)
    behind.gate.instead = pass_on
    agent.wait_ready()
    behind.expect(open=False)
    behind.in_step()


@pytest.mark.guarantee("4.2")
def test_an_older_state_opens_nothing_until_a_second_list_is_as_old(behind: Behind) -> None:
    """As after etcd was restored from a backup: of an older state, other policies are not taken, either."""
    allows_all = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed", "namespace": behind.namespace, "uid": "u", "resourceVersion": "2"},
        "spec": {"podSelector": {}, "ingress": [{}], "policyTypes": ["Ingress"]},
    }
    lie(behind.gate, Reply(200, policies(metadata={"resourceVersion": "3"}, items=[allows_all])))
    behind.until_ready_says("is older than what was told before")
    behind.expect(open=False)
    behind.expect(open=True)
    behind.in_step()
    behind.expect(open=False)


def test_the_only_policy_that_a_watch_says_was_deleted_is_gone_at_once(behind: Behind) -> None:
    log = behind.cluster.agents[behind.node.name].log
    before = log.stat().st_size
    behind.workspace.delete_policy(behind.namespace, "closed")
    behind.expect(open=True)
    assert "not believed" not in log.read_bytes()[before:].decode()
    assert "what is in force stays" not in behind.ready()
    behind.workspace.policy(behind.namespace, "closed", pods(app="server"), policyTypes=["Ingress"])
    behind.expect(open=False)
