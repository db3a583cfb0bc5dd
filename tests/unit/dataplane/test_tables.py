"""Running iptables-restore: how it is fed, and how long it is waited for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agent.dataplane.iptables.tables import tables
from agent.dataplane.iptables.tables.tables import TableError, Tables
from agent.net import Family

LINES = {family: ["-A FORWARD -j DROP"] * 100_000 for family in Family}


def command(path: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = path / "restore"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setattr(Tables, "command", lambda *_: str(script))


def test_commands_that_hang_without_reading_are_waited_for_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(tmp_path, "exec sleep 600", monkeypatch)
    monkeypatch.setattr(tables, "COMMAND_SECONDS", 0.5)
    monkeypatch.setattr(tables, "_LINES_A_SECOND", 1_000_000)
    began = time.monotonic()
    failed = Tables("nft").restore(LINES)
    assert time.monotonic() - began < 60.0
    assert failed.keys() == set(Family)
    assert not any(error.refused for error in failed.values())


def test_each_command_gets_the_whole_of_its_lines_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(tmp_path, f"exec cat > {tmp_path}/told", monkeypatch)
    assert Tables("nft").restore({Family.V4: ["-A X \udcff é", *LINES[Family.V4]]}) == {}
    told = (tmp_path / "told").read_bytes()
    assert told.startswith(b"*filter\n-A X \xff \xc3\xa9\n-A FORWARD")
    assert told.endswith(b"-j DROP\nCOMMIT\n")


def test_a_command_that_fails_says_at_which_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(tmp_path, "echo 'Error occurred at line: 3' >&2; exit 2", monkeypatch)
    (error,) = Tables("nft").restore({Family.V4: ["-A X", "-A Y"]}).values()
    assert error.line == "-A Y"
    assert error.refused


def test_a_command_that_is_not_there_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tables, "command", lambda *_: str(tmp_path / "iptables-nft-save"))
    with pytest.raises(TableError) as caught:
        Tables("nft").read(Family.V4)
    assert caught.value.remedy == "install the package iptables, version 1.8 or later"
    failed = Tables("nft").restore({Family.V4: ["-A FORWARD -j DROP"]})
    assert failed[Family.V4].remedy == caught.value.remedy
