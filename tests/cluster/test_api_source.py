"""The API server source against a real kube-apiserver, over real packets."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.parse
from collections.abc import Iterator

import pytest

from agent.kube.events import Delete, Event, Invalid, Synced, Upsert
from agent.kube.manifest import read_text
from agent.kube.model import Key, Kind, NamedPort, Namespace, NetworkPolicy, Node, Pod
from agent.net import Protocol
from agent.sources.apiserver import reflector
from agent.sources.apiserver.source import ApiSource
from tests.cluster.told import ADDRESS, AGENT_ADDRESS, PODS, Heard, _name, create_many, drop, wait
from tests.lab.access import permitted
from tests.lab.apiserver import ApiServer
from tests.lab.client import ApiError, Client, Raw
from tests.lab.gate import Gate
from tests.lab.netns import Netns
from tests.unit.kube import admission
from tests.unit.sources.scripted import pause_long

pytestmark = pytest.mark.xdist_group("api-source")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a network namespace")
    netns = Netns("apiserver")
    for address in (ADDRESS, AGENT_ADDRESS):
        netns.ip(f"address add {address}/32 dev lo")
    with ApiServer(netns, ADDRESS, tmp_path_factory.mktemp("apiserver") / "server") as found:
        found.client.create_namespace("many", {"team": "a"})
        create_many(found, PODS)
        yield found


@pytest.fixture
def client(server: ApiServer) -> Iterator[Client]:
    server.client.create_namespace("few")
    yield server.client
    server.client.delete_namespace("few")


@pytest.fixture
def heard(server: ApiServer, client: Client) -> Iterator[Heard]:
    del client
    found = Heard(server)
    wait(found.synced)
    yield found
    found.stop()


def test_a_list_longer_than_a_page_is_told_whole_before_synced(heard: Heard) -> None:
    events = [e for e in heard.events if e.kind is Kind.POD]
    assert events[-1] == Synced(Kind.POD)
    assert len({e.object.name for e in events if isinstance(e, Upsert)}) == PODS
    assert max(len(batch) for batch in heard.batches) == 500
    assert heard.source.states()[Kind.POD].objects == PODS


def test_additions_changes_and_removals_are_told_as_they_happen(heard: Heard, client: Client) -> None:
    client.create_pod(
        "few",
        "web",
        node="n1",
        addresses=("10.0.0.9", "fd00::9"),
        labels={"app": "web"},
        ports=[("http", "TCP", 8080)],
    )
    wait(lambda: len(heard.of(Kind.POD, "web")) == 2)
    last = heard.of(Kind.POD, "web")[-1]
    assert isinstance(last, Upsert)
    pod = last.object
    assert isinstance(pod, Pod)
    assert (pod.namespace, pod.node, pod.labels) == ("few", "n1", {"app": "web"})
    assert pod.addresses == (bytes([10, 0, 0, 9]), bytes.fromhex("fd" + "00" * 14 + "09"))
    assert pod.ports == (NamedPort("http", Protocol.TCP, 8080),)
    assert pod.uid
    assert pod.started
    client.label_namespace("few", {"team": "b"})
    wait(lambda: any("team" in n.labels for n in namespaces(heard, "few")))
    client.create_policy("few", "deny", {"podSelector": {}, "policyTypes": ["Egress"]})
    wait(lambda: heard.of(Kind.POLICY, "deny"))
    (told,) = heard.of(Kind.POLICY, "deny")
    assert isinstance(told, Upsert)
    assert isinstance(told.object, NetworkPolicy)
    assert told.object.created
    assert told.object == NetworkPolicy("few", "deny", egress=(), created=told.object.created, generation=1)
    client.delete_pod("few", "web")
    client.delete_policies("few")
    wait(lambda: heard.deleted(Kind.POD, Key("few", "web")))
    wait(lambda: heard.deleted(Kind.POLICY, Key("few", "deny")))


def test_an_object_that_is_nested_deeply_is_told_and_keeps_no_other_from_being_told(
    server: ApiServer, heard: Heard, client: Client
) -> None:
    """Whoever may create a policy may give it managedFields of thousands of levels: a server stores them."""
    levels = 9000
    meta = (
        '{"name":"deep","managedFields":[{"manager":"m","operation":"Update","fieldsType":"FieldsV1",'
        '"apiVersion":"networking.k8s.io/v1","fieldsV1":{"f:spec":'
        + '{"f:a":' * levels
        + "{}"
        + "}" * levels
        + "}}]}"
    )
    path = "/apis/networking.k8s.io/v1/namespaces/few/networkpolicies"
    stored = client.text("POST", path, Raw('{"metadata":' + meta + ',"spec":{"podSelector":{}}}'))
    assert '{"f:a":' * levels in stored
    other = Heard(server)
    try:
        client.create_policy("few", "after", {"podSelector": {}})
        wait(lambda: heard.of(Kind.POLICY, "deep") and heard.of(Kind.POLICY, "after"))
        # One that lists them is told of both, too.
        wait(lambda: other.of(Kind.POLICY, "after"))
        wait(other.synced)
        assert other.of(Kind.POLICY, "deep")
        assert other.of(Kind.POLICY, "after")
    finally:
        other.source.stop()
        # Python does not read what comes back.
        client.text("DELETE", f"{path}/deep")


def namespaces(heard: Heard, name: str) -> list[Namespace]:
    told = [e.object for e in heard.of(Kind.NAMESPACE, name) if isinstance(e, Upsert)]
    return [found for found in told if isinstance(found, Namespace)]


def test_nodes_only_when_asked_for(server: ApiServer, client: Client) -> None:
    client.create_node("n1", ["192.0.2.1", "2001:db8::1"], ["10.1.0.0/24", "fd00:1::/64"])
    plain, asked = Heard(server, "agent"), Heard(server, nodes=True)
    try:
        wait(lambda: plain.synced() and asked.synced())
        assert Kind.NODE not in plain.source.states()
        (told,) = asked.of(Kind.NODE, "n1")
        assert isinstance(told, Upsert)
        assert isinstance(told.object, Node)
        assert len(told.object.addresses) == 2
        assert [str(n) for n in told.object.pod_cidrs] == ["10.1.0.0/24", "fd00:1::/64"]
    finally:
        plain.source.stop()
        asked.source.stop()
        client.delete_node("n1")


def test_a_wrong_token_is_a_fault_and_the_right_one_is_taken_up(server: ApiServer) -> None:
    path = server.kubeconfig("agent")
    config = json.loads(path.read_text())
    config["users"][0]["user"] = {"token": "wrong"}
    wrong = path.with_name("wrong.kubeconfig")
    wrong.write_text(json.dumps(config))
    source = ApiSource(str(wrong))
    told: list[Event] = []
    with server.netns.entered():
        source.start(told.extend)
    try:
        # Each kind says it of its own list, and of the probe's once that is answered the same.
        wait(lambda: all(s.fault.startswith("not authorized to list ") for s in source.states().values()))
        # A token that becomes right is taken up without a restart.
        wrong.write_text(path.read_text())
        wait(lambda: all(s.synced for s in source.states().values()))
    finally:
        source.stop()


def test_a_permission_taken_away_is_a_fault_and_clears_nothing(server: ApiServer, client: Client) -> None:
    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/netpol-agent"
    before = client.get(role)["rules"]
    client.patch(role, {"rules": [rule for rule in before if "pods" not in rule["resources"]]})
    # What the server grants lags behind what is written.
    wait(lambda: not permitted(client, "netpol-agent", "pods", "list"))
    heard = Heard(server, "agent")
    try:
        wait(lambda: heard.source.states()[Kind.POD].fault.startswith("forbidden to list pods"))
        fault = heard.source.states()[Kind.POD].fault
        assert 'grant the agent\'s user list and watch on pods of API group ""' in fault
        wait(lambda: heard.source.states()[Kind.POLICY].synced)
        assert not heard.source.states()[Kind.POD].synced
        client.patch(role, {"rules": before})
        wait(lambda: heard.synced() and heard.faults() == [], 40)
    finally:
        client.patch(role, {"rules": before})
        heard.source.stop()


def test_a_restarted_server_is_found_again_and_nothing_is_told_twice(
    server: ApiServer, heard: Heard, client: Client
) -> None:
    told = len(heard.events)
    server.stop()
    wait(lambda: len(heard.faults()) == 3)
    assert any("cannot connect" in f or "broke" in f for f in heard.faults())
    time.sleep(2)
    server.start()
    wait(lambda: heard.faults() == [], 60)
    client.create_pod("few", "later", node="n1", addresses=())
    wait(lambda: heard.of(Kind.POD, "later"), 30)
    again = [e for e in heard.events[told:] if isinstance(e, Upsert) and e.object.name.startswith("p")]
    assert again == []
    assert sum(isinstance(e, Synced) for e in heard.events) == 3


def test_a_lost_path_is_noticed_within_a_minute_and_missed_events_are_told(
    server: ApiServer, heard: Heard, client: Client
) -> None:
    client.create_pod("few", "before", node="n1", addresses=())
    wait(lambda: heard.of(Kind.POD, "before"))
    told = len(heard.events)
    drop(server, on=True)
    try:
        client.delete_pod("few", "before")
        client.create_pod("few", "during", node="n1", addresses=())
        noticed = wait(lambda: len(heard.faults()) == 3, 60)
        assert heard.events[told:] == []
    finally:
        drop(server, on=False)
    back = wait(lambda: heard.of(Kind.POD, "during"), 45)
    wait(lambda: heard.deleted(Kind.POD, Key("few", "before")))
    wait(lambda: heard.faults() == [], 45)
    print(f"lost path noticed after {noticed:.1f} s, told {back:.1f} s after it was back")
    assert {_name(e)[1] for e in heard.events[told:]} == {"before", "during"}


def test_a_server_that_stops_answering_is_noticed_within_a_minute(server: ApiServer, heard: Heard) -> None:
    (process,) = [p for name, p in server._processes if name == "kube-apiserver"]
    process.send_signal(signal.SIGSTOP)
    try:
        noticed = wait(lambda: len(heard.faults()) == 3, 60)
    finally:
        process.send_signal(signal.SIGCONT)
    print(f"stopped server noticed after {noticed:.1f} s")
    wait(lambda: heard.faults() == [], 45)


def test_watches_that_have_nothing_to_tell_are_begun_anew_and_no_event_waits_for_a_pause(
    server: ApiServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(reflector, "_HEALTHY_SECONDS", 0.2)
    pause_long(monkeypatch)
    watches: list[str] = []
    faults: list[str] = []

    def counted(path: str) -> bool:
        if "watch=true" in path:
            watches.append(path)
        return False

    def seen(heard: Heard) -> int:
        faults.extend(heard.faults())
        return len(watches)

    with Gate(server, counted) as gate:
        heard = Heard(server, config=gate.kubeconfig("agent"))
        try:
            wait(lambda: seen(heard) > 12)
            client.create_pod("few", "late", node="n", addresses=())
            wait(lambda: heard.of(Kind.POD, "late"))
        finally:
            heard.source.stop()
    assert faults == []


def test_an_expired_resource_version_is_listed_anew_and_only_differences_told(
    server: ApiServer, heard: Heard, client: Client
) -> None:
    for name in ("same", "changed", "gone"):
        client.create_pod("few", name, node="n1", addresses=())
    wait(lambda: all(heard.of(Kind.POD, name) for name in ("same", "changed", "gone")))
    told = len(heard.events)
    drop(server, on=True)
    try:
        client.delete_pod("few", "gone")
        client.label_pod("few", "changed", {"new": "label"})
        client.create_pod("few", "added", node="n1", addresses=())
        # A server that has just started knows nothing older than its own first list.
        server.restart()
    finally:
        drop(server, on=False)
    wait(lambda: heard.deleted(Kind.POD, Key("few", "gone")), 60)
    pods = [e for e in heard.events[told:] if e.kind is Kind.POD]
    assert sorted(_name(e)[1] for e in pods) == ["added", "changed", "gone"]
    assert isinstance(pods[-1], Delete)
    wait(lambda: heard.faults() == [], 45)


def test_stopping_while_the_server_is_away_is_prompt(server: ApiServer, client: Client) -> None:
    del client
    heard = Heard(server)
    # A request that is on its way when the path is lost is waited for: the watches are to be open.
    wait(lambda: heard.synced() and all(state.current for state in heard.source.states().values()))
    drop(server, on=True)
    try:
        heard.stop()
    finally:
        drop(server, on=False)


@pytest.mark.parametrize(
    ("objects", "accepted"),
    [(admission.ACCEPTED, True), (admission.REFUSED, False)],
    ids=["accepted", "refused"],
)
def test_manifests_are_refused_exactly_when_a_create_is(
    client: Client, objects: list[admission.Json], accepted: bool
) -> None:
    paths = {
        "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
        "Pod": "/api/v1/namespaces/default/pods",
        "Namespace": "/api/v1/namespaces",
    }
    for data in objects:
        query = urllib.parse.urlencode({"dryRun": "All", "fieldValidation": "Strict"})
        try:
            client.text("POST", f"{paths[data['kind']]}?{query}", data)
            verdict, why = True, ""
        except ApiError as error:
            verdict, why = False, str(error)
        assert verdict is accepted, (data, why)
        (manifest,) = read_text(json.dumps(data).encode(), is_json=True).manifests
        assert (manifest.value is not None) is accepted, (data, manifest.problems)


def test_nothing_stored_is_invalid(heard: Heard) -> None:
    assert not [e for e in heard.events if isinstance(e, Invalid)]
    assert all(state.faults == () for state in heard.source.states().values())
