"""Any policy to a line and back, and to a manifest and back."""

from __future__ import annotations

from functools import partial

from hypothesis import assume

from agent.convert.manifest import to_yaml
from agent.convert.read import read_line
from agent.convert.statement import MODES, Statement, normal
from agent.convert.write import write_line
from agent.kube.manifest import read_text
from agent.kube.model import NetworkPolicy
from tests.property import pieces
from tests.property.choices import drawn, tried
from tests.property.words import MANIFESTS

policies = drawn(partial(pieces.policy, words=MANIFESTS))


@tried(policies, drawn(lambda choices: choices.one_of(("", *MODES))), max_examples=600)
def test_a_line_says_its_policy_exactly(policy: NetworkPolicy, mode: str) -> None:
    assume(policy.ingress is not None or policy.egress is not None)
    line = write_line(Statement(policy, mode))
    read = read_line(line)
    assert (normal(read.policy), read.mode) == (normal(policy), mode)
    assert write_line(read) == line
    (found,) = read_text(to_yaml([read]).encode()).manifests
    assert isinstance(found.value, NetworkPolicy)
    assert normal(found.value) == normal(policy)
