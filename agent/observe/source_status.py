"""Where the agent's objects come from, as ``/status`` says it: one row for each cache."""

from __future__ import annotations

import msgspec

from agent.clock import Moment, moment
from agent.kube.model import Kind
from agent.sources.cni.source import CniState
from agent.sources.source import SyncState

RESULTS = "CNI result"
"""What is in the cache of network plugins' results."""


class SourceStatus(msgspec.Struct, frozen=True):
    """One cache: where it stands. A time that is None has not been yet.

    ``current``: what is known is what there is, as far as the source has told; else it is being read again.
    """

    kind: str
    synced: bool
    objects: int
    last_event: Moment | None
    last_contact: Moment | None
    resource_version: str
    fault: str
    refused: tuple[str, ...]
    current: bool = True


def of_kind(kind: Kind, state: SyncState) -> SourceStatus:
    """Return the row of a kind of object."""
    return SourceStatus(
        kind=kind.value,
        synced=state.synced,
        objects=state.objects,
        last_event=_moment(state.last_event),
        last_contact=_moment(state.last_contact),
        resource_version=state.resource_version,
        fault=state.fault,
        refused=state.faults,
        current=state.current,
    )


def of_results(state: CniState | None) -> tuple[SourceStatus, ...]:
    """Return the row of network plugins' results; none where this node has no folder of them."""
    if state is None or not (state.folders or state.fault):
        return ()
    last = _moment(state.last_event)
    return (SourceStatus(RESULTS, state.synced, state.results, last, last, "", state.fault, ()),)


def _moment(seconds: float) -> Moment | None:
    return moment(seconds) if seconds else None
