"""A list whose pages an API server can no longer give, by a real one whose store has forgotten them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.kube.events import Synced, Upsert
from agent.kube.model import Kind
from agent.sources.apiserver.listing import PAGE
from tests.cluster.told import ADDRESS, Heard, create_many, wait
from tests.lab.apiserver import ApiServer
from tests.lab.etcd import Etcd
from tests.lab.gate import Gate
from tests.lab.netns import Netns
from tests.patience import PATIENCE

NO_SNAPSHOTS = "--feature-gates=ListFromCacheSnapshot=false"
"""Pages come from the store, as they do from API servers before 1.34, and not from the server's memory."""

PODS = PAGE + 50


def test_a_list_whose_second_page_is_gone_is_read_anew_and_told_whole(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a network namespace")
    netns = Netns("apiserver")
    netns.ip(f"address add {ADDRESS}/32 dev lo")
    with ApiServer(netns, ADDRESS, tmp_path / "server", [NO_SNAPSHOTS]) as server:
        server.client.create_namespace("many")
        create_many(server, PODS)
        asked: list[str] = []

        def is_second_page(path: str) -> bool:
            if path.startswith("/api/v1/pods?"):
                asked.append(path)
            return "continue=" in path

        with Gate(server, is_second_page) as gate:
            heard = Heard(server, config=gate.kubeconfig("agent"), anything=True)
            try:
                assert gate.waiting.wait(PATIENCE)
                server.client.create_pod("many", "late", node="n", addresses=())
                with netns.entered(), Etcd() as etcd:
                    etcd.compact(server.client.written["Pod"])
                gate.open()
                wait(heard.synced)
            finally:
                heard.source.stop()
        told = [event for event in heard.events if event.kind is Kind.POD]
        assert told[-1] == Synced(Kind.POD)
        names = [event.object.name for event in told if isinstance(event, Upsert)]
        assert sorted(names) == sorted({*(f"p{number}" for number in range(PODS)), "late"})
        # Refused once, and then read from the store: the same list would have come to the same end.
        lists = [path for path in asked if "continue=" not in path and "watch" not in path]
        assert ["resourceVersion" in path for path in lists] == [True, False]
