"""What the kernel holds of ours, as text for people: rules with what they have counted, and sets."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.variant import MODES, PROGRAMS, Mode, find_command
from agent.net import Family

_SECONDS = 30
_HOOKS = tuple(f" -{flag} {names.TOP_PREFIX}" for flag in "jg")


def held_text() -> dict[str, bytes]:
    """Return by file name what both modes' tables of both families hold of ours, and our sets.

    A part that cannot be read says why. The built-in chains show only the rules that lead to ours.
    """
    found = {}
    for mode in MODES:
        for family in Family:
            name = f"kernel/{PROGRAMS[family]}-{mode}-save.txt"
            found[name] = "\n".join((*_rules(mode, family), "")).encode(errors="surrogateescape")
    found["kernel/ipset-save.txt"] = "\n".join((*_sets(), "")).encode()
    return found


def _rules(mode: Mode, family: Family) -> Iterator[str]:
    command = find_command(family, mode, "save")
    if command is None:
        yield f"# {PROGRAMS[family]}-{mode}-save is not there"
        return
    for line in _printed(command, "-c", "-t", "filter"):
        if line.startswith("#"):
            yield line
        elif line.startswith(":"):
            if names.is_ours(line[1:].partition(" ")[0]):
                yield line
        elif line.startswith("["):
            chain = line.partition("-A ")[2].partition(" ")[0]
            if names.is_ours(chain) or any(hook in line for hook in _HOOKS):
                yield line


def _sets() -> Iterator[str]:
    for line in _printed("ipset", "save"):
        words = line.split(" ", 2)
        if line.startswith("#") or (len(words) > 1 and names.is_our_set(words[1])):
            yield line


def _printed(*command: str) -> list[str]:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"# {command[0]}: {error}"]
    if done.returncode:
        return [*done.stdout.split("\n"), f"# {command[0]} failed: {done.stderr.strip()}"]
    return done.stdout.split("\n")
