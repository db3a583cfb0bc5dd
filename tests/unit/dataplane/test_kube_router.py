from pathlib import Path

import pytest

from agent.dataplane.iptables.rules import names
from agent.dataplane.kube_router import (
    is_firewall_accept,
    is_firewall_chain,
    is_firewall_set,
    is_pod_chain,
    kube_router_fault,
    running_fault,
)
from agent.kube.model import Key
from agent.net import Direction
from agent.policy.program import PodId, PolicyId

HASH = "ABCDEFGHIJKLMN23"
HOOKED = {
    "INPUT": ['-A INPUT -m comment --comment "kube-router netpol - 4IA2OSFRMVNDXBVV" -j KUBE-ROUTER-INPUT'],
    "FORWARD": ['-m comment --comment "kube-router netpol - TEMCG2JMHZYE7H7T" -j KUBE-ROUTER-FORWARD'],
    "KUBE-ROUTER-INPUT": [],
    "KUBE-ROUTER-FORWARD": [],
}


@pytest.mark.parametrize(
    "chain", [f"KUBE-POD-FW-{HASH}", f"KUBE-NWPLCY-{HASH}", "KUBE-NWPLCY-DEFAULT", "KUBE-NWPLCY-COMMON"]
)
def test_kube_router_is_found_and_its_remedy_named(chain: str) -> None:
    fault = kube_router_fault([{"FORWARD": []}, {**HOOKED, chain: []}])
    assert fault is not None
    assert fault.blocking
    assert "KUBE-ROUTER-INPUT" in fault.what
    assert chain in fault.what
    assert "--run-firewall=false" in fault.remedy


def test_an_old_one_that_hooks_each_pod_is_found() -> None:
    pod = f"KUBE-POD-FW-{HASH}"
    assert kube_router_fault([{"FORWARD": [f"-d 10.0.0.1/32 -j {pod}"], pod: []}]) is not None


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"FORWARD": ["-j KUBE-FORWARD"], "KUBE-FORWARD": []},
        # its service proxy or router alone, or what is left of a firewall after its cleanup
        HOOKED,
        # chains that nothing leads to
        {"FORWARD": [], f"KUBE-POD-FW-{HASH}": [], "KUBE-ROUTER-FORWARD": []},
        # ours
        {
            "FORWARD": ["-j KUBE-NETPOL-FORWARD"],
            f"KUBE-POD-FW-{HASH.lower()}": [],
            f"KUBE-NWPLCY-{HASH.lower()}": [],
        },
        # a name that only begins alike
        {"FORWARD": ["-j KUBE-ROUTER-FORWARDING"], f"KUBE-POD-FW-{HASH}": []},
    ],
)
def test_others_are_let_be(table: dict[str, list[str]]) -> None:
    assert kube_router_fault([table]) is None


FIREWALL_CHAINS = [
    *("KUBE-ROUTER-INPUT", "KUBE-ROUTER-FORWARD", "KUBE-ROUTER-OUTPUT"),
    *("KUBE-NWPLCY-DEFAULT", "KUBE-NWPLCY-COMMON", "KUBE-NWPLCY-TAIL"),
    *(f"KUBE-NWPLCY-{HASH}", f"KUBE-POD-FW-{HASH}"),
]
OTHER_CHAINS = [
    *(
        "KUBE-ROUTER-SERVICES",
        "KUBE-ROUTER-HAIRPIN",
        "KUBE-FORWARD",
        "KUBE-SERVICES",
        "FORWARD",
        "FLANNEL-FWD",
    ),
    names.FORWARD,
    names.policy_chain(PolicyId(Direction.INGRESS, Key("a", "b"))),
    names.pod_chain(PodId(Direction.INGRESS, Key("a", "b"))),
]


def test_chains_of_the_firewall_are_told_from_those_of_its_other_parts_and_from_ours() -> None:
    assert all(is_firewall_chain(name) for name in FIREWALL_CHAINS)
    assert not any(is_firewall_chain(name) for name in OTHER_CHAINS)
    assert [name for name in FIREWALL_CHAINS if is_pod_chain(name)] == [f"KUBE-POD-FW-{HASH}"]


def test_sets_of_the_firewall_are_told_from_those_of_its_other_parts_and_from_ours() -> None:
    for name in (f"KUBE-SRC-{HASH}", f"inet6:KUBE-DST-{HASH}"):
        assert is_firewall_set(name)
        assert not is_firewall_set(name.lower())
    for name in (
        "kube-router-svip",
        "kube-router-local-ips",
        "inet6:kube-router-local-ips",
        f"TMP-{HASH}",
        f"KUBE-SRC-4-{HASH.lower()}",
    ):
        assert not is_firewall_set(name)


def test_sets_of_its_default_deny_are_the_firewalls_too() -> None:
    assert is_firewall_set("kube-router-local-pods")
    assert is_firewall_set("inet6:kube-router-local-pods")


def test_the_rule_by_which_it_accepts_is_known_in_both_its_forms() -> None:
    said = "rule to explicitly ACCEPT traffic that comply to network policies"
    for comment in (said, f"KUBE-ROUTER {said}"):
        assert is_firewall_accept(
            f'-m comment --comment "{comment}" -m mark --mark 0x20000/0x20000 -j ACCEPT'
        )
        assert not is_firewall_accept(f'-m comment --comment "{comment}" -j ACCEPT')
        assert is_firewall_accept(f'[nft 12 ?] -m comment --comment "{comment}" -j ACCEPT')
    assert not is_firewall_accept("-m mark --mark 0x20000/0x20000 -j ACCEPT")


def process(proc: Path, number: int, name: str, *arguments: str, namespace: str = "net:[1]") -> None:
    folder = proc / str(number)
    (folder / "ns").mkdir(parents=True)
    (folder / "comm").write_text(f"{name}\n")
    (folder / "cmdline").write_bytes("\0".join([name, *arguments, ""]).encode())
    (folder / "ns/net").symlink_to(namespace)


@pytest.mark.parametrize(
    ("name", "arguments", "namespace", "found"),
    [
        ("kube-router", ["--run-router=true"], "net:[1]", True),
        ("kube-router", ["--run-firewall=true"], "net:[1]", True),
        ("kube-router", ["--run-firewall=false"], "net:[1]", False),
        ("kube-router", ["--run-router", "--run-firewall=0"], "net:[1]", False),
        ("kube-router", ["--run-firewall=true", "--run-firewall=false"], "net:[1]", False),
        ("kube-router", ["--run-firewall=false", "--run-firewall"], "net:[1]", True),
        ("kube-router", ["--cleanup-config"], "net:[1]", False),
        ("kube-router", [], "net:[2]", False),
        ("kube-proxy", [], "net:[1]", False),
    ],
)
def test_a_kube_router_that_runs_its_firewall_here_is_seen(
    tmp_path: Path, name: str, arguments: list[str], namespace: str, found: bool
) -> None:
    process(tmp_path, 1, "agent")
    (tmp_path / "self").symlink_to("1")
    process(tmp_path, 77, name, *arguments, namespace=namespace)
    (tmp_path / "78").mkdir()  # one that has ended meanwhile
    fault = running_fault(tmp_path)
    assert (fault is not None) == found
    assert fault is None or "process 77" in fault.what
