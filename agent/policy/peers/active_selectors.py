"""Active predicates and what they match: groups of pods, through namespaces."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from agent.kube.model import Selector
from agent.policy.graph import ActiveSelector, Identity
from agent.policy.peers.identities import Identities
from agent.policy.peers.labels import LabelIndex, SelectorIndex
from agent.policy.program import Predicate


class _Scope:
    """The terms of one distinct namespaceSelector, and the known namespaces that it matches."""

    __slots__ = ("namespaces", "selector", "terms")

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self.namespaces: set[str] = set()
        self.terms: SelectorIndex[ActiveSelector] = SelectorIndex()


class _Namespace:
    """A known namespace and the scopes that match it."""

    __slots__ = ("labels", "scopes")

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels
        self.scopes: set[_Scope] = set()


class Link(NamedTuple):
    """A group that began, or ceased, to match a term."""

    term: ActiveSelector
    group: Identity
    matched: bool


_Terms = tuple[ActiveSelector, ...]


class _Matching(NamedTuple):
    """The groups that a term has still to be held against, and what those that it matches share."""

    groups: list[Identity]
    shared: dict[_Terms, _Terms]


class ActiveSelectors:
    """Keeps ``ActiveSelector.groups`` and ``Identity.terms`` true.

    Handles: a predicate becoming active or not, a group coming and going, a namespace added, changed or
    deleted, in any order. A namespaceSelector matches known namespaces only; a predicate of a fixed
    namespace needs none. Of a term that is being matched some groups at a time, all that changes meanwhile
    is known at once.
    """

    def __init__(self, groups: Identities) -> None:
        self._identities = groups
        self._selectors: dict[Predicate, ActiveSelector] = {}
        self._matching: dict[ActiveSelector, _Matching] = {}
        self._fixed: dict[str, SelectorIndex[ActiveSelector]] = {}
        self._scopes: dict[Selector, _Scope] = {}
        self._scope_index: SelectorIndex[_Scope] = SelectorIndex()
        self._namespaces: dict[str, _Namespace] = {}
        self._namespace_labels: LabelIndex[str] = LabelIndex()
        self.matched = 0
        """How often a new group, or namespace, was held against a term."""

    def activate(self, predicate: Predicate) -> ActiveSelector:
        """Return the term of a predicate, matched against every group."""
        term = self.begin(predicate)
        self.go_on(term, None)
        return term

    def begin(self, predicate: Predicate) -> ActiveSelector:
        """Return the term of a predicate; a new one has still to be matched by :meth:`go_on`."""
        term = self._selectors.get(predicate)
        if term is not None:
            return term
        term = self._selectors[predicate] = ActiveSelector(predicate)
        if predicate.namespaces is None:
            namespace = predicate.namespace or ""
            index = self._fixed.get(namespace)
            if index is None:
                index = self._fixed[namespace] = SelectorIndex()
            groups = self._identities.candidates_in(namespace, predicate.pods)
        else:
            scope = self._scopes.get(predicate.namespaces) or self._add_scope(predicate.namespaces)
            index = scope.terms
            groups = self._identities.candidates_among(scope.namespaces, predicate.pods)
        index.add(predicate.pods, term)
        if groups:
            self._matching[term] = _Matching(groups, {})
        return term

    def go_on(self, term: ActiveSelector, most: int | None) -> int:
        """Hold a term against so many groups more, of those that it is to be held against; None: all.

        Return how many these were; 0: there are none left.
        """
        matching = self._matching.get(term)
        if matching is None:
            return 0
        groups, shared = matching
        some = groups[-most:] if most is not None else groups
        if len(some) == len(groups):
            del self._matching[term]
        else:
            del groups[-len(some) :]
        predicate, known = term.predicate, self._identities.has
        if predicate.namespaces is None:
            there = {predicate.namespace or ""}
        else:
            there = self._scopes[predicate.namespaces].namespaces
        matches, linked = predicate.pods.matches, term.groups
        found = [
            group
            for group in some
            if group.namespace in there and matches(group.labels) and group not in linked and known(group)
        ]
        _change_terms(found, lambda terms: (*terms, term), shared)
        linked.update(dict.fromkeys(found))
        return len(some)

    def deactivate(self, term: ActiveSelector) -> None:
        """Forget a term that feeds no set any more."""
        predicate = term.predicate
        del self._selectors[predicate]
        self._matching.pop(term, None)
        _change_terms(term.groups, lambda terms: tuple(one for one in terms if one is not term), {})
        term.groups = {}
        if predicate.namespaces is None:
            namespace = predicate.namespace or ""
            index = self._fixed[namespace]
            index.remove(predicate.pods, term)
            if not index:
                del self._fixed[namespace]
        else:
            scope = self._scopes[predicate.namespaces]
            scope.terms.remove(predicate.pods, term)
            if not scope.terms:
                self._remove_scope(scope)

    def add_group(self, group: Identity) -> None:
        """Match a new group that has no pods yet."""
        indexes = []
        fixed = self._fixed.get(group.namespace)
        if fixed is not None:
            indexes.append(fixed)
        namespace = self._namespaces.get(group.namespace)
        if namespace is not None:
            indexes.extend(scope.terms for scope in namespace.scopes)
        matching: list[ActiveSelector] = []
        for index in indexes:
            terms = index.candidates(group.labels)
            self.matched += len(terms)
            matching += [term for term in terms if _matches(term, group)]
        for term in matching:
            term.groups[group] = None
        group.terms = tuple(matching)

    def remove_group(self, group: Identity) -> None:
        """Forget a group that has no pods any more."""
        for term in group.terms:
            del term.groups[group]
        group.terms = ()

    def set_namespace(self, name: str, labels: dict[str, str] | None) -> list[Link]:
        """Take a namespace's labels (None: it is gone); return which groups changed sides."""
        old = self._namespaces.get(name)
        if old is not None:
            self._namespace_labels.remove(old.labels, name)
        if labels is None:
            self._namespaces.pop(name, None)
            new = _Namespace({})
        else:
            new = self._namespaces[name] = _Namespace(labels)
            self._namespace_labels.add(labels, name)
            new.scopes = {
                scope for scope in self._scope_index.candidates(labels) if scope.selector.matches(labels)
            }
        before = old.scopes if old is not None else set()
        links: list[Link] = []
        for scope in before - new.scopes:
            scope.namespaces.discard(name)
            links += self._scope_links(scope, name, matched=False)
        for scope in new.scopes - before:
            scope.namespaces.add(name)
            links += self._scope_links(scope, name, matched=True)
        _relink(links)
        return links

    def namespaces_like(self, selector: Selector) -> Iterable[str] | None:
        """Return the namespaces that a selector may match; None: any may."""
        found = self._namespace_labels.candidates(selector)
        return None if found is None else found.things

    def _scope_links(self, scope: _Scope, namespace: str, *, matched: bool) -> list[Link]:
        links: list[Link] = []
        for group in self._identities.in_namespace(namespace):
            terms = scope.terms.candidates(group.labels)
            self.matched += len(terms)
            links += [Link(term, group, matched) for term in terms if _matches(term, group)]
        return links

    def _add_scope(self, selector: Selector) -> _Scope:
        scope = self._scopes[selector] = _Scope(selector)
        self._scope_index.add(selector, scope)
        found = self._namespace_labels.candidates(selector)
        for name in list(self._namespaces if found is None else found.things):
            namespace = self._namespaces[name]
            if selector.matches(namespace.labels):
                scope.namespaces.add(name)
                namespace.scopes.add(scope)
        return scope

    def _remove_scope(self, scope: _Scope) -> None:
        del self._scopes[scope.selector]
        self._scope_index.remove(scope.selector, scope)
        for name in scope.namespaces:
            self._namespaces[name].scopes.discard(scope)

    def sizes(self) -> dict[str, int]:
        return {
            "terms": len(self._selectors),
            "groups to be matched": sum(len(matching.groups) for matching in self._matching.values()),
            "terms of a namespace": sum(map(len, self._fixed.values())) + len(self._fixed),
            "namespace selectors": len(self._scopes) + len(self._scope_index),
            "namespaces": len(self._namespaces) + len(self._namespace_labels),
        }


