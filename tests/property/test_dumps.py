"""A dump of a cluster, in whatever form it was taken, reads as its server would tell it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from agent.kube import names
from agent.kube.events import Invalid, Upsert
from agent.kube.manifest import read_text
from agent.kube.model import Kind
from agent.kube.text import UnreadableError
from agent.kube.wire import Decoded
from agent.sources.manifests.once import read_once
from tests.lab.reading import decode_watch_line
from tests.property.choices import tried
from tests.property.clusters import RandomCluster, clusters
from tests.property.mutants import mutants
from tests.property.to_yaml import DUMPER, document


def stored(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "metadata": {**data["metadata"], "uid": "u-1", "resourceVersion": "7"}}


def told(data: dict[str, Any]) -> Upsert | Invalid | None:
    decoded = decode_watch_line(Kind.POLICY, json.dumps({"type": "ADDED", "object": data}).encode())
    if not isinstance(decoded, Decoded):
        return None
    assert isinstance(decoded.event, Upsert | Invalid)
    return decoded.event


@tried(clusters(from_files=True), st.data())
def test_a_stored_policy_is_read_as_its_server_tells_it(cluster: RandomCluster, data: st.DataObject) -> None:
    spoilt = data.draw(mutants(document(data.draw(st.sampled_from(cluster.policies)))))
    if not isinstance(spoilt.get("metadata"), dict):
        return
    spoilt = stored(spoilt)
    annotations = spoilt["metadata"].get("annotations")
    if isinstance(annotations, dict) and None in annotations.values():
        # Of null a server stores an empty text.
        return
    try:
        manifests = read_text(json.dumps(spoilt).encode(), is_json=True, dump=True).manifests
    except UnreadableError:
        return
    event = told(spoilt)
    if not manifests or event is None or not spoilt["metadata"].get("namespace"):
        return
    (manifest,) = manifests
    if names.dns_subdomain(manifest.key.name) or names.dns_label(manifest.key.namespace):
        # No server stores that.
        assert manifest.value is None
        return
    if isinstance(event, Upsert):
        assert manifest.value == event.object
    else:
        assert manifest.value is None
        assert manifest.problems
        assert manifest.closed == event.closed


FORMS = ("objects", "lines", "list", "yaml", "yaml list", "utf-16")


def dump(form: str, documents: list[dict[str, Any]]) -> bytes:
    whole = {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": documents}
    if form == "objects":
        return "".join(json.dumps(one, indent=4) for one in documents).encode()
    if form == "lines":
        return "\n".join(map(json.dumps, documents)).encode()
    if form == "list":
        return json.dumps(whole).encode()
    if form == "yaml list":
        documents = [whole]
    text: str = yaml.dump_all(documents, Dumper=DUMPER)
    return text.encode("utf-16" if form == "utf-16" else "utf-8")


@tried(clusters(from_files=True), st.sampled_from(FORMS), st.sampled_from(("dump.yaml", "dump.json", "dump")))
def test_every_form_of_a_dump_holds_the_same(cluster: RandomCluster, form: str, name: str) -> None:
    documents = [stored(document(one)) for one in cluster.objects]
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / name
        file.write_bytes(dump("yaml", documents))
        expected = read_once([file])
        file.write_bytes(dump(form, documents))
        found = read_once([file])
    assert not found.refused
    assert not found.notes
    assert found.objects == expected.objects
    assert len(found.objects) >= len(documents)
