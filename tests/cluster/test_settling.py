"""When the agents of the lab's cluster are taken to have seen all that was written."""

from __future__ import annotations

from tests.cluster.scene import Scene, pods


def test_what_deletes_nothing_is_not_waited_for(scene: Scene) -> None:
    """The answer of such a request has a version that no object has, and that no agent is told."""
    client = scene.cluster.client
    namespace = scene.namespace("a")
    scene.policy(namespace, "closed", pods(app="server"))
    client.delete_policies(namespace)
    scene.cluster.settle()
    scene.pod(scene.near, namespace, "server", {"app": "server"})
    client.delete_policies(namespace)
    scene.cluster.settle()
