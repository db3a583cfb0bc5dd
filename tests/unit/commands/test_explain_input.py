"""What ``explain`` reads: files, directories, pipes and dumps."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from click.testing import Result

from tests.unit.commands.test_suggest import EXAMPLES, WORKLOADS, explain


def test_a_file_several_and_standard_input(tmp_path: Path) -> None:
    def asked(*places: Path | str, stdin: str = "") -> Result:
        options = [word for place in places for word in ("--manifests", str(place))]
        return explain("shop/web", "shop/db", "5432", *options, stdin=stdin)

    cluster, deny = EXAMPLES / "cluster.yaml", EXAMPLES / "01-default-deny.yaml"
    assert asked(cluster).exit_code == 0
    assert asked(cluster, deny).exit_code == 1
    assert asked(deny, "-", stdin=cluster.read_text()).exit_code == 1
    assert asked("-", stdin=f"{cluster.read_text()}---\n{deny.read_text()}").exit_code == 1
    # One file by two ways is one.
    assert asked(EXAMPLES, deny).stderr == ""
    assert asked(EXAMPLES).exit_code == 1
    assert "standard input: nothing came" in asked("-").stderr
    broken = asked(cluster, "-", stdin="a: [")
    assert (broken.exit_code, "refused: standard input: line" in broken.stderr) == (2, True)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(cluster.read_text(),))
    writer.start()
    assert asked(deny, tmp_path / "pipe").exit_code == 1
    writer.join()
    missing = asked(tmp_path / "none")
    assert (missing.exit_code, "none': no such file or directory" in missing.stderr) == (2, True)
    shutil.copy(cluster, tmp_path / "copied.txt")
    twice = asked(cluster, tmp_path / "copied.txt")
    assert "already in" in twice.stderr
    assert f"{cluster} line" in twice.stderr


def test_a_pipe_in_a_directory_is_not_waited_for(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "cluster.yaml", tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")
    result = explain("shop/web", "shop/db", "5432", "--manifests", str(tmp_path))
    assert result.exit_code == 2
    assert "refused: pipe.yaml: not a regular file; remove or rename it" in result.stderr


def test_an_empty_directory_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    result = explain("shop/web", "shop/db", "80", "--manifests", str(tmp_path))
    assert result.exit_code == 2
    assert f"note: {tmp_path} holds no manifests: no file in it ends in .yaml, .yml, .json" in result.stderr


def test_what_is_passed_over_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a}}\n---\n"
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n---\n"
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n---\n"
        "{apiVersion: crd.projectcalico.org/v1, kind: NetworkPolicy, metadata: {name: a}}\n---\n"
        "{apiVersion: projectcalico.org/v3, kind: Networkpolicy, metadata: {name: b}}\n---\n"
        "{apiVersion: projectcalico.org/v3, kind: NetworkPolcy, metadata: {name: c}}\n"
    )
    (tmp_path / "services.yaml").write_text("{apiVersion: v1, kind: Service, metadata: {name: a}}\n")
    (tmp_path / "values.yaml").write_text("a: 1\n")
    assert explain("10.0.0.1", "10.0.0.2", "80", "--manifests", str(tmp_path)).stderr == (
        "note: passed over, since no policy depends on it: v1 ConfigMap, values.yaml of Helm\n"
        "note: policies of another product, not enforced by this agent: "
        "cilium.io/v2 CiliumNetworkPolicy, crd.projectcalico.org/v1 NetworkPolicy, "
        "projectcalico.org/v3 NetworkPolcy, projectcalico.org/v3 Networkpolicy\n"
    )


def test_a_kustomization_is_not_applied_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("namespace: shop\nresources: [np.yaml]\n")
    result = explain("10.0.0.1", "10.0.0.2", "80", "--manifests", str(tmp_path))
    assert (
        "note: kustomization.yaml of Kustomize is not applied: files are read as they stand" in result.stderr
    )
    assert "passed over" not in result.stderr


def test_a_dump_is_read_as_its_server_reads_it_and_says_so() -> None:
    dump = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: loose, namespace: shop, uid: u, resourceVersion: "9"}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.9.0.7/16}}]}]}
"""
    result = explain("10.9.0.1", "shop/db-0", "80", stdin=f"{WORKLOADS}---{dump}")
    assert result.exit_code == 0
    assert "10.9.0.1 is in 10.9.0.0/16" in " ".join(result.stdout.split()) or "matches" in result.stdout
    assert (
        "note: standard input: NetworkPolicy shop/loose: read as its server reads it; as a manifest it would "
        "be refused: spec.ingress[0].from[0].ipBlock.cidr: '10.9.0.7/16' has bits set" in result.stderr
    )
    strict = dump.replace(', resourceVersion: "9"', "")
    assert explain("10.9.0.1", "shop/db-0", "80", stdin=f"{WORKLOADS}---{strict}").exit_code == 2


def test_addresses_are_printed_as_they_are() -> None:
    # An emoji is called :100: by what prints.
    asked = explain("fd00:172:18::100:2", "shop/api", "http", "--manifests", str(EXAMPLES))
    assert "fd00:172:18::100:2 to " in asked.stdout
