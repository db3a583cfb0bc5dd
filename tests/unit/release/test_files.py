"""The files of a release: archive and bill of materials, of small images."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from release.error import ReleaseError
from release.image import archive, full_name, layout
from release.sbom import sbom
from release.source import Source
from tests.unit.release.layouts import FILES, PACKAGES, made

SOURCE = Source(Path(), "0.1.0", "c" * 40, 1_770_000_000, "2026-02-03", "- A thing.\n")


def test_the_archive_is_the_layout_with_a_name(tmp_path: Path) -> None:
    image = made(tmp_path / "layout")
    written = []
    for number in range(2):
        target = tmp_path / f"{number}.tar"
        archive(image, target, name="registry.example/netpol-agent", version="0.1.0", epoch=SOURCE.epoch)
        written.append(target.read_bytes())
    assert written[0] == written[1]
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    with tarfile.open(tmp_path / "0.tar") as found:
        assert {member.mtime for member in found} == {SOURCE.epoch}
    subprocess.run(["tar", "--extract", "--file", tmp_path / "0.tar", "--directory", unpacked], check=True)
    again = layout(unpacked)
    assert again.digest == image.digest
    assert {name: content.read() for name, content in again.files()} == {
        name: text.encode() for name, text in FILES.items()
    }
    (only,) = json.loads((unpacked / "index.json").read_text())["manifests"]
    assert only["annotations"] == {
        "io.containerd.image.name": "registry.example/netpol-agent:0.1.0",
        "org.opencontainers.image.ref.name": "0.1.0",
    }


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("netpol-agent", "docker.io/library/netpol-agent:1"),
        ("team/netpol-agent", "docker.io/team/netpol-agent:1"),
        ("registry.example/netpol-agent", "registry.example/netpol-agent:1"),
        ("localhost/netpol-agent", "localhost/netpol-agent:1"),
        ("registry:5000/netpol-agent", "registry:5000/netpol-agent:1"),
    ],
)
def test_a_name_is_what_a_runtime_makes_of_it(name: str, full: str) -> None:
    assert full_name(name, "1") == full


def test_the_bill_has_what_is_installed_and_no_more(tmp_path: Path) -> None:
    image = made(tmp_path)
    text = sbom(image, SOURCE, "registry.example/netpol-agent")
    assert text == sbom(image, SOURCE, "registry.example/netpol-agent")
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert {part["name"]: part.get("purl") for part in bill["components"]} == {
        "libc6": "pkg:deb/debian/libc6@2.41-12%2Bdeb13u1?arch=amd64&distro=debian-13",
        "prometheus-client": "pkg:pypi/prometheus-client@0.26.0",
        "netpol-agent": "pkg:generic/netpol-agent@0.1.0",
        "debian": None,
    }
    of_python = next(part for part in bill["components"] if part["name"] == "prometheus-client")
    assert of_python["licenses"] == [{"expression": "Apache-2.0 AND BSD-2-Clause"}]
    whole = bill["metadata"]["component"]
    assert whole["hashes"] == [{"alg": "SHA-256", "content": image.digest.removeprefix("sha256:")}]
    assert bill["metadata"]["timestamp"] == "2026-02-02T02:40:00+00:00"
    (edges,) = [one["dependsOn"] for one in bill["dependencies"] if one["ref"] == whole["bom-ref"]]
    assert sorted(edges) == sorted(part["bom-ref"] for part in bill["components"])


@pytest.mark.parametrize("missing", ["var/lib/dpkg/", f"{PACKAGES}/prometheus_client-"])
def test_an_image_that_lacks_a_list_is_refused(tmp_path: Path, missing: str) -> None:
    image = made(tmp_path, {name: text for name, text in FILES.items() if not name.startswith(missing)})
    with pytest.raises(ReleaseError, match="not built by deploy/Dockerfile"):
        sbom(image, SOURCE, "netpol-agent")


def test_what_is_no_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no OCI image layout"):
        layout(tmp_path)
    made(tmp_path).layer.write_bytes(b"cut")
    with pytest.raises(ReleaseError, match="no OCI image layout"):
        layout(tmp_path)
