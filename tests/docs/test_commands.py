"""Every command of every document runs, and prints what the document says; or it is said why none runs it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import pytest

from agent.net import Family
from tests.conftest import Measured
from tests.docs import ROOT, documents, pull_request
from tests.docs import stage as docs_stage
from tests.docs.commands import NOT_RUN, Block, Command, blocks
from tests.docs.stage import Stage
from tests.lab.kube_build import kube_apiserver, kubectl

BEGINNINGS: dict[str, Callable[[Stage], None]] = {
    "deploy/README.md": Stage.without_agent,
    "docs/migration.md": Stage.with_kube_router,
    "docs/pull-request.md": pull_request.begin,
}
"""How the cluster is when a document begins: with the agent on it, unless said otherwise here."""

REWRITTEN = (
    # There is no kubelet that would do it in the container: it is done on the node.
    (r"kubectl .* exec \S+ -- (.+)", r"\1"),
    # Until a signal comes: it comes when the agent is ready.
    (
        r"((?:[A-Z_]+=\S+ )*\S*netpol-agent run\b.*)",
        r"\1 & until curl -fs 127.0.0.1:20245/readyz; do kill -0 $!; sleep 0.1; done; kill $!; wait $!",
    ),
    # The tests of a document that is about tests are there, and may be asked for so. None runs, so nothing is
    # to be told of an assertion, nor are workers needed.
    (r"(\S*pytest .*)", r"\1 --collect-only -q --assert=plain -n 0"),
    # Its figures are of a table that it takes minutes to fill and to empty where others work, too.
    (r"(python -m tests\.bench\.cutting)", r"\1 --most 2000"),
    # What a pattern does not find: its exit code is 1.
    (r"(iptables-save \| grep -E 'KUBE-ROUTER-.*)", r"! \1"),
    # That it would cut something is an answer, too.
    (r"(netpol-agent replay .*)", r"\1 || [ $? -eq 1 ]"),
    # That none stands, too.
    (r"(netpol-agent guard --status.*)", r"\1 || [ $? -eq 1 ]"),
    # That something is found, too.
    (r"(netpol-agent lint .*)", r"\1 || [ $? -eq 1 ]"),
    (r"(.*)\bDIR\b(.*)\bDIR\b(.*)", r"\1/tmp/manifests\2/tmp/manifests\3"),
    (r"(.*)\bDIR\b(.*)", r"\1/tmp/manifests\2"),
    (r"(.*)--context=NAME(.*)", r"\1--context=lab\2"),
)
"""What a reader would do, or put in the place of a word, and how it is done here."""

ONCE = re.compile(r"make ")
"""What takes seconds, and what it has done for one document is there for the next."""


def nothing_is_left(stage: Stage) -> None:
    """Check that what removes the installation removes all of it."""
    kinds = "serviceaccounts,configmaps,daemonsets,clusterroles,clusterrolebindings"
    left = stage.kubectl("-n", "kube-system", "get", kinds, "-o", "name").split()
    assert [name for name in left if "netpol-agent" in name] == []
    assert "KUBE-NETPOL" not in stage.worker.iptables(Family.V4, "-S")


ENDINGS = {"deploy/README.md": nothing_is_left, "docs/pull-request.md": pull_request.end}
"""What holds when all commands of a document have run."""

CHECKS = {"docs/pull-request.md": pull_request.CHECKS}
"""What holds after the blocks with a command that begins so."""


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    # The first build takes minutes: who waits should see that.
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        kube_apiserver()
        kubectl()
    with Stage() as made:
        yield made


def rewritten(command: str) -> str:
    for pattern, instead in REWRITTEN:
        command = re.sub(f"^{pattern}$", instead, command)
    return command


def script(block: Block, done: Container[str] = ()) -> str:
    """Return what of a block runs here, as one script, without what has been done and need not be again."""
    commands = (c.text for c in block.commands if c.reason_not_run is None)
    return "\n".join(rewritten(text) for text in commands if not (ONCE.match(text) and text in done))


def comparable(text: str) -> str:
    """Return output without what differs from time to time: counts, times, and how columns are filled."""
    lines = (re.sub(r"\[\d+:\d+\]", "[n:n]", " ".join(line.split())) for line in text.splitlines())
    return "\n".join(lines).strip()


def play(stage: Stage, block: Block, done: set[str]) -> None:
    commands = script(block, done)
    if not commands:
        return
    done.update(command.text for command in block.commands)
    where = stage.alone if re.search(r"netpol-agent (run|cleanup|guard)\b", commands) else stage.worker
    if "make install" in commands:
        stage.run(commands)
    elif block.commands[0].output is None:
        stage.run(commands, on=where)
    else:
        for command in block.commands:
            # What is denied has an exit code of its own; here it is what is printed that counts.
            printed = stage.run(rewritten(command.text), on=where, allowed_to_fail=True)
            assert comparable(printed) == comparable(command.output or ""), command.text


DONE: set[str] = set()
"""Every command that has run for any document."""


@pytest.mark.xdist_group("documents")
@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_documents_commands_run(stage: Stage, document: Path, measured: Measured) -> None:
    name = str(document.relative_to(ROOT))
    found = blocks(document.read_text())
    if not any(script(block) for block in found):
        return
    BEGINNINGS.get(name, Stage.with_agent)(stage)
    begin = time.monotonic()
    for block in found:
        try:
            play(stage, block, DONE)
            for begins, check in CHECKS.get(name, {}).items():
                if any(command.text.startswith(begins) for command in block.commands):
                    check(stage)
        except AssertionError as error:
            raise AssertionError(f"{name}, line {block.line}: {error}") from None
        if "apply -k deploy/\n" in script(block) and name == "deploy/README.md":
            measured(f"from kubectl apply -k to a rolled out agent: {time.monotonic() - begin:.1f} s")
    if name in ENDINGS:
        ENDINGS[name](stage)


@pytest.mark.xdist_group("documents")
@pytest.mark.parametrize("on_a_node", [True, False], ids=["node", "machine"])
def test_what_takes_too_long_is_ended_with_all_that_it_began(
    stage: Stage, on_a_node: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What went on would write into what the next commands print."""
    monkeypatch.setattr(docs_stage, "SECONDS", 1.0)
    name = stage.files / "tmp" / "still"
    with pytest.raises(AssertionError, match=r"takes more than 1 s:\nhello"):
        stage.run(
            "echo hello; (while :; do date +%N >/tmp/still; sleep 0.01; done) & wait",
            on=stage.worker if on_a_node else None,
        )
    before = name.read_text()
    time.sleep(0.2)
    assert name.read_text() == before


