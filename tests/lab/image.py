"""Builds the container image as its users do, with Debian's own tools, into a cache outside the repository.

mmdebstrap makes the base that ``deploy/Dockerfile`` names, buildah builds on it; both are kept by what they
are made from. ``python -m tests.lab.image`` builds ahead of the tests.
"""

from __future__ import annotations

import fcntl
import functools
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from release.error import ReleaseError
from release.image import Layout, build
from tests.lab.client import Json
from tests.lab.debian import base_command, build_secrets, run
from tests.lab.kube_build import cache_directory
from tests.lab.place import LabError

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/Dockerfile"
EPOCH = 1_000_000_000
"""The time of everything in the image, in seconds since 1970; a release has that of its commit."""

_MADE_FROM = (
    *(".dockerignore", "LICENSE", "README.md", "pyproject.toml", "deploy/Dockerfile", "release/image.py"),
)
_LAYERS_KEPT = 40
_SECONDS_KEPT = 86_400


class Image(NamedTuple):
    """An image that has been built: its files, its configuration (OCI image specification, ``config``).

    ``names`` are its files' paths, as containers add places for their mounts. ``unpacked`` is the size of its
    layers in bytes, ``packed`` what is pulled of them. ``layout`` is what a release is made of.
    """

    files: Path
    layout: Path
    config: Json
    names: list[str]
    unpacked: int
    packed: int


@functools.cache
def image() -> Image:
    """Return the image of what is checked out, building it when it is not in the cache.

    Safe to call from several processes at once: one builds, the others wait. Raises LabError when it cannot
    be built.
    """
    cache = cache_directory() / "image"
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"built-{_digest(*_contents())}"
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another process to build the image")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            began = time.monotonic()
            _say("building the image: about three minutes the first time, then one")
            _build(cache, target)
            _say(f"built the image in {time.monotonic() - began:.0f} s")
        target.touch()
        for old in cache.glob("built-*"):
            if time.time() - old.stat().st_mtime > _SECONDS_KEPT:
                shutil.rmtree(old, ignore_errors=True)
    about = json.loads((target / "about.json").read_text())
    return Image(target / "files", target / "oci", **about)


def debian() -> Path:
    """Return the Debian that the image is built on, as a tar file, as :func:`image` does."""
    cache = cache_directory() / "image"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _base(cache)


def _contents() -> Iterator[bytes]:
    """Yield all that decides what the image is."""
    paths = [ROOT / name for name in _MADE_FROM] + sorted((ROOT / "deploy").glob("requirements*.txt"))
    paths += sorted(p for p in (ROOT / "agent").rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    for path in paths:
        yield f"\n{path.relative_to(ROOT)}\n".encode() + path.read_bytes()


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _build(cache: Path, target: Path) -> None:
    base = _base(cache)
    driver = _storage_driver(cache)
    store = cache / f"store-{driver}"
    buildah = ["buildah", "--root", str(store / "root"), "--runroot", str(store / "run")]
    buildah += ["--storage-driver", driver]
    with tempfile.TemporaryDirectory(dir=cache) as place:
        workplace = Path(place)
        (workplace / "unpacked").mkdir()
        try:
            # Without overlays each layer is a copy of everything.
            layers = f"--layers={'true' if driver == 'overlay' else 'false'}"
            made = build(
                ROOT,
                workplace / "unpacked" / "oci",
                epoch=EPOCH,
                base=_imported(buildah, base),
                buildah=buildah,
                options=["--pull-never", layers, *build_secrets(workplace)],
            )
        except ReleaseError as error:
            raise LabError(str(error)) from None
        finally:
            # The step that failed is left, and mounted, to be looked at.
            run([*buildah, "rm", "--all"])
            if driver != "overlay" or len(list((store / "root/overlay").glob("*"))) > _LAYERS_KEPT:
                shutil.rmtree(store, ignore_errors=True)
        _unpack(made, workplace / "unpacked")
        (workplace / "unpacked").rename(target)


def _base(cache: Path) -> Path:
    """Return the base as a tar file, made when it is not in the cache."""
    found = re.search(r"^ARG BASE=debian:(\d+)-slim$", DOCKERFILE.read_text(), re.MULTILINE)
    if found is None:
        raise LabError(f"{DOCKERFILE} does not name its base as debian:NUMBER-slim")
    base = cache / f"base-{_digest(' '.join(base_command(found[1], '')).encode())}.tar"
    if not base.exists():
        unfinished = base.with_suffix(f".{os.getpid()}.tar")
        try:
            run(base_command(found[1], str(unfinished)))
            unfinished.rename(base)
        finally:
            unfinished.unlink(missing_ok=True)
    return base


def _imported(buildah: list[str], base: Path) -> str:
    """Return the name of the image that holds the base alone, putting it into buildah's store if need be."""
    name = f"localhost/{base.stem}"
    if name in run([*buildah, "images", "--format", "{{.Name}}"]).split():
        return name
    working = run([*buildah, "from", "scratch"]).strip()
    run([*buildah, "add", "--quiet", working, str(base), "/"])
    run([*buildah, "commit", "--quiet", "--rm", working, name])
    return name


def _storage_driver(cache: Path) -> str:
    """Return overlay where this machine can mount one, else the slower vfs."""
    with tempfile.TemporaryDirectory(dir=cache) as place:
        for name in ("lower", "upper", "work", "merged"):
            (Path(place) / name).mkdir()
        options = ",".join(f"{name}dir={place}/{name}" for name in ("lower", "upper", "work"))
        mount = ["unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", options, f"{place}/merged"]
        done = subprocess.run(mount, capture_output=True, check=False)
    return "vfs" if done.returncode else "overlay"


def _unpack(made: Layout, target: Path) -> None:
    """Unpack an image into ``files`` of a directory, and write down what its manifest says."""
    with gzip.open(made.layer) as unpacked:
        size = sum(map(len, iter(lambda: unpacked.read(1 << 20), b"")))
    files = target / "files"
    files.mkdir()
    run(["tar", "--extract", "--gzip", "--same-owner", "--file", str(made.layer), "--directory", str(files)])
    names = sorted(str(path.relative_to(files)) for path in files.rglob("*"))
    packed = made.layer.stat().st_size
    about = {"config": made.config["config"], "names": names, "packed": packed, "unpacked": size}
    (target / "about.json").write_text(json.dumps(about))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    made = image()
    print(f"{made.files}: {made.unpacked / 1e6:.1f} MB, {made.packed / 1e6:.1f} MB to pull")
