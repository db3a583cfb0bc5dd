"""Reports in a file: one line each, bounded, for its owner alone; and what cannot be written is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import structlog

from agent.observe.flows.flow import as_json
from agent.observe.flows.sinks import FlowFile, into_log, sink_of
from tests.unit.observe.flows.test_hub import UNLOGGED, flow


def test_each_report_is_a_line_of_json(tmp_path: Path) -> None:
    put, faults = sink_of(tmp_path / "flows", 10_000)
    for report in (flow(1), UNLOGGED):
        put(report)
    lines = (tmp_path / "flows").read_bytes().splitlines()
    assert lines == [as_json(flow(1)), as_json(UNLOGGED)]
    assert json.loads(lines[0])["source"]["pod"] == "shop/web"
    assert faults() == ()


def test_the_file_and_the_one_set_aside_are_bounded_and_private(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    file = FlowFile(path, 5000)
    for number in range(100):
        file.put(flow(number))
    both = sorted(tmp_path.iterdir())
    assert [one.name for one in both] == ["flows", "flows.1"]
    for one in both:
        assert one.stat().st_size <= 5000
        assert one.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes().splitlines()[-1] == as_json(flow(99))


def test_what_cannot_be_written_is_told_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "later" / "flows"
    file = FlowFile(path, 5000)
    file.put(flow(1))
    (fault,) = file.faults()
    assert str(path) in fault.what
    assert not fault.blocking
    path.parent.mkdir()
    file.put(flow(2))
    assert file.faults() == ()
    assert path.read_bytes() == as_json(flow(2)) + b"\n"


def test_a_full_disk_raises_nothing() -> None:
    file = FlowFile(Path("/dev/full"), 5000)
    file.put(flow(1))
    assert "No space left" in file.faults()[0].what
    file.close()


def test_the_log_has_a_field_for_each_of_the_report() -> None:
    with structlog.testing.capture_logs() as logged:
        into_log(flow(3))
        into_log(UNLOGGED)
    assert [line["event"] for line in logged] == ["connection denied", "connections not logged"]
    assert (logged[0]["pod"], logged[0]["destination"]["port"], logged[1]["packets"]) == ("shop/db", 80, 7)


@pytest.mark.parametrize("path", [None])
def test_without_a_file_reports_go_into_the_log(path: Path | None) -> None:
    put, faults = sink_of(path, 5000)
    assert put is into_log
    assert tuple(faults()) == ()
