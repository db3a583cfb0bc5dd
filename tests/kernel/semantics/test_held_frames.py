"""The table that guards frames belongs to whoever guards them: what others can do, and what stays of it."""

from __future__ import annotations

import errno
import os
import re

import pytest

from agent.dataplane.frames import TABLE
from agent.dataplane.frames.guard import FrameGuard, Guarding, remove
from agent.kernel import nf_owned
from agent.kernel.netlink import NetlinkSocket
from agent.net import Family
from tests.kernel.semantics.attached import NOBODYS, connects, raw
from tests.kernel.semantics.framed import OnStage
from tests.kernel.semantics.stage import TIMES, Stage
from tests.lab.netns import CommandError

BREAKAGES = {
    "flush": f"flush table netdev {TABLE}",
    "delete": f"delete table netdev {TABLE}",
    "rule": f"insert rule netdev {TABLE} ip4 accept",
    "element": f"flush set netdev {TABLE} addresses4",
    "dormant": f"add table netdev {TABLE} {{ flags dormant; }}",
    "chain": f"delete chain netdev {TABLE} link-LINK",
    "foreign": f"add chain netdev {TABLE} other; add rule netdev {TABLE} other accept",
}


OWNING = pytest.mark.usefixtures("owning")
OLDER = pytest.param(0, id="older-kernel")
"""Of Linux before 6.9: the table belongs to nobody."""


@pytest.fixture
def flags(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Have guards make the table of these flags."""
    found: int = request.param
    monkeypatch.setattr(nf_owned, "flags", lambda _: found)
    return found


@pytest.mark.guarantee("10.4")
@pytest.mark.bridge
@pytest.mark.parametrize("flags", [OLDER], indirect=True)
@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES)
def test_what_others_change_is_put_back(stage: Stage, guarded: OnStage, flags: int, breakage: str) -> None:
    stage.given()
    guarded.follow()
    a, s = stage.pods["a"], stage.pods["s"]
    stage.near.run("nft", "-f", "-", stdin=breakage.replace("LINK", a.veth))
    # A chain that nothing leads to lets nothing pass.
    assert bool(guarded.proved()) is ("other" not in breakage)
    done = guarded.follow()
    assert done.drift
    assert done.commits == 1
    assert stage.arrive(s, raw(stage, a, NOBODYS[Family.V4], s)) == 0
    assert guarded.follow() == Guarding(0, done.links)
    assert flags == 0


@pytest.mark.bridge
@pytest.mark.parametrize("flags", [OLDER], indirect=True)
def test_what_others_write_in_a_set_gives_nobody_an_address(
    stage: Stage, guarded: OnStage, flags: int
) -> None:
    """A hardware address stays with whom this agent has allowed it, whatever the set says now."""
    stage.given()
    guarded.follow()
    a, b, s = (stage.pods[name] for name in "abs")
    own = a.mac
    a.netns.ip(f"link set eth0 address {b.mac}")
    try:
        element = f"{{ {a.veth} . {b.mac} }}"
        stage.near.run("nft", "add", "element", "netdev", TABLE, "senders", element)
        assert guarded.follow().drift
        assert not connects(stage, a, s.v4)
        assert connects(stage, b, s.v4)
    finally:
        a.netns.ip(f"link set eth0 address {own}")
        stage.lab.flush_neighbours()
    assert flags == 0


@pytest.mark.guarantee("10.4")
@OWNING
def test_nobody_else_changes_it_while_it_is_held(stage: Stage, guarded: OnStage) -> None:
    """By each way in which others change the table of an agent on an older kernel, and by a flush of all."""
    stage.given()
    links = guarded.follow().links
    a, s = stage.pods["a"], stage.pods["s"]
    whole = _listed(stage)
    for breakage in BREAKAGES.values():
        text = breakage.replace("LINK", a.veth)
        with pytest.raises(CommandError, match="Operation not permitted"):
            stage.near.run("nft", "-f", "-", stdin=text)
    stage.near.run("nft", "flush", "ruleset", "netdev")
    assert _listed(stage) == whole
    assert guarded.follow() == Guarding(0, links)
    assert stage.arrive(s, raw(stage, a, NOBODYS[Family.V4], s)) == 0


def _listed(stage: Stage) -> str:
    """Return the table without what its rules have counted."""
    listed = stage.near.run("nft", "list", "table", "netdev", TABLE)
    return re.sub(r"packets \d+ bytes \d+", "", listed)


@pytest.mark.guarantee("10.4")
@OWNING
def test_it_stays_when_nobody_holds_it_and_is_taken_over(stage: Stage, guarded: OnStage) -> None:
    stage.given()
    links = guarded.follow().links
    a, s = stage.pods["a"], stage.pods["s"]
    send = raw(stage, a, NOBODYS[Family.V4], s)
    guarded.guard.close()
    assert stage.arrive(s, send) == 0
    # Nobody's, it can be changed; whoever takes it over makes it anew.
    stage.near.run("nft", "insert", "rule", "netdev", TABLE, "ip4", "accept")
    guarded.again()
    assert guarded.follow() == Guarding(1, links)
    assert stage.arrive(s, send) == 0
    guarded.again()
    stage.near.run("nft", "flush", "ruleset", "netdev")
    assert stage.arrive(s, send) == TIMES
    assert guarded.follow() == Guarding(1, links)
    assert stage.arrive(s, send) == 0


@pytest.mark.bridge
@OWNING
def test_the_table_of_an_agent_that_could_not_hold_it_is_taken_over(
    stage: Stage, guarded: OnStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.given()
    with monkeypatch.context() as older:
        older.setattr(nf_owned, "flags", lambda _: 0)
        links = guarded.follow().links
    assert "flags" not in _listed(stage)
    guarded.again()
    assert guarded.follow() == Guarding(1, links)
    with pytest.raises(CommandError, match="Operation not permitted"):
        stage.near.run("nft", "delete", "table", "netdev", TABLE)


@pytest.mark.bridge
@OWNING
def test_a_second_one_is_told_whose_it_is_and_takes_over_when_that_ends(
    stage: Stage, guarded: OnStage
) -> None:
    stage.given()
    links = guarded.follow().links
    whole = _listed(stage)
    with FrameGuard() as second, stage.kernel():
        (fault,) = second.follow(()).faults
        assert "belongs to process " in fault.what
        assert fault.blocking
        (left,) = remove()
        assert "is left: it belongs to " in left.what
        assert not left.blocking
    assert _listed(stage) == whole
    assert guarded.follow() == Guarding(0, links)


@pytest.mark.bridge
@OWNING
def test_a_socket_that_breaks_is_followed_by_another(
    stage: Stage, guarded: OnStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.given()
    links = guarded.follow().links

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    with monkeypatch.context() as breaking, stage.kernel():
        breaking.setattr(NetlinkSocket, "dump", broken)
        done = guarded.guard.follow(())
    assert (done.commits, done.links, done.pending, len(done.faults)) == (0, links, True, 1)
    a, s = stage.pods["a"], stage.pods["s"]
    assert stage.arrive(s, raw(stage, a, NOBODYS[Family.V4], s)) == 0
    assert guarded.follow() == Guarding(1, links)
    with pytest.raises(CommandError, match="Operation not permitted"):
        stage.near.run("nft", "delete", "table", "netdev", TABLE)
