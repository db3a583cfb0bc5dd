"""Settings: what is read from where, what is refused, and how refusals read."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import pytest

from agent.commands.variables import unknown_variables
from agent.kube.logging import Amount
from agent.policy.budget.limits import DEFAULT, NamespaceBudget, PolicyBudget
from agent.setting_values import (
    AllowedPackets,
    DeniedPackets,
    Endpoint,
    Families,
    IptablesMode,
    LogFormat,
    LogLevel,
    NewPods,
)
from agent.settings import SETTINGS, SettingError, Settings, given, resolve, value, warnings
from tests.build import network


def settings(environ: dict[str, str] | None = None, **flags: str) -> Settings:
    return resolve(flags, environ or {}, hostname=lambda: "Worker-1")


def test_defaults() -> None:
    assert settings() == Settings(
        node_name="worker-1",
        kubeconfig="",
        context="",
        manifests=None,
        state_dir=Path("/var/lib/netpol-agent"),
        iptables_mode=IptablesMode.AUTO,
        families=Families.AUTO,
        mark_ingress=None,
        mark_egress=None,
        allowed_packets=AllowedPackets.RETURN,
        denied_packets=DeniedPackets.DROP,
        cut_denied=False,
        allow_nodes=False,
        linger=60.0,
        cache_allowed=10.0,
        policy_budget=DEFAULT.policy,
        namespace_budget=DEFAULT.namespace,
        drift_interval=10.0,
        verify_interval=60.0,
        confirm_empty=30.0,
        history_size=16 << 20,
        history_age=30 * 86_400.0,
        cni_results=(Path("/var/lib/cni/results"), Path("/var/lib/cni/cache/results")),
        nri_socket=Path("/var/run/nri/nri.sock"),
        own_managers=frozenset(),
        fix_host=True,
        guard_frames=False,
        health_address="127.0.0.1",
        health_port=20245,
        new_pods=NewPods.ALLOW,
        pod_networks=frozenset(),
        metrics_address=None,
        metrics_cert=None,
        metrics_key=None,
        metrics_authorize=False,
        metrics_per_policy=False,
        log_format=LogFormat.AUTO,
        log_level=LogLevel.INFO,
        log_denied=Amount.OFF,
        log_allowed=Amount.OFF,
        log_rate=10,
        log_burst=20,
        log_group=3017,
        log_window=30.0,
        flow_log=None,
        flow_log_size=10_485_760,
        events=False,
    )


def test_table_and_type_have_the_same_names() -> None:
    assert [s.name for s in SETTINGS] == [f.name for f in dataclasses.fields(Settings)]


def test_every_setting_says_what_it_is_for() -> None:
    for setting in SETTINGS:
        assert setting.help.endswith("."), setting.name
        assert setting.environment[0] == "NETPOL_AGENT_" + setting.name.upper()


def test_flag_then_own_variable_then_common_variable() -> None:
    both = {"NODE_NAME": "common", "NETPOL_AGENT_NODE_NAME": "own"}
    assert settings(both, node_name="flag").node_name == "flag"
    assert settings(both).node_name == "own"
    assert settings({"NODE_NAME": "common"}).node_name == "common"


def test_an_empty_variable_is_none_at_all() -> None:
    assert settings({"NETPOL_AGENT_LINGER": "", "NODE_NAME": ""}) == settings()


def test_every_setting_can_come_from_its_variable(tmp_path: Path) -> None:
    texts = {
        "node_name": "n1",
        "state_dir": str(tmp_path),
        "iptables_mode": "NFT",
        "families": "dual",
        "mark_ingress": "0x100",
        "mark_egress": "512",
        "allowed_packets": "accept",
        "denied_packets": "reject",
        "cut_denied": "yes",
        "allow_nodes": "yes",
        "linger": "0",
        "cache_allowed": "0",
        "policy_budget": "rules=7,sets=8,networks=9",
        "namespace_budget": "policies=6, sets=8",
        "drift_interval": "2.5",
        "verify_interval": "0",
        "confirm_empty": "0",
        "history_size": "1Mi",
        "history_age": "12h",
        "own_managers": "argocd-controller, helm",
        "fix_host": "off",
        "guard_frames": "on",
        "health_address": "::1",
        "health_port": "0",
        "new_pods": "Deny",
        "pod_networks": "10.244.0.0/16, fd00:10::/48",
        "metrics_address": "[::]:20246",
        "metrics_cert": "/tls/tls.crt",
        "metrics_key": "/tls/tls.key",
        "metrics_authorize": "true",
        "metrics_per_policy": "true",
        "log_format": "json",
        "log_level": "debug",
        "log_denied": "Sampled",
        "log_allowed": "all",
        "log_rate": "7",
        "log_burst": "8",
        "cni_results": "/a, /b/c",
        "nri_socket": "OFF",
        "log_group": "9",
        "log_window": "60",
        "flow_log": str(tmp_path / "flows"),
        "flow_log_size": "5000",
        "events": "on",
        "kubeconfig": "/a:/b",
        "context": "other",
    }
    found = settings({f"NETPOL_AGENT_{name.upper()}": text for name, text in texts.items()})
    assert found == Settings(
        node_name="n1",
        kubeconfig="/a:/b",
        context="other",
        manifests=None,
        cni_results=(Path("/a"), Path("/b/c")),
        nri_socket=None,
        state_dir=tmp_path,
        iptables_mode=IptablesMode.NFT,
        families=Families.DUAL,
        mark_ingress=0x100,
        mark_egress=0x200,
        allowed_packets=AllowedPackets.ACCEPT,
        denied_packets=DeniedPackets.REJECT,
        cut_denied=True,
        allow_nodes=True,
        linger=0.0,
        cache_allowed=0.0,
        policy_budget=PolicyBudget(rules=7, sets=8, networks=9),
        namespace_budget=NamespaceBudget(policies=6, sets=8),
        drift_interval=2.5,
        verify_interval=0.0,
        confirm_empty=0.0,
        history_size=1 << 20,
        history_age=43_200.0,
        own_managers=frozenset({"argocd-controller", "helm"}),
        fix_host=False,
        guard_frames=True,
        health_address="::1",
        health_port=0,
        new_pods=NewPods.DENY,
        pod_networks=frozenset({network("10.244.0.0/16"), network("fd00:10::/48")}),
        metrics_address=Endpoint("::", 20246),
        metrics_cert=Path("/tls/tls.crt"),
        metrics_key=Path("/tls/tls.key"),
        metrics_authorize=True,
        metrics_per_policy=True,
        log_format=LogFormat.JSON,
        log_level=LogLevel.DEBUG,
        log_denied=Amount.SAMPLED,
        log_allowed=Amount.ALL,
        log_rate=7,
        log_burst=8,
        log_group=9,
        log_window=60.0,
        flow_log=tmp_path / "flows",
        flow_log_size=5000,
        events=True,
    )


@pytest.mark.parametrize(
    ("name", "text", "remedy"),
    [
        ("log_denied", "some", "one of off, sampled, all"),
        ("log_rate", "0", "a whole number from 1 to 1000"),
        ("log_rate", "ten", "a whole number from 1 to 1000"),
        ("log_group", "65536", "a whole number from 1 to 65535"),
        ("flow_log", "/", "a file, not a directory"),
        ("node_name", "Worker", "lower-case"),
        ("node_name", "a_b", "lower-case"),
        ("manifests", "/nowhere/at/all", "a directory that exists"),
        ("iptables_mode", "nftables", "one of auto, nft, legacy"),
        ("history_size", "16MB", "such as 16Mi"),
        ("history_size", "1Ki", "at least 256Ki, or 0"),
        ("history_age", "0d", "such as 30d"),
        ("history_age", "a month", "such as 30d"),
        (
            "policy_budget",
            "policies=1",
            "amounts of some of rules, sets, networks, members, selectors, such as rules=8000",
        ),
        (
            "policy_budget",
            "rules=0",
            "each from 1 to 999999999 (with 0, every policy that needs any would be",
        ),
        ("policy_budget", "sets=9,networks=00", "each from 1"),
        ("namespace_budget", "policies=0", "each from 1"),
        ("policy_budget", "rules=-1", "amounts of some of rules, sets, networks"),
        ("namespace_budget", "5000", "amounts of some of policies, rules, sets, networks"),
        ("families", "v4", "one of auto, ipv4, ipv6, dual"),
        ("mark_ingress", "0x30000", "one bit"),
        ("mark_ingress", "0", "one bit"),
        ("mark_egress", "0x100000000", "one bit"),
        ("mark_egress", "bit seven", "one bit"),
        ("allowed_packets", "drop", "one of return, accept"),
        ("denied_packets", "accept", "one of drop, reject"),
        ("linger", "-1", "seconds from 0 to 86400"),
        ("linger", "nan", "seconds"),
        ("linger", "1m", "seconds"),
        ("drift_interval", "0", "seconds from 1 to 86400"),
        ("health_address", "localhost", "an IP address"),
        ("health_port", "65536", "a TCP port"),
        ("health_port", "-1", "a TCP port"),
        ("log_format", "text", "one of auto, console, json"),
        ("log_level", "trace", "one of debug, info, warning, error"),
        ("allow_nodes", "maybe", "true or false"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_remedy(name: str, text: str, remedy: str) -> None:
    flag = "--" + name.replace("_", "-")
    with pytest.raises(SettingError) as caught:
        resolve({name: text}, {})
    assert flag in str(caught.value)
    assert repr(text) in str(caught.value)
    assert remedy in str(caught.value)
    variable = f"NETPOL_AGENT_{name.upper()}"
    with pytest.raises(SettingError, match=variable):
        settings({variable: text})


def test_a_directory_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(SettingError, match=r"--manifests is '/closed/here': Permission denied; give"):
        value("manifests", {"manifests": "/closed/here"}, {})


def test_a_host_name_that_is_no_node_name_is_explained() -> None:
    with pytest.raises(SettingError, match=r"--node-name .*the host's name.* is 'my_host'"):
        resolve({}, {}, hostname=lambda: "my_host")


def test_one_bit_for_both_directions_is_refused() -> None:
    with pytest.raises(SettingError, match="both 0x10000"):
        settings(mark_ingress="0x10000", mark_egress="0x10000")


@pytest.mark.parametrize(("bit", "count"), [("0x4000", 1), ("0x8000", 1), ("0x2000", 0)])
def test_the_bits_of_kube_proxy_are_warned_of(bit: str, count: int) -> None:
    found = warnings(settings(mark_ingress=bit))
    assert len(found) == count
    assert all("kube-proxy" in line and bit in line for line in found)


@pytest.mark.parametrize(
    ("address", "count"), [("127.0.0.1", 0), ("127.0.0.9", 0), ("::1", 0), ("0.0.0.0", 1), ("::", 1)]
)
def test_an_address_that_others_reach_is_warned_of(address: str, count: int) -> None:
    found = warnings(settings(health_address=address))
    assert len(found) == count
    assert all(address in line and "/status" in line for line in found)


def test_objects_come_from_one_place(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="one place"):
        settings(manifests=str(tmp_path), kubeconfig="/x")
    with pytest.raises(SettingError, match="one place"):
        settings({"NETPOL_AGENT_CONTEXT": "c"}, manifests=str(tmp_path))


def test_manifests_win_over_the_common_kubeconfig_variable(tmp_path: Path) -> None:
    found = settings({"KUBECONFIG": "/x"}, manifests=str(tmp_path))
    assert (found.manifests, found.kubeconfig) == (tmp_path, "")


def test_given() -> None:
    assert not given("node_name", {}, {})
    assert given("node_name", {"node_name": "a"}, {})
    assert given("node_name", {"node_name": None}, {"NODE_NAME": "a"})


def test_one_value_does_not_need_the_others_to_be_right() -> None:
    assert value("health_port", {}, {"NETPOL_AGENT_LINGER": "soon"}) == 20245
    with pytest.raises(SettingError, match="NETPOL_AGENT_HEALTH_PORT"):
        value("health_port", {}, {"NETPOL_AGENT_HEALTH_PORT": "http"})


def test_a_variable_that_is_no_setting_is_told_with_the_nearest() -> None:
    found = unknown_variables(
        {
            "NETPOL_AGENT_DENIED_PACKET": "reject",
            "NETPOL_AGENT_COLOUR_OF_THE_LOGO": "blue",
            "NETPOL_AGENT_LINGER": "1",
            "NODE_NAME": "n1",
            "NETPOL_AGENTS": "2",
            "NETPOL_AGENT_SERVICE_HOST": "10.0.0.1",
            "NETPOL_AGENT_SERVICE_PORT": "80",
            "NETPOL_AGENT_SERVICE_PORT_HTTP": "80",
            "NETPOL_AGENT_PORT": "tcp://10.0.0.1:80",
            "NETPOL_AGENT_PORT_80_TCP_ADDR": "10.0.0.1",
        }
    )
    assert len(found) == 2
    assert found[0].startswith("NETPOL_AGENT_COLOUR_OF_THE_LOGO is not a setting")
    assert found[1].endswith("did you mean NETPOL_AGENT_DENIED_PACKETS?")


@pytest.mark.parametrize("name", ["manifests", "kubeconfig", "state_dir", "node_name"])
def test_a_flag_without_a_value_is_refused(name: str) -> None:
    flag = "--" + name.replace("_", "-")
    with pytest.raises(SettingError, match=f"{flag} is empty: give it a value, or leave it out"):
        resolve({name: ""}, {})


def test_an_endpoint_is_an_address_and_a_port() -> None:
    assert settings(metrics_address="0.0.0.0:20246").metrics_address == Endpoint("0.0.0.0", 20246)
    assert str(Endpoint("::", 1)) == "[::]:1"
    for wrong in ("20246", ":20246", "::1:20246", "host:20246", "[::]", "127.0.0.1:70000"):
        with pytest.raises(SettingError, match="metrics-address"):
            settings(metrics_address=wrong)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            {"metrics_address": "0.0.0.0:1", "metrics_cert": "/c"},
            "give both --metrics-cert and --metrics-key",
        ),
        ({"metrics_address": "0.0.0.0:1", "metrics_key": "/k"}, "--metrics-key is given alone"),
        ({"metrics_cert": "/c", "metrics_key": "/k"}, "without --metrics-address"),
        ({"metrics_authorize": "true"}, "--metrics-authorize is given without --metrics-address"),
    ],
)
def test_what_the_metrics_port_needs_is_given_together(flags: dict[str, str], told: str) -> None:
    with pytest.raises(SettingError, match=told):
        settings({}, **flags)


def test_who_may_read_metrics_is_asked_of_an_api_server(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="it is an API server that says who"):
        settings(manifests=str(tmp_path), metrics_address="0.0.0.0:1", metrics_authorize="true")
