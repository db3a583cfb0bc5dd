"""The process of a proof, told of what no agent would tell it."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from agent.proof.difference import Answer
from agent.proof.process import READY
from tests.patience import PATIENCE

TOO_LARGE = 1 << 31
"""Bytes: they are not sent, but room for them is asked for."""


@pytest.mark.parametrize(
    ("told", "why"),
    [(b"", "the agent ended"), (TOO_LARGE.to_bytes(4, "big"), "it takes more than 1024 MB of memory")],
    ids=["nothing", "too-large"],
)
def test_what_cannot_be_taken_is_said(told: bytes, why: str) -> None:
    command = [sys.executable, "-m", "agent.proof"]
    said = subprocess.run(command, input=told, stdout=subprocess.PIPE, check=True, timeout=PATIENCE).stdout
    assert said.startswith(READY)
    answer = msgspec.json.decode(said.removeprefix(READY), type=Answer)
    assert answer.result is None
    assert why in answer.error
