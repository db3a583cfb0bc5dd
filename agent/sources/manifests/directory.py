"""A directory of manifests as it is on disk: which files there are, and reading them whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from agent.kube.documents import is_ended
from agent.kube.manifest import Reading, read_text
from agent.kube.text import UnreadableError
from agent.sources.manifests.writing import UNENDED_SECONDS, BeingWrittenError, unwritten

SUFFIXES = (".yaml", ".yml", ".json")


class Stamp(NamedTuple):
    """Equal while a file holds the same text; all zeros when there is no regular file."""

    device: int = 0
    inode: int = 0
    modified_ns: int = 0
    size: int = 0


class Scan(NamedTuple):
    """The manifest files below a directory, by path relative to it; faults name what could not be read.

    ``hidden`` are the directories, relative, whose files are unknown because they could not be listed;
    ``folders`` those that were, the root included as ``.``.
    """

    files: dict[str, Stamp]
    hidden: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


def scan(root: Path) -> Scan:
    """List the manifests below a directory.

    Names that begin with a dot are passed over: editors' temporary files, and the directories behind
    the links of a mounted ConfigMap. Links to files are followed, links to directories are not, except
    the root itself. Raises OSError when the root cannot be listed.
    """
    files: dict[str, Stamp] = {}
    hidden: list[str] = []
    faults: list[str] = []
    listed: list[str] = []

    def unlisted(error: OSError) -> None:
        path = os.path.relpath(error.filename, root)
        hidden.append(path)
        faults.append(f"{shown(path)}: {error.strerror}; let the agent list the directory")

    with os.scandir(root):
        pass
    for folder, folders, names in os.walk(root, onerror=unlisted):
        listed.append(os.path.relpath(folder, root))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.startswith(".") or not name.endswith(SUFFIXES):
                continue
            path = os.path.relpath(os.path.join(folder, name), root)
            files[path] = stamp(root / path)
    return Scan(files, tuple(hidden), tuple(faults), tuple(listed))


def shown(path: str) -> str:
    """Return a path for people: bytes of it that are not UTF-8 are escaped."""
    return path.encode(errors="backslashreplace").decode()


def stamp(path: Path) -> Stamp:
    """Return a file's stamp, zeros when there is no regular file (a dangling link, say)."""
    try:
        found = path.stat()
    except OSError:
        return Stamp()
    if not S_ISREG(found.st_mode):
        return Stamp()
    return Stamp(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def read_bytes(path: Path) -> bytes:
    """Read a file as it is. Raises UnreadableError, also when it changes meanwhile."""
    return _bytes(path, lambda _: contextlib.nullcontext())


def read_settled_file(path: Path, quiet: float, came_whole: Callable[[], bool]) -> Reading:
    """Read a manifest file strictly, but no part of one that is still being written.

    ``quiet`` is for how many seconds it has been left alone; ``came_whole`` says, when the file has been
    read, whether it came in one piece and was not written in place. Raises UnreadableError and
    BeingWrittenError.
    """
    text = _bytes(path, lambda file: unwritten(file, quiet))
    is_json = path.suffix == ".json"
    reading = read_text(text, is_json=is_json, name=path.name)
    # A JSON text that is cut off is none, but any line of YAML may be a beginning.
    if text and not is_json and not is_ended(text) and quiet < UNENDED_SECONDS and not came_whole():
        raise BeingWrittenError("its last line has no end yet")
    return reading


def _bytes(path: Path, guard: Callable[[int], contextlib.AbstractContextManager[None]]) -> bytes:
    before = stamp(path)
    if shown(str(path)) != str(path):
        raise UnreadableError("its name is not UTF-8; rename it")
    try:
        if path.exists() and not path.is_file():
            raise UnreadableError("not a regular file; remove or rename it")
        with path.open("rb") as file, guard(file.fileno()):
            text = file.read()
    except OSError as error:
        raise UnreadableError(f"{error.strerror}; let the agent read the file") from None
    if stamp(path) != before:
        raise UnreadableError("changed while it was read; reading it again")
    return text
