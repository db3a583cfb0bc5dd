"""Rows of the history: as they are served, and as a person is shown them."""

from __future__ import annotations

import io
import subprocess
import sys

import msgspec
import pytest

from agent.clock import moment
from agent.history.change import Effect, Row, Subject, What
from agent.history.query import Query
from agent.history.store import StoreError
from agent.observe.history.route import decode, encode, history_route
from agent.observe.history.text import show
from agent.observe.routes import Request
from agent.observe.text import plain_console

NOW = 1_767_225_600.0

ADDED = Row(
    Subject.POLICY,
    What.ADDED,
    moment(NOW + 0.25),
    "shop/deny",
    api=moment(NOW),
    kernel=moment(NOW + 0.275),
    who="kubectl (Apply)",
    diff=("+selects pods[app=db]", "+isolates ingress"),
    effect=Effect(
        isolated_ingress=("shop/db",), selected=("shop/db", "shop/old"), sets_added=2, members_added=3
    ),
)
DELETED = Row(
    Subject.POLICY,
    What.DELETED,
    moment(NOW + 60),
    "shop/deny",
    kernel=moment(NOW + 60.002),
    diff=("-selects pods[app=db]",),
    effect=Effect(opened_ingress=("shop/db",)),
)


def shown(*rows: Row, pod: str = "") -> list[str]:
    file = io.StringIO()
    show(rows, plain_console(file, width=160), pod)
    return file.getvalue().splitlines()


def test_a_row_says_who_when_and_what_it_did() -> None:
    assert shown(ADDED) == [
        "2026-01-01 00:00:00.250Z  policy shop/deny added by kubectl (Apply)",
        "    the API server had it at 00:00:00, the kernel 25 ms after this node saw it",
        "    +selects pods[app=db]",
        "    +isolates ingress",
        "    isolated for ingress: shop/db",
        "    isolated before and after: shop/old",
        "    +2 sets, +3 members of sets",
    ]


def test_a_pod_that_an_audited_policy_selects_is_said_to_be_open() -> None:
    effect = Effect(selected=("shop/db", "shop/old"), open=("shop/db",))
    lines = shown(msgspec.structs.replace(ADDED, effect=effect))
    assert lines[-2:] == ["    isolated before and after: shop/old", "    open before and after: shop/db"]


def test_what_the_kernel_did_not_have_is_said() -> None:
    row = Row(Subject.POLICY, What.CHANGED, moment(NOW), "shop/deny")
    assert "    the kernel did not have it yet" in shown(row)


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (Row(Subject.AGENT, What.STARTED, moment(NOW)), "agent started"),
        (
            Row(Subject.REPAIR, What.MADE, moment(NOW)),
            "the kernel was changed from outside; the agent put back what differed",
        ),
        (
            Row(Subject.REPAIR, What.MADE, moment(NOW), who="nft (pid 5)"),
            "the kernel was changed from outside by nft (pid 5); the agent put back what differed",
        ),
        (Row(Subject.OUTAGE, What.BEGUN, moment(NOW), "API server"), "outage of the API server began"),
        (Row(Subject.FAULT, What.ENDED, moment(NOW), "no route"), "fault: no route: ended"),
        (Row(Subject.BUDGET, What.BEGUN, moment(NOW), "a/p"), "policy a/p over budget began"),
        (
            Row(Subject.REMOTE_PODS, What.CHANGED, moment(NOW), "a", count=12),
            "namespace a changed (12 changes)",
        ),
        (Row(Subject.HISTORY, What.LOST, moment(NOW), count=3), "history lost (3 changes)"),
    ],
)
def test_every_subject_has_its_words(row: Row, line: str) -> None:
    assert line in shown(row)[0]


def test_of_many_pods_some_are_named() -> None:
    row = Row(
        Subject.POLICY,
        What.ADDED,
        moment(NOW),
        "a/p",
        kernel=moment(NOW),
        effect=Effect(
            isolated_egress=tuple(f"a/p{number}" for number in range(9)), together=3, members_removed=1
        ),
    )
    assert shown(row)[2:] == [
        "    isolated for egress: a/p0, a/p1, a/p2, a/p3, a/p4, a/p5 and 3 more",
        "    -1 member of sets (with 2 other changes)",
    ]


def test_of_a_pod_it_says_since_when_and_by_what_it_is_isolated() -> None:
    assert shown(ADDED, pod="shop/db")[-2:] == [
        "shop/db ingress: isolated since 2026-01-01 00:00:00.275Z: policy shop/deny added by kubectl (Apply)",
        "shop/db egress: no change in these rows",
    ]
    assert shown(ADDED, DELETED, pod="shop/db")[-2] == (
        "shop/db ingress: open since 2026-01-01 00:01:00.002Z: policy shop/deny deleted"
    )


def test_that_nobody_says_who_deleted_an_object_is_told() -> None:
    words = "    who deleted it is not known: API servers do not say it in the object; their audit log may"
    assert words in shown(DELETED)
    assert words not in shown(ADDED)
    assert words not in shown(msgspec.structs.replace(DELETED, who="here/deny.yaml:1"))


def test_what_tenants_name_is_no_markup() -> None:
    row = Row(
        Subject.POLICY, What.ADDED, moment(NOW), "shop/x", kernel=moment(NOW), diff=("+label a=[red]b[/]",)
    )
    assert "    +label a=[red]b[/]" in shown(row)


def ask(rows: list[Row] | StoreError, **query: list[str]) -> tuple[int, bytes, list[Query]]:
    asked: list[Query] = []

    def read(query: Query) -> list[Row]:
        asked.append(query)
        if isinstance(rows, StoreError):
            raise rows
        return rows

    response = history_route("worker-1", read, lambda: NOW).answer(Request("/history", query))
    return response.code, response.body, asked


def test_rows_are_served_as_json_and_read_again() -> None:
    code, body, asked = ask([ADDED, DELETED], pod=["shop/db"], since=["1h"])
    assert code == 200
    assert decode(body).rows == (ADDED, DELETED)
    assert decode(body).node == "worker-1"
    assert asked[0].since == NOW - 3600
    assert b'"seen":"2026-01-01T00:00:00.250000Z"' in body
    assert encode("worker-1", [ADDED, DELETED]) == body


def test_a_question_that_is_not_understood_is_400_and_a_file_that_cannot_be_read_503() -> None:
    assert ask([], pod=["db"])[:2] == (400, b"pod is 'db': give it as NAMESPACE/NAME\n")
    assert ask(StoreError("disk I/O error"))[:2] == (503, b"the history cannot be read: disk I/O error\n")


def test_the_route_loads_none_of_what_prints() -> None:
    code = "import sys, agent.observe.history.route; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_of_connections_that_were_cut_it_is_not_said_when_the_kernel_had_a_change() -> None:
    """The row is about what was done, at the moment when it was: nothing had to reach the kernel after it."""
    cut = Row(
        Subject.CONNECTIONS, What.CUT, moment(NOW), "a/b", kernel=moment(NOW), detail=("1 connection cut",)
    )
    assert shown(cut)[0].endswith("connections of pod a/b cut")
    assert shown(cut)[1:] == ["    1 connection cut"]
