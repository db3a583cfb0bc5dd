"""Which kinds are read, which are somebody else's, and which are ours misspelt.

A kind that is passed over enforces nothing, so a policy with a slip in its type must never be: it is
refused, with the type that was likely meant. A kind of another product is no slip, however near its name:
the API group tells, and where the group does not, whole words beside ours (``FQDNNetworkPolicy``).
"""

from __future__ import annotations

import difflib
import re

from agent.kube.model import Kind

Type = tuple[str, str]
"""An ``apiVersion`` and a ``kind``."""

READ: dict[Type, Kind] = {
    ("v1", "Pod"): Kind.POD,
    ("v1", "Namespace"): Kind.NAMESPACE,
    ("v1", "Node"): Kind.NODE,
    ("networking.k8s.io/v1", "NetworkPolicy"): Kind.POLICY,
    ("extensions/v1beta1", "NetworkPolicy"): Kind.POLICY,
}
LIST: Type = ("v1", "List")
LISTS: dict[Type, Type] = {(version, f"{kind}List"): (version, kind) for version, kind in READ}
"""The type of a list's entries, by the list's own."""

ANSWERS = frozenset(
    {
        ("v1", "Status"),
        *(("meta.k8s.io/" + v, k) for v in ("v1", "v1beta1") for k in ("Table", "PartialObjectMetadataList")),
    }
)
"""What an API server answers in place of objects: that it failed, or lines about them (meta/v1)."""

_OURS = {"list": "List"} | {name.lower(): name for kind in Kind for name in (kind.value, f"{kind.value}List")}
_GROUPS = ("networking.k8s.io", "extensions")
_OF_OUR_GROUP = ("Ingress", "IngressClass", "IPAddress", "ServiceCIDR", "ClusterCIDR")
"""The other kinds of ``networking.k8s.io``."""

_NEIGHBOURS = (
    "cilium.io",
    "crd.antrea.io",
    "crd.projectcalico.org",
    "extensions.istio.io",
    "k8s.ovn.org",
    "networking.aws.crossplane.io",
    "networking.azure.com",
    "networking.gke.io",
    "networking.istio.io",
    "networking.k8s.aws",
    "networking.karmada.io",
    "networking.x-k8s.io",
    "projectcalico.org",
)
"""Groups of other products that are near ours by name, or that have policies of their own."""

_POLICIES = ("networkpolicy", "egressfirewall", "securitypolicy")
_OUR_POLICIES = (Kind.POLICY.value, f"{Kind.POLICY.value}List")


def meant(version: str, kind: str) -> str | None:
    """Return the kind of ours that a type which is not read must be taken for; None: it is another's."""
    group, slash, _ = version.rpartition("/")
    if slash and is_of_others(group):
        return None
    near = _near(kind)
    if near is None and group == "networking.k8s.io":
        return None if kind.removesuffix("List") in _OF_OUR_GROUP else Kind.POLICY.value
    return near


def remedy(version: str, ours: str) -> str:
    """Say how to write a kind of ours that was written in a version that is not read."""
    # The first of a kind is the one that is served today.
    served = next(v for v, k in (*READ, *LISTS, LIST) if k == ours)
    return f"write apiVersion {served}, kind {ours}" + (
        "" if _is_like_ours(version.rpartition("/")[0]) else "; keep other products' objects elsewhere"
    )


def is_of_others(group: str) -> bool:
    """Whether an API group belongs to another product.

    A group without a dot and one below ``k8s.io`` and ``kubernetes.io`` are Kubernetes' own (a
    CustomResourceDefinition's group has a dot; those two are protected: KEP-1111 of
    kubernetes/enhancements). What looks like ours, and is no group known here, may be ours misspelt.
    """
    if any(group == known or group.endswith(f".{known}") for known in _NEIGHBOURS):
        return True
    labels = group.lower().split(".")
    if len(labels) < 2 or labels[-2:] in (["k8s", "io"], ["kubernetes", "io"]):
        return False
    has_our_words = "kubernetes" in labels or {"networking", "k8s"} <= set(labels)
    return not has_our_words and not _is_like_ours(group)


def is_policy(type_text: str) -> bool:
    """Whether a type that is passed over is another product's policy, by its name, be it misspelt."""
    kind = type_text.rpartition(" ")[2]
    return kind.lower().removesuffix("list").endswith(_POLICIES) or _near(kind) in _OUR_POLICIES


def _is_like_ours(group: str) -> bool:
    return not group or bool(difflib.get_close_matches(group.lower(), _GROUPS, 1, 0.8))


def _near(kind: str) -> str | None:
    """Return the kind of ours that a name is, but for a slip; whole words more make it another kind."""
    if kind.lower() in _OURS:
        return _OURS[kind.lower()]
    words = _words(kind)
    if difflib.get_close_matches(words[-1] if words else "", ("List",), 1, 0.75):
        words.pop()
    for inner in map(_words, Kind):
        spans = range(len(words) - len(inner) + 1)
        if len(words) > len(inner) and any(words[i : i + len(inner)] == inner for i in spans):
            return None
    near = difflib.get_close_matches(kind.lower(), _OURS, 1, 0.85)
    return _OURS[near[0]] if near else None


def _words(kind: str) -> list[str]:
    """Return the words of a name such as FQDNNetworkPolicy: FQDN, Network, Policy."""
    return re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*|[a-z0-9]+", kind)
