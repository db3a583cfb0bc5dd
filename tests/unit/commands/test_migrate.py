"""What the migration command prints, and how it tells what it found."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from agent.commands import cli, migrate
from agent.commands.migrate import Takeover
from agent.dataplane.iptables.takeover import FoundChains, Remains
from agent.fault import Fault
from agent.net import Family

POD = "KUBE-POD-FW-ABCDEFGHIJKLMNOP"
FOUND = Remains(
    (
        FoundChains("nft", Family.V4, ("KUBE-ROUTER-FORWARD", POD), ("FORWARD",)),
        FoundChains("legacy", Family.V6, ("KUBE-NWPLCY-DEFAULT",), ()),
    ),
    ("KUBE-SRC-ABCDEFGHIJKLMNOP",),
    (Family.V6,),
)
NOTHING = Remains((), (), ())
FAULT = Fault("process 7 holds this node", "stop it")


def test_what_is_there_is_told_for_people() -> None:
    text = migrate.text(Takeover(FOUND, FOUND))
    assert "  IPv4, iptables mode nft: 2 chains, reached from FORWARD\n" in text
    assert "  IPv6, iptables mode legacy: 1 chain, reached from nowhere\n" in text
    assert "  IPv6: a table of its own in nftables\n  1 set\n" in text
    assert "In the way" not in text
    text = migrate.text(Takeover(FOUND, FOUND, (FAULT,)))
    assert text.endswith("In the way: process 7 holds this node (stop it)\n")
    assert migrate.text(Takeover(NOTHING, NOTHING)) == "Nothing of kube-router's firewall is here.\n"


def test_families_and_pods_are_told_from_what_is_there() -> None:
    assert FOUND.families() == {Family.V4, Family.V6}
    assert FOUND._replace(nft_tables=()).families() == {Family.V4}
    assert FOUND.judges_pods()
    assert not Remains(FOUND.chains[1:], (), ()).judges_pods()
    assert FOUND.any()
    assert Remains((), FOUND.sets, ()).any()
    assert not NOTHING.any()


def test_a_sync_of_its_shows_in_a_name_that_was_not_there() -> None:
    assert FOUND.written_since(FOUND) is None
    assert NOTHING.written_since(FOUND) is None
    new = FOUND._replace(chains=(FOUND.chains[0]._replace(chains=("KUBE-POD-FW-BBBBBBBBBBBBBBBB",)),))
    assert new.written_since(FOUND) == "KUBE-POD-FW-BBBBBBBBBBBBBBBB"


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(Takeover(FOUND, NOTHING), 0), (Takeover(NOTHING, NOTHING), 0), (Takeover(FOUND, None, (FAULT,)), 1)],
)
def test_the_command_exits_as_told_and_prints_json(
    monkeypatch: pytest.MonkeyPatch, outcome: Takeover, code: int
) -> None:
    monkeypatch.setattr(cli, "_end_without_privilege", lambda: None)
    monkeypatch.setattr(migrate, "migrate", lambda *_, **__: outcome)
    result = CliRunner().invoke(cli.main, ["migrate", "--manifests", "examples", "--json"])
    assert result.exit_code == code
    told = json.loads(result.stdout)
    assert told["faults"] == [{"what": f.what, "remedy": f.remedy} for f in outcome.faults]
    assert (told["left"] is None) == (outcome.left is None)
    if code:
        assert "process 7 holds this node" in result.stderr


def test_options_that_cannot_be_used_are_told() -> None:
    for arguments in (
        ["--timeout", "0"],
        ["--timeout", "soon"],
        ["--families", "ipv5"],
        ["--manifests", "/none"],
    ):
        assert CliRunner().invoke(cli.main, ["migrate", *arguments]).exit_code == 2
