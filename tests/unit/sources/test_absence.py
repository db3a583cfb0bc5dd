"""Which absences are believed at once, and which when a second list says the same."""

from __future__ import annotations

from collections.abc import Iterable

from agent.kube.model import Key
from agent.sources.apiserver.absence import Absence
from agent.sources.apiserver.versions import Versions

SECONDS = 30.0


def keys(names: str) -> list[Key]:
    return [Key("x", name) for name in names]


def versions(names: str) -> Versions:
    found = Versions()
    for key in keys(names):
        found.note(key, 1)
    return found


def gone(absence: Absence, known: str, listed: str, now: float) -> str:
    return names(absence.gone(keys(known), versions(listed), now))


def due(absence: Absence) -> float | None:
    return absence.due


def names(found: Iterable[Key]) -> str:
    return "".join(key.name for key in found)


def test_some_that_are_gone_are_gone_at_once() -> None:
    absence = Absence(SECONDS)
    assert gone(absence, "abc", "a", 0.0) == "bc"
    assert due(absence) is None


def test_all_at_once_are_gone_when_a_second_list_says_so_later() -> None:
    absence = Absence(SECONDS)
    assert gone(absence, "abc", "", 0.0) == ""
    assert due(absence) == SECONDS
    assert "lacks all 3 that were there" in absence.doubt("pods")
    assert gone(absence, "abc", "", 29.0) == ""
    assert due(absence) == SECONDS
    assert gone(absence, "abc", "", 30.0) == "abc"
    assert due(absence) is None
    assert absence.doubt("pods") == ""


def test_the_only_one_is_all() -> None:
    absence = Absence(SECONDS)
    assert gone(absence, "a", "", 0.0) == ""
    assert gone(absence, "a", "", 31.0) == "a"


def test_all_that_were_there_are_gone_though_others_are_there() -> None:
    """As in another cluster, or where one policy was put in the place of another meanwhile."""
    absence = Absence(SECONDS)
    assert gone(absence, "ab", "cd", 0.0) == ""
    # Those are told of by now.
    assert gone(absence, "abcd", "cd", 10.0) == ""
    assert gone(absence, "abcd", "cd", 30.0) == "ab"


def test_a_second_list_that_has_them_refutes_the_first() -> None:
    absence = Absence(SECONDS)
    assert gone(absence, "ab", "", 0.0) == ""
    assert gone(absence, "ab", "ab", 5.0) == ""
    assert due(absence) is None
    # And what is gone of them later is gone at once.
    assert gone(absence, "ab", "a", 6.0) == "b"


def test_one_that_is_gone_beside_those_in_doubt_is_gone_at_once() -> None:
    absence = Absence(SECONDS)
    assert gone(absence, "ab", "cd", 0.0) == ""
    assert gone(absence, "abcd", "c", 1.0) == "d"
    assert gone(absence, "abc", "c", 30.0) == "ab"


def test_the_rest_that_goes_while_some_are_in_doubt_makes_all_wait_anew() -> None:
    absence = Absence(SECONDS)
    assert gone(absence, "ab", "c", 0.0) == ""
    assert gone(absence, "abc", "", 20.0) == ""
    assert due(absence) == 50.0
    assert gone(absence, "abc", "", 50.0) == "abc"


def test_the_servers_word_on_one_ends_its_doubt() -> None:
    absence = Absence(SECONDS)
    assert gone(absence, "ab", "", 0.0) == ""
    absence.told(Key("x", "a"))
    assert due(absence) == SECONDS
    absence.told(Key("x", "b"))
    assert due(absence) is None


def test_with_no_seconds_nothing_is_doubted() -> None:
    absence = Absence(0.0, remembered=True)
    assert absence.goes_back(0.0)
    assert gone(absence, "ab", "", 0.0) == "ab"


def test_after_a_restart_an_empty_list_is_doubted_where_there_was_something() -> None:
    absence = Absence(SECONDS, remembered=True)
    assert gone(absence, "", "", 0.0) == ""
    assert due(absence) == SECONDS
    assert "is empty, and there were some before this agent started" in absence.doubt("pods")
    assert gone(absence, "", "", 10.0) == ""
    assert due(absence) == SECONDS
    assert gone(absence, "", "", 30.0) == ""
    assert due(absence) is None


def test_after_a_restart_a_list_with_anything_is_believed_and_so_is_an_empty_one_where_nothing_was() -> None:
    for absence, listed in ((Absence(SECONDS, remembered=True), "a"), (Absence(SECONDS), "")):
        assert gone(absence, "", listed, 0.0) == ""
        assert due(absence) is None


def test_an_older_list_is_believed_when_a_second_one_later_is_older_too() -> None:
    absence = Absence(SECONDS)
    assert not absence.goes_back(0.0)
    assert gone(absence, "ab", "a", 0.0) == "b"  # which nobody tells: it is doubted as a whole
    assert due(absence) == SECONDS
    assert "is older than what was told before" in absence.doubt("pods")
    assert not absence.goes_back(10.0)
    assert absence.goes_back(30.0)
    assert gone(absence, "ab", "a", 30.0) == "b"
    assert due(absence) is None


def test_an_older_list_that_lacks_all_is_confirmed_in_one() -> None:
    absence = Absence(SECONDS)
    assert not absence.goes_back(0.0)
    assert gone(absence, "ab", "", 0.0) == ""
    assert absence.goes_back(30.0)
    assert gone(absence, "ab", "", 30.0) == "ab"


def test_a_list_that_is_not_older_refutes_one_that_was() -> None:
    absence = Absence(SECONDS)
    assert not absence.goes_back(0.0)
    absence.goes_on()
    assert gone(absence, "ab", "a", 1.0) == "b"
    assert due(absence) is None


def test_what_a_person_has_confirmed_is_believed_once() -> None:
    absence = Absence(SECONDS)
    assert gone(absence, "ab", "", 0.0) == ""
    absence.trust()
    assert absence.goes_back(1.0)
    assert gone(absence, "ab", "c", 1.0) == "ab"
    assert gone(absence, "c", "", 2.0) == ""
    assert due(absence) == 32.0


def test_an_older_list_while_something_else_is_in_doubt_is_not_believed_sooner() -> None:
    absence = Absence(SECONDS)
    assert gone(absence, "ab", "", 0.0) == ""
    assert not absence.goes_back(30.0)
    assert gone(absence, "ab", "", 30.0) == ""
    assert not absence.goes_back(59.0)
    assert absence.goes_back(60.0)
    assert gone(absence, "ab", "", 60.0) == "ab"


def test_what_only_an_older_list_lacked_is_not_in_doubt_when_a_newer_one_is_there() -> None:
    absence = Absence(SECONDS)
    assert not absence.goes_back(0.0)
    assert gone(absence, "ab", "", 0.0) == ""
    absence.goes_on()
    assert gone(absence, "ab", "a", 1.0) == "b"
    assert due(absence) is None
