"""Numbers and names in messages, and what others said."""

from __future__ import annotations

import re

import pytest

from agent.words import count, one_line, printable, some
from tests.docs import ROOT


@pytest.mark.parametrize(("number", "text"), [(0, "0 rules"), (1, "1 rule"), (2, "2 rules")])
def test_one_is_not_many(number: int, text: str) -> None:
    assert count(number, "rule") == text


def test_of_many_names_the_first_are_told() -> None:
    assert some({"b", "a"}) == "a, b"
    assert some("edcba") == "a, b, c, d, e"
    assert some("fedcba") == "a, b, c, d, e, ..."


def test_no_message_writes_a_number_before_a_plural_by_itself() -> None:
    """Nouns that are counted somewhere; a number that cannot be one is no concern."""
    counted = r"(?<!IPv)\{(?!direction\})[^{}]*\} (chains|rules|sets|members|writes|repairs|files)\b"
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in (ROOT / "agent").rglob("*.py")
        for match in re.finditer(counted, path.read_text())
    ]
    assert found == ["agent/dataplane/iptables/cleanup.py: {len(errors)} sets"]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("quota\n\treached", "quota reached"),
        ("\x1b[2J\x1b]0;all is well\x07", "[2J ]0;all is well"),
        ("a\u202eb\u2028c", "a b c"),
        ("x" * 400, "x" * 297 + "..."),
        ("\n" * 400, ""),
    ],
)
def test_what_others_said_is_one_line_without_control_characters(said: str, shown: str) -> None:
    assert one_line(said) == shown


def test_what_a_terminal_would_obey_is_not_printed() -> None:
    assert printable("a\x1b[2J\x9b31m\u202eb\nc") == "a [2J 31m b\nc"
    assert printable("pods[app=web] – żółw\n") == "pods[app=web] – żółw\n"
