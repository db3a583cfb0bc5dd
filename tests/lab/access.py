"""Who may do what, as an API server sees it now: what it grants lags behind what is written."""

from __future__ import annotations

from tests.lab.client import Client


def permitted(client: Client, account: str, resource: str, verb: str, *, namespace: str = "") -> bool:
    """Whether a service account of kube-system may do something to a resource in a namespace, or in all."""
    user = f"system:serviceaccount:{namespace or 'kube-system'}:{account}"
    group = "networking.k8s.io" if resource == "networkpolicies" else ""
    attributes = {"group": group, "resource": resource, "verb": verb}
    if namespace:
        attributes["namespace"] = namespace
    asked = {"user": user, "resourceAttributes": attributes}
    answer = client.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": asked})
    return bool(answer["status"]["allowed"])
