"""Manifests: each kustomization of deploy/ that installs, as one file that names the image by its digest."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from release.error import ReleaseError, run

_REMEDY = "kubectl and kustomize are both fine: https://kubernetes.io/docs/tasks/tools/"


def kustomizations(deploy: Path) -> Iterator[tuple[str, Path]]:
    """Yield what installs, as a part of a file's name and a directory: deploy/ itself, then each overlay."""
    yield "", deploy
    for overlay in sorted((deploy / "overlays").iterdir()):
        yield f"-{overlay.name}", overlay


def manifests(deploy: Path, *, name: str, digest: str) -> dict[str, str]:
    """Return the text of each kustomization with every image of ours named by its digest.

    ``name`` is where the image is pulled from, without a tag. Raises ReleaseError.
    """
    tool = _kustomize()
    found = {}
    with tempfile.TemporaryDirectory() as place:
        copied = Path(place) / "deploy"
        shutil.copytree(deploy, copied, symlinks=True)
        pinned = copied / "image/kustomization.yaml"
        component = yaml.safe_load(pinned.read_text())
        (image,) = component["images"]
        component["images"] = [{"name": image["name"], "newName": name, "digest": digest}]
        pinned.write_text(yaml.safe_dump(component))
        for part, directory in kustomizations(copied):
            text = run([*tool, str(directory)], missing=_REMEDY, failed="try the same by hand")
            if text.count(f"image: {name}@{digest}\n") != text.count("image: "):
                raise ReleaseError(
                    f"{directory.relative_to(place)} has an image that does not come from deploy/image"
                )
            found[part] = text
    return found


def _kustomize() -> list[str]:
    """Return the command that renders a kustomization."""
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    raise ReleaseError(f"neither kubectl nor kustomize is here, which render the manifests: {_REMEDY}")
