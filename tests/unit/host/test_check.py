"""The logic of the host checks, on a directory in place of /proc."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.fault import Fault
from agent.host.check import HostState, Readers, check_host
from agent.kernel.links import Bridge
from agent.kernel.netlink import Message
from agent.net import Family

GOOD = {
    "sys/net/ipv6/conf/all/disable_ipv6": "0",
    "sys/net/ipv4/ip_forward": "1",
    "sys/net/ipv6/conf/all/forwarding": "0",
    "sys/net/bridge/bridge-nf-call-iptables": "1",
    "sys/net/bridge/bridge-nf-call-ip6tables": "1",
    "net/ip_tables_matches": "set\nset\ncomment\n",
    "net/if_inet6": "00000000000000000000000000000001 01 80 10 80 lo\n",
}
IPVS = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port\n  -> Remote\n"


class Node:
    """A node in a directory, all well unless a test says otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bridges: list[Bridge] = []
        self.links: set[str] = set()
        self.missing: set[str] = set()
        self.codes: dict[int, int] = {}
        self.modules: list[str] = []
        self.loading: dict[str, Callable[[], object]] = {}
        for name, text in GOOD.items():
            self.write(name, text)
        self.readers = Readers(
            proc_sys=root / "sys",
            proc_sys_of_host=root / "host",
            proc_net=root / "net",
            bridges=lambda: self.bridges,
            answers=lambda message: self.codes.get(message.kind >> 8, 0),
            link_exists=lambda name: name in self.links,
            load_module=self.load,
        )

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def text(self, name: str) -> str:
        return (self.root / name).read_text().strip()

    def remove(self, name: str) -> None:
        (self.root / name).unlink()

    def load(self, module: str) -> bool:
        self.modules.append(module)
        if module not in self.loading:
            return False
        self.loading[module]()
        return True

    def needs(self, families: frozenset[Family]) -> list[Fault]:
        found = sorted(self.missing) if Family.V6 in families else []
        return [Fault(f"not installed: {name}") for name in found]

    def check(self, fix: bool = True) -> HostState:
        return check_host(fix, self.needs, self.readers)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def only(state: HostState) -> Fault:
    assert len(state.faults) == 1, state.faults
    return state.faults[0]


def test_a_good_node_has_no_fault_and_starts_nothing(node: Node) -> None:
    assert node.check() == HostState((), frozenset(Family), bridged=False, ipvs=False)
    assert node.modules == []


def test_a_bridge_that_passes_iptables_by_is_set_right(node: Node) -> None:
    node.bridges = [Bridge("cni0", True)]
    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
        node.write(f"sys/net/bridge/{name}", "0")
    state = node.check()
    assert state.faults == ()
    assert state.bridged
    assert node.text("sys/net/bridge/bridge-nf-call-iptables") == "1"
    assert node.text("sys/net/bridge/bridge-nf-call-ip6tables") == "1"


def test_unless_it_may_not(node: Node) -> None:
    node.bridges = [Bridge("cni0", True)]
    node.write("sys/net/bridge/bridge-nf-call-ip6tables", "0")
    fault = only(node.check(fix=False))
    assert fault.blocking
    assert "cni0" in fault.what
    assert "sysctl -w net.bridge.bridge-nf-call-ip6tables=1" in fault.remedy
    assert node.text("sys/net/bridge/bridge-nf-call-ip6tables") == "0"


