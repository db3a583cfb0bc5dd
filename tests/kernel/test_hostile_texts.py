"""Texts of objects that try to be something else: rules, commands, lines, escape sequences, markup."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from agent import log
from agent.dataplane.iptables.variant import MODES, Mode
from agent.kube.events import Event, Upsert
from agent.kube.model import Kind
from agent.kube.wire import object_from
from agent.policy.engine import Engine
from agent.setting_values import LogFormat, LogLevel
from tests.kernel.kernel_state import HERE, make_backend
from tests.lab.netns import Netns

_SAID = re.compile(r'-m comment --comment "[^"]*" ')
_HASH = re.compile(r"-[a-z2-7]{16}")

END = 'x" -j ACCEPT\n-A FORWARD -j ACCEPT\nCOMMIT\n*nat\n'
HOSTILE = (
    END,
    '\\" -j ACCEPT -m comment --comment "',
    "\x1b]0;title\x07\x1b[31mred",
    "a\u2028b\x85c\rd",
    '<script>x</script>"><img src=x onerror=y>',
    "'; rm -rf / #`id`$(id)",
    "[bold red]markup[/]",
    "%s%n{0}",
)


def objects(text: str) -> Iterator[tuple[Kind, object]]:
    """Give objects that have a text wherever there is one, as an API server that checks nothing would."""
    labels = {"app": text, text: text}
    for number, kind in ((1, "a"), (2, "b")):
        yield (
            Kind.POD,
            {
                "metadata": {
                    "name": f"{kind}{text}",
                    "namespace": text,
                    "uid": f"{number}{text}",
                    "labels": labels,
                    "annotations": {"netpol-agent.io/log-denied": "all"},
                    "ownerReferences": [{"kind": text, "name": text, "controller": True, "apiVersion": text}],
                },
                "spec": {
                    "nodeName": HERE,
                    "containers": [{"name": text, "ports": [{"name": text, "containerPort": 80}]}],
                },
                "status": {
                    "phase": "Running",
                    "podIPs": [{"ip": f"10.0.0.{number}"}, {"ip": f"fd00::{number}"}],
                },
            },
        )
    yield Kind.NAMESPACE, {"metadata": {"name": text, "labels": labels}}
    peers = [{"podSelector": {"matchLabels": labels}}, {"namespaceSelector": {"matchLabels": labels}}]
    rules = [{"from": peers, "to": peers, "ports": [{"port": text, "protocol": "TCP"}, {"port": 81}]}]
    yield (
        Kind.POLICY,
        {
            "metadata": {"name": text, "namespace": text, "annotations": {"netpol-agent.io/mode": text}},
            "spec": {
                "podSelector": {},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": rules,
                "egress": rules,
            },
        },
    )


def events(text: str) -> list[Event]:
    return [Upsert(kind, object_from(kind, json.dumps(found).encode())) for kind, found in objects(text)]


def rules_for(text: str, mode: Mode) -> list[str]:
    """Return the rules of an empty node that enforces the objects, without what is said of them."""
    netns = Netns("hostile")
    try:
        with netns.entered():
            engine = Engine(HERE)
            engine.apply(events(text), 0.0)
            backend = make_backend(mode)
            report = backend.sync(engine.lowered)
            backend.close()
            saved = [netns.run([f"{command}-{mode}-save"]) for command in ("iptables", "ip6tables")]
    finally:
        netns.close()
    assert report.faults == (), text
    assert not any("\x1b" in one for one in saved)
    return [_SAID.sub("", line) for one in saved for line in one.split("\n") if not line.startswith("#")]


@pytest.mark.guarantee("9.3")
@pytest.mark.parametrize("mode", MODES)
def test_no_text_of_an_object_becomes_a_rule(lock_file: Path, mode: Mode) -> None:
    del lock_file
    shape = sorted(_HASH.sub("", line) for line in rules_for("harmless", mode))
    assert any("KUBE-NWPLCY" in line for line in shape)
    for text in HOSTILE:
        assert sorted(_HASH.sub("", line) for line in rules_for(text, mode)) == shape, text


@pytest.mark.guarantee("9.3")
def test_no_text_of_an_object_becomes_a_line_of_the_log_or_a_command_of_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    try:
        for wanted in (LogFormat.CONSOLE, LogFormat.JSON):
            log.configure(wanted, LogLevel.INFO)
            for text in HOSTILE:
                log.get("test").info("told", policy=text, pods=[text], of={text: text})
    finally:
        structlog.reset_defaults()
    lines = written.getvalue().split("\n")
    assert len(lines) == 2 * len(HOSTILE) + 1
    assert all(line.isprintable() for line in lines)
