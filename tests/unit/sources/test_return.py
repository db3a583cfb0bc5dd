"""When a server is back, all kinds ask again at once, though each had failed and would wait for long."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.kube.model import Kind
from agent.sources.apiserver import backoff, reflector, refusals
from agent.sources.apiserver.contact import Contact
from tests.patience import PATIENCE
from tests.unit.sources.returning import LISTS, LONG, Heard, Server, pause, pods
from tests.unit.sources.scripted import Answer, chunk, pod, refuse, send, wait, write_config


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    made.start()
    yield made
    made.refuses = None
    made.close()


@pytest.fixture
def heard(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    write_config(tmp_path / "config", f"http://127.0.0.1:{server.port}", {"token": "one"})
    found = Heard(tmp_path / "config")
    wait(found.current)
    for each in found.source._reflectors:
        # It was listed long ago.
        each._listed_at -= LONG
    plain = Contact.pause

    def noted(contact: Contact, seconds: float, returns: int) -> bool:
        name = threading.current_thread().name
        found.pauses[name] = seconds
        try:
            return plain(contact, seconds, returns)
        finally:
            del found.pauses[name]

    monkeypatch.setattr(Contact, "pause", noted)
    # Whatever waits for its own pause alone waits longer than a test does.
    monkeypatch.setattr(backoff.Backoff, "next", pause)
    monkeypatch.setattr(reflector, "LONGEST_SECONDS", LONG)
    yield found
    found.source.stop()


def test_a_server_that_was_away_is_listed_and_watched_at_once(server: Server, heard: Heard) -> None:
    server.stop()
    wait(heard.none_current)
    assert all("cannot connect" in s.fault or "broke" in s.fault for s in heard.states())
    # An age counts from what was heard, not from what was asked.
    ages = [state.last_contact for state in heard.states()]
    time.sleep(1.5)
    assert [state.last_contact for state in heard.states()] == ages
    server.expired, server.version = True, 9
    server.pods.append(pod("b", 8))
    asked = len(server.asked)
    server.start()
    wait(heard.current)
    assert pods(heard) == ["a", "b"]
    # One asked while it was away, and all when it was back: none asked in vain.
    lists = [path for path in server.asked[asked:] if "watch" not in path and "fieldSelector" not in path]
    assert sorted({urlsplit(path).path for path in lists}) == sorted(LISTS)


@pytest.mark.parametrize(
    "refusal",
    [refuse(429), refuse(429, Retry_After="1"), refuse(503), refuse(500), refuse(401)],
    ids=["429", "429 with Retry-After", "503", "500", "401"],
)
def test_a_server_that_refused_everything_is_asked_again_at_once(
    server: Server, heard: Heard, refusal: Answer
) -> None:
    server.refuses = refusal
    server.end_watches()
    wait(lambda: heard.none_current() and heard.at_rest())
    server.expired, server.version = True, 9
    server.pods.append(pod("b", 8))
    server.refuses = None
    wait(heard.current)
    assert pods(heard) == ["a", "b"]


@pytest.mark.parametrize("code", [403, 404])
def test_a_server_that_forbids_all_and_has_ended_each_watch_as_it_should_is_asked_again_soon(
    server: Server, heard: Heard, code: int
) -> None:
    server.refuses = refuse(code)
    for each in server.open:
        each.wfile.write(chunk(b""))
    server.end_watches()  # and nobody has the server probed
    wait(lambda: heard.none_current() and len(heard.pauses) == len(LISTS))
    assert max(heard.pauses.values()) <= max(refusals.SOON_SECONDS)
    server.refuses = None
    wait(heard.current)


def test_a_configuration_that_is_exchanged_after_tls_failed_is_taken_up_at_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where the CA of a cluster is renewed: the one who asks meanwhile has to read it, too.
    config, address = tmp_path / "config", f"127.0.0.1:{server.port}"
    monkeypatch.setattr(backoff.Backoff, "next", pause)
    monkeypatch.setattr(reflector, "LONGEST_SECONDS", LONG)
    write_config(config, f"https://{address}", {"token": "one"})
    heard = Heard(config)
    try:
        wait(lambda: heard.all_say("TLS"))
        time.sleep(1.0)  # until each kind waits for the probe
        write_config(config, f"http://{address}", {"token": "one"})
        wait(heard.current)
    finally:
        heard.source.stop()


def test_a_server_that_answered_everything_with_no_list_is_asked_again_at_once(
    server: Server, heard: Heard
) -> None:
    server.refuses = refuse(200)
    server.end_watches()
    wait(lambda: heard.none_current() and heard.at_rest())
    server.expired, server.version = True, 9
    server.pods.append(pod("b", 8))
    server.refuses = None
    # What could not be read is a fault for longer: until a watch has told something.
    wait(lambda: pods(heard) == ["a", "b"])


def test_it_is_not_asked_more_often_than_about_each_second_while_it_is_away(
    server: Server, heard: Heard
) -> None:
    server.refuses = refuse(503)
    server.end_watches()
    wait(lambda: heard.all_say("503") and heard.at_rest())
    began = time.monotonic()
    asked = len(server.asked)
    time.sleep(3.0)
    many = len(server.asked) - asked
    assert many <= 2 + (time.monotonic() - began) / 0.5
    assert all("fieldSelector" in path for path in server.asked[asked:])


def test_the_probe_obeys_retry_after(server: Server, heard: Heard) -> None:
    server.refuses = refuse(429, Retry_After="30")
    asked = len(server.asked)
    server.end_watches()
    wait(lambda: heard.all_say("429"))
    time.sleep(2.0)
    # Nor does any kind, after its one request.
    assert sum("fieldSelector" in path for path in server.asked[asked:]) == 1
    kinds = [urlsplit(path).path for path in server.asked[asked:] if "fieldSelector" not in path]
    assert len(set(kinds)) == len(kinds)


def test_one_kind_that_fails_alone_waits_for_its_own_pause(server: Server, heard: Heard) -> None:
    """A list that a server cannot give is not asked for each time that it answers something small."""

    def only_pods(handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        (refuse(500) if "/pods" in handler.path else server.serve)(handler, query)

    def others_are_well() -> bool:
        others = [state for kind, state in heard.source.states().items() if kind is not Kind.POD]
        return all(state.current and not state.fault for state in others)

    server.refuses = only_pods
    server.end_watches()
    wait(lambda: "500" in heard.source.states()[Kind.POD].fault and others_are_well())
    time.sleep(2.0)
    assert len([path for path in server.asked if "/pods" in path and "watch" in path]) == 2
    assert others_are_well()


def fail_for_pods(server: Server, *, small: bool) -> None:
    """Have lists of pods fail, and requests for one pod too where ``small``; all else is answered."""

    def answer(handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        fails = "/pods" in handler.path and (small or query.get("limit") != "1")
        (refuse(410 if "watch" in query else 500) if fails else server.serve)(handler, query)

    server.refuses = answer
    server.end_watches()


def test_lists_of_one_kind_that_failed_alone_are_asked_for_when_they_can_be_given_again(
    server: Server, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "SOON_SECONDS", (0.05, 0.1))
    asked = len(server.asked)
    fail_for_pods(server, small=True)
    wait(lambda: sum(path.endswith("/pods?limit=1") for path in server.asked) >= 3)
    # The list itself, which is dear, was not asked for again.
    assert sum("/pods?limit=500" in path for path in server.asked[asked:]) == 1
    server.version = 9
    server.pods.append(pod("b", 8))
    server.refuses = None
    wait(heard.current)
    assert pods(heard) == ["a", "b"]


def test_a_list_that_fails_where_one_object_is_given_waits_for_its_own_pause(
    server: Server, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails is the list as it is: it takes too long, or one of its objects cannot be read."""
    monkeypatch.setattr(refusals, "SOON_SECONDS", (0.05, 0.1))
    asked = len(server.asked)
    fail_for_pods(server, small=False)
    wait(lambda: any(path.endswith("/pods?limit=1") for path in server.asked))
    time.sleep(1.0)
    assert "500" in heard.source.states()[Kind.POD].fault
    lists = [path for path in server.asked[asked:] if "/pods?limit=" in path]
    assert ["limit=500" in path for path in lists] == [True, False]


