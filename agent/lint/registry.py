"""Every rule, in the order of docs/lint.md, which is made of this table."""

from __future__ import annotations

from agent.lint.finding import Severity
from agent.lint.rule import Rule
from agent.lint.rules import blocks, conflicts, peers, ports, shape

_ERROR, _WARNING, _INFO = Severity.ERROR, Severity.WARNING, Severity.INFO
_PODS = "pods or workloads of the namespace"
_POD_RANGES = "`--pod-cidr`, nodes with a podCIDR, or pods with addresses"

RULES: tuple[Rule, ...] = (
    Rule(
        "unreadable",
        _ERROR,
        "A text or an object that cannot be read",
        "The text is no YAML or JSON, or it says of an object neither what it is nor what it is called. "
        "kubectl "
        "would refuse it, or pass over a policy with a slip in its kind.",
        "Correct the text at the line that is named. Render Helm and Kustomize first.",
    ),
    Rule(
        "refused",
        _ERROR,
        "The API server would refuse the object",
        "A field is unknown, missing, or has a value that is not allowed, so the object cannot be created. "
        "This "
        "includes names over 253 characters.",
        "Write the field as the message says.",
    ),
    Rule(
        "except-outside-block",
        _ERROR,
        "An except that is not inside its block",
        "The API server refuses it: an except takes addresses out of its cidr, and it must be smaller than "
        "that.",
        "Write a block inside cidr, or remove the except.",
    ),
    Rule(
        "stored-but-refused",
        _WARNING,
        "An object of a cluster that could not be created again",
        "The API server has it from an older version, and would refuse it today: a restore from a backup "
        "fails.",
        "Correct it in the cluster.",
        needs="objects as a server has stored them",
    ),
    Rule(
        "written-twice",
        _ERROR,
        "Two objects of one kind, namespace and name",
        "The one that is applied last replaces the other, whatever it says.",
        "Keep one of the two, or give one another name.",
    ),
    Rule(
        "deprecated-api-version",
        _ERROR,
        "An API version that is no longer served",
        "API servers do not know `extensions/v1beta1` since Kubernetes 1.16.",
        "Write `networking.k8s.io/v1`; `--fix` does.",
        shape.deprecated_version,
        fixable=True,
        of_parts=True,
    ),
    Rule(
        "policy-type-missing",
        _WARNING,
        "Rules of a direction that policyTypes does not name",
        "Such rules have no effect: the policy neither isolates that direction nor allows anything in it.",
        "Add the direction to `policyTypes`, or remove the rules.",
        shape.type_missing,
        of_parts=True,
    ),
    Rule(
        "egress-not-isolated",
        _WARNING,
        "An empty egress list that denies nothing",
        "Without Egress in `policyTypes`, `egress: []` means the same as no egress at all: everything may be "
        "sent.",
        "To deny all egress, name Egress in `policyTypes`.",
        shape.egress_not_isolated,
        of_parts=True,
    ),
    Rule(
        "empty-list-allows-all",
        _WARNING,
        "An empty list of peers or ports",
        "`from: []`, `to: []` and `ports: []` in a rule mean the same as an absent field: every peer, every "
        "port.",
        "Name what is meant. To allow nobody, remove the rule; to allow everybody, remove the field.",
        shape.empty_list,
        of_parts=True,
    ),
    Rule(
        "rule-covers-others",
        _WARNING,
        "A rule that makes the others of its direction needless",
        "A rule without peers and ports allows everything, so what the other rules say has no effect.",
        "Narrow the rule, or remove the others.",
        shape.rule_covers_others,
    ),
    Rule(
        "egress-without-dns",
        _WARNING,
        "Egress is isolated, and DNS is not allowed",
        "The pods may connect, but find no Service and no host by name. What is seen is a timeout.",
        "Allow the pods of the cluster's DNS on ports 53 of UDP and TCP, here or in a policy for all pods.",
        shape.egress_without_dns,
    ),
    Rule(
        "duplicate-port",
        _WARNING,
        "A port that is listed twice, or within a range of the same list",
        "It adds nothing; likely another port was meant.",
        "Remove it, or write the port that was meant.",
        shape.duplicate_port,
    ),
    Rule(
        "duplicate-peer",
        _WARNING,
        "A peer that is listed twice",
        "It adds nothing; likely another peer was meant.",
        "Remove it, or write the peer that was meant.",
        shape.duplicate_peer,
    ),
    Rule(
        "duplicate-rule",
        _WARNING,
        "Two rules that say the same",
        "The second adds nothing; likely another peer or port was meant.",
        "Remove one of the two.",
        shape.duplicate_rule,
    ),
    Rule(
        "peers-are-alternatives",
        _INFO,
        "A namespaceSelector and a podSelector as two peers",
        "With a dash before each they are alternatives: all pods of those namespaces, and such pods of the "
        "policy's "
        "own namespace. In one entry both must match.",
        "If both must match, remove the dash before `podSelector`.",
        shape.split_peer,
    ),
    Rule(
        "selector-contradicts",
        _WARNING,
        "A selector that no labels can match",
        "Its requirements for one label exclude each other.",
        "Keep one of them.",
        shape.contradiction,
        of_parts=True,
    ),
    Rule(
        "named-port-to-block",
        _WARNING,
        "A named port to addresses that are no pods'",
        "Names of ports are looked up in the pod at the other end. An address outside the cluster has none, "
        "so the "
        "rule never matches.",
        "Write the number.",
        shape.named_port_to_block,
    ),
    Rule(
        "description-too-long",
        _WARNING,
        "A description over 1,000 characters",
        "Consoles that show policies cut it or refuse to save the policy.",
        "Shorten it, and link to the rest.",
        shape.long_description,
        of_parts=True,
    ),
    Rule(
        "mode-unknown",
        _WARNING,
        "An annotation netpol-agent.io/mode with a value that is no mode",
        "The policy is enforced, or the policies of the namespace are: a slip opens nothing. If audit was "
        "meant, they deny what they should log.",
        "Write enforce, audit or disabled.",
        shape.unknown_mode,
    ),
    Rule(
        "except-covered",
        _WARNING,
        "An except that another block of the policy allows",
        "Blocks and rules add up: what one of them allows is allowed, whatever another leaves out.",
        "Leave the addresses out of the other block, too.",
        blocks.except_covered,
    ),
    Rule(
        "block-covered",
        _WARNING,
        "A block inside another block of the rule",
        "It adds nothing; likely the larger block is too large.",
        "Remove the one or the other.",
        blocks.block_covered,
    ),
    Rule(
        "block-of-services",
        _WARNING,
        "A block of Service addresses",
        "The node translates the address of a Service to that of a pod before policies are held against it, "
        "so the "
        "block never matches.",
        "Select the pods behind the Service.",
        blocks.block_of_services,
        needs="`--service-cidr`, ServiceCIDR objects, or Services with a clusterIP",
        of_parts=True,
    ),
    Rule(
        "block-of-pods",
        _WARNING,
        "A block of pod addresses",
        "Pods get other addresses when they are made anew, and others get theirs.",
        "Select the pods by their labels.",
        blocks.block_of_pods,
        needs=_POD_RANGES,
        of_parts=True,
    ),
    Rule(
        "block-covers-pods",
        _INFO,
        "A large block that holds the pods of the cluster, too",
        "`0.0.0.0/0` is often meant as the internet. It holds every pod as well.",
        "If only addresses outside are meant, add the pod range to `except`.",
        blocks.block_covers_pods,
        needs="`--pod-cidr`, or nodes with a podCIDR",
        of_parts=True,
    ),
    Rule(
        "block-of-nodes",
        _INFO,
        "The address of a node",
        "What a pod and its own node send each other is always allowed. What comes from another node's pods "
        "has "
        "their addresses, unless the network hides them.",
        "Nothing, if programs on the node are meant.",
        blocks.block_of_nodes,
        needs="nodes with addresses",
        of_parts=True,
    ),
    Rule(
        "selects-no-pod",
        _WARNING,
        "The policy selects no pod",
        "It does nothing: the pods that it was written for are as open or closed as without it. The same is "
        "said of a policy without a namespace, and of one whose namespace is another's name with a slip.",
        "Correct the `podSelector`, the namespace, or the labels of the pods.",
        peers.selects_no_pod,
        needs="pods or workloads of the namespace, or Namespace objects and pods that it would select",
        of_parts=True,
    ),
    Rule(
        "peer-matches-no-pod",
        _WARNING,
        "A peer that matches no pod",
        "The peer allows nobody. A `podSelector` alone is about the policy's own namespace.",
        "Correct the labels, or add a `namespaceSelector` to the same entry.",
        peers.peer_matches_no_pod,
        needs="pods or workloads of every namespace that the peer is about",
        of_parts=True,
    ),
    Rule(
        "namespace-label-unknown",
        _WARNING,
        "A label that no namespace has",
        "The peer allows nobody. A namespace has the labels of its object and `kubernetes.io/metadata.name`; "
        "`name` "
        "is not set by Kubernetes.",
        "Write a label that the namespace has, or add it to the Namespace object.",
        peers.namespace_label_unknown,
        needs="Namespace objects",
        of_parts=True,
    ),
    Rule(
        "service-port",
        _WARNING,
        "A Service's port where the pods' was meant",
        "The node translates a Service to a pod and its port before policies are held against it, so the "
        "Service's "
        "port never matches.",
        "Write the port of the container.",
        ports.service_port,
        needs="the Service, and pods or workloads behind it",
    ),
    Rule(
        "port-not-declared",
        _WARNING,
        "A port that none of the pods declares",
        "A name of a port that no container declares never matches. A number matches what listens there, but "
        "the "
        "pods that are meant declare others.",
        "Write a port of the containers, or declare it there.",
        ports.port_not_declared,
        needs="pods or workloads that the rule is about",
    ),
    Rule(
        "same-policy",
        _WARNING,
        "Two policies that say the same",
        "Whoever changes one of them changes nothing.",
        "Remove one of the two.",
        conflicts.same_policy,
    ),
    Rule(
        "closed-but-open",
        _WARNING,
        "One policy allows nothing, another allows all, on the same pods",
        "Policies add up: everything is allowed. The one that should close has no effect on these pods.",
        "Narrow the policy that allows all.",
        conflicts.closed_but_open,
    ),
    Rule(
        "opened-in-closed",
        _INFO,
        "A policy closes the namespace, another one opens some of its pods",
        "Policies add up: these pods are open to everybody, the others stay closed.",
        "Nothing, if that is meant; else name peers and ports.",
        conflicts.opened_in_closed,
    ),
    Rule(
        "rules-without-effect",
        _WARNING,
        "Rules for pods that another policy opens to everybody",
        "Policies add up: everything is allowed already, so these rules add nothing.",
        "Narrow the policy that allows all, or remove these rules.",
        conflicts.without_effect,
    ),
    Rule(
        "except-opened",
        _WARNING,
        "An except that another policy allows for the same pods",
        "Policies add up: what one leaves out is allowed if another one allows it.",
        "Narrow the other policy.",
        conflicts.except_opened,
    ),
    Rule(
        "ignore-without-reason",
        _WARNING,
        "A finding is silenced without a reason",
        "Nobody can tell later whether the reason still holds.",
        "Write why after the rule: `# netpol-agent: ignore RULE reason`.",
    ),
    Rule(
        "ignore-unknown-rule",
        _WARNING,
        "A comment silences a rule that does not exist",
        "It silences nothing.",
        "Write the id of a rule of this page.",
    ),
    Rule(
        "ignore-unused",
        _INFO,
        "A comment silences nothing",
        "What it was written for is mended, or is on another line.",
        "Remove it, or move it to the line above the finding.",
    ),
)

BY_ID = {rule.id: rule for rule in RULES}