def _matches(term: ActiveSelector, group: Identity) -> bool:
    return term.predicate.pods.matches(group.labels)


def _relink(links: Iterable[Link]) -> None:
    """Have groups be matched by some terms more, by others no more."""
    gained: dict[Identity, list[ActiveSelector]] = {}
    lost: dict[Identity, set[ActiveSelector]] = {}
    for term, group, matched in links:
        if matched:
            term.groups[group] = None
            gained.setdefault(group, []).append(term)
        elif group in term.groups:
            del term.groups[group]
            lost.setdefault(group, set()).add(term)
    shared: dict[_Terms, _Terms] = {}
    for group in gained.keys() | lost.keys():
        kept = [term for term in group.terms if term not in lost.get(group, ())]
        terms = (*kept, *gained.get(group, ()))
        group.terms = shared.setdefault(terms, terms)


def _change_terms(
    groups: Iterable[Identity], change: Callable[[_Terms], _Terms], by_value: dict[_Terms, _Terms]
) -> None:
    """Change the terms of groups, those that several groups share once.

    A set of terms of its own for each of 10,000 groups takes 2 kB, and up to 40 ms to grow. ``by_value``:
    what the same change has made of terms before.
    """
    by_place: dict[int, tuple[_Terms, _Terms]] = {}
    for group in groups:
        before = group.terms
        found = by_place.get(id(before))
        if found is None:
            after = by_value.get(before)
            if after is None:
                after = by_value[before] = change(before)
            # With what it was, so that nothing else comes to be at its place meanwhile.
            found = by_place[id(before)] = before, after
        group.terms = found[1]
