"""Which cluster answers: the uid of its namespace kube-system, which every cluster has and none can delete.

It is remembered where the kernel's state is, and goes with it when the node starts anew. So a node that holds
the policies of one cluster takes nothing from another until a person says so, and a node that holds nothing
takes what it finds.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from agent import log
from agent.decoding import decode
from agent.kube.model import Kind
from agent.kube.shallow import shallow
from agent.kube.wire import decode_page, identity_of
from agent.sources.apiserver.connect import CONNECT_SECONDS
from agent.sources.apiserver.proof import PagesProof, not_a_list, number

_log = log.get(__name__)

NAMESPACE = "kube-system"
QUERY = {"fieldSelector": f"metadata.name={NAMESPACE}"}
"""What to ask of the namespaces: a list of that one, which needs no right that the agent has not."""
COMMAND = "netpol-agent confirm-cluster"

_UID = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z._-]{0,127}")


class OtherClusterError(Exception):
    """Another cluster answers than the one whose policies hold here; the text names both, and the remedy."""


class NotConfirmedError(Exception):
    """No cluster could be confirmed; the text says why, and the remedy."""


class Records:
    """What is remembered of clusters, in files of a directory; without one, or where that fails, in memory.

    ``cluster``: the uid of the one whose policies hold here. ``cluster-other``: that of another one, which
    answers. ``cluster-confirmed``: that of the one that a person has confirmed.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._memory: dict[str, str] = {}

    def read(self, name: str) -> str:
        """Return a uid, "" where none is known."""
        if self._directory is not None:
            try:
                text = (self._directory / name).read_text(errors="replace").strip()
            except OSError:
                pass
            else:
                return text if _UID.fullmatch(text) else ""
        return self._memory.get(name, "")

    def write(self, name: str, uid: str) -> None:
        """Remember a uid whole; "" forgets it. Raises OSError; it is remembered in memory all the same."""
        self._memory[name] = uid
        if self._directory is None:
            return
        path = self._directory / name
        if not uid:
            path.unlink(missing_ok=True)
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{name}.new")
        beside.write_text(f"{uid}\n")
        os.replace(beside, path)


class ClusterIdentity:
    """Says whether what an API server has just answered comes from the cluster whose policies hold here.

    ``ask`` sends :data:`QUERY` to the namespaces, given for how long it may connect, and returns the answer's
    body; ``address`` says whom it asks. ``fresh``: the kernel holds nothing of an earlier agent, so that no
    cluster is the wrong one. Thread-safe.
    """

    def __init__(
        self,
        ask: Callable[[float], bytes],
        address: Callable[[], str],
        records: Records,
        *,
        fresh: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._address = address
        self._records = records
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = 0.0
        self._outcome: OtherClusterError | None = None
        self.version = 0
        """The resourceVersion of the last answer, which is read from the store itself: where that keeps all
        kinds, nothing that was told before is of a later one."""
        self.epoch = 0
        """How often a person has confirmed another cluster: what was told before says nothing then."""
        if fresh:
            self._write("cluster", "")
            self._write("cluster-other", "")
        # A file that cannot be removed says nothing of a kernel that holds nothing.
        self._expected = "" if fresh else records.read("cluster")

    @property
    def known(self) -> bool:
        """Whether a cluster is remembered, so that another one would be told from it."""
        return bool(self._expected)

    def verify(self, since: float, connect_seconds: float = CONNECT_SECONDS) -> int:
        """Make sure that the same cluster answers at some moment after ``since``; return the epoch.

        One request serves all who ask for a moment before it. Raises OtherClusterError, what the request
        raises, and UnprovenError when its answer says nothing.
        """
        with self._lock:
            if self._looked <= since:
                began = self._clock()
                uid = self._find(connect_seconds)
                self._outcome = self._judge(uid)
                self._looked = began
            if self._outcome is not None:
                raise OtherClusterError(str(self._outcome))
            return self.epoch

    def _find(self, connect_seconds: float) -> str:
        """Return the uid of the namespace that answers now, "" where there is none."""
        body = shallow(self._ask(connect_seconds))
        try:
            page = decode_page(Kind.NAMESPACE, body)
        except msgspec.DecodeError:
            raise not_a_list(Kind.NAMESPACE, body) from None
        PagesProof(Kind.NAMESPACE).take(page)
        self.version = number(page.resource_version)
        for raw in decode(body, _Items).items:
            identity = identity_of(raw)
            if identity is not None and identity.metadata.name == NAMESPACE:
                return identity.metadata.uid
        return ""

    def _judge(self, uid: str) -> OtherClusterError | None:
        if uid and uid == self._expected:
            self._end_of_doubt()
            return None
        if not self._expected:
            # Also where there is none yet: a server makes it some moments after its first start.
            if uid:
                self._expect(uid)
            return None
        if uid and uid == self._records.read("cluster-confirmed"):
            _log.warning("another cluster is confirmed", cluster=uid, before=self._expected)
            self._expect(uid)
            self._write("cluster-confirmed", "")
            self._end_of_doubt()
            self.epoch += 1
            return None
        if self._records.read("cluster-other") != uid:
            self._write("cluster-other", uid)
        return OtherClusterError(self._text(uid))

    def _text(self, uid: str) -> str:
        other = f"has the uid {uid}" if uid else f"has no namespace {NAMESPACE}"
        meant = f"if it is the right one, run '{COMMAND}' on this node; else " if uid else ""
        return (
            f"another cluster answers at {self._address()}: it {other}, and the cluster whose policies hold "
            f"here has {self._expected} (the uid of the namespace {NAMESPACE}); nothing changes; {meant}"
            "correct the address of the API server"
        )

    def _expect(self, uid: str) -> None:
        self._expected = uid
        self._write("cluster", uid)

    def _end_of_doubt(self) -> None:
        if self._records.read("cluster-other"):
            self._write("cluster-other", "")

    def _write(self, name: str, uid: str) -> None:
        try:
            self._records.write(name, uid)
        except OSError as error:
            _log.warning("the uid of the cluster cannot be saved", file=name, error=error.strerror)


def confirm(records: Records, uid: str | None = None) -> str:
    """Confirm the cluster of a uid, or the other one that the agent has found; return its uid.

    Raises NotConfirmedError.
    """
    if uid is not None and not _UID.fullmatch(uid):
        raise NotConfirmedError(
            f"{uid!r} is no uid: give what 'kubectl get namespace {NAMESPACE} -o jsonpath={{.metadata.uid}}' "
            "prints"
        )
    chosen = uid or records.read("cluster-other")
    if not chosen:
        raise NotConfirmedError(
            "the agent of this node has found no other cluster than the one whose policies hold here; to "
            "confirm one beforehand, give its uid"
        )
    try:
        records.write("cluster-confirmed", chosen)
    except OSError as error:
        raise NotConfirmedError(
            f"it cannot be written: {error.strerror}; run this as root, on the node or in the agent's "
            "container"
        ) from None
    return chosen


class _Items(msgspec.Struct):
    items: list[msgspec.Raw]
