"""Results of network plugins: which say an address of a pod, and which are nothing of use."""

from __future__ import annotations

import ipaddress
import json
import os
from pathlib import Path
from typing import Any

import pytest

from agent.kube.model import Key
from agent.sources.cni.result import LARGEST, Result, decode, read
from tests.unit.sources.cni.results import NETNS, cached, text


def packed(*texts: str) -> tuple[bytes, ...]:
    return tuple(ipaddress.ip_address(text).packed for text in texts)


def addresses_of(**about: Any) -> tuple[bytes, ...]:
    found = decode(text(**about), 1)
    return () if found is None else found.addresses


def test_a_result_says_which_pod_has_which_addresses() -> None:
    links = ("cni0", "veth1")
    wanted = Result(Key("shop", "web"), "u1", "c1", packed("10.244.1.7", "fd00::7"), 5, links)
    assert decode(text(), 5) == wanted


def test_a_runtime_may_not_say_the_uid() -> None:
    found = decode(text(uid=None), 1)
    assert found is not None
    assert found.uid == ""


@pytest.mark.parametrize(
    ("result", "wanted"),
    [
        pytest.param(
            {"ip4": {"ip": "10.1.0.2/24"}, "ip6": {"ip": "fd01::2/64"}}, ["10.1.0.2", "fd01::2"], id="0.2.0"
        ),
        pytest.param({"ips": [{"version": "4", "address": "10.1.0.2/24"}]}, ["10.1.0.2"], id="no interface"),
        pytest.param(
            {"ips": [{"address": "10.1.0.2/24"}, {"address": "10.1.0.3/24"}, {"address": "fd01::2/64"}]},
            ["10.1.0.2", "fd01::2"],
            id="the first of a family counts",
        ),
        pytest.param({"ips": [{"address": "10.1.0.2/24", "interface": 7}]}, [], id="no such interface"),
        pytest.param(
            {
                "interfaces": [{"name": "eth0"}, {"name": "net1", "sandbox": NETNS}],
                "ips": [
                    {"address": "10.1.0.2/24", "interface": 0},
                    {"address": "10.2.0.2/24", "interface": 1},
                ],
            },
            [],
            id="the host's side, and another interface",
        ),
        pytest.param({"ips": [{"address": "0.0.0.0/0"}, {"address": "x"}]}, [], id="no address"),
        pytest.param({}, [], id="a plugin that gives none"),
    ],
)
def test_addresses_are_those_of_the_main_interface(result: dict[str, Any], wanted: list[str]) -> None:
    assert addresses_of(result=result) == packed(*wanted)


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "other"},
        {"ifName": "net1"},
        {"cniArgs": [["K8S_POD_NAME", "web"]]},
        {"cniArgs": [["K8S_POD_NAMESPACE", "a/b"], ["K8S_POD_NAME", "web"]]},
        {"cniArgs": [["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "../web"]]},
        {"cniArgs": [["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web"], ["K8S_POD_UID", "x\ny"]]},
        {"cniArgs": None},
        {"cniArgs": "web"},
        {"containerId": ""},
        {"result": None},
        {"result": {"ips": "10.1.0.2"}},
    ],
    ids=str,
)
def test_what_names_no_pod_or_is_of_another_kind_says_nothing(changed: dict[str, Any]) -> None:
    assert decode(json.dumps({**cached(), **changed}).encode(), 1) is None


def test_half_a_file_says_nothing() -> None:
    whole = text()
    assert all(decode(whole[:length], 1) is None for length in range(0, len(whole) - 1, 7))


def test_what_is_nested_without_end_says_nothing() -> None:
    assert decode(b'{"kind":' + b"[" * 100_000, 1) is None


def test_a_file_is_read_with_when_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "lab-c1-eth0"
    path.write_bytes(text())
    os.utime(path, ns=(1, 77))
    found = read(path)
    assert found is not None
    assert found.at == 77


def test_what_is_no_file_of_a_result_is_not_read(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(text())
    link, pipe, large = tmp_path / "link", tmp_path / "pipe", tmp_path / "large"
    link.symlink_to(whole)
    os.mkfifo(pipe)
    large.write_bytes(text() + b" " * LARGEST)
    assert [read(path) for path in (link, pipe, large, tmp_path, tmp_path / "none")] == [None] * 5
