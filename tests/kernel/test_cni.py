"""The tests' own container runtime: pods by real CNI plugins pass packets, and libcni keeps their results."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from agent.net import Family
from tests.lab.cni import NETWORK, ContainerRuntime
from tests.lab.lab import Lab, flows
from tests.lab.node import Layout, Mode, Node
from tests.lab.place import LabError


@pytest.fixture(params=list(Layout))
def node(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, Node]]:
    with Lab() as lab:
        yield lab, lab.node("near", request.param, Mode.NFT)


def test_a_pod_of_a_plugin_is_reached_and_its_result_is_kept_while_it_lives(
    node: tuple[Lab, Node],
) -> None:
    lab, near = node
    other, outside = lab.pod(near, "a/other"), lab.host("outside")
    lab.serve(other, tcp=[80])
    with ContainerRuntime(near) as runtime:
        started = runtime.start(
            "a/new", "uid-1", dial=[f"{other.v4}:80", f"[{other.v6}]:80", f"{other.v4}:81"], patience=5.0
        )
        kept = json.loads(runtime.result_of(started).read_bytes())
        assert kept["kind"] == "cniCacheV1"
        assert (kept["networkName"], kept["containerId"], kept["ifName"]) == (NETWORK, started.id, "eth0")
        assert ["K8S_POD_UID", "uid-1"] in kept["cniArgs"]
        addresses = [one["address"].partition("/")[0] for one in kept["result"]["ips"]]
        assert addresses == [started.pod.v4, started.pod.v6]
        assert {d.address for d in started.dials if not d.error} == {f"{other.v4}:80", f"[{other.v6}]:80"}
        lab.serve(started.pod, tcp=[80])
        lab.assert_open(
            [flow for source in (other, outside) for flow in flows(source, started.pod, tcp=[80])]
        )
        lab.prober.stop(started.pod)
        runtime.stop(started)
        assert not runtime.result_of(started).exists()


def test_an_address_is_given_again_at_once_where_there_is_only_one(node: tuple[Lab, Node]) -> None:
    _, near = node
    with ContainerRuntime(near, 200, 200) as runtime:
        first = runtime.start("a/first")
        with pytest.raises(LabError, match="no IP addresses available"):
            runtime.start("a/second")
        runtime.stop(first)
        second = runtime.start("a/second")
        assert [second.pod.address(f) for f in Family] == [first.pod.address(f) for f in Family]
