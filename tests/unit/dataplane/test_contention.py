"""How often a hook is taken back, and when a person is told."""

from __future__ import annotations

from agent.dataplane.contention import PAUSE, REMOVING, STOP_REMOVING, Contention


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_first_time_is_at_once_and_the_second_too() -> None:
    clock = Clock()
    fights = Contention(clock)
    assert fights.due()
    fights.put_back(["x"])
    assert fights.due()


def test_pauses_stay_short_however_long_it_lasts() -> None:
    clock = Clock()
    fights = Contention(clock)
    pauses = []
    for _ in range(2000):
        fights.put_back(["x"])
        began = clock.now
        while not fights.due():
            clock.now += 0.25
        pauses.append(clock.now - began)
    assert pauses[0] == 0.0
    assert set(pauses[1:]) == {PAUSE}


def test_a_person_is_told_at_the_third_time_in_a_row_with_the_last_reason() -> None:
    clock = Clock()
    fights = Contention(clock)
    for number in range(3):
        assert fights.fault() is None
        fights.put_back([f"reason {number}"])
        clock.now += 60
    fault = fights.fault()
    assert fault is not None
    assert "3 times" in fault.what
    assert "reason 2" in fault.what
    assert not fault.blocking


def test_two_quiet_minutes_end_a_fight() -> None:
    clock = Clock()
    fights = Contention(clock)
    for _ in range(5):
        fights.put_back(["x"])
    clock.now += 121
    assert fights.fault() is None
    fights.put_back(["x"])
    assert fights.fault() is None
    assert fights.due()


def test_what_is_done_and_what_to_do_about_it_is_said() -> None:
    fights = Contention(Clock(), REMOVING, STOP_REMOVING)
    for _ in range(3):
        fights.put_back(["x"])
    fault = fights.fault()
    assert fault is not None
    assert "removing" in fault.what
    assert "flushes" in fault.remedy