def test_the_server_is_probed_about_each_second_however_often_one_kind_fails(
    server: Server, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each probe is a connection of its own."""
    monkeypatch.setattr(refusals, "LIMITED_SECONDS", 0.02)

    def limited(handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        (refuse(429) if "/pods" in handler.path else server.serve)(handler, query)

    server.refuses = limited
    began, asked = time.monotonic(), len(server.asked)
    server.end_watches()
    wait(lambda: sum("/pods" in path for path in server.asked[asked:]) >= 40)
    paths = server.asked[asked:]
    # Each kind whose watch was ended asks once, too.
    most = 2 + len(LISTS) + (time.monotonic() - began) / 0.5
    assert sum("fieldSelector" in path for path in paths) <= most
    server.refuses = None
    wait(heard.current)


def test_a_server_that_has_taken_every_version_for_too_old_is_asked_again_each_second(
    server: Server, heard: Heard
) -> None:
    server.refuses = refuse(410)
    began = time.monotonic()
    server.end_watches()
    wait(lambda: not any(state.current for state in heard.states()))
    time.sleep(3.0)
    asked = len(server.asked)
    assert asked < 10 + 10 * (time.monotonic() - began)
    server.expired, server.version = True, 9
    server.pods.append(pod("b", 8))
    server.refuses = None
    wait(heard.current)
    assert pods(heard) == ["a", "b"]


def test_a_watch_that_is_refused_after_its_list_is_tried_each_second_and_the_list_is_not(
    server: Server, heard: Heard
) -> None:
    """A list costs the server much, and a watch that it refuses little."""
    listed: list[str] = []
    watched: Counter[str] = Counter()

    def no_watch(handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        path = urlsplit(handler.path).path
        if "watch" in query:
            watched[path] += 1
            refuse(410)(handler, query)
            return
        if "fieldSelector" not in query:
            listed.append(path)
        server.serve(handler, query)

    server.refuses = no_watch
    server.end_watches()
    # Before the list and after it, and then each second.
    wait(lambda: len(watched) == len(LISTS) and min(watched.values()) >= 4)
    # When the watch was refused, and not again while the pause after that lasts.
    assert sorted(listed) == sorted(LISTS)
    server.refuses = None
    wait(heard.current)


def test_a_token_that_is_renewed_is_taken_up_at_once(server: Server, heard: Heard, tmp_path: Path) -> None:
    def expired(handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        known = handler.headers.get("Authorization") == "Bearer two"
        (server.serve if known else refuse(401))(handler, query)

    server.refuses = expired
    server.end_watches()
    wait(lambda: heard.all_say("not authorized") and heard.at_rest())
    write_config(tmp_path / "config", f"http://127.0.0.1:{server.port}", {"token": "two"})
    wait(heard.current)


def test_a_server_that_takes_connections_and_does_not_answer_is_noticed(
    server: Server, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.sources.apiserver import probe

    monkeypatch.setattr(probe, "_QUIET_SECONDS", 0.5)
    monkeypatch.setattr(probe, "READ_SECONDS", 0.5)
    monkeypatch.setattr("agent.sources.apiserver.source.READ_SECONDS", 0.5)
    stuck = threading.Event()

    def hold(*_: object) -> None:
        stuck.wait(PATIENCE)

    server.refuses = hold
    wait(lambda: heard.all_say("fell silent"))
    server.refuses = None
    stuck.set()
    wait(heard.current)


def test_a_silent_watch_is_dropped_also_where_another_kind_had_the_server_probed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.sources.apiserver import probe

    monkeypatch.setattr(probe, "READ_SECONDS", 0.5)
    monkeypatch.setattr("agent.sources.apiserver.source.READ_SECONDS", 0.5)
    monkeypatch.setattr(probe, "_QUIET_SECONDS", 0.3)
    # Nobody looks whether all watches are silent: only a request that fails has the server probed.
    monkeypatch.setattr(probe, "_LOOK_SECONDS", 60.0)
    stuck = threading.Event()

    def hold(handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        if "watch" in query:
            refuse(500)(handler, query)
        else:
            stuck.wait(PATIENCE)

    write_config(tmp_path / "config", f"http://127.0.0.1:{server.port}", {"token": "one"})
    heard = Heard(tmp_path / "config")
    try:
        wait(heard.current)
        time.sleep(0.5)
        server.refuses = hold
        server.open.remove(next(one for one in server.open if "/pods" in one.path))
        wait(lambda: heard.all_say("fell silent"))
        server.refuses = None
        stuck.set()
        wait(heard.current)
    finally:
        stuck.set()
        heard.source.stop()


def test_a_stop_is_prompt_whatever_waits(server: Server, heard: Heard) -> None:
    server.stop()
    wait(lambda: heard.none_current() and heard.at_rest())
    heard.source.stop()
    wait(lambda: not any(heard.source.threads().values()))
    server.start()


def described(kubeconfig: Path, wanted: Callable[[str], bool]) -> None:
    found = Heard(kubeconfig)
    try:
        wait(lambda: all(wanted(state.fault) for state in found.states()))
    finally:
        found.source.stop()


def test_faults_of_the_connection_are_in_plain_words(server: Server, tmp_path: Path) -> None:
    address = f"127.0.0.1:{server.port}"
    config = tmp_path / "config"
    write_config(config, f"https://{address}", {"token": "t"})
    tls = f"TLS to the API server at https://{address} failed: the other end does not speak TLS; check the CA"
    described(config, lambda fault: fault.startswith(tls))
    write_config(config, "http://no.such.name.invalid:1", {"token": "t"})
    words = "cannot resolve the name of the API server at http://no.such.name.invalid:1; check the node's DNS"
    described(config, lambda fault: fault.startswith(words))
    server.stop()
    write_config(config, f"http://{address}", {"token": "t"})
    words = f"cannot connect to the API server at http://{address}: connection refused; check that it runs"
    described(config, lambda fault: fault.startswith(words))
    server.start()
    server.refuses = lambda handler, _: setattr(handler, "close_connection", True)
    broke = f"the connection to the API server at http://{address} broke: "
    words = broke + "the other end closed the connection without an answer"
    described(config, lambda fault: fault.startswith(words))

    def no_http(handler: BaseHTTPRequestHandler, _: dict[str, str]) -> None:
        handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        handler.close_connection = True

    server.refuses = no_http
    described(config, lambda fault: fault.startswith(broke + "the answer is not HTTP"))
    server.refuses = lambda handler, _: send(handler, 200, json.loads("{}"))
    words = f"the API server at http://{address} gave an answer that is not used: asked for a "
    described(config, lambda fault: fault.startswith(words))
