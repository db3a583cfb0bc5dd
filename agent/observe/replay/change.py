"""A proposed change of policies: files with new and edited ones, and names of those to remove."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.kube.mode import Mode, ModeSaid
from agent.kube.model import Key, Kind, NetworkPolicy
from agent.sources.manifests.once import read_once
from agent.spec.cluster import Cluster, mode_in


class ChangeError(Exception):
    """A change that cannot be made; ``wrong`` has a line for each thing, with the remedy."""

    def __init__(self, wrong: Iterable[str]) -> None:
        self.wrong = tuple(wrong)
        super().__init__("; ".join(self.wrong))


class Change(NamedTuple):
    """Policies as they shall be, and those that shall be gone. ``notes``: what in the files is no policy."""

    policies: Mapping[Key, NetworkPolicy]
    removed: frozenset[Key] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def keys(self) -> frozenset[Key]:
        """The policies that it is about."""
        return self.removed.union(self.policies)

    @property
    def namespaces(self) -> frozenset[str]:
        """The namespaces of these policies."""
        return frozenset(key.namespace for key in self.keys)

    def applied(self, cluster: Cluster) -> Cluster:
        """Return the cluster after the change."""
        kept = {key: policy for key, policy in cluster.policies.items() if key not in self.removed}
        return dataclasses.replace(cluster, policies={**kept, **self.policies})

    def in_words(self, cluster: Cluster) -> Iterator[str]:
        """Say of each policy what becomes of it: ``edited shop/api``."""
        for key in sorted(self.keys):
            if key in self.removed:
                yield f"removed {key}"
                continue
            before, policy = cluster.policies.get(key), self.policies[key]
            what = "added" if before is None else "edited"
            if before is not None and msgspec.structs.replace(before, created="") == policy:
                what = "unchanged"
            mode = mode_in(cluster, policy)
            yield f"{what} {key}" + ("" if mode is Mode.ENFORCE else f", {_MODES[mode]}")


_ENFORCED = ModeSaid(Mode.ENFORCE)
_MODES = {
    Mode.AUDIT: "which is audited and denies nothing",
    Mode.DISABLED: "which is disabled and does nothing",
}


def read_change(places: Sequence[Path], removed: Iterable[Key] = (), *, enforce: bool = False) -> Change:
    """Read a change. Files are held to everything that a create is held to. Raises ChangeError.

    ``enforce``: as if every policy in the files were enforced, whatever its annotation says.
    """
    read = read_once(places)
    wrong = list(read.refused)
    policies: dict[Key, NetworkPolicy] = {}
    others: set[str] = set()
    for name, manifest in read.manifests:
        if manifest.kind is not Kind.POLICY:
            others.add(manifest.kind.value)
            continue
        if manifest.stored and manifest.problems:
            problem, where = (
                manifest.problems[0],
                f"{name} line {manifest.line}: NetworkPolicy {manifest.key}",
            )
            wrong.append(f"{where}: {problem.field}: {problem.message}")
        elif isinstance(manifest.value, NetworkPolicy):
            policy = manifest.value
            policies[manifest.key] = msgspec.structs.replace(policy, staging=_ENFORCED) if enforce else policy
    gone = frozenset(removed)
    wrong += (
        f"{key} is in the files and to be removed: choose one of the two" for key in gone & policies.keys()
    )
    if not wrong and not policies and not gone:
        wrong.append("there is no NetworkPolicy in it, and nothing is to be removed: nothing would change")
    if wrong:
        raise ChangeError(wrong)
    notes = [f"only policies are changed; passed over: {', '.join(sorted(others))}"] if others else []
    return Change(policies, gone, (*read.notes, *notes))
