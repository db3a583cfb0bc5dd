"""What people see of policies that are not enforced, and of those that others wrote."""

from __future__ import annotations

import dataclasses
import io

import msgspec
import pytest
from rich.console import Console

from agent.dataplane.backend import KernelView
from agent.dataplane.iptables.counters import counts
from agent.dataplane.iptables.log_counters import logged
from agent.dataplane.iptables.options import LogRules, Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.audits import audit_chains
from agent.dataplane.logged import Decided, LogCount
from agent.dataplane.traffic import Amount, Subject, Told
from agent.kube.mode import Mode, ModeSaid
from agent.kube.model import Key, Kind, Namespace, NetworkPolicy, Rule
from agent.net import Direction, Family
from agent.observe.explain.answer import answer_of
from agent.observe.explain.text import show
from agent.observe.flows.why import reason
from agent.observe.snapshot import Facts, take
from agent.observe.status.policy import PolicyView
from agent.observe.status.text import Around, show_pod, show_policy, show_screen
from agent.policy.engine import Engine
from agent.policy.program import PodId
from agent.runtime import staging
from agent.spec.cluster import cluster_of
from agent.spec.evaluator import evaluate
from agent.spec.question import question_of
from tests.build import pod, upsert

DB, WEB = pod("db", "10.0.0.1", app="db"), pod("web", "10.0.0.2", app="web")
DENY = NetworkPolicy("shop", "deny", ingress=(), staging=ModeSaid(Mode.AUDIT))
OPEN = NetworkPolicy("shop", "open", ingress=(Rule(),), staging=ModeSaid(Mode.DISABLED))
OBJECTS = (Namespace("shop"), DB, WEB, DENY, OPEN)


@pytest.fixture
def engine() -> Engine:
    engine = Engine("here")
    engine.apply(upsert(*OBJECTS), 0.0)
    return engine


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200, color_system=None)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_status_names_what_is_not_enforced_and_what_is_not_confirmed(
    engine: Engine, console: Console
) -> None:
    facts = Facts("n", "v", 1.0, 1.0, applied=True, staged=engine.staging.staged())
    facts = dataclasses.replace(facts, unconfirmed={Key("shop", "quick"): "kubectl-edit"})
    snapshot = take(facts, engine.lowered, KernelView({}, {}))
    show_screen(snapshot, Around(), console)
    text = printed(console)
    assert "Not enforced 1 audited: shop/deny; 1 disabled: shop/open; 2 pods of this node audited" in text
    assert "Unconfirmed 1 of others: shop/quick (kubectl-edit)" in text
    show_pod("shop/db", snapshot, (), Around(), console)
    assert "ingress: audited by shop/deny: what none allows is logged" in printed(console)
    show_pod("shop/other", snapshot, (), Around(), console)
    assert "disabled in its namespace: shop/open" in printed(console)
    show_pod("else/other", snapshot, (), Around(), console)
    assert printed(console).count("disabled in its namespace") == 2


@pytest.mark.parametrize(
    ("mode", "said"),
    [("audit", "audited: it denies nothing"), ("disabled", "disabled: it isolates nothing"), ("enforce", "")],
)
def test_of_a_policy_its_mode_is_told(console: Console, mode: str, said: str) -> None:
    show_policy(PolicyView("shop/p", "all pods", ("shop/db",), None, (), mode=mode), None, console)
    text = printed(console)
    assert said in text
    assert ("would isolate for ingress" in text) is (mode != "enforce")


def test_a_mode_that_is_of_the_namespace_says_where_to_change_it(console: Console) -> None:
    show_policy(
        PolicyView("shop/p", "all pods", (), None, (), mode="audit", mode_of_namespace=True), None, console
    )
    assert "(annotation netpol-agent.io/mode of its namespace)" in printed(console)


def test_explain_says_what_enforcing_would_change(console: Console) -> None:
    question = question_of("shop/web", "shop/db", "80")
    cluster = cluster_of(OBJECTS)
    verdicts = evaluate(cluster, *question[:2], *question.service)
    answer = answer_of(question, cluster, verdicts)
    show(answer, console)
    text = printed(console)
    assert "ingress of shop/db: allowed" in text
    assert "audited by shop/deny: enforced, it would be denied" in text
    assert "not by shop/deny: it has no ingress rule" in text
    assert "shop/open is disabled" in text
    ingress = answer.families[0].ingress
    assert (ingress.would_deny, ingress.would_allow) == (True, False)


@pytest.mark.parametrize("beside", [True, False])
def test_a_reason_says_which_audited_rule_would_allow_what_is_denied(beside: bool) -> None:
    enforced = msgspec.structs.replace(DENY, staging=ModeSaid())
    audited = msgspec.structs.replace(OPEN, staging=ModeSaid(Mode.AUDIT if beside else Mode.DISABLED))
    cluster = cluster_of((Namespace("shop"), DB, WEB, enforced, audited))
    question = question_of("shop/web", "shop/db", "80")
    (verdict,) = evaluate(cluster, *question[:2], *question.service)
    why = reason(verdict.ingress, Decided.DENIED).why
    assert why.startswith("isolated by shop/deny, without any ingress rule")
    assert why.endswith("; rule 0 of shop/open, which is audited, would allow it") is beside


def test_a_reason_of_what_would_be_denied_follows_the_policies_of_now() -> None:
    question = question_of("shop/web", "shop/db", "80")
    (verdict,) = evaluate(cluster_of(OBJECTS), *question[:2], *question.service)
    found = reason(verdict.ingress, Decided.WOULD_DENY)
    assert found.why == "audited: would be isolated by shop/deny, without any ingress rule"
    assert found.policies == ("shop/deny",)
    (later,) = evaluate(cluster_of(OBJECTS[:3]), *question[:2], *question.service)
    assert reason(later.ingress, Decided.WOULD_DENY).why.startswith("by the policies of now it would not be")


def test_counters_tell_what_would_be_denied_and_how_much_of_that_was_logged(engine: Engine) -> None:
    chains = audit_chains(engine.lowered.audited, {}, Family.V4, Options(log=LogRules(41)))
    chain = names.audit_pod_chain(PodId(Direction.INGRESS, DB.key))
    lines = [f"[{10 * at}:{100 * at}] -A {chain} {rule}" for at, rule in enumerate(chains[chain])]
    count = len(lines) - 1
    (found,) = counts(Family.V4, lines, policies=False)
    assert found.subject == Subject(Told.WOULD_DENY, "ingress", "shop")
    assert found.amount == Amount(10 * count, 100 * count)
    assert logged(lines) == {(Direction.INGRESS, "shop/db"): LogCount(10 * count, 10 * (count - 1))}


def test_values_that_are_not_known_are_one_warning() -> None:
    one = {(Kind.POLICY, Key("shop", "deny")): "audited"}
    (fault,) = staging.faults(one)
    assert fault.what == (
        "the annotation netpol-agent.io/mode=audited of NetworkPolicy shop/deny is not known: it enforces"
    )
    assert not fault.blocking
    (fault,) = staging.faults({**one, (Kind.POLICY, Key("shop", "x")): "no"})
    assert "and of 1 other object" in fault.what
    assert staging.faults({}) == ()
