"""The compiler: events in, a program kept up to date, deltas out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby, islice

from agent.kube.events import Delete, Event, Invalid, Problem, Upsert
from agent.kube.logging import UNSAID, Logging
from agent.kube.mode import NO_MODE
from agent.kube.model import Key, Kind, Namespace, NetworkPolicy, Node, Object, Pod, default_deny
from agent.net import Direction, Network
from agent.policy.addresses.known import OwnNetworks
from agent.policy.addresses.node_networks import NodeNetworks
from agent.policy.addresses.ownership import Ownership
from agent.policy.addresses.quarantine import Quarantine
from agent.policy.budget.excess import Excess
from agent.policy.budget.limits import DEFAULT, Budgets
from agent.policy.enforcement import Enforcement
from agent.policy.extract import Extract, extract
from agent.policy.inventory import Inventory
from agent.policy.logging import LogChoice
from agent.policy.lower.lowered import Delta, LoweredProgram
from agent.policy.lower.lowering import Lowering
from agent.policy.lower.sets import Sets
from agent.policy.peers.active_selectors import ActiveSelectors
from agent.policy.peers.identities import Identities
from agent.policy.peers.selection import Selection
from agent.policy.program import PodId, Program
from agent.policy.staging import Staging
from agent.policy.step import Stepper
from agent.policy.told import HeldInvalid as HeldInvalid
from agent.policy.told import LocalPod as LocalPod
from agent.policy.touched import Touched


class Engine:
    """Compiles the cluster's objects into the :class:`Program` of one node, step by step.

    Handles any sequence of events: objects added, changed, deleted, recreated and invalid, known or not,
    references before what they refer to. The program depends on the current objects only, never on the way
    that led there; closed addresses, last good versions, and policies that stay closed while their members
    are about as many as their budget, which are memories by nature, are the exception.

    One step::

        events ─► pods ──────► Identities ─► Ownership ─► Sets (members)
                  namespaces ► ActiveSelectors ───────────────────┘
                  policies ──► Staging (modes) ─► Selection
        step ───► Ledger (budgets) ─► Turns ─► Program.policies ─► Lowering ─► Sets (come and go)
                  Selection ─► Program.pods, Program.audited

    Not thread-safe, but for the views :meth:`local_pods` and :meth:`invalid`.
    """

    def __init__(
        self,
        node: str,
        *,
        linger: float = 60.0,
        allow_nodes: bool = False,
        budgets: Budgets = DEFAULT,
        logging: Logging = UNSAID,
        deny_new: bool = False,
        pod_networks: frozenset[Network] = frozenset(),
    ) -> None:
        """Begin with no objects. ``logging`` is for pods that do not say what of theirs is logged.

        ``deny_new``: an address of the node's ``pod_networks`` is closed until a pod is known to have it.
        """
        self._node_networks = NodeNetworks(node)
        self._own_networks = OwnNetworks(node, pod_networks)
        self.program = Program(node_networks=self._node_networks.networks)
        """What holds on this node."""
        whole = self.program
        if deny_new:
            whole.known, whole.pod_networks = set(), self._own_networks.networks
        self.lowered = LoweredProgram(
            pods=whole.pods,
            audited=whole.audited,
            closed=whole.closed,
            node_networks=whole.node_networks,
            known=whole.known,
            pod_networks=whole.pod_networks,
        )
        """The same in the form of sets, which a backend takes. What judges pods needs no other form."""
        self._allow_nodes = allow_nodes
        self._namespaces: dict[str, Namespace] = {}
        self._good: set[Key] = set()
        """Policies in force as they are written."""
        self._standins: set[Key] = set()
        """Policies in force for want of a good version: they isolate and allow nothing."""
        self._invalid: dict[tuple[Kind, Key], tuple[Problem, ...]] = {}
        self._synced: set[tuple[Kind, bool]] = set()
        self._identities = Identities()
        self._selectors = ActiveSelectors(self._identities)
        self._ownership = Ownership()
        self._sets = Sets(self.lowered.sets, self._selectors, self._ownership)
        self._inventory = Inventory(node, self._identities, self._selectors, self._ownership, self._sets)
        self._selection = Selection()
        self.staging = Staging(self._selection.set_policy)
        """The policies as they are written, and their modes."""
        self._quarantine = Quarantine(self.program.closed, linger)
        self._lowering = Lowering(self.lowered, self._sets)
        self._enforcement = Enforcement(
            self.program.policies,
            self._lowering,
            self._sets,
            self._selection,
            self._identities,
            self._selectors,
            budgets,
        )
        self._stepper = Stepper(
            self.program,
            self._inventory.records,
            self._ownership,
            self._sets,
            self._enforcement,
            self._selection,
            self._quarantine,
        )
        self._touched = Touched()
        self._log_choice = LogChoice(logging)

    def adopt(self, isolated: Mapping[Direction, set[bytes]], now: float) -> None:
        """Keep addresses that the kernel already isolates closed, but for those that a pod owns.

        A pod that comes to own one opens it; the rest open when their time has passed since ``now``.
        """
        for direction, addresses in isolated.items():
            for address in addresses:
                if address not in self._ownership.owners:
                    self._quarantine.close(address, (direction,), None, now)

    def apply(self, events: Iterable[Event], now: float, most: int | None = None) -> Delta:
        """Take events, in order, and the time in monotonic seconds; return what changed in the program.

        ``most``: how much compiling the step may do, counted in rules of the kernel; None: any. Policies for
        which there is no time are :attr:`waiting`: their pods are isolated, and what they allow follows in
        the next steps. What isolates, and what goes, never waits.
        """
        for event in events:
            if isinstance(event, Upsert):
                if self._invalid:
                    self._invalid.pop((event.kind, event.object.key), None)
                self._upsert(event.object)
            elif isinstance(event, Delete):
                if self._invalid:
                    self._invalid.pop((event.kind, event.key), None)
                self._delete(event.kind, event.key)
            elif isinstance(event, Invalid):
                self._hold(event)
            else:
                self._synced.add((event.kind, event.here))
        touched, self._touched = self._touched, Touched()
        delta = self._stepper.step(touched, now, pods_synced=self.synced(Kind.POD), most=most)
        changed = delta.pods | delta.audited
        logging = self._log_choice.settle(
            self.lowered, changed, touched.pods, self._inventory.records, self._namespaces
        )
        delta.pods |= logging & self.lowered.pods.keys()
        delta.audited |= logging & self.lowered.audited.keys()
        networks = self._node_networks.networks
        if networks is not self.program.node_networks:
            # Another object may be equal: a node that came and went within the step.
            delta.node_networks = networks != self.program.node_networks
            self.program.node_networks = self.lowered.node_networks = networks
        own = self._own_networks.networks
        if self.program.known is not None and own != self.program.pod_networks:
            delta.pod_networks = True
            self.program.pod_networks = self.lowered.pod_networks = own
        return delta

    def deadline(self) -> float | None:
        """Return when :meth:`apply` is next due though nothing happens, in monotonic seconds."""
        return self._quarantine.deadline()

    @property
    def waiting(self) -> int:
        """How much waits for a step with time for it: policies to be compiled, or sets to be forgotten."""
        return self._enforcement.waiting

    def waits_for(self, pod: Key) -> bool:
        """Whether a policy that selects a pod waits to be compiled."""
        record = self._inventory.records.get(pod)
        return record is not None and self._enforcement.waits_for(record)

    def over_budget(self) -> dict[Key, Excess]:
        """Return the policies that are not enforced as written, and why. Safe to call from any thread."""
        return dict(self._enforcement.ledger.excess)

    def closed_by_budget(self, most: int = 100) -> Mapping[PodId, list[Key]]:
        """Return the policies over budget that select each target, of each namespace the first so many."""
        first = [
            key
            for _, keys in groupby(sorted(self.over_budget()), key=lambda key: key.namespace)
            for key in islice(keys, most)
        ]
        return self._selection.targets_of(first)

    def take_budget_news(self) -> Mapping[Key, Excess | None]:
        """Return the policies that are over budget, or no longer (None), since the last call."""
        return self._enforcement.ledger.take_news()

    @property
    def pods(self) -> int:
        """The number of pods known, of all nodes."""
        return len(self._inventory.records)

    @property
    def namespaces(self) -> int:
        """The number of namespaces known."""
        return len(self._namespaces)

    @property
    def policies(self) -> int:
        """The number of policies in force in the cluster, those that stand in for invalid ones included."""
        return len(self._good) + len(self._standins)

    def nodes(self) -> set[str]:
        """Return the nodes that pods name, the empty name of pods without one aside. Costs a scan."""
        return {record.pod.node for record in self._inventory.records.values()} - {""}

    def is_here(self, pod: Key) -> bool:
        """Whether a pod that is known is on this node."""
        record = self._inventory.records.get(pod)
        return record is not None and record.local

    def known(self, kind: Kind, key: Key) -> Object | None:
        """Return the version of a pod, namespace or policy that counts; a stand-in is one, too.

        Of a policy, whatever its mode: one that is disabled as well.
        """
        if kind is Kind.POD:
            record = self._inventory.records.get(key)
            return record.pod if record is not None else None
        if kind is Kind.NAMESPACE:
            return self._namespaces.get(key.name)
        return self.staging.written(key) if kind is Kind.POLICY else None

    def selected_by(self, policy: Key) -> set[PodId]:
        """Return the targets that a policy selects, whatever its mode, in each direction that it names."""
        written = self.staging.written(policy)
        return set() if written is None else self._selection.selected_by(written)

    def is_waiting(self, policy: Key) -> bool:
        """Whether a policy waits for a step with time to compile it."""
        return policy in self._enforcement.turns

    def waits_in(self, namespace: str) -> bool:
        """Whether a policy of a namespace waits, so that its pods may be denied what it allows."""
        return self._enforcement.turns.waits_in(namespace)

    def owner(self, address: bytes) -> Key | None:
        """Return the pod that has an address, of whatever node."""
        return None if (found := self._ownership.owners.get(address)) is None else found.pod.key

    def synced(self, kind: Kind, *, here: bool = False) -> bool:
        """Whether every object of a kind that existed at start has been told; ``here``: on this node."""
        return (kind, here) in self._synced

    def local_pods(self) -> list[LocalPod]:
        """Return this node's targets, sorted by key. Safe to call from any thread."""
        judged = dict(self.program.pods)
        found: list[LocalPod] = []
        for key, record in sorted(self._selection.targets.copy().items()):
            ingress = judged.get(PodId(Direction.INGRESS, key))
            egress = judged.get(PodId(Direction.EGRESS, key))
            found.append(
                LocalPod(
                    key,
                    self._ownership.owned(record),
                    ingress.policies if ingress is not None else (),
                    egress.policies if egress is not None else (),
                    record.pod.workload,
                )
            )
        return found

    def extract(self, ends: Iterable[Key | bytes] | None) -> Extract:
        """Return the objects on which the verdict between pods, or packed addresses, depends; None: all."""
        return extract(
            ends,
            self._inventory.records,
            self._ownership,
            self._namespaces,
            self.staging,
            self._standins,
            self._enforcement.ledger.excess,
        )

    def is_known(self, pod: Key) -> bool:
        """Whether a pod is known, of whatever node. Safe to call from any thread."""
        return pod in self._inventory.records

    def workload_of(self, pod: Key) -> str:
        """Return what controls a pod, as ``Kind/name``. Safe to call from any thread."""
        record = self._inventory.records.get(pod)
        return "" if record is None else record.pod.workload

    def all_pods(self) -> list[Pod]:
        """Return every pod that is known. Safe to call from any thread."""
        return [record.pod for record in self._inventory.records.copy().values()]

    def invalid(self) -> list[HeldInvalid]:
        """Return the objects held invalid, sorted. Safe to call from any thread."""
        return [
            HeldInvalid(kind, key, problems) for (kind, key), problems in sorted(self._invalid.copy().items())
        ]

    def unknown_logging(self) -> dict[tuple[Kind, Key], tuple[str, ...]]:
        """Return annotations about logging whose value is not known. Safe to call from any thread."""
        return self._log_choice.unknown.copy()

    def sizes(self) -> dict[str, int]:
        """Return the size of every index; all zero when there are no objects and nothing lingers."""
        return {
            "pods": self.pods,
            "namespaces": self.namespaces,
            "policies": self.policies,
            "invalid": len(self._invalid),
            "lingering": len(self._quarantine),
            **self._identities.sizes(),
            **self._selectors.sizes(),
            **self._ownership.sizes(),
            **self._sets.sizes(),
            **self._lowering.sizes(),
            **self._selection.sizes(),
            **self.staging.sizes(),
            "audited": len(self.program.audited),
            "known addresses": len(self.program.known or ()),
            **self._node_networks.sizes(),
            **self._enforcement.sizes(),
            **self._stepper.sizes(),
            "logging": len(self.lowered.logging) + len(self._log_choice.unknown),
        }

    def _upsert(self, found: Object) -> None:
        if isinstance(found, Pod):
            self._inventory.set_pod(found.key, found, self._touched)
            self._log_choice.pod_changed(found.key, found if self.is_here(found.key) else None)
        elif isinstance(found, NetworkPolicy):
            self._standins.discard(found.key)
            self._good.add(found.key)
            self.staging.set_policy(found.key, found)
        elif isinstance(found, Namespace):
            self._set_namespace(found.name, found)
        else:
            self._set_node(found.name, found)

    def _delete(self, kind: Kind, key: Key) -> None:
        if kind is Kind.POD:
            self._inventory.set_pod(key, None, self._touched)
            self._log_choice.pod_changed(key, None)
        elif kind is Kind.POLICY:
            self._standins.discard(key)
            self._good.discard(key)
            self.staging.set_policy(key, None)
        elif kind is Kind.NAMESPACE:
            self._set_namespace(key.name, None)
        else:
            self._set_node(key.name, None)

    def _hold(self, event: Invalid) -> None:
        self._invalid[event.kind, event.key] = event.problems
        if event.kind is Kind.NAMESPACE and event.key.name not in self._namespaces:
            self._isolate_namespace(event.key.name, isolated=event.closed is not None)
        if event.kind is not Kind.POLICY or event.key in self._good:
            return
        if event.closed is not None:
            self._standins.add(event.key)
        else:
            self._standins.discard(event.key)
        self.staging.set_policy(event.key, event.closed)

    def _set_namespace(self, name: str, namespace: Namespace | None) -> None:
        if namespace is None:
            self._isolate_namespace(name, isolated=False)
        if self._namespaces.get(name) == namespace:
            return
        if namespace is None:
            del self._namespaces[name]
        else:
            self._namespaces[name] = namespace
        self._log_choice.namespace_changed(name, namespace)
        self.staging.set_namespace(name, NO_MODE if namespace is None else namespace.staging)
        links = self._selectors.set_namespace(name, namespace.labels if namespace is not None else None)
        self._sets.relink(links)
        if namespace is not None:
            self._isolate_namespace(name, isolated=namespace.ingress_isolated)

    def _isolate_namespace(self, name: str, *, isolated: bool) -> None:
        policy = default_deny(name)
        self.staging.set_policy(policy.key, policy if isolated else None)

    def _set_node(self, name: str, node: Node | None) -> None:
        self._own_networks.set_node(name, node)
        if self._allow_nodes:
            self._node_networks.set_node(name, node)