def test_or_writing_fails(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    node.bridges = [Bridge("cni0", True)]
    node.write("sys/net/bridge/bridge-nf-call-iptables", "0")
    monkeypatch.setattr(Path, "write_text", refuse)
    assert only(node.check()).blocking


def test_an_idle_bridge_is_set_right_too_but_does_not_block(node: Node) -> None:
    node.bridges = [Bridge("docker0", False)]
    node.write("sys/net/bridge/bridge-nf-call-iptables", "0")
    assert not only(node.check(fix=False)).blocking
    assert node.check().faults == ()


def test_without_bridges_their_sysctls_are_let_be(node: Node) -> None:
    node.write("sys/net/bridge/bridge-nf-call-iptables", "0")
    assert node.check().faults == ()
    assert node.text("sys/net/bridge/bridge-nf-call-iptables") == "0"


def test_br_netfilter_is_loaded_where_it_is_missing(node: Node) -> None:
    names = [f"sys/net/bridge/bridge-nf-call-{table}" for table in ("iptables", "ip6tables")]
    for name in names:
        node.remove(name)
    node.bridges = [Bridge("cni0", True)]

    def load() -> None:
        for name in names:
            node.write(name, "1")

    node.loading["br_netfilter"] = load
    assert node.check().faults == ()
    assert node.modules == ["br_netfilter"]


def test_a_module_is_tried_once_and_the_remedy_named(node: Node) -> None:
    for table in ("iptables", "ip6tables"):
        node.remove(f"sys/net/bridge/bridge-nf-call-{table}")
    node.bridges = [Bridge("cni0", True)]
    for _ in range(3):
        faults = node.check().faults
        assert [fault.blocking for fault in faults] == [True, True]
        assert "modprobe br_netfilter" in faults[0].remedy
    assert node.modules == ["br_netfilter"]


def test_ipv6_absent_or_off_is_skipped_and_said(node: Node) -> None:
    node.write("sys/net/ipv6/conf/all/disable_ipv6", "1")
    assert node.check().families == frozenset(Family)  # loopback has an address
    node.write("net/if_inet6", "")
    state = node.check()
    assert state.families == {Family.V4}
    assert not only(state).blocking
    node.remove("sys/net/ipv6/conf/all/disable_ipv6")
    state = node.check()
    assert state.families == {Family.V4}
    assert "not in the kernel" in only(state).what


def test_ipv6_off_on_the_node_is_not_off_for_pods_on_its_bridge(node: Node) -> None:
    node.write("sys/net/ipv6/conf/all/disable_ipv6", "1")
    node.write("net/if_inet6", "")
    node.bridges = [Bridge("cni0", False)]
    assert node.check().families == frozenset(Family)


def test_a_backend_says_what_it_needs_for_the_families_in_use(node: Node) -> None:
    node.missing = {"ip6tables-nft-restore"}
    fault = only(node.check())
    assert fault.blocking
    assert "ip6tables-nft-restore" in fault.what
    node.remove("sys/net/ipv6/conf/all/disable_ipv6")
    assert not only(node.check()).blocking


@pytest.mark.parametrize(
    ("subsystem", "module", "what"),
    [(6, "ip_set", "sets"), (1, "nf_conntrack_netlink", "connection tracking")],
)
def test_netlink_must_answer(node: Node, subsystem: int, module: str, what: str) -> None:
    node.codes[subsystem] = errno.EINVAL
    fault = only(node.check())
    assert fault.blocking
    assert what in fault.what
    assert f"modprobe {module}" in fault.remedy
    node.readers.tried.clear()
    node.loading[module] = node.codes.clear
    assert node.check().faults == ()


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.ENOBUFS])
def test_a_kernel_without_memory_is_not_one_without_the_module(node: Node, code: int) -> None:
    node.codes[6] = code
    assert only(node.check()).what == "the kernel has no memory to answer about its sets"
    assert node.modules == []


def test_without_permission_no_module_is_tried(node: Node) -> None:
    node.codes = {6: errno.EPERM, 1: errno.EPERM}
    faults = node.check().faults
    assert ["CAP_NET_ADMIN" in fault.remedy for fault in faults] == [True, True]
    assert node.modules == []


def test_the_set_match_is_loaded_if_it_is_not_there(node: Node) -> None:
    node.write("net/ip_tables_matches", "comment\n")
    assert node.check(fix=False).faults == ()
    assert node.modules == []
    assert node.check().faults == ()
    assert node.modules == ["xt_set"]


