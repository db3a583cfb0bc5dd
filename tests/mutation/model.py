"""What a mutation is, and the tests that may be asked to catch one."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Selection(enum.StrEnum):
    """Tests to run, as pytest takes them; each takes seconds."""

    COMPILER = (
        "tests/property/test_evaluator.py::test_the_compiler_judges_every_packet_as_the_specification_does"
    )
    """The compiler against the evaluator, on random clusters."""
    MANIFESTS = "tests/property/test_evaluator.py::test_manifests_of_a_cluster_say_the_same"
    """Random clusters written as manifests and read again."""
    HISTORY = "tests/property/test_compiler.py::test_any_history_ends_where_its_objects_say"
    """Every step of a random history, and its end against a fresh start."""
    TRUTH = "tests/property/test_compiler.py::test_a_program_judges_packets_as_the_objects_do"
    """The program after a random history against the plain truth."""
    BLOCKS = "tests/property/test_compiler.py::test_block_lists_hold_exactly_what_their_blocks_do"
    """The algebra of blocks, at every edge."""
    FOLDED = "tests/unit/dataplane/test_render.py::test_named_ports_of_peers_are_each_a_rule_of_the_policy"
    CHAINS = "tests/property/test_rendered.py::test_chains_judge_every_packet_as_the_specification_does"
    """Chains and sets against the evaluator, on random clusters."""
    CROWD = "tests/property/test_rendered.py::test_every_pod_of_a_crowded_node_is_judged_by_its_own_chain"
    """The tree over many pods, as they come and go."""
    RULES = "tests/property/test_rendered.py::test_rules_of_many_peers_and_ports_are_kept_apart"
    """Policies of rules that need chains of their own."""
    BROKEN = "tests/property/test_bad_input.py::test_a_policy_that_an_api_server_tells_broken_opens_nothing"
    """Broken policies, with and without a last good version."""
    STEPS = (
        "tests/property/test_steps.py"
        "::test_a_packet_has_its_old_or_its_new_verdict_at_every_moment_of_a_change"
    )
    """Every state of chains and sets on the way through a random history."""
    MOVES = "tests/property/test_moves.py"
    """The same where labels move pods from one side of a verdict to the other, restarts included."""
    RESTART = "tests/property/test_steps.py::test_a_restart_moves_the_kernel_on_without_a_wrong_verdict"
    """The same through restarts."""
    UNWRITTEN = "tests/property/test_steps.py::test_what_is_taken_away_is_gone_though_no_rule_can_be_written"
    """What holds while the kernel takes changes of sets' members and nothing else."""
    LISTS = "tests/unit/dataplane/test_lists.py"
    """Lists of policies that pods share."""
    FAILURES = "tests/property/test_failures.py"
    """The record against the kernel, and what is taken away, when writes fail in every way."""
    CACHE = "tests/property/test_verdict_cache.py"
    """Every state of the verdict cache, with agents that are killed."""
    SIZE = "tests/unit/policy/lower/test_size.py"
    """What a policy makes, counted, and sets that several peers share."""
    BUDGET = "tests/unit/policy/test_budget.py"
    """Which policies there is room for, against a look at all of them."""
    MEMBERS = "tests/unit/policy/test_members.py"
    """The same where the pods that policies match decide."""
    TURNS = "tests/unit/policy/test_turns.py"
    """Policies that wait to be compiled, case by case."""
    LINKED = "tests/unit/dataplane/test_linked.py"
    """The rules by which pods are judged by their links, packet by packet."""
    PODLINKS = "tests/unit/dataplane/test_podlinks.py"
    """Whose link an interface is, claim by claim."""
    MARKS = "tests/unit/dataplane/test_marks.py"
    """Which bits of packets' marks others use, and which are taken."""
    FOREIGN = "tests/unit/dataplane/test_foreign.py"
    """Rules of others that iptables cannot show."""
    TUNNELS = "tests/unit/dataplane/test_guards.py"
    """The rules about tunnels, and by which tunnels other nodes are let in."""
    RTNETLINK = "tests/unit/kernel/test_rtnetlink.py"
    """What the kernel tells of interfaces and routes, as another program encodes it."""
    SURROUNDINGS = "tests/unit/kernel/test_surroundings.py"
    """Which interfaces are taken for pods'."""
    DECODING = "tests/unit/kube/test_wire.py"
    """What an API server sends, case by case."""
    FIRST_START = "tests/unit/runtime/test_first_start.py"
    """What has to be known before anything is written."""
    RECONCILE = "tests/unit/runtime/test_reconcile.py"
    """When changes are written, and what is made of failures."""
    TRACE = "tests/unit/dataplane/test_trace.py"
    """A packet followed through the kernel's rules."""
    ENDS = "tests/unit/observe/test_ends.py"
    """Which pods a question means."""
    PAGE = "tests/unit/observe/test_page.py"
    """The page without a browser."""
    WRITER = "tests/unit/history/test_writer.py"
    """The thread that writes the history."""
    STORE = "tests/unit/history/test_store.py"
    """The file of the history."""
    ROWS = "tests/unit/observe/test_history.py"
    """Rows of the history for people."""
    STATUS = "tests/unit/observe/test_status_screen.py"
    """What the status shows."""
    HEADERS = "tests/unit/kernel/test_headers.py"
    """What the first bytes of a packet say."""
    FOLD = "tests/unit/observe/flows/test_fold.py"
    """Many packets folded into few reports."""
    DIGEST = "tests/unit/observe/flows/test_digest.py"
    """Logged packets, named and explained."""
    FLOW_LOG = "tests/unit/runtime/test_flow_log.py"
    """The thread that reads logged packets."""
    LOGGED = "tests/unit/policy/test_logging.py"
    """Which pods are logged."""
    LOOP_TURNS = "tests/unit/runtime/test_loop_turns.py"
    """The loop with policies that take long to compile."""
    DRIFT = "tests/unit/runtime/test_drift.py"
    """What others change in the kernel."""
    TIDY = "tests/unit/runtime/test_tidy.py"
    """When what nothing needs is removed."""
    HOST_CHECK = "tests/unit/runtime/test_host_check.py"
    """What the loop makes of changes of the host."""
    AUTHORIZE = "tests/unit/observe/test_authorize.py"
    """Who may read metrics."""
    TLS = "tests/unit/observe/test_tls.py"
    """The metrics port with TLS."""
    TRAFFIC = "tests/unit/dataplane/test_traffic.py"
    """Readings of counters, added up."""
    LATENCY = "tests/unit/runtime/test_latency.py"
    """How long changes take."""
    LINES = "tests/unit/convert/test_lines.py"
    """Lines that stand for policies, both ways."""
    WITNESS = "tests/unit/observe/replay/test_here.py"
    """What an agent tells of the connections of its node."""
    REPLAYED = "tests/unit/observe/replay/test_replayed.py"
    """What a change would do to connections that were seen."""
    PROPOSED = "tests/unit/observe/propose/test_propose.py"
    """Policies from a flow log."""
    METRICS = "tests/unit/observe/test_metrics.py"
    """What is scraped."""


class Mutation(NamedTuple):
    """A small breakage: in ``symbol``, ``original``, which is there once, becomes ``replacement``.

    ``symbol``: a module, a colon, and the name of a function, a class or a constant in it; of one that has
    moved to another module the name is enough. The other two are Python, and count by what they say, not by
    how they are laid out: an expression; statements; or elements of a list, with a comma behind the last.
    What becomes "" goes. Each of ``by`` alone must catch it.
    """

    name: str
    symbol: str
    original: str
    replacement: str
    by: tuple[Selection, ...]
