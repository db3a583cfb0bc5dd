"""A change held against what was seen: real objects, judged by the specification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from agent.convert.manifest import to_yaml
from agent.convert.read import read_line
from agent.kube.model import Key, Namespace, NetworkPolicy, Pod
from agent.net import Direction
from agent.observe.replay.change import Change, ChangeError, read_change
from agent.observe.replay.judging import Judge, budget_of
from agent.observe.replay.replayed import GONE, REUSED, Moved, Replayed, replay
from agent.observe.replay.seen import Seen, Sort, gather
from agent.observe.replay.text import lines
from agent.spec.cluster import Cluster, Limit, cluster_of
from tests.build import pod, port

WEB = pod("web", "10.0.0.1")
API = pod("api", "10.0.0.2", ports=(port("http", 8080),))
DB = pod("db", "10.0.0.3", node="there")


def policy(line: str) -> NetworkPolicy:
    return read_line(line).policy


def change(*texts: str, removed: Sequence[str] = ()) -> Change:
    policies = {one.key: one for one in map(policy, texts)}
    return Change(policies, frozenset(map(Key.of, removed)))


def sort(source: Pod | str, destination: Pod | str, number: int = 8080, protocol: int = 6) -> Sort:
    (a, a_pod), (b, b_pod) = (
        (end, "") if isinstance(end, str) else (".".join(map(str, end.addresses[0])), str(end.key))
        for end in (source, destination)
    )
    return Sort(a, b, protocol, number, a_pod, b_pod)


def cluster(
    *policies: NetworkPolicy, pods: Sequence[Pod] = (WEB, API, DB), limit: Limit | None = None
) -> Cluster:
    return cluster_of((Namespace("shop"), *pods, *policies), limit)


def held(before: Cluster, made: Change, *seen: Seen) -> Replayed:
    after = made.applied(before)
    return replay(
        Judge(before, budget_of(before)),
        Judge(after, budget_of(after)),
        seen,
        namespaces=made.namespaces,
        changes=made.in_words(before),
    )


def ends(moved: Sequence[Moved]) -> list[tuple[str, str, str]]:
    return [(one.source_pod or one.source, one.destination_pod or one.destination, one.port) for one in moved]


def test_what_was_allowed_and_would_be_denied_is_cut() -> None:
    found = held(
        cluster(),
        change("allow shop/api from shop/web on http as in"),
        Seen(sort(WEB, API), tracked=3),
        Seen(sort(DB, API), tracked=2, logged=5),
        Seen(sort(WEB, API, 9090), logged=1),
        Seen(sort(WEB, DB)),
        Seen(sort("192.0.2.1", API, 0, 1), tracked=1),
    )
    assert found.exit_code == 1
    assert found.opened == ()
    assert ends(found.cut) == [
        ("shop/db", "shop/api", "tcp/8080"),
        ("shop/web", "shop/api", "tcp/9090"),
        ("192.0.2.1", "shop/api", "ICMP"),
    ]
    (half,) = found.cut[0].halves
    assert (half.pod, half.direction, half.policies, half.rules) == (
        "shop/api",
        Direction.INGRESS,
        ("shop/in",),
        (),
    )
    assert half.why.startswith("rule 0 of shop/in comes nearest: its port matches, its peer does not")
    assert found.changes == ("added shop/in",)
    assert (found.seen, found.tracked, found.logged) == (5, 6, 6)


def test_what_was_denied_and_would_be_allowed_is_opened_with_the_rule() -> None:
    closed = policy("deny all traffic of shop as closed")
    seen = Seen(sort(WEB, API), logged=4)
    half_open = held(cluster(closed), change("allow shop/api from shop/web as in"), seen)
    assert (half_open.cut, half_open.opened, half_open.exit_code) == ((), (), 0)
    found = held(
        cluster(closed),
        change("allow shop/api from shop/web as in", "allow shop/web to shop/api as out"),
        seen,
    )
    assert [(half.direction, half.rules, half.why) for half in found.opened[0].halves] == [
        (Direction.INGRESS, ("shop/in[0]",), "allowed by shop/in[0]"),
        (Direction.EGRESS, ("shop/out[0]",), "allowed by shop/out[0]"),
    ]
    removed = held(cluster(closed), change(removed=["shop/closed"]), seen)
    assert ends(removed.opened) == [("shop/web", "shop/api", "tcp/8080")]
    assert removed.opened[0].halves[0].why == "no policy isolates shop/api on ingress"
    assert removed.changes == ("removed shop/closed",)
    assert (removed.exit_code, removed.cut) == (0, ())


def test_an_edited_policy_is_held_in_place_of_the_one_of_its_name() -> None:
    old = policy("allow shop/api from shop/web as in")
    edited = change("allow shop/api from shop/db as in")
    found = held(cluster(old), edited, Seen(sort(WEB, API), 1), Seen(sort(DB, API), 1))
    assert ends(found.cut) == [("shop/web", "shop/api", "tcp/8080")]
    assert ends(found.opened) == [("shop/db", "shop/api", "tcp/8080")]
    assert found.changes == ("edited shop/in",)
    same = held(cluster(old), Change({old.key: old}), Seen(sort(WEB, API), 1))
    assert (same.cut, same.opened, same.changes) == ((), (), ("unchanged shop/in",))


def test_a_pod_that_is_gone_or_whose_address_is_another_s_is_counted_and_not_judged() -> None:
    old = Pod("shop", "old", addresses=WEB.addresses)
    found = held(
        cluster(),
        change("deny all ingress to shop"),
        Seen(sort(old, API), 1),
        Seen(sort("10.0.0.1", API), 1),
        Seen(sort("192.0.2.9", "192.0.2.8"), 1),
    )
    assert found.unjudged == {GONE: 1, REUSED: 1}
    assert found.cut == ()


def test_a_pod_that_has_another_address_by_now_is_judged_with_it() -> None:
    before = Pod("shop", "web", addresses=(b"\x0a\x00\x00\x63",))
    found = held(cluster(), change("deny all ingress to shop/api"), Seen(sort(before, API), 1))
    assert ends(found.cut) == [("shop/web", "shop/api", "tcp/8080")]


def test_what_is_over_budget_after_the_change_allows_nothing() -> None:
    def limit(counted: Sequence[tuple[NetworkPolicy, int]], *_: object) -> dict[Key, object]:
        return {one.key: "too many rules" for one, _ in counted if len(one.ingress or ()) > 1}

    made = change("allow shop/api from shop/web; from shop/db as in")
    found = held(cluster(limit=limit), made, Seen(sort(WEB, API), 1))
    assert [half.why for half in found.cut[0].halves] == [
        "shop/in is over budget and allows nothing: too many rules"
    ]


def test_the_same_connections_seen_on_two_nodes_or_in_both_directions_count_once() -> None:
    a, b = sort(WEB, API), sort(WEB, DB)
    found = gather(
        [
            ("one", Seen(a, tracked=2)),
            ("two", Seen(a, tracked=3)),
            ("one", Seen(b, tracked=1)),
            (("log", "egress"), Seen(a, logged=1)),
            (("log", "egress"), Seen(a, logged=1)),
            (("log", "ingress"), Seen(a, logged=1)),
        ]
    )
    assert found == [Seen(a, 3, 2), Seen(b, 1, 0)]


def test_people_are_told_by_pod_and_policy_what_would_be_cut() -> None:
    seen = [Seen(sort(WEB, API, number), tracked=1) for number in range(1, 15)]
    found = held(cluster(), change("deny all ingress to shop/api as closed"), *seen, Seen(sort(WEB, DB), 1))
    told = list(lines(found))
    assert told[:4] == [
        "added shop/closed",
        "held against 15 kinds of connection: 15 tracked now, 0 packets logged",
        "[red]would be cut[/]: 14 kinds of connection, seen 14 times",
        "  ingress of shop/api by shop/closed: 14 kinds, seen 14 times",
    ]
    assert told[4] == (
        "    shop/web (10.0.0.1) to shop/api (10.0.0.2) tcp/1, 1 tracked: isolated by shop/closed, "
        "without any ingress rule"
    )
    assert told[-1] == "    and 4 more; --all shows them"
    assert len(list(lines(found, everything=True))) == 4 + 14
    assert list(lines(held(cluster(), change("allow shop/api from anyone"), *seen)))[-1] == (
        "[green]nothing that was seen would change[/]"
    )


def test_a_change_is_read_as_a_create_is_read(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    statement = read_line("deny all ingress to shop as closed")
    good.write_text(to_yaml([statement]) + "---\n" + yaml.safe_dump({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "x"}, "spec": {"containers": [{"name": "x"}]}}))  # fmt: skip
    found = read_change([good], [Key("shop", "old")])
    assert found.policies == {statement.policy.key: statement.policy}
    assert found.removed == {Key("shop", "old")}
    assert found.notes == ("only policies are changed; passed over: Pod",)
    document = yaml.safe_load(to_yaml([statement]))
    document["spec"]["ingress"] = [{"form": []}]
    for text, wrong in (
        (yaml.safe_dump(document), "unknown field 'form'; did you mean from?"),
        ("a: [", "correct the YAML"),
        ("", "nothing would change"),
    ):
        bad = tmp_path / "bad.yaml"
        bad.write_text(text)
        with pytest.raises(ChangeError, match=r".*") as caught:
            read_change([bad])
        assert wrong in str(caught.value)
    document["spec"]["ingress"] = [{"from": [{"ipBlock": {"cidr": "10.0.0.1/8"}}]}]
    document["metadata"] |= {"uid": "u", "resourceVersion": "1"}
    bad.write_text(yaml.safe_dump(document))
    with pytest.raises(ChangeError, match="bits set beyond its prefix"):
        read_change([bad])
    with pytest.raises(ChangeError, match="is in the files and to be removed"):
        read_change([good], [statement.policy.key])
    with pytest.raises(ChangeError, match="no such file or directory"):
        read_change([tmp_path / "none"])


def test_an_audited_policy_cuts_nothing_unless_it_is_judged_as_enforced(tmp_path: Path) -> None:
    file = tmp_path / "audited.yaml"
    file.write_text(to_yaml([read_line("deny all ingress to shop/api as closed mode audit")]))
    audited = held(cluster(), read_change([file]), Seen(sort(WEB, API), 1))
    assert (audited.exit_code, audited.changes) == (
        0,
        ("added shop/closed, which is audited and denies nothing",),
    )
    enforced = held(cluster(), read_change([file], enforce=True), Seen(sort(WEB, API), 1))
    assert (enforced.exit_code, enforced.changes) == (1, ("added shop/closed",))