def test_nothing_is_left_out_that_no_document_has() -> None:
    texts = [c.text for path in documents() for block in blocks(path.read_text()) for c in block.commands]
    for pattern, why in NOT_RUN:
        assert any(re.match(pattern, text) for text in texts), pattern
        for name in re.findall(r"tests/[\w/]+\.py|\.ci/\w+", why):
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("Do\n\n    make demo    # look\n    cd x && y\n\nnow.\n", [(3, ["make demo", "cd x", "y"])]),
        ("- Do\n\n      make demo\n", [(3, ["make demo"])]),
        ("```sh\nls\n```\n\n```yaml\n    a: b\n```\n", [(1, ["ls"])]),
        ("By `kubectl get\npods` or `netpol-agent run`; `--json`.\n", [(1, ["kubectl get pods"])]),
        ("a\n    continued\n", []),
    ],
)
def test_commands_are_found_where_they_are(text: str, commands: list[tuple[int, list[str]]]) -> None:
    assert [(b.line, [c.text for c in b.commands]) for b in blocks(text)] == commands


def test_what_is_printed_goes_with_its_command() -> None:
    (block,) = blocks("\n    $ one\n    first\n\n    second\n    $ two\n    third\n")
    assert block.commands == (Command("one", "first\n\nsecond\n"), Command("two", "third\n"))


def test_a_fence_says_what_is_in_it() -> None:
    with pytest.raises(ValueError, match="line 2"):
        blocks("\n```\nls\n```\n")
