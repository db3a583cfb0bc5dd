"""A wrong agent is found out, and what shows it is small: the agent is told something else than is so."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.kube.model import NetworkPolicy, Object, Pod, Rule
from tests.kernel.exact.arena import Arena
from tests.kernel.exact.contest import contest
from tests.kernel.exact.disagreement import DisagreementError
from tests.kernel.exact.enforcer import Hears
from tests.kernel.exact.reasons import WrongReasonError
from tests.lab.backends import BackendKind
from tests.lab.node import Layout
from tests.lab.reading import read_manifests

pytestmark = pytest.mark.parametrize(
    "arena", [pytest.param(Layout.ROUTED, marks=pytest.mark.xdist_group("exact-routed"))], indirect=True
)


def without_excepts(found: Object) -> Object:
    """What an agent does that forgets every except: it opens too much."""
    if not isinstance(found, NetworkPolicy):
        return found

    def rules(side: tuple[Rule, ...] | None) -> tuple[Rule, ...] | None:
        return side and tuple(
            rule._replace(
                peers=tuple(
                    p if p.block is None else p._replace(block=p.block._replace(excepts=()))
                    for p in rule.peers
                )
            )
            for rule in side
        )

    return msgspec.structs.replace(found, ingress=rules(found.ingress), egress=rules(found.egress))


def ranges_one_short(found: Object) -> Object:
    """What an agent does that takes the end of a range as outside: it opens too little."""
    if not isinstance(found, NetworkPolicy):
        return found

    def rules(side: tuple[Rule, ...] | None) -> tuple[Rule, ...] | None:
        return side and tuple(
            rule._replace(
                ports=tuple(
                    p._replace(end=p.end - 1)
                    if p.end is not None and isinstance(p.port, int) and p.end > p.port
                    else p
                    for p in rule.ports
                )
            )
            for rule in side
        )

    return msgspec.structs.replace(found, ingress=rules(found.ingress), egress=rules(found.egress))


def without_named_ports(found: Object) -> Object:
    """What an agent does that resolves no name."""
    return msgspec.structs.replace(found, ports=()) if isinstance(found, Pod) else found


# Any start finds it; with these it takes seconds.
@pytest.mark.parametrize(
    ("hears", "start"), [(without_excepts, 3), (ranges_one_short, 3), (without_named_ports, 2)]
)
def test_a_wrong_agent_is_found_out_by_a_small_cluster(
    arena: Arena, backend: BackendKind, hears: Hears, start: int, tmp_path: Path
) -> None:
    with pytest.raises(DisagreementError) as caught:
        contest(arena, 300, backend=backend.name, start=start, hears=hears, logs=False)
    text = str(caught.value)
    print(text)
    manifests = text[text.index("# ") : text.index("On node here")]
    (tmp_path / "cluster.yaml").write_text(manifests)
    objects, refused = read_manifests(tmp_path)
    assert not refused
    assert len([found for found in objects if isinstance(found, NetworkPolicy)]) == 1
    assert len([found for found in objects if isinstance(found, Pod)]) <= 2
    assert "Explained:" in text


def test_a_wrong_reason_is_found_out(arena: Arena) -> None:
    """The verdicts are right, and the policies are called otherwise."""

    def renamed(found: Object) -> Object:
        if not isinstance(found, NetworkPolicy):
            return found
        return msgspec.structs.replace(found, name=f"{found.name}-of-others")

    with pytest.raises(WrongReasonError, match="-of-others"):
        contest(arena, 20, start=3, hears=renamed, logs=True)
