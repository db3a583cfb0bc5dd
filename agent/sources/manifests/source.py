"""A directory of manifests as a source, watched for changes."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import watchfiles

from agent import log
from agent.kernel.thread import start
from agent.kube.documents import NOT_APPLIED, is_kustomization
from agent.kube.events import Invalid, Room, Sink, Synced, after_room, enough
from agent.kube.kinds import is_policy
from agent.kube.manifest import Manifest
from agent.kube.model import Kind
from agent.kube.text import UnreadableError
from agent.sources.manifests.arrivals import Arrivals
from agent.sources.manifests.desired import Held, Wanted, changes, combine
from agent.sources.manifests.directory import Stamp, read_settled_file, scan, shown
from agent.sources.manifests.lastgood import LastGood, ObjectId
from agent.sources.manifests.writing import BeingWrittenError
from agent.sources.source import Counting, SyncState

_log = log.get(__name__)

_KINDS = (Kind.NAMESPACE, Kind.POD, Kind.POLICY, Kind.NODE)

# How long a change must have settled, and how long at most to wait for that.
_SETTLE_MS = 25
_DEBOUNCE_MS = 200
# Directories are also looked at without being told: file systems exist that tell nothing.
_LOOK_MS = 2000
_ABSENT_SECONDS = 1.0
# A file that is being written is looked at again after the first of these, then ever less often.
_WRITTEN_SECONDS = (0.02, 0.5)
_EMPTY_SECONDS = 1.0
# A file that stays unfinished longer than this is a fault.
_UNFINISHED_SECONDS = 10.0

_KEPT = "the last good version of its objects stays in force"


class _File:
    """One manifest file: the text last seen, and the last good version of its objects."""

    def __init__(self, good: dict[ObjectId, Manifest] | None) -> None:
        self.stamp: Stamp | None = None
        self.manifests: tuple[Manifest, ...] = tuple((good or {}).values())
        self.good: dict[ObjectId, Manifest] = good or {}
        self.known = good is not None
        self.fault = ""
        self.unfinished: Stamp | None = None
        """What it was at the last look, when it was still being written then."""
        self.unfinished_at = 0.0
        self.unfinished_since = 0.0
        """``time.monotonic()`` when it was first seen to be like that, and to be unfinished at all."""


class ManifestSource:
    """Pods, Namespaces, NetworkPolicies and Nodes from the YAML and JSON files below a directory.

    What cannot be read takes nothing away. A file that is being written in place is read when that is
    over, and until then what held holds; one that is renamed or linked there is read at once. A file that
    cannot be read whole keeps its last good objects; an object that is not valid keeps its last good
    version; a directory that is gone or cannot be listed keeps all. The last good versions are kept in
    ``state_dir``, so that this holds across a restart. The source is synced once every file was read whole,
    or was restored from there. Files removed while the directory can be listed take their objects with
    them, but not while there is a file that was never read whole: they may have gone there.

    Of one object in two files, the first path by sort order holds and the other is a fault.
    """

    def __init__(self, directory: Path, state_dir: Path | None = None) -> None:
        self._directory = directory
        self._last_good = LastGood(state_dir, directory) if state_dir is not None else None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._files: dict[str, _File] = {}
        self._told: dict[ObjectId, Wanted] = {}
        self._arrivals = Arrivals(directory)
        self._restored: dict[str, dict[ObjectId, Manifest]] = {}
        self._ignored: set[str] = set()
        self._synced = False
        self._logged: set[str] = set()
        self._folder_faults: tuple[str, ...] = ()
        self._absent = False
        self._state_dir = state_dir
        self._state_faults: dict[str, str] = {}
        self._state_told = False
        self._states = {kind: SyncState(False, 0, 0.0, 0.0, "not read yet") for kind in _KINDS}
        self._counts = {kind: Counting() for kind in _KINDS}

    def start(self, sink: Sink, room: Room = enough) -> None:
        work = (after_room(room, sink),)
        self._thread = threading.Thread(target=self._run, args=work, name="source-manifests", daemon=True)
        start(self._thread)

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2.0)

    def threads(self) -> Mapping[str, bool]:
        thread = self._thread
        return {} if thread is None else {thread.name: thread.is_alive()}

    def states(self) -> Mapping[Kind, SyncState]:
        return {
            kind: state._replace(counts=self._counts[kind].read()) for kind, state in self._states.items()
        }

    def load(self) -> None:
        """Load the last good versions that were kept. Used on the source's own thread."""
        if self._last_good is None:
            return
        try:
            self._restored = self._last_good.load()
            self._last_good.check()
        except OSError as error:
            self._tell_state(error)

    def _run(self, sink: Sink) -> None:
        self.load()
        while not self._stopping.is_set():
            self._safely_refresh(sink)
            self._wait_for_writers(sink)
            try:
                before = self._directory.stat()
                for _ in watchfiles.watch(
                    self._directory,
                    watch_filter=None,
                    debounce=_DEBOUNCE_MS,
                    step=_SETTLE_MS,
                    rust_timeout=_LOOK_MS,
                    yield_on_timeout=True,
                    stop_event=self._stopping,
                    raise_interrupt=False,
                ):
                    self._safely_refresh(sink)
                    self._wait_for_writers(sink)
                    now = self._directory.stat()
                    if (now.st_dev, now.st_ino) != (before.st_dev, before.st_ino):
                        # Another directory took the name; the watch still holds the old one.
                        break
            except (OSError, RuntimeError, MemoryError):
                # Gone, or not to be watched: looked at again soon, and named by the refresh.
                self._stopping.wait(_ABSENT_SECONDS)

    def _wait_for_writers(self, sink: Sink) -> None:
        """Look again and again while a file is being written: that it is closed is not told as a change."""
        pause, longest = _WRITTEN_SECONDS
        while any(file.unfinished for file in self._files.values()) and not self._absent:
            if self._stopping.wait(pause):
                return
            pause = min(longest, pause * 2)
            self._safely_refresh(sink)

    def _safely_refresh(self, sink: Sink) -> None:
        try:
            self.refresh(sink)
        except MemoryError:
            self._fail("no memory to read the manifests; trying again")
        except Exception as error:
            # A fault of ours must not end the watch: the node would go stale in silence.
            _log.exception("manifests not read", directory=str(self._directory))
            self._fail(f"internal error: {error!r}; retrying")

    def refresh(self, sink: Sink) -> None:
        """Look at the directory once and tell what changed. Used on the source's own thread."""
        try:
            found = scan(self._directory)
        except OSError as error:
            self._fail(f"{self._directory}: {error.strerror}; make it a directory that the agent can list")
            return
        self._arrivals.watch(found.folders)
        gone = [p for p in self._files if p not in found.files and not _below(p, found.hidden)]
        changed = [
            p for p, stamp in found.files.items() if p not in self._files or self._files[p].stamp != stamp
        ]
        before = [file.good for file in self._files.values()]
        for path in changed:
            self._read(path, found.files[path], before)
        for path in gone:
            del self._files[path]
        if changed or gone or not self._synced or found.faults != self._folder_faults or self._absent:
            self._tell(sink, found.faults)
        self._folder_faults, self._absent = found.faults, False
        now = time.time()
        for kind, state in self._states.items():
            self._states[kind] = state._replace(last_contact=now)
        for path in changed:
            if self._files[path].unfinished is None:
                self._keep(path)
        forgotten = [p for p in self._restored if p not in self._files and not _below(p, found.hidden)]
        for path in {*gone, *forgotten}:
            self._restored.pop(path, None)
            self._keep(path)

    def _read(self, path: str, stamp: Stamp, before: Sequence[Mapping[ObjectId, Manifest]]) -> None:
        """Read a file; ``before`` is what was good in all files, since an object may come from another."""
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = _File(self._restored.get(path))
        now = time.monotonic()
        if file.unfinished is None:
            file.unfinished_since = now
        if file.unfinished != stamp:
            file.unfinished, file.unfinished_at = stamp, now
        quiet = max(now - file.unfinished_at, _age(stamp))
        try:
            if file.good and stamp.size == 0 and quiet < _EMPTY_SECONDS:
                # Some editors empty a file, then write it: look again before its objects are taken away.
                raise BeingWrittenError("it has just been emptied")
            came_whole = functools.partial(self._came_whole, path, file.stamp, stamp)
            reading = read_settled_file(self._directory / path, quiet, came_whole)
        except BeingWrittenError as error:
            if now - file.unfinished_since >= _UNFINISHED_SECONDS or not file.known:
                file.fault = f"{shown(path)}: not read yet: {error}; write another file and rename it to this"
            return
        except UnreadableError as error:
            file.fault = f"{shown(path)}: {error}"
            # A file that changed meanwhile is read again at the next look, which its own change brings.
            file.stamp, file.unfinished = stamp, None
            return
        file.unfinished = None
        file.stamp, file.fault, file.known = stamp, "", True
        self._arrivals.forget(path)
        good: dict[ObjectId, Manifest] = {}
        new_and_refused: set[Kind] = set()
        for manifest in reading.manifests:
            identity = (manifest.kind, manifest.key)
            best: Manifest | None = manifest
            if manifest.value is None:
                best = next((held[identity] for held in (file.good, *before) if identity in held), None)
            if best is not None:
                good.setdefault(identity, best)
            else:
                new_and_refused.add(manifest.kind)
        # What goes while a new one is refused may be that one, its name or namespace misspelt.
        kept = {i: m for i, m in file.good.items() if i not in good and m.kind in new_and_refused}
        file.manifests, file.good = (*reading.manifests, *kept.values()), {**good, **kept}
        for kind in set(reading.ignored) - self._ignored:
            self._ignored.add(kind)
            if is_policy(kind):
                _log.warning("policy of another product", kind=kind, file=path, detail="not enforced here")
            elif is_kustomization(kind):
                _log.warning(
                    "kustomization not applied",
                    file=path,
                    detail=NOT_APPLIED,
                    remedy="keep the output of kubectl kustomize here instead",
                )
            else:
                _log.info("kind ignored", kind=kind, file=path)

    def _came_whole(self, path: str, before: Stamp | None, now: Stamp) -> bool:
        """Whether a file was not written in place; ``before`` is what it was when it was last read."""
        if self._arrivals.came_whole(path):
            return True
        if self._arrivals.knows(path) and not (self._directory / path).is_symlink():
            return False
        # What a link names was exchanged, or nobody tells: another file has the name.
        return before is not None and before.inode not in (0, now.inode)

    def _tell(self, sink: Sink, faults: tuple[str, ...]) -> None:
        desired = combine({path: _held(file) for path, file in self._files.items()})
        unknown = [path for path, file in sorted(self._files.items()) if not file.known]
        if unknown:
            # What went elsewhere may have come to that file.
            desired = desired._replace(objects={**self._told, **desired.objects})
        events = changes(self._told, desired.objects, desired.places)
        self._told = desired.objects
        if events:
            sink(events)
        unread = tuple(file.fault for _, file in sorted(self._files.items()) if file.fault)
        troubles = (*faults, *unread, *self._state_faults.values())
        if not self._synced and not faults and not unknown:
            self._synced = True
            sink([Synced(kind) for kind in _KINDS])
            _log.info("manifests read", directory=str(self._directory), files=len(self._files))
            if not self._files:
                _log.warning(
                    "no manifests",
                    directory=str(self._directory),
                    detail="no pod is isolated until there are some",
                )
        for event in events:
            self._counts[event.kind].told(event)
            if isinstance(event, Invalid):
                identity = (event.kind, event.key)
                meanwhile = event.meanwhile(desired.objects[identity].value is not None)
                for problem in event.problems:
                    _log.warning(
                        "object refused",
                        file=desired.places.get(identity, ""),
                        kind=event.kind.value,
                        object=str(event.key),
                        field=problem.field,
                        problem=problem.message,
                        meanwhile=meanwhile,
                    )
        known = {file.fault for file in self._files.values() if file.known}
        nothing = "nothing of it is enforced until it can be read"
        self._log_once(dict.fromkeys(faults, _KEPT) | {f: _KEPT if f in known else nothing for f in unread})
        now = time.time()
        for kind in _KINDS:
            mine = desired.faults[kind]
            self._states[kind] = SyncState(
                synced=self._synced,
                objects=sum(1 for k, _ in desired.objects if k is kind),
                last_event=now if events else self._states[kind].last_event,
                last_contact=now,
                fault=_summary(troubles),
                faults=(*troubles, *mine),
            )

    def _fail(self, fault: str) -> None:
        self._absent = True
        self._log_once({fault: _KEPT if self._files else "nothing is programmed until it can be listed"})
        for kind, state in self._states.items():
            self._states[kind] = state._replace(fault=fault)
            self._counts[kind].failures += 1

    def _log_once(self, troubles: Mapping[str, str]) -> None:
        """Log each trouble that is new, and what holds meanwhile."""
        for trouble, meanwhile in troubles.items():
            if trouble not in self._logged:
                _log.warning("manifest not read", problem=trouble, meanwhile=meanwhile)
        self._logged = set(troubles)

    def _keep(self, path: str) -> None:
        if self._last_good is None:
            return
        file = self._files.get(path)
        try:
            if file is None:
                self._last_good.forget(path)
            elif not file.fault:
                self._last_good.store(path, file.good.values())
            self._state_faults.pop(path, None)
            self._state_told = bool(self._state_faults)
        except OSError as error:
            self._tell_state(error)
            self._state_faults[path] = (
                f"{path}: its last good version cannot be kept: {error}; make the state directory writable"
            )

    def _tell_state(self, error: OSError) -> None:
        if not self._state_told:
            self._state_told = True
            _log.warning(
                "state directory not usable",
                path=str(self._state_dir),
                error=error.strerror or str(error),
                consequence="after a restart, what is refused has no last good version",
                remedy="make it a directory that the agent can write, or name another with --state-dir",
            )


def _held(file: _File) -> Held:
    """Return what holds of a file: its text as read, or all its last good objects when that failed."""
    if file.fault:
        return Held(tuple(file.good.values()), file.good)
    return Held(file.manifests, file.good)


def _age(stamp: Stamp) -> float:
    """Return for how many seconds a file has been as it is, by its clock; 0 when that is in the future."""
    return max(0.0, time.time() - stamp.modified_ns / 1e9)


def _below(path: str, folders: tuple[str, ...]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)


def _summary(troubles: tuple[str, ...]) -> str:
    if len(troubles) < 2:
        return "".join(troubles)
    return f"{troubles[0]} (and {len(troubles) - 1} more)"
