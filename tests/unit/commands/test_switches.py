"""A flag that is given a value: the message names the flag, the value and what to give."""

from __future__ import annotations

import pytest

from agent.commands.cli import main
from agent.commands.switches import flag_with_value
from agent.setting import Setting
from agent.settings import SETTINGS
from tests.unit.commands.test_cli import netpol_agent

SWITCHES = [setting for setting in SETTINGS if setting.switch]


@pytest.mark.parametrize("setting", SWITCHES, ids=lambda setting: setting.name)
@pytest.mark.parametrize("form", ["{flag} yes", "{flag} perhaps", "{flag}=true", "{flag}="])
def test_a_switch_that_is_given_a_value_is_named_with_both_forms(setting: Setting, form: str) -> None:
    for flag in (setting.flag, setting.negative_flag):
        result = netpol_agent("run", *form.format(flag=flag).split(" "))
        value = form.partition("}")[2].strip("= ")
        assert result.exit_code == 2
        assert result.output.endswith(
            f"Error: {flag} is '{value}': it takes no value; "
            f"give {setting.flag} alone, or {setting.negative_flag}.\n"
        )
        assert "Usage: main run [OPTIONS]" in result.output


@pytest.mark.parametrize(
    ("command", "args", "wrong"),
    [
        ("explain", "--json=1", "--json is '1': it takes no value; give --json alone."),
        ("explain", "--json shop/web shop/db tcp/80", ""),
        ("lint", "--fix policies", ""),
        ("lint", "--fix TRUE", "--fix is 'TRUE': it takes no value; give --fix alone."),
        ("render", "--allow-nodes no", "--allow-nodes is 'no': it takes no value; give --allow-nodes alone"),
        ("run", "--events --no-fix-host --families=dual", ""),
        ("run", "-- --events=1", ""),
        ("run", "", ""),
        ("run", "--linger=1 --events", ""),
    ],
)
def test_a_word_after_a_flag_is_its_value_only_where_it_can_be_nothing_else(
    command: str, args: str, wrong: str
) -> None:
    found = flag_with_value(main.commands[command], args.split())
    assert found.startswith(wrong) if wrong else not found
