"""The admission policy of docs/staging.md, on a real API server: who may put policies in audit."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml

from agent.kube.mode import MODE_ANNOTATION
from tests.docs import ROOT
from tests.lab.access import permitted
from tests.lab.client import ApiError, Client, Json
from tests.lab.cluster import Cluster, wait_until

pytestmark = pytest.mark.xdist_group("history")

RBAC = "/apis/rbac.authorization.k8s.io/v1"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
WHO = "tenant"
WRITES = [
    {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["*"]},
    {"apiGroups": [""], "resources": ["namespaces", "namespaces/status"], "verbs": ["get", "patch"]},
]
STAGES: Json = {
    "apiGroups": ["networking.k8s.io"],
    "resources": ["networkpolicies"],
    "verbs": ["stage"],
}


def documents() -> tuple[Json, Json]:
    """Return the policy and its binding, as the page has them."""
    text = (ROOT / "docs/staging.md").read_text()
    (found,) = re.findall(r"```yaml\n(apiVersion: admissionregistration.*?)```", text, re.DOTALL)
    policy, binding = yaml.safe_load_all(found)
    return policy, binding


@pytest.fixture
def tenant(cluster: Cluster) -> Iterator[tuple[str, Client]]:
    """Give a namespace, and a client that may write all in it but was not given the verb."""
    admin = cluster.api.client
    policy, binding = documents()
    with cluster.workspace() as workspace:
        space = workspace.namespace("staged")
        account = f"/api/v1/namespaces/{space}/serviceaccounts"
        admin.post(account, {"metadata": {"name": WHO}})
        rules = [{**WRITES[0], "verbs": ["create", "patch", "get", "delete"]}, WRITES[1]]
        admin.post(f"{RBAC}/clusterroles", {"metadata": {"name": space}, "rules": rules})
        subject = {"kind": "ServiceAccount", "name": WHO, "namespace": space}
        admin.post(
            f"{RBAC}/clusterrolebindings",
            {
                "metadata": {"name": space},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": space},
                "subjects": [subject],
            },
        )
        # What the server grants lags behind what is written.
        wait_until(lambda: permitted(admin, WHO, "networkpolicies", "create", namespace=space), 20.0)
        token = admin.post(f"{account}/{WHO}/token", {"spec": {}})["status"]["token"]
        client = Client(cluster.api.netns, cluster.api.url, cluster.api.certificate, token)
        admin.post(f"{ADMISSION}/validatingadmissionpolicies", policy)
        admin.post(f"{ADMISSION}/validatingadmissionpolicybindings", binding)
        try:
            yield space, client
        finally:
            client.close()
            name = policy["metadata"]["name"]
            admin.delete(f"{ADMISSION}/validatingadmissionpolicybindings/{name}")
            admin.delete(f"{ADMISSION}/validatingadmissionpolicies/{name}")
            admin.delete(f"{RBAC}/clusterrolebindings/{space}")
            admin.delete(f"{RBAC}/clusterroles/{space}")


def said(mode: str | None) -> Json:
    return {"metadata": {"annotations": {MODE_ANNOTATION: mode}}}


def refused(client: Client, path: str, mode: str) -> bool:
    """Whether the admission policy refuses a mode. Raises ApiError when something else does."""
    try:
        client.patch(path, said(mode))
    except ApiError as error:
        if "you may not stage policies here" not in str(error):
            raise
        return True
    return False


def test_only_who_was_given_the_verb_puts_policies_in_audit(
    cluster: Cluster, tenant: tuple[str, Client]
) -> None:
    admin = cluster.api.client
    space, client = tenant
    policies = f"/apis/networking.k8s.io/v1/namespaces/{space}/networkpolicies"
    policy, namespace = f"{policies}/db", f"/api/v1/namespaces/{space}"
    client.post(policies, {"metadata": {"name": "db"}, "spec": {"podSelector": {}}})
    # The server comes to know of the admission policy a little after it was told. No change is never refused.
    wait_until(lambda: bool(client.patch(policy, said(None))) and refused(client, policy, "audit"), 20.0)
    for path in (policy, namespace, f"{namespace}/status"):
        assert all(refused(client, path, mode) for mode in ("audit", "disabled", " Audit "))
        assert not refused(client, path, "enforce")
        assert not refused(admin, path, "audit")
        # What is there may stay, and may go.
        client.patch(path, {"metadata": {"labels": {"mine": "x"}}})
        client.patch(path, said(None))
        assert refused(client, path, "audit")
    role = admin.get(f"{RBAC}/clusterroles/{space}")
    admin.put(f"{RBAC}/clusterroles/{space}", {**role, "rules": [*role["rules"], STAGES]})
    wait_until(lambda: not refused(client, policy, "audit"), 20.0)
    assert not refused(client, namespace, "disabled")
