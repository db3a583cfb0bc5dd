"""The objects of an API server, read as those of files are."""

from __future__ import annotations

from agent.sources.apiserver.connect import Connection
from agent.sources.apiserver.once import read_cluster
from agent.sources.manifests.once import Read, read_given


def read_server(kubeconfig: str | None, context: str | None, *, workloads: bool = False) -> Read:
    """Read what an API server has now; what it did not let be read is among the notes. Raises ReadError."""
    dump = read_cluster(Connection(kubeconfig, context))
    read = read_given("the API server", dump.text, workloads=workloads)
    return read._replace(notes=(*dump.notes, *read.notes))
