import pytest

from agent.dataplane.strangers import kube_router_fault

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
