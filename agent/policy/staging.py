"""Which policies are in force, and in which mode: a policy's own annotation, else its namespace's."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from agent.kube.mode import NO_MODE, Mode, ModeSaid
from agent.kube.model import Key, Kind, NetworkPolicy


class Staging:
    """Keeps the policies as they are written, and tells those in force, each with the mode that it has.

    Handles: a policy that comes, changes and goes, a namespace that is known, annotated anew, and gone, in
    any order. ``put`` is told of each version in force; None: there is none, or it is disabled.
    """

    def __init__(self, put: Callable[[Key, NetworkPolicy | None], object]) -> None:
        self._put = put
        self._written: dict[str, dict[Key, NetworkPolicy]] = {}
        self._said: dict[str, ModeSaid] = {}
        """Of namespaces that say something."""
        self.unknown: dict[tuple[Kind, Key], str] = {}
        """The values of annotations that are not known. To be copied by other threads."""

    def set_policy(self, key: Key, policy: NetworkPolicy | None) -> None:
        """Take a version of a policy, or of what stands in for it (None: there is none)."""
        if policy is not None:
            self._written.setdefault(key.namespace, {})[key] = policy
        else:
            in_namespace = self._written.get(key.namespace, {})
            in_namespace.pop(key, None)
            if not in_namespace:
                self._written.pop(key.namespace, None)
        self._note(Kind.POLICY, key, NO_MODE if policy is None else policy.staging)
        self._put(key, None if policy is None else self._in_force(policy))

    def set_namespace(self, name: str, said: ModeSaid) -> None:
        """Take what a namespace says of its policies; nothing, where it is not known."""
        if said == self._said.get(name, NO_MODE):
            return
        if said == NO_MODE:
            del self._said[name]
        else:
            self._said[name] = said
        self._note(Kind.NAMESPACE, Key("", name), said)
        for key, policy in self._written.get(name, {}).items():
            if policy.staging.mode is None:
                self._put(key, self._in_force(policy))

    def written(self, key: Key) -> NetworkPolicy | None:
        """Return a policy as it is written, whatever its mode. For any thread."""
        return self._written.get(key.namespace, {}).get(key)

    def written_in(self, namespace: str) -> tuple[NetworkPolicy, ...]:
        """Return the policies of a namespace as they are written."""
        return tuple(self._written.get(namespace, {}).values())

    def all_written(self) -> list[NetworkPolicy]:
        """Return every policy as it is written."""
        return [policy for found in self._written.values() for policy in found.values()]

    def mode(self, policy: NetworkPolicy) -> Mode:
        """Return the mode that holds for a policy. For any thread."""
        return policy.mode(self._said.get(policy.namespace, NO_MODE))

    def staged(self) -> dict[Key, Mode]:
        """Return the policies that are not enforced. For any thread. It costs a scan."""
        written = [policy for found in self._written.copy().values() for policy in found.copy().values()]
        modes = ((policy.key, self.mode(policy)) for policy in written)
        return {key: mode for key, mode in modes if mode is not Mode.ENFORCE}

    def _in_force(self, policy: NetworkPolicy) -> NetworkPolicy | None:
        mode = self.mode(policy)
        if mode is Mode.DISABLED:
            return None
        if mode is policy.mode():
            return policy
        return msgspec.structs.replace(policy, staging=ModeSaid(mode))

    def _note(self, kind: Kind, key: Key, said: ModeSaid) -> None:
        if said.unknown:
            self.unknown[kind, key] = said.unknown
        elif self.unknown:
            self.unknown.pop((kind, key), None)

    def sizes(self) -> dict[str, int]:
        return {
            "policies written": sum(map(len, self._written.values())) + len(self._written),
            "namespaces staged": len(self._said) + len(self.unknown),
        }
