"""The image: built with buildah into an OCI image layout, and put into one archive."""

from __future__ import annotations

import gzip
import io
import json
import platform
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from release.error import ReleaseError, run

_MISSING = "apt-get install buildah"
_FAILED = "docs/release.md says what a build needs, and how it reaches packages behind a proxy"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Layout(NamedTuple):
    """An OCI image layout with one image of one layer. ``digest`` is that of its manifest, ``sha256:...``."""

    directory: Path
    digest: str

    def blob(self, digest: str) -> Path:
        """Return the file of a blob."""
        return self.directory / "blobs" / digest.replace(":", "/")

    @property
    def manifest(self) -> dict[str, Any]:
        """The image's manifest (OCI image specification)."""
        found: dict[str, Any] = json.loads(self.blob(self.digest).read_text())
        return found

    @property
    def config(self) -> dict[str, Any]:
        """The image's configuration, with ``architecture`` and ``os``."""
        found: dict[str, Any] = json.loads(self.blob(self.manifest["config"]["digest"]).read_text())
        return found

    @property
    def layer(self) -> Path:
        """The layer's file: the last stage of deploy/Dockerfile starts from nothing, so there is one."""
        (layer,) = self.manifest["layers"]
        return self.blob(layer["digest"])

    def files(self) -> Iterator[tuple[str, IO[bytes]]]:
        """Yield each file of the image: its path from the root, and its content, to be read at once."""
        with gzip.open(self.layer) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as archive:
            for member in archive:
                if member.isfile() and (content := archive.extractfile(member)) is not None:
                    yield member.name.removeprefix("./"), content


def layout(directory: Path) -> Layout:
    """Read an OCI image layout. Raises ReleaseError when it does not hold one image of one layer."""
    try:
        (only,) = json.loads((directory / "index.json").read_text())["manifests"]
        found = Layout(directory, only["digest"])
        size = found.layer.stat().st_size
        if size != found.manifest["layers"][0]["size"]:
            raise ValueError(f"its layer has {size} bytes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReleaseError(
            f"{directory} is no OCI image layout with one image of one layer: {error}"
        ) from None
    return found


def build(
    root: Path,
    target: Path,
    *,
    epoch: int,
    base: str = "",
    buildah: Sequence[str] = ("buildah",),
    options: Sequence[str] = (),
) -> Layout:
    """Build the image of a checkout into an OCI image layout, with no time in it but ``epoch``.

    ``base`` is the Debian below, unless it is what deploy/Dockerfile says. ``buildah`` is the command with
    options of its own, ``options`` are those of ``buildah build``. Raises ReleaseError.
    """
    name = "localhost/netpol-agent:built"
    arguments = ["--isolation", "chroot", "--network", "host", "--timestamp", str(epoch)]
    if base:
        arguments += ["--build-arg", f"BASE={base}"]
    dockerfile = ["--file", str(root / "deploy/Dockerfile"), "--tag", name, str(root)]
    run([*buildah, "build", *arguments, *options, *dockerfile], missing=_MISSING, failed=_FAILED)
    run([*buildah, "push", "--quiet", name, f"oci:{target}"], missing=_MISSING, failed=_FAILED)
    return layout(target)


def architecture() -> str:
    """Return this machine's architecture as images name it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def archive(made: Layout, target: Path, *, name: str, version: str, epoch: int) -> None:
    """Write an image into one file, an oci-archive, with the name and tag that it is loaded under."""
    described = {
        "mediaType": _MANIFEST,
        "digest": made.digest,
        "size": made.blob(made.digest).stat().st_size,
        "annotations": {"io.containerd.image.name": full_name(name, version), _REFERENCE: version},
    }
    index = {"schemaVersion": 2, "manifests": [described]}
    digests = [made.digest, made.manifest["config"]["digest"], made.manifest["layers"][0]["digest"]]
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as into:
        _add(into, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}', epoch)
        _add(into, "index.json", json.dumps(index, sort_keys=True).encode(), epoch)
        for digest in sorted(digests):
            _add(into, f"blobs/{digest.replace(':', '/')}", made.blob(digest).read_bytes(), epoch)


_REFERENCE = "org.opencontainers.image.ref.name"


def full_name(name: str, tag: str) -> str:
    """Return the name that container runtimes give an image: without a registry, docker.io/library."""
    first, slash, _ = name.partition("/")
    if not slash:
        return f"docker.io/library/{name}:{tag}"
    if "." not in first and ":" not in first and first != "localhost":
        return f"docker.io/{name}:{tag}"
    return f"{name}:{tag}"


def _add(into: tarfile.TarFile, name: str, content: bytes, epoch: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(content), epoch, 0o644
    into.addfile(member, io.BytesIO(content))
