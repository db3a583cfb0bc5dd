"""Health and readiness over every state that matters."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from agent.fault import Fault
from agent.kube.model import Kind
from agent.observe.health import (
    STALLED_AFTER,
    Answer,
    Health,
    HealthCheck,
    State,
    as_dict,
    healthz,
    readyz,
    text,
)
from agent.observe.proof import ProofState
from agent.sources.cni.source import CniState
from agent.sources.nri.plugin import NriState
from agent.sources.source import SyncState

NOW = 1_000_000.0
SYNCED = SyncState(synced=True, objects=3, last_event=NOW - 5, last_contact=NOW - 1)
UNSYNCED = SyncState(synced=False, objects=0, last_event=0.0, last_contact=0.0)
BLOCKING = Fault("ipset is missing", "install ipset", blocking=True)
HARMLESS = Fault("IPv6 is disabled", "", blocking=False)


def health(**changes: Any) -> Health:
    values: dict[str, Any] = {
        "now": NOW,
        "heartbeat": NOW - 1,
        "caches": {Kind.POD: SYNCED, Kind.POLICY: SYNCED},
        "applied": True,
    }
    return Health(**(values | changes))


@pytest.mark.parametrize(
    ("beats", "alive", "synced", "applied", "blocking"), list(itertools.product((True, False), repeat=5))
)
def test_codes(beats: bool, alive: bool, synced: bool, applied: bool, blocking: bool) -> None:
    state = health(
        heartbeat=NOW - STALLED_AFTER + (1 if beats else -1),
        threads={"watch": alive},
        caches={Kind.POD: SYNCED, Kind.POLICY: SYNCED if synced else UNSYNCED},
        applied=applied,
        faults=(HARMLESS, *([BLOCKING] if blocking else [])),
    )
    assert healthz(state).code == (200 if beats and alive else 503)
    ready = beats and alive and synced and applied and not blocking
    assert readyz(state).code == (200 if ready else 503)


def test_ready_body_names_each_cache() -> None:
    assert text(readyz(health())) == (
        "[+]loop ok\n[+]cache/NetworkPolicy ok\n[+]cache/Pod ok\n[+]kernel ok\nreadyz check passed\n"
    )


def test_not_ready_body_says_what_is_missing() -> None:
    waiting = UNSYNCED._replace(fault="API server refuses: Forbidden; grant list on pods")
    body = text(readyz(health(caches={Kind.POD: waiting, Kind.NAMESPACE: UNSYNCED}, applied=False)))
    assert body == (
        "[+]loop ok\n"
        "[-]cache/Namespace failed: not synced yet\n"
        "[-]cache/Pod failed: API server refuses: Forbidden; grant list on pods\n"
        "[-]kernel failed: the first apply is not in the kernel yet\n"
        "readyz check failed\n"
    )


def test_without_any_cache_it_is_not_ready() -> None:
    assert readyz(health(caches={})).code == 503


def test_lost_contact_is_a_warning_with_its_age() -> None:
    lost = SYNCED._replace(last_contact=NOW - 173, fault="connection refused", current=False)
    answer = readyz(health(caches={Kind.POD: lost}))
    assert answer.code == 200
    assert "[!]cache/Pod warning: no contact for 173 s; connection refused\n" in text(answer)


def test_what_may_be_behind_is_a_warning_from_the_first_second_until_it_is_listed_again() -> None:
    behind = SYNCED._replace(last_contact=NOW - 3, fault="connection refused", current=False)
    answer = readyz(health(caches={Kind.POD: behind}))
    assert answer.code == 200
    assert "[!]cache/Pod warning: last contact 3 s ago; connection refused\n" in text(answer)
    again = text(readyz(health(caches={Kind.POD: behind._replace(fault="")})))
    assert "[!]cache/Pod warning: last contact 3 s ago; being listed again\n" in again


def test_contact_within_a_watchs_silence_is_no_warning() -> None:
    answer = readyz(health(caches={Kind.POD: SYNCED._replace(last_contact=NOW - 95)}))
    assert all(check.state is State.OK for check in answer.checks)


def test_refused_objects_are_counted_and_the_first_is_named() -> None:
    refused = SYNCED._replace(faults=("a/b: spec.ingres: unknown field", "a/c: bad"))
    body = text(readyz(health(caches={Kind.POLICY: refused})))
    assert "[!]cache/NetworkPolicy warning: refused: a/b: spec.ingres: unknown field, and 1 more\n" in body


def test_faults_are_named_with_their_remedy_in_both() -> None:
    state = health(faults=(BLOCKING, HARMLESS))
    assert "[!]fault warning: ipset is missing (install ipset)\n" in text(healthz(state))
    assert "[-]fault failed: ipset is missing (install ipset)\n" in text(readyz(state))
    assert "[!]fault warning: IPv6 is disabled\n" in text(readyz(state))


def test_an_api_server_that_is_away_never_fails_liveness() -> None:
    assert healthz(health(caches={Kind.POD: UNSYNCED}, applied=False, faults=(BLOCKING,))).code == 200


def test_a_stalled_loop_says_for_how_long() -> None:
    assert "[-]loop failed: no progress for 150 s\n" in text(healthz(health(heartbeat=NOW - 150)))


def test_json_holds_the_same() -> None:
    assert as_dict(healthz(health(threads={"watch": False}))) == {
        "name": "healthz",
        "ok": False,
        "checks": [
            {"name": "loop", "state": "ok", "detail": ""},
            {"name": "thread/watch", "state": "failed", "detail": "ended unexpectedly; the log says why"},
        ],
    }


LONG = "a.yaml: line 7: key 'spec' is written twice; keep one of them"


def test_what_several_checks_say_is_written_once() -> None:
    answer = Answer(
        "readyz",
        (
            HealthCheck("cache/Namespace", State.WARNING, LONG),
            HealthCheck("cache/Pod", State.WARNING, LONG),
            HealthCheck("kernel", State.OK),
            HealthCheck("fault", State.WARNING, "x"),
            HealthCheck("fault", State.WARNING, "y"),
        ),
    )
    assert text(answer).splitlines() == [
        f"[!]cache/Namespace warning: {LONG}",
        "[!]cache/Pod warning: as cache/Namespace",
        "[+]kernel ok",
        "[!]fault warning: x",
        "[!]fault warning: y",
        "readyz check passed",
    ]


def line(check: str, **changes: Any) -> str:
    """Return the line of one check, "" where there is none."""
    found = text(readyz(health(**changes))).splitlines()
    return next((one for one in found if f"]{check} " in one), "")


def test_results_of_network_plugins_are_told_where_there_is_a_folder_and_what_is_wrong_is_a_warning() -> None:
    fine = CniState(True, ("/var/lib/cni/results",), 3, 1, NOW)
    assert line("early-addresses", results=fine) == "[+]early-addresses ok: 3 results in /var/lib/cni/results"
    assert line("early-addresses", results=None) == ""
    assert line("early-addresses", results=CniState(True, (), 0, 0, 0.0)) == ""
    wrong = fine._replace(fault="forbidden to get pods")
    told = line("early-addresses", results=wrong)
    assert told.startswith("[!]early-addresses warning: 3 results")
    assert told.endswith("; forbidden to get pods")


def test_the_runtime_that_waits_is_told_and_one_that_does_not_is_a_warning() -> None:
    fine = NriState(True, "containerd 2.1", 5, 0, 1, 0.0123)
    told = "registered with containerd 2.1; 5 pods waited for the kernel, 0.012 s at most"
    assert line("nri", nri=fine) == f"[+]nri ok: {told}"
    assert line("nri", nri=None) == line("nri", nri=NriState(False, "", 0, 0, 0, 0.0)) == ""
    assert line("nri", nri=fine._replace(fault="late")) == f"[!]nri warning: {told}; late"
    assert line("nri", nri=fine._replace(runtime="")).startswith("[!]nri warning: not registered")


def test_a_proof_is_told_with_its_age_and_warned_about_where_something_differs_or_none_was_made() -> None:
    assert line("proof", proof=None) == ""
    assert line("proof", proof=ProofState(0.0)) == "[+]proof ok: the first is to come"
    assert line("proof", proof=ProofState(0.0, trouble="busy")) == "[!]proof warning: busy"
    assert line("proof", proof=ProofState(NOW - 7)) == "[+]proof ok: nothing differed 7 s ago"
    told = line("proof", proof=ProofState(NOW - 7, trouble="busy"))
    assert told == "[+]proof ok: nothing differed 7 s ago, since then: busy"
    assert line("proof", proof=ProofState(NOW - 601)).startswith(
        "[!]proof warning: nothing differed 601 s ago"
    )
    assert line("proof", proof=ProofState(NOW - 601, interval=200.0)).startswith("[+]proof ok")
    assert (
        line("proof", proof=ProofState(NOW - 7, ("it",)))
        == "[!]proof warning: 1 found to differ 7 s ago; netpol-agent verify says what differs now"
    )
    assert line("proof", proof=ProofState(NOW - 7), applied=False) == ""
