"""Files of results as libcni writes them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

NETNS = "/var/run/netns/cni-1"


def cached(
    addresses: Sequence[str] = ("10.244.1.7/24", "fd00::7/64"),
    *,
    pod: tuple[str, str] = ("shop", "web"),
    uid: str | None = "u1",
    ifname: str = "eth0",
    result: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return what libcni 1.3 keeps of a sandbox on a bridge."""
    args = [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", pod[0]], ["K8S_POD_NAME", pod[1]]]
    args += [["K8S_POD_INFRA_CONTAINER_ID", "c1"], *([["K8S_POD_UID", uid]] if uid is not None else [])]
    given = {
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "cni0", "mac": "0a:58:0a:f4:01:01"},
            {"name": "veth1", "mac": "0a:58:0a:f4:01:02"},
            {"name": ifname, "mac": "0a:58:0a:f4:01:03", "sandbox": NETNS},
        ],
        "ips": [{"address": text, "gateway": "10.244.1.1", "interface": 2} for text in addresses],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {},
    }
    return {
        "kind": "cniCacheV1",
        "containerId": "c1",
        "config": base64.b64encode(b'{"cniVersion":"1.0.0","name":"lab"}').decode(),
        "ifName": ifname,
        "networkName": "lab",
        "netns": NETNS,
        "cniArgs": args,
        "capabilityArgs": {"io.kubernetes.cri.pod-annotations": {"a": "b"}, "portMappings": []},
        "result": given if result is None else result,
        **more,
    }


def text(**about: Any) -> bytes:
    return json.dumps(cached(**about)).encode()
