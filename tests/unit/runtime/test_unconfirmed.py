"""Policies of others: who wrote them, which are confirmed, and for how long."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.clock import moment
from agent.commands.confirm import NotUnconfirmedError, confirm
from agent.dataplane.backend import KernelView
from agent.history import confirmed
from agent.history.confirmed import Confirmation
from agent.history.store import StoreError
from agent.kube.events import Delete, Event, Invalid, Origin, Problem, Upsert
from agent.kube.model import Key, Kind, NetworkPolicy
from agent.observe.snapshot import Facts, take
from agent.policy.lower.lowered import LoweredProgram
from agent.runtime.unconfirmed import Unconfirmed
from tests.build import pod

OWN = frozenset({"argocd-controller"})
QUICK, OTHER = Key("shop", "quick"), Key("shop", "other")
AT = moment(1_700_000_000.0)


def wrote(manager: str, key: Key = QUICK) -> Event:
    return Upsert(Kind.POLICY, NetworkPolicy(*key), Origin(manager, "Update"))


def test_policies_of_others_are_unconfirmed_until_they_are_ones_own_or_gone(tmp_path: Path) -> None:
    found = Unconfirmed(OWN, tmp_path)
    found.take([wrote("argocd-controller"), wrote("kubectl-edit", OTHER), Upsert(Kind.POD, pod("web"))])
    assert found.policies() == {OTHER: "kubectl-edit"}
    found.take([Invalid(Kind.POLICY, QUICK, (Problem("spec", "wrong"),), None, Origin("kubectl-edit"))])
    assert found.policies() == {OTHER: "kubectl-edit", QUICK: "kubectl-edit"}
    found.take([wrote("argocd-controller"), Delete(Kind.POLICY, OTHER)])
    assert found.policies() == {}


def test_a_confirmation_holds_until_yet_another_writes(tmp_path: Path) -> None:
    found = Unconfirmed(OWN, tmp_path)
    found.take([wrote("kubectl-edit"), wrote("", OTHER)])
    assert found.news() == {}
    one = Confirmation("kubectl-edit", AT, "ada")
    confirmed.confirm(tmp_path, str(QUICK), one)
    assert found.news() == {"shop/quick": one}
    assert found.news() == {}
    assert found.policies() == {OTHER: ""}
    found.take([wrote("kubectl-edit")])
    assert QUICK not in found.policies()
    found.take([wrote("helm")])
    assert found.policies() == {OTHER: "", QUICK: "helm"}
    # One that was confirmed before the agent started is no news.
    after = Unconfirmed(OWN, tmp_path)
    assert after.news() == {}


def test_without_own_managers_nothing_is_kept(tmp_path: Path) -> None:
    found = Unconfirmed(frozenset(), tmp_path)
    found.take([wrote("kubectl-edit")])
    assert found.policies() == {}
    confirmed.confirm(tmp_path, str(QUICK), Confirmation("kubectl-edit", AT))
    assert found.news() == {}


def test_a_file_that_cannot_be_read_confirms_nothing_and_is_not_written_over(tmp_path: Path) -> None:
    found = Unconfirmed(OWN, tmp_path)
    found.take([wrote("kubectl-edit")])
    (tmp_path / confirmed.NAME).write_text("{")
    assert found.policies() == {QUICK: "kubectl-edit"}
    with pytest.raises(StoreError, match="remove the file"):
        confirmed.confirm(tmp_path, str(QUICK), Confirmation("kubectl-edit", AT))
    (tmp_path / confirmed.NAME).unlink()
    confirmed.confirm(tmp_path / "new", str(QUICK), Confirmation("kubectl-edit", AT))
    assert (tmp_path / "new" / confirmed.NAME).stat().st_mode & 0o777 == 0o600


def test_the_command_confirms_what_the_agent_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ada")
    facts = Facts("n", "v", 1.0, 1.0, unconfirmed={QUICK: "kubectl-edit"})
    snapshot = take(facts, LoweredProgram(), KernelView({}, {}))
    monkeypatch.setattr("agent.commands.confirm.fetch", lambda _: (b"", snapshot))
    url = "http://127.0.0.1:1"
    assert confirm(url, tmp_path, "shop/quick") == "kubectl-edit"
    (one,) = confirmed.read(tmp_path).values()
    assert (one.manager, one.who) == ("kubectl-edit", "ada")
    with pytest.raises(NotUnconfirmedError, match="shop/none is no policy that has to be confirmed"):
        confirm(url, tmp_path, "shop/none")