def test_a_node_that_forwards_nothing_is_told(node: Node) -> None:
    node.write("sys/net/ipv4/ip_forward", "0")
    fault = only(node.check())
    assert not fault.blocking
    assert "net.ipv4.ip_forward=1" in fault.remedy
    node.write("sys/net/ipv6/conf/all/forwarding", "1")
    assert node.check().faults == ()


@pytest.mark.parametrize("sign", ["kube-ipvs0", "ip_vs"])
def test_ipvs_must_track_connections(node: Node, sign: str) -> None:
    node.write("sys/net/ipv4/vs/conntrack", "0")
    node.write("net/ip_vs", IPVS)
    assert not node.check().ipvs
    assert node.text("sys/net/ipv4/vs/conntrack") == "0"
    if sign == "kube-ipvs0":
        node.links = {sign}
    else:
        node.write("net/ip_vs", IPVS + "TCP  0A600001:01BB rr\n  -> C0A80A02:1922      Masq    1\n")
    fault = only(node.check(fix=False))
    assert fault.blocking
    assert "net.ipv4.vs.conntrack=1" in fault.remedy
    state = node.check()
    assert state.faults == ()
    assert state.ipvs
    assert node.text("sys/net/ipv4/vs/conntrack") == "1"


def test_in_a_container_sysctls_are_set_where_the_hosts_are_mounted(node: Node) -> None:
    node.bridges = [Bridge("cni0", True)]
    name = "net/bridge/bridge-nf-call-iptables"
    node.write(f"sys/{name}", "0")
    node.write(f"host/{name}", "0")
    node.check()
    assert node.text(f"host/{name}") == "1"
    assert node.text(f"sys/{name}") == "0"


def test_interfaces_that_cannot_be_read_are_a_fault(node: Node) -> None:
    def refuse() -> list[Bridge]:
        raise OSError(errno.EPERM, "Operation not permitted")

    readers = Readers(
        proc_sys=node.root / "sys",
        proc_net=node.root / "net",
        bridges=refuse,
        answers=lambda _: 0,
        link_exists=lambda _: False,
        load_module=node.load,
    )
    assert only(check_host(True, node.needs, readers)).blocking


def test_requests_are_netfilter_messages() -> None:
    asked: list[Message] = []

    def answer(message: Message) -> int:
        asked.append(message)
        return 0

    check_host(False, None, Readers(answers=answer, bridges=list))
    assert [message.kind >> 8 for message in asked] == [6, 1]


def test_a_bridge_that_calls_iptables_by_itself_is_no_fault(node: Node) -> None:
    node.bridges = [Bridge("cni0", True, frozenset({Family.V4})), Bridge("br0", False, frozenset(Family))]
    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
        node.write(f"sys/net/bridge/{name}", "0")
    fault = only(node.check(fix=False))
    assert fault.what.startswith("bridges (cni0) forward IPv6")
    assert fault.blocking


def test_the_sysctls_that_have_to_stay_on_are_named(node: Node) -> None:
    assert node.check().needed == ()
    node.bridges = [Bridge("cni0", True)]
    node.links = {"kube-ipvs0"}
    node.write("sys/net/ipv4/vs/conntrack", "0")
    calls = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")
    assert node.check(fix=False).needed == calls
    assert node.check().needed == (*calls, "net/ipv4/vs/conntrack")


@pytest.mark.parametrize(("carrying", "blocking"), [(True, True), (False, False)])
def test_source_routes_past_policies_are_told(node: Node, *, carrying: bool, blocking: bool) -> None:
    node.write("sys/net/ipv4/conf/all/accept_source_route", "1")
    assert node.check().faults == ()
    node.bridges = [Bridge("cni0", carrying)]
    (fault,) = node.check().faults
    assert fault.blocking is blocking
    assert fault.remedy == "sysctl -w net.ipv4.conf.all.accept_source_route=0, and the same in /etc/sysctl.d"
    assert node.text("sys/net/ipv4/conf/all/accept_source_route") == "1"
    node.write("sys/net/ipv4/conf/all/accept_source_route", "0")
    assert node.check().faults == ()
