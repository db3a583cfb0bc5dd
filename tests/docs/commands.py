"""The commands in the documents: where they are, and which of them no test runs, with the reason."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

NOT_RUN = (
    (
        r"docker (build|push)\b|make image\b",
        "fetches and pushes images; tests/deploy/test_image.py builds it",
    ),
    (r"make release\b", "builds the image, for minutes; tests/deploy/test_release.py makes one"),
    (r"vagrant \w|cd vagrant$", "starts a virtual machine that is fetched; tests/deploy/test_vagrant.py"),
    (r"make (cluster|kind)-test\b", "wants a cluster with kubelets; tests/conformance/test_in_the_lab.py"),
    (r"(kubectl|\$KUBECTL)\b.* (logs|debug)\b", "asks a kubelet, and the lab has none that serves"),
    (r"kubectl netpol\b", "runs kubectl exec, which asks a kubelet; tests/cluster/test_plugin.py"),
    (r"cp deploy/kubectl-netpol\b", "changes the machine; tests/cluster/test_plugin.py puts it on a path"),
    (r"kubectl\b.* rollout undo\b", "wants the revisions that the controller of DaemonSets keeps"),
    (r"(systemctl|journalctl) ", "asks systemd, which does not run here; tests/deploy/test_systemd.py"),
    (r"apt-get install\b", "changes the machine; .ci/packages does the same for the tests"),
    (r"make (test|lint)$|\.ci/run$", "is what runs this test"),
    (
        r"make chaos\b",
        "takes a quarter of an hour; tests/chaos/test_chaos.py runs its scenarios in a short form",
    ),
    (
        r"python -m tests\.chaos\.soak\b",
        "takes 20 minutes and more; tests/chaos/test_flat.py has how it is judged",
    ),
    (r"make bench\b", "takes an hour; tests/cluster/test_bench.py runs each section on a tiny cluster"),
    (
        r"python -m tests\.mutation$",
        "runs the tests once for each; tests/mutation/test_catalogue.py checks the list",
    ),
    (
        r".*netpol-agent confirm-cluster\b",
        "wants a second cluster at the address; tests/cluster/test_another_cluster.py",
    ),
    (
        r"netpol-agent confirm \S+/\S+$",
        "wants a policy of others; tests/unit/runtime/test_unconfirmed.py",
    ),
    (
        r"kubectl -n shop annotate networkpolicy db ",
        "wants the policy above it; docs/pull-request.md does the same with one that is there",
    ),
    (r"conntrack -D -s SOURCE ", "the addresses are the reader's"),
    (r"python -m tests\.fuzz$", "wants atheris; tests/fuzz/test_targets.py runs each decoder for a while"),
    (r"modprobe ", "changes the machine's kernel; where it is a module, tests/lab/node.py loads it"),
    (r"make audit\b", "asks the package index on the internet, which has other answers every day"),
    (
        r"netpol-agent guard --remove$",
        "wants a node without an agent; tests/kernel/test_guard.py",
    ),
    (
        r"netpol-agent guard --hold$",
        "stays until an agent asks for it; tests/kernel/test_guard_held.py",
    ),
    (r"make test-newest\b", "runs every test, with other packages"),
    (r"netpol-agent watch\b", "goes on until Ctrl-C; tests/unit/observe/flows/test_routes.py"),
    (r"make lock\b", "chooses new versions; tests/deploy/test_requirements.py checks what it has chosen"),
)
"""What no test runs as it stands, as patterns of whole commands' beginnings, each with its reason."""

PROGRAMS = (
    "cp|curl|conntrack|deploy/cleanup/on-every-node|docker|ebtables|ip6tables-save|ipset|iptables|"
    "iptables-legacy-save|iptables-save|journalctl|kubectl|make|modprobe|netpol-agent|python|sysctl|"
    r"systemctl|vagrant|KUBECTL=\S+|\.venv/bin/\S+|/opt/netpol-agent/bin/\S+|\.ci/run"
)
"""What a command inside a sentence begins with, so that it is told from a name."""

_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


class Command(NamedTuple):
    """One command line. ``output`` is what the document says that it prints, None where it does not say."""

    text: str
    output: str | None

    @property
    def reason_not_run(self) -> str | None:
        """Why no test runs it, None for what has to run."""
        return next((why for pattern, why in NOT_RUN if re.match(pattern, self.text)), None)


class Block(NamedTuple):
    """Commands that a reader enters one after another; ``line`` is where they begin in the document."""

    line: int
    commands: tuple[Command, ...]


def blocks(text: str) -> list[Block]:
    """Return the commands of a document, in its order.

    Commands are what is indented by four spaces, what is fenced as ``sh``, and inside sentences what begins
    with one of ``PROGRAMS`` and goes on. What is fenced as anything else is none. Raises ValueError
    for a fence that does not say what is in it.
    """
    found: list[tuple[int, tuple[Command, ...]]] = []

    for match in _FENCED.finditer(text):
        if not match[2]:
            raise ValueError(f"line {text.count(chr(10), 0, match.start()) + 1}: say what is fenced here")
        if match[2] == "sh":
            found.append((match.start(), tuple(_commands(match[3]))))
    rest = _FENCED.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    for start, block in _indented(rest):
        found.append((start, tuple(_commands(block))))
    sentences = re.sub(r"^ {4}.*$", lambda match: " " * len(match[0]), rest, flags=re.MULTILINE)
    for match in _INLINE.finditer(sentences):
        words = " ".join(match[1].split())
        if re.match(rf"(?:{PROGRAMS}) ", words) and not _is_a_name(words):
            found.append((match.start(), tuple(_commands(words))))
    found.sort(key=lambda one: one[0])
    return [Block(text.count("\n", 0, start) + 1, commands) for start, commands in found if commands]


def _is_a_name(words: str) -> bool:
    """Whether this only names a command (``netpol-agent run``), or says how all of its kind look."""
    name = r"(netpol-agent|kubectl|systemctl) \w+|python -m agent|iptables (nft|legacy)"
    return "[" in words.split("'")[0] or re.fullmatch(name, words) is not None


def _indented(text: str) -> Iterator[tuple[int, str]]:
    """Yield where each indented block begins, and the block."""
    position, begin, lines, blank_before = 0, 0, list[str](), True
    for line in [*text.splitlines(keepends=True), "end\n"]:
        if line.startswith("    ") and line.strip() and (lines or blank_before):
            begin = begin if lines else position
            lines.append(line)
        elif lines and not line.strip():
            lines.append(line)
        elif lines:
            yield begin, textwrap.dedent("".join(lines)).rstrip() + "\n"
            lines = []
        blank_before = not line.strip()
        position += len(line)


def _commands(block: str) -> Iterator[Command]:
    if block.startswith("$ "):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield Command(command, output.rstrip() + "\n")
        return
    for line in block.splitlines():
        # What comes after && is run or not for its own reasons; inside quotes it is an argument.
        for command in re.split(r" && (?=(?:[^'\"]*(['\"])[^'\"]*\1)*[^'\"]*$)", line.partition("  #")[0])[
            ::2
        ]:
            if command.strip():
                yield Command(command.strip(), None)
