"""All files of a release, in a directory."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import yaml

from release.image import Layout, archive
from release.manifests import manifests
from release.sbom import sbom
from release.source import Source

SUMS = "SHA256SUMS"


class Made(NamedTuple):
    """A file of a release, and what it is."""

    file: Path
    what: str


def image_name(root: Path) -> str:
    """Return where the image is pulled from unless somebody says otherwise: what deploy/image says."""
    (image,) = yaml.safe_load((root / "deploy/image/kustomization.yaml").read_text())["images"]
    return str(image["newName"])


def make(source: Source, image: Layout, target: Path, *, name: str) -> list[Made]:
    """Write every file of a release into a directory, which is made; return them. Raises ReleaseError.

    ``name`` is where the image will be pulled from, without a tag. Files are put in their place when all are
    whole; what else is in the directory stays.
    """
    stem = f"netpol-agent-{source.version}"
    arch = image.config["architecture"]
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".making-") as place:
        there = Path(place)
        found = [Made(there / f"{stem}-{arch}.oci.tar", "the image, an OCI archive")]
        archive(image, found[0].file, name=name, version=source.version, epoch=source.epoch)
        for part, text in manifests(source.root / "deploy", name=name, digest=image.digest).items():
            what = f"manifests of deploy/{'overlays/' + part[1:] if part else ''}"
            found.append(_written(there / f"{stem}{part}.yaml", text, what))
        bill = sbom(image, source, name)
        found.append(
            _written(there / f"{stem}-{arch}.cdx.json", bill, "what is in the image (SBOM, CycloneDX 1.6)")
        )
        heading = f"# netpol-agent {source.version}, {source.date}\n\n"
        found.append(_written(there / f"{stem}-notes.md", heading + source.notes, "release notes"))
        sums = "".join(f"{_sha256(made.file)}  {made.file.name}\n" for made in found)
        found.append(_written(there / SUMS, sums, f"checksums: sha256sum --check {SUMS}"))
        for made in found:
            os.utime(made.file, (source.epoch, source.epoch))
            made.file.rename(target / made.file.name)
    return [Made(target / made.file.name, made.what) for made in found]


def _written(file: Path, text: str, what: str) -> Made:
    file.write_text(text)
    return Made(file, what)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
