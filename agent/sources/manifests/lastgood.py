"""The last good version of each manifest file's objects, kept across restarts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from agent.decoding import UndecodableError, decode
from agent.kube.manifest import Manifest, read_data
from agent.kube.model import Key, Kind

ObjectId = tuple[Kind, Key]


class _Kept(msgspec.Struct):
    directory: str
    path: str
    objects: list[tuple[Kind, dict[str, Any]]]


class LastGood:
    """One JSON file for each manifest file, written whole or not at all."""

    def __init__(self, state_dir: Path, directory: Path) -> None:
        self._folder = state_dir / "manifests"
        self._directory = str(directory.absolute())

    def check(self) -> None:
        """Make the directory, and see that it can be listed and written. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        os.listdir(self._folder)
        with tempfile.TemporaryFile(dir=self._folder):
            pass

    def load(self) -> dict[str, dict[ObjectId, Manifest]]:
        """Return what was kept, by manifest path; what is not readable any more is left out.

        Raises OSError when the directory cannot be reached.
        """
        found: dict[str, dict[ObjectId, Manifest]] = {}
        for file in sorted(self._folder.glob("*.json")) if self._folder.is_dir() else ():
            with contextlib.suppress(OSError, UndecodableError):
                kept = decode(file.read_bytes(), _Kept)
                if kept.directory == self._directory:
                    manifests = (read_data(kind, data) for kind, data in kept.objects)
                    found[kept.path] = {(m.kind, m.key): m for m in manifests if m is not None}
        return found

    def store(self, path: str, manifests: Iterable[Manifest]) -> None:
        """Keep a manifest file's last good objects. Raises OSError."""
        kept = _Kept(self._directory, path, [(m.kind, m.data) for m in manifests])
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._file(path)
        temporary = file.with_suffix(".new")
        with open(temporary, "wb") as out:
            out.write(msgspec.json.encode(kept))
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)

    def forget(self, path: str) -> None:
        """Keep nothing of a manifest file any more. Raises OSError."""
        self._file(path).unlink(missing_ok=True)

    def _file(self, path: str) -> Path:
        name = hashlib.sha256(os.fsencode(f"{self._directory}\0{path}")).hexdigest()
        return self._folder / f"{name[:32]}.json"
