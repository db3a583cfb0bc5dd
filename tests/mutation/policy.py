"""Breakages of decoding, of selectors, of the algebra of blocks and ports, and of the compiler."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

_MODEL = "agent/kube/model.py"
_READING = "agent/kube/policy.py"
_WIRE = "agent/kube/convert.py"
_BLOCKS = "agent/policy/blocks.py"
_PORTS = "agent/policy/ports.py"
_PEERS = "agent/policy/peers/peers.py"
_COMPILE = "agent/policy/compile.py"
_SETS = "agent/policy/sets.py"
_TERMS = "agent/policy/peers/active_selectors.py"
_SETTLE = "agent/policy/step.py"

POLICY = (
    # --- Reading --------------------------------------------------------------------------------------------
    Mutation(
        "policyTypes unset never names Egress",
        _READING,
        'return {"Ingress", "Egress"} if spec.get("egress") else {"Ingress"}',
        'return {"Ingress"}',
        (Selection.DECODING,),
    ),
    Mutation(
        "default protocol UDP",
        _READING,
        "if value is None:\n        return Protocol.TCP",
        "if value is None:\n        return Protocol.UDP",
        (Selection.DECODING,),
    ),
    Mutation(
        "endPort is not read",
        _READING,
        "return Port(protocol, number_or_name, end)",
        "return Port(protocol, number_or_name)",
        (Selection.MANIFESTS,),
    ),
    Mutation(
        "an except is not read",
        _READING,
        "excepts.append(inner)",
        "pass",
        (Selection.MANIFESTS,),
    ),
    Mutation(
        "a port's name is that of the last container, not the first",
        _WIRE,
        " and (port.name, protocol) not in found:",
        ":",
        (Selection.DECODING,),
    ),
    # --- Selectors ------------------------------------------------------------------------------------------
    Mutation(
        "NotIn does not match an absent key",
        _MODEL,
        "if value is not None and _among(value, values):",
        "if value is None or _among(value, values):",
        (Selection.COMPILER,),
    ),
    Mutation(
        "OR for AND between a selector's requirements",
        _MODEL,
        "                if value is None or not _among(value, values):\n                    return False",
        "                return value is not None and _among(value, values)",
        (Selection.COMPILER,),
    ),
    Mutation(
        "DoesNotExist is looked for among the pods that have the key",
        "agent/policy/peers/labels.py",
        "if operator is not Operator.IN and operator is not Operator.EXISTS:",
        "if operator is not Operator.IN and operator is not Operator.DOES_NOT_EXIST:",
        (Selection.COMPILER,),
    ),
    Mutation(
        "a pod that comes after a policy is selected whatever its labels",
        "agent/policy/peers/selection.py",
        "if policy.pod_selector.matches(group.labels):\n                    local.count(policy, 1)",
        "if policy is not None:\n                    local.count(policy, 1)",
        (Selection.COMPILER,),
    ),
    # --- Blocks ---------------------------------------------------------------------------------------------
    Mutation(
        "a lost except",
        _BLOCKS,
        "found += _difference(_range(cidr), _union(_range(e) for e in excepts if e.family is family))",
        "found.append(_range(cidr))",
        (Selection.BLOCKS,),
    ),
    Mutation(
        "what one block excepts is taken from another",
        _BLOCKS,
        "found += _difference(_range(cidr), _union(_range(e) for e in excepts if e.family is family))",
        "found = [r for f in (*found, _range(cidr)) for r in _difference(f, _union(map(_range, excepts)))]",
        (Selection.BLOCKS,),
    ),
    Mutation(
        "an except one address short at its beginning",
        _BLOCKS,
        "left.append(Range(start, cut.first - 1))",
        "left.append(Range(start, cut.first))",
        (Selection.BLOCKS,),
    ),
    Mutation(
        "an except one address short at its end",
        _BLOCKS,
        "start = cut.last + 1",
        "start = cut.last",
        (Selection.BLOCKS,),
    ),
    Mutation(
        "nomatch lost",
        _BLOCKS,
        "dict.fromkeys(left_out - halves, True)",
        "dict.fromkeys(left_out - halves, False)",
        (Selection.BLOCKS,),
    ),
    Mutation(
        "a /0 told as one half only",
        _BLOCKS,
        "    while first <= last:\n        step",
        "    while first <= last and last - first + 1 < 1 << (family.bits - 1):\n        step",
        (Selection.BLOCKS,),
    ),
    Mutation(
        "what one of several blocks excepts is taken from another that lies around it",
        _BLOCKS,
        "            holding.discard(number)\n        inside",
        "            holding.clear()\n        inside",
        (Selection.BLOCKS,),
    ),
    Mutation(
        "a network that one of several blocks excepts stays excepted behind it",
        _BLOCKS,
        "            holding.add(number)\n",
        "            pass\n",
        (Selection.BLOCKS,),
    ),
    Mutation(
        "as many networks are counted as a range has ends",
        _BLOCKS,
        "return (middle - first).bit_count() + (last + 1 - middle).bit_count()",
        "return 2",
        (Selection.BLOCKS,),
    ),
    Mutation(
        "the last address of a block has no named port",
        _BLOCKS,
        "return at >= 0 and number <= ranges[at].last",
        "return at >= 0 and number < ranges[at].last",
        (Selection.BLOCKS,),
    ),
    # --- Ports ----------------------------------------------------------------------------------------------
    Mutation(
        "endPort ignored",
        _PORTS,
        "PortRange(protocol, port, port if end is None else end)",
        "PortRange(protocol, port, port)",
        (Selection.COMPILER,),
    ),
    Mutation(
        "a range one port short",
        _PORTS,
        "PortRange(protocol, port, port if end is None else end)",
        "PortRange(protocol, port, port if end is None else end - 1)",
        (Selection.COMPILER,),
    ),
    Mutation(
        "ranges that do not quite touch are joined",
        _PORTS,
        "current.first <= merged[-1].last + 1",
        "current.first <= merged[-1].last + 2",
        (Selection.COMPILER,),
    ),
    Mutation(
        "ranges of two protocols are joined",
        _PORTS,
        "merged[-1].protocol is current.protocol and ",
        "",
        (Selection.COMPILER,),
    ),
    Mutation(
        "a range ends where one inside it does",
        _PORTS,
        "merged[-1]._replace(last=max(merged[-1].last, current.last))",
        "merged[-1]._replace(last=current.last)",
        (Selection.COMPILER,),
    ),
    Mutation(
        "port 65535 forgotten where every port is meant",
        _PORTS,
        "LAST_PORT = 65535",
        "LAST_PORT = 65534",
        (Selection.COMPILER,),
    ),
    Mutation(
        "a port's name means every port",
        _PORTS,
        "names.add(PortName(port, protocol))",
        "ranges.append(PortRange(protocol, 0, LAST_PORT))",
        (Selection.COMPILER,),
    ),
    Mutation(
        "a name that no pod has means every port",
        _COMPILE,
        "ports.ranges, named, blocks=blocks, protocol=",
        "ports.ranges or None, named if ports.ranges else None, blocks=blocks, protocol=",
        (Selection.COMPILER,),
    ),
    Mutation(
        "protocol ignored where a pod's named port is looked up",
        _SETS,
        "if (name, protocol) in ports else ()",
        "if name in {n for n, _ in ports} else ()",
        (Selection.COMPILER,),
    ),
    # --- Rules ----------------------------------------------------------------------------------------------
    Mutation(
        "ingress for egress",
        _COMPILE,
        "if context.direction is Direction.INGRESS:",
        "if context.direction is Direction.EGRESS:",
        (Selection.COMPILER,),
    ),
    Mutation(
        "the wrong family",
        _COMPILE,
        "PolicyProgram(compiled[Family.V4], compiled[Family.V6])",
        "PolicyProgram(compiled[Family.V6], compiled[Family.V4])",
        (Selection.COMPILER,),
    ),
    Mutation(
        "a podSelector peer is not limited to its namespace",
        _PEERS,
        "predicates[Predicate(namespace, None, pods)] = None",
        "predicates[Predicate(None, EVERYTHING, pods)] = None",
        (Selection.COMPILER,),
    ),
    Mutation(
        "a podSelector beside a namespaceSelector is lost",
        _PEERS,
        "Predicate(None, namespaces, pods if pods is not None else EVERYTHING)",
        "Predicate(None, namespaces, EVERYTHING)",
        (Selection.COMPILER,),
    ),
    Mutation(
        "OR for AND between a peer's two selectors",
        _PEERS,
        "predicates[Predicate(None, namespaces, pods if pods is not None else EVERYTHING)] = None",
        "predicates |= {Predicate(None, namespaces, EVERYTHING): None, "
        "Predicate(namespace, None, pods or EVERYTHING): None}",
        (Selection.COMPILER,),
    ),
    Mutation(
        "peers that match nothing match everything",
        _COMPILE,
        "    if sources == () and not blocks:\n        return None\n",
        "    if sources == () and not blocks:\n        sources = None\n",
        (Selection.COMPILER,),
    ),
    Mutation(
        "a named port with peers is looked for on every pod",
        _COMPILE,
        "PeerPods(lot, names))",
        "PortPods(names))",
        (Selection.MOVES,),
    ),
    # --- Pods and addresses ---------------------------------------------------------------------------------
    Mutation(
        "an address belongs to the oldest pod, not the newest",
        "agent/policy/addresses/ownership.py",
        "winner = max(claimants, key=_rank, default=None)",
        "winner = min(claimants, key=_rank, default=None)",
        (Selection.COMPILER,),
    ),
    Mutation(
        "an address is not inherited by those who also claim it",
        "agent/policy/addresses/ownership.py",
        "                self._claimants[address] = claimants\n",
        "                pass\n",
        (Selection.HISTORY,),
    ),
    Mutation(
        "a finished pod keeps its address",
        "agent/policy/inventory.py",
        "if not pod.judged:",
        "if pod.host_network or not pod.addresses:",
        (Selection.COMPILER,),
    ),
    Mutation(
        "a pod on its host's network counts",
        "agent/policy/inventory.py",
        "if not pod.judged:",
        "if pod.finished or not pod.addresses:",
        (Selection.COMPILER,),
    ),
    Mutation(
        "linger ignored",
        "agent/policy/addresses/quarantine.py",
        "if self._seconds <= 0:",
        "if self._seconds > 0:",
        (Selection.HISTORY,),
    ),
    Mutation(
        "this node is one of the others that may reach every pod",
        "agent/policy/addresses/node_networks.py",
        "        if name == self._own:\n            return\n",
        "",
        (Selection.TRUTH,),
    ),
    Mutation(
        "a pod leaves a set that several peers share with the first of them",
        _SETS,
        "wanted = matched or live.wants(group)",
        "wanted = matched",
        (Selection.SIZE,),
    ),
    Mutation(
        "of many peers only the first counts",
        _SETS,
        "for m in _members(live, r, a))",
        "for m in [*_members(live, r, a)][:1])",
        (Selection.COMPILER,),
    ),
    # --- Budgets and turns ----------------------------------------------------------------------------------
    Mutation(
        "a policy over budget is enforced",
        _SETTLE,
        "if policy is None or not selection.reach(key) or key in self.ledger.excess:",
        "if policy is None or not selection.reach(key):",
        (Selection.BUDGET,),
    ),
    Mutation(
        "an old policy makes way for a new one",
        "agent/policy/budget/ledger.py",
        "        for key in served:\n            self._serve(account, key)\n",
        "        for key in reversed(served):\n            self._serve(account, key)\n",
        (Selection.BUDGET,),
    ),
    Mutation(
        "what a policy gave up is still counted",
        "agent/policy/budget/ledger.py",
        "        if entry.admitted:\n            self.total.remove(entry.spent)\n        else:",
        "        if not entry.admitted:",
        (Selection.BUDGET,),
    ),
    Mutation(
        "any number of pods may be matched",
        "agent/policy/budget/ledger.py",
        "        excess = excess or self._members_excess(account, key, entry)\n",
        "",
        (Selection.MEMBERS,),
    ),
    Mutation(
        "a policy closed for its members opens with the next pod that goes",
        "agent/policy/budget/ledger.py",
        "REOPEN_PERCENT = 90",
        "REOPEN_PERCENT = 100",
        (Selection.MEMBERS,),
    ),
    Mutation(
        "pods that come are not counted",
        "agent/policy/budget/ledger.py",
        "        if members > self._budgets.namespace.members:\n",
        "        if members < 0:\n",
        (Selection.MEMBERS,),
    ),
    Mutation(
        "an edited policy that waits allows what it did to pods that it did not select",
        _SETTLE,
        "if held is not None and (policy is None or not _selects_alike(held, policy)):",
        "if held is not None and policy is None:",
        (Selection.TURNS,),
    ),
    # --- Sets over time -------------------------------------------------------------------------------------
    Mutation(
        "a shared set goes with the first of its users",
        _SETS,
        "        live.references -= 1\n        if live.references:\n",
        "        live.references -= 1\n        if live.references > 1:\n",
        (Selection.MOVES,),
    ),
    Mutation(
        "members of a shared set go with one of its users",
        _SETS,
        "        if live.references:\n            return\n",
        "        if live.references:\n            live.members.clear()\n            return\n",
        (Selection.MOVES,),
    ),
    Mutation(
        "a second user of a set is not counted",
        _SETS,
        "            live.references += 1\n",
        "",
        (Selection.MOVES,),
    ),
    Mutation(
        "an address stays in the sets of its former pod",
        _SETS,
        "  self._note(live, member, True)\n                    live.members.remove(member)\n",
        "  pass\n",
        (Selection.HISTORY,),
    ),
    Mutation(
        "a namespace that is relabelled leaves its pods where they were",
        _TERMS,
        "for scope in before - new.scopes:",
        "for scope in set[_Scope]():",
        (Selection.HISTORY,),
    ),
    Mutation(
        "an address that changes hands is not released",
        _SETTLE,
        "                delta.released.add(address)\n                if owner is None:\n",
        "                if owner is None:\n",
        (Selection.HISTORY,),
    ),
    Mutation(
        "a policy stays compiled when its last pod goes",
        _SETTLE,
        "if policy is None or not selection.reach(key) or key in self.ledger.excess:",
        "if policy is None or key in self.ledger.excess:",
        (Selection.HISTORY,),
    ),
    Mutation(
        "an invalid policy takes the place of its last good version",
        "agent/policy/engine.py",
        "if event.kind is not Kind.POLICY or event.key in self._good:",
        "if event.kind is not Kind.POLICY:",
        (Selection.BROKEN,),
    ),
)
