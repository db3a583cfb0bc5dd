"""The question for rows, read from texts."""

from __future__ import annotations

import pytest

from agent.history.query import Query, parse, parse_url, url_query
from agent.kube.model import Key

NOW = 1_767_225_600.0


def test_without_parts_it_asks_for_the_latest() -> None:
    assert parse({}, NOW) == Query(limit=50)


def test_every_part_is_read() -> None:
    texts = {
        "pod": "prod/db",
        "policy": "prod/p",
        "namespace": "prod",
        "since": "1h",
        "until": "90s",
        "limit": "7",
    }
    assert parse(texts, NOW) == Query(
        Key("prod", "db"), Key("prod", "p"), "prod", NOW - 3600, NOW - 90, limit=7
    )


@pytest.mark.parametrize(
    ("text", "ago"), [("5", 5), ("1.5m", 90), ("2min", 120), ("1 h", 3600), ("7d", 604_800)]
)
def test_a_time_is_how_long_ago(text: str, ago: float) -> None:
    assert parse({"since": text}, NOW).since == NOW - ago


def test_a_time_is_a_moment() -> None:
    assert parse({"since": "2026-01-01T00:00:10Z"}, NOW).since == NOW + 10
    assert parse({"since": "2026-01-01T01:00:10+01:00"}, NOW).since == NOW + 10


@pytest.mark.parametrize(
    ("texts", "wrong"),
    [
        ({"pod": "db"}, "pod is 'db': give it as NAMESPACE/NAME"),
        ({"policy": "a/b/c"}, "policy is 'a/b/c': give it as NAMESPACE/NAME"),
        ({"since": "yesterday"}, "since is 'yesterday': give how long ago"),
        ({"limit": "0"}, "limit is '0': give a number from 1 to 1000"),
        ({"limit": "9999999999999999999"}, "give a number from 1 to 1000"),
        ({"pods": "a/b"}, "pods is not known: ask by pod, policy, namespace, since, until, limit"),
    ],
)
def test_what_is_not_understood_is_named(texts: dict[str, str], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        parse(texts, NOW)


def test_a_url_asks_the_same() -> None:
    assert url_query({"pod": "prod/db", "since": "", "limit": "5"}) == "pod=prod%2Fdb&limit=5"
    assert parse_url({"pod": ["a/b", "prod/db"], "limit": ["5"]}, NOW) == Query(Key("prod", "db"), limit=5)
