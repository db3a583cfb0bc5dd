"""The one place where a rule's text becomes a value: what is read from the kernel is no more than text.

Rules of ours that another run of the agent wrote, or that the agent finds changed, become the values that
:mod:`.rule` describes. Rules of other programs are asked where they lead.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.rule import InSet, Leaf, Rule, Rules
from agent.kube.model import Key
from agent.net import Direction
from agent.policy.program import PodId

_TARGET = re.compile(r"(?:^|.* )-([jg]) (\S+)")
_IN_SET = re.compile(r"-m set (! )?--match-set (\S+) (\S+)")
_LEAF = re.compile(rf'-([sd]) (\S+)/(?:32|128) (?:.*--comment "pod ([^"]*)" )?-g {names.POD_PREFIX}\S+')
"""A rule of the tree that leads from an address to its pod's chain."""
_BITS = re.compile(r"(mark) 0x[1-9a-f][0-9a-f]*/0x[0-9a-f]+|(mark) 0x0/0x[0-9a-f]+")
_SETS_BIT = re.compile(r"-j MARK --set-xmark (0x[0-9a-f]+)/\1$")
_ALLOWS = f"-g {names.TOP_PREFIX}ALLOW-"
_PLAIN = re.compile(r"[ !#-&(-\[\]-~]*(?:(?:^| )\"[ !#-&(-\[\]-~]*\"(?= |$)[ !#-&(-\[\]-~]*)*")
"""Printable ASCII without a backslash or a single quote, and with quotes around whole words only."""
_DIRECTIONS = {"s": Direction.EGRESS, "d": Direction.INGRESS}


def ours(text: str) -> Rule:
    """Return the value of a rule in a chain of ours; what somebody else put there leads nowhere we know."""
    if isinstance(text, Rule):
        return text
    found = _TARGET.match(text)
    target, goto = ("", False) if found is None else (found[2], found[1] == "g")
    in_sets = tuple(InSet(name, sides, bool(no)) for no, name, sides in _IN_SET.findall(text))
    return Rule(text, target, goto, in_sets, _leaf(text))


def _leaf(text: str) -> Leaf | None:
    found = _LEAF.fullmatch(text)
    if found is None:
        return None
    flag, address, said = found.groups()
    namespace, _, name = (said or address).rpartition("/")
    return Leaf(ipaddress.ip_address(address).packed, PodId(_DIRECTIONS[flag], Key(namespace, name)))


def known(texts: Mapping[str, tuple[str, ...]], held: Mapping[str, Rules]) -> dict[str, Rules]:
    """Return chains of ours that were read as values: those that are known where the text is the same."""
    found: dict[str, Rules] = {}
    for chain, rules in texts.items():
        before = held.get(chain)
        found[chain] = before if before is not None and before == rules else tuple(map(ours, rules))
    return found


def allows(rule: str) -> bool:
    """Return whether a rule leads to where packets are marked as allowed."""
    return _ALLOWS in rule


def unmarked(rule: str) -> str:
    """Return a rule's text without which bits of marks it uses."""
    return _BITS.sub(r"\1 bit\2", rule) if "mark 0x" in rule else rule


def bit_set(rule: str) -> int | None:
    """Return the bit of a packet's mark that a rule sets, if it does no more than that."""
    found = _SETS_BIT.search(rule)
    return int(found[1], 16) if found else None


class Foreign(NamedTuple):
    """Where a rule of any program leads, as far as its text tells.

    ``target`` is None where it says nothing of that. ``loopback``: it is only about packets of the loopback
    interface.
    """

    target: str | None
    goto: bool
    loopback: bool


def foreign(text: str) -> Foreign:
    """Return where a rule leads; its comment may say anything, and so may a text that it looks for."""
    words = _words(text)
    for flag, target in itertools.pairwise(words):
        # No chain and no target has such a name: this is a value, such as that of --string.
        if flag in ("-j", "-g") and not target.startswith("-"):
            return Foreign(target, flag == "-g", _only_loopback(words))
    return Foreign(None, False, _only_loopback(words))


def split(rule: str) -> list[str]:
    """Split a rule into words as a shell does. Raises ValueError where a quote is not closed.

    Nearly every rule is simple, and ``shlex``, which looks at each character, takes ten times as long.
    """
    if _PLAIN.fullmatch(rule) is None:
        return shlex.split(rule)
    words: list[str] = []
    for number, part in enumerate(rule.split('"')):
        if number % 2:
            words.append(part)
        else:
            words += part.split()
    return words


def _words(rule: str) -> list[str]:
    """Split a rule into words, its comments left out."""
    try:
        words = split(rule)
    except ValueError:
        words = rule.split()
    found = []
    following = iter(words)
    for word in following:
        found.append(word)
        if word == "--comment":
            # It may say --comment itself.
            next(following, None)
    return found


def _only_loopback(words: list[str]) -> bool:
    for flag in ("-i", "-o"):
        if flag in words:
            at = words.index(flag)
            if words[at + 1 : at + 2] == ["lo"] and (at == 0 or words[at - 1] != "!"):
                return True
    return False
