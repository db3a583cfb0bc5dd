"""Which version of each object was told last, in as little memory as there may be objects."""

from __future__ import annotations

from collections.abc import Iterator

from agent.kube.model import Key


class Versions:
    """A number for each object, by namespace and name: a :class:`Key` of its own would take as much again."""

    def __init__(self) -> None:
        self._by_namespace: dict[str, dict[str, int]] = {}
        self._count = 0

    def note(self, key: Key, version: int) -> None:
        namespace = self._by_namespace.get(key.namespace)
        if namespace is None:
            namespace = self._by_namespace[key.namespace] = {}
        before = len(namespace)
        namespace[key.name] = version
        self._count += len(namespace) - before

    def forget(self, key: Key) -> None:
        """Forget an object, known or not."""
        namespace = self._by_namespace.get(key.namespace)
        if namespace is None or namespace.pop(key.name, None) is None:
            return
        self._count -= 1
        if not namespace:
            del self._by_namespace[key.namespace]

    def doubt(self) -> None:
        """Have every object count as told in no version that there is."""
        for namespace in self._by_namespace.values():
            namespace.update(dict.fromkeys(namespace, 0))

    def get(self, key: Key) -> int | None:
        return self._by_namespace.get(key.namespace, {}).get(key.name)

    def __contains__(self, key: Key) -> bool:
        return self.get(key) is not None

    def __iter__(self) -> Iterator[Key]:
        return (Key(namespace, name) for namespace, names in self._by_namespace.items() for name in names)

    def __len__(self) -> int:
        return self._count
