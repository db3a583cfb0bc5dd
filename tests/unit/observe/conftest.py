"""A program, a kernel view and facts that tests of status share."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from agent.dataplane.backend import KernelView
from agent.dataplane.differences import Repair
from agent.fault import Fault
from agent.kube.model import Key, Kind
from agent.net import Direction, Family, Protocol
from agent.observe.server import StatusServer
from agent.observe.snapshot import Facts, StatusSnapshot, take
from agent.policy.lower.lowered import LoweredPolicy, LoweredProgram, LoweredRule, SetId, SetKind
from agent.policy.program import PodId, PodProgram, PolicyId, PortRange, network_policies
from agent.sources.source import SyncState
from tests.patience import PATIENCE
from tests.unit.observe.serving import Agent
from tests.unit.observe.test_server import Get

NOW = 1_767_225_600.0
PEERS = SetId(SetKind.ADDRESSES, Direction.INGRESS, Family.V4, "pods app=web in namespace shop")
UNSEEN = SetId(SetKind.ADDRESSES, Direction.INGRESS, Family.V6, "pods app=web in namespace shop")
WEB = Key("shop", "db-0")
POLICY = Key("shop", "db")


@pytest.fixture
def facts() -> Facts:
    return Facts(
        node="worker-1",
        version="0.1.0",
        now=NOW,
        started=NOW - 7_300,
        ready=True,
        applied=True,
        iptables_mode="nft",
        iptables_mode_reason="nft: kubelet's hint chain KUBE-IPTABLES-HINT is in nft",
        families=(4, 6),
        states={
            Kind.POD: SyncState(True, 12, NOW - 4, NOW - 1, resource_version="99"),
            Kind.POLICY: SyncState(
                True, 2, 0.0, NOW - 90, "connection refused", ("shop/x: spec.ingres: no",)
            ),
        },
        faults=(Fault("IPv6 forwarding is off", "sysctl -w net.ipv6.conf.all.forwarding=1", blocking=False),),
        apply_at=NOW - 30,
        apply_seconds=0.0042,
        apply_writes=3,
        error_at=NOW - 600,
        error="iptables-restore: line 4 failed",
        drift_check_at=NOW - 2,
        repairs=1,
        repair=Repair(NOW - 2, ("chain X is gone", "chain Y is gone"), "nft[b] (pid 5)"),
    )


@pytest.fixture
def program() -> LoweredProgram:
    ports = (PortRange(Protocol.TCP, 5432, 5432),)
    return LoweredProgram(
        policies={
            PolicyId(Direction.INGRESS, POLICY): LoweredPolicy(
                v4=(LoweredRule(0, peers=(PEERS,), ports=ports),),
                v6=(LoweredRule(0, peers=(UNSEEN,), ports=ports),),
            )
        },
        pods={
            PodId(Direction.INGRESS, WEB): PodProgram(
                (b"\n\0\0\5", b"\xfd" + b"\0" * 14 + b"\5"), network_policies((POLICY,))
            )
        },
        sets={PEERS: {b"\n\0\0\6", b"\n\0\0\7"}, UNSEEN: set()},
        closed={Direction.INGRESS: {b"\n\0\0\x09"}, Direction.EGRESS: set()},
    )


@pytest.fixture
def view() -> KernelView:
    return KernelView({"KUBE-POD-FW-abc/4": 3, "KUBE-NWPLCY-abc/4": 2}, {PEERS: ("KUBE-SRC-4-abc", 2)})


@pytest.fixture
def snapshot(facts: Facts, program: LoweredProgram, view: KernelView) -> StatusSnapshot:
    return take(facts, program, view)


@pytest.fixture
def agent(snapshot: StatusSnapshot) -> Agent:
    return Agent(snapshot)


@pytest.fixture
def server(agent: Agent) -> Iterator[StatusServer]:
    server = StatusServer("127.0.0.1", 0, agent.health, agent.status, ["Node-1"])
    server.start()
    yield server
    server.stop()


@pytest.fixture
def get(server: StatusServer) -> Get:
    def get(
        path: str, method: str = "GET", host: str = "127.0.0.1:20245"
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        try:
            connection.request(method, path, headers={"Host": host})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    return get
