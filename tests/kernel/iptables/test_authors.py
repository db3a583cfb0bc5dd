"""Who wrote the rules that are not as they were left, as the kernel tells it in nft mode."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nf_tables import Rule, delete_rules, rules
from agent.kernel.nft_writes import RuleWrites
from agent.net import Family
from tests.build import labelled
from tests.kernel.kernel_state import TwoPods, gone, iptables, policy
from tests.lab.netns import Netns

pytestmark = pytest.mark.usefixtures("netns", "lock_file")


@pytest.fixture
def nft_node(netns: Netns) -> Iterator[TwoPods]:
    del netns
    made = TwoPods("nft")
    made.backend.authors.take()
    yield made
    made.backend.close()


def test_a_transaction_is_told_with_its_process_and_who_started_that(netns: Netns) -> None:
    netns.run(["nft", "add table ip theirs"])
    with RuleWrites() as writes:
        assert writes.heard() == ([], False)
        process = subprocess.Popen(["nft", "add chain ip theirs a; add chain ip theirs b"])
        # It has not been waited for, so that it is still known.
        assert select.select([writes], [], [], 20)[0]
        (write,), lost = writes.heard()
        process.wait()
        assert not lost
        assert (write.program, write.pid) == ("nft", process.pid)
        assert write.parent.endswith(f"(pid {os.getpid()})")
        netns.run(["nft", "add chain ip theirs c"])
        ((second,), _) = writes.heard()
        assert second.generation == write.generation + 1


def test_that_more_was_written_than_could_wait_is_told(netns: Netns) -> None:
    netns.run(["nft", "add table ip theirs"])
    with RuleWrites() as writes:
        subprocess.run(
            ["nft", "-i"],
            input="add chain ip theirs a\ndelete chain ip theirs a\n" * 1000,
            text=True,
            check=True,
        )
        found, lost = writes.heard()
        assert lost
        assert 0 < len(found) < 2000
        netns.run(["nft", "add chain ip theirs c"])
        assert [(len(found), lost) for found, lost in (writes.heard(),)] == [(1, False)]


def test_a_name_that_would_not_print_is_shown_without_it(netns: Netns, tmp_path: Path) -> None:
    nft = shutil.which("nft", path=f"{os.environ['PATH']}:/usr/sbin")
    assert nft is not None
    odd = tmp_path / "a\x1b[31m b"
    odd.symlink_to(nft)
    with RuleWrites() as writes:
        netns.run([str(odd), "add table ip theirs"])
        ((write,), _) = writes.heard()
        assert write.program == "a?[31m?b"


def test_the_agents_own_writes_have_no_author(nft_node: TwoPods) -> None:
    backend = nft_node.backend
    added = policy("added", selector=labelled(app="a"), ingress=[])
    for event in (added, gone(added)):
        assert not backend.apply(nft_node.program, nft_node.engine.apply([event], 1.0)).faults
        backend.tidy(nft_node.program)
    assert backend.authors.hear()
    assert not backend.disturbed()
    assert backend.authors.take() == ()


@pytest.mark.guarantee("6.4")
def test_others_are_told_from_the_agent_whatever_was_written_between(nft_node: TwoPods, netns: Netns) -> None:
    backend = nft_node.backend
    netns.run(["nft", "flush chain ip filter", nft_node.chain("a")])
    added = policy("added", selector=labelled(app="a"), ingress=[])
    assert not backend.apply(nft_node.program, nft_node.engine.apply([added], 1.0)).faults
    iptables("nft", Family.V6, "-F", nft_node.chain("b"))
    assert backend.authors.hear()
    assert nft_node.differences()
    found = backend.authors.take()
    assert [author.partition(" ")[0] for author in found] == ["nft", "ip6tables-nft"]
    assert all("(pid " in author for author in found)
    assert backend.authors.take() == ()


def test_another_program_that_writes_by_the_agents_command_is_told_by_name(nft_node: TwoPods) -> None:
    backend = nft_node.backend
    added = policy("added", selector=labelled(app="a"), ingress=[])
    assert not backend.apply(nft_node.program, nft_node.engine.apply([added], 1.0)).faults
    text = f"*filter\n-F {nft_node.chain('a')}\nCOMMIT\n"
    subprocess.run(["iptables-nft-restore", "--noflush"], input=text, text=True, check=True)
    assert nft_node.differences()
    assert backend.authors.take() == ("iptables-nft-re",)


def test_of_legacy_tables_the_kernel_tells_nothing() -> None:
    node = TwoPods("legacy")
    iptables("legacy", Family.V4, "-F", node.chain("a"))
    assert node.backend.authors.descriptors == ()
    assert not node.backend.authors.hear()
    assert node.backend.authors.take() == ()


def test_what_this_process_writes_by_itself_has_no_author(nft_node: TwoPods) -> None:
    with NetlinkSocket() as netlink:
        delete_rules(
            netlink, Family.V4, "filter", [(rule.chain, rule.handle) for rule in first_rules(netlink)]
        )
    assert nft_node.backend.disturbed()
    assert nft_node.differences()
    assert nft_node.backend.authors.take() == ()


def first_rules(netlink: NetlinkSocket) -> list[Rule]:
    return list(rules(netlink, Family.V4, "filter"))[:1]


def test_what_is_written_after_a_look_was_begun_is_told_by_the_next(nft_node: TwoPods, netns: Netns) -> None:
    backend = nft_node.backend
    reading = backend.read()
    netns.run(["nft", "flush chain ip filter", nft_node.chain("a")])
    reading.run()
    backend.audit(nft_node.program, reading)
    assert backend.authors.take() == ()
    assert nft_node.differences()
    (author,) = backend.authors.take()
    assert author.startswith("nft (pid ")
