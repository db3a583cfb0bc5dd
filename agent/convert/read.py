"""From a line to a policy. The grammar is that of docs/convert.md."""

from __future__ import annotations

from collections.abc import Iterable

from agent.convert.body import derived_name
from agent.convert.ends import read_peer, read_port, read_subject
from agent.convert.statement import LABEL, MODES, Statement, dns, named
from agent.convert.words import LineError, Word, Words
from agent.kube import names
from agent.kube.model import Key, NetworkPolicy, Peer, Port, Rule
from agent.net import Direction

_DIRECTIONS = {"from": Direction.INGRESS, "to": Direction.EGRESS}
_DENIED = {
    "ingress": (Direction.INGRESS,),
    "egress": (Direction.EGRESS,),
    "traffic": (Direction.INGRESS, Direction.EGRESS),
}
_ANYONE, _NOBODY, _DNS = "anyone", "nobody", "dns"
_RULE = "write 'from' or 'to', and whom"

Rules = dict[Direction, list[Rule]]


class LinesError(Exception):
    """Lines that cannot be read; ``wrong`` has a text for each, with its number."""

    def __init__(self, wrong: Iterable[str]) -> None:
        self.wrong = tuple(wrong)
        super().__init__("; ".join(self.wrong))


def read_lines(lines: Iterable[str], label: str = LABEL) -> list[Statement]:
    """Read lines; of each what follows a ``#`` is left out, as are empty ones. Raises LinesError."""
    found: list[Statement] = []
    wrong: list[str] = []
    places: dict[Key, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0]
        if not text.strip():
            continue
        try:
            statement = read_line(text, label)
        except LineError as error:
            wrong.append(f"line {number}: {error}")
            continue
        key = statement.policy.key
        if key in places:
            wrong.append(
                f"line {number}: its policy would be called {key.name}, as that of line {places[key]} is; "
                "end it with 'as ANOTHER-NAME', or remove it if it says the same"
            )
            continue
        places[key] = number
        found.append(statement)
    if wrong:
        raise LinesError(wrong)
    return found


def read_line(line: str, label: str = LABEL) -> Statement:
    """Read one line. ``label``: the one whose value is a pod's short name. Raises LineError."""
    words = Words(line)
    verb = words.take()
    if verb.text == "allow":
        policy = _allow(words, label)
    elif verb.text == "deny":
        policy = _deny(words, label)
    else:
        raise LineError(verb, "a line begins with 'allow' or 'deny all'")
    name = mode = ""
    while words.next.text in ("as", "mode"):
        clause = words.take()
        value = words.take()
        if clause.text == "as":
            if wrong := names.dns_subdomain(value.text):
                raise LineError(value, f"'as' takes the policy's name: {wrong}")
            name = value.text
        else:
            if value.text not in MODES:
                raise LineError(value, f"'mode' takes one of {', '.join(MODES)}")
            mode = value.text
    if words.next.text:
        raise LineError(
            words.next, "belongs to nothing; write ';' before another rule, 'as NAME' or 'mode MODE'"
        )
    return Statement(named(policy, name or derived_name(policy, label)), mode)


def _deny(words: Words, label: str) -> NetworkPolicy:
    remedy = "write 'deny all ingress to', 'deny all egress from' or 'deny all traffic of' before the pods"
    if words.next.text != "all":
        raise LineError(words.next, f"a policy denies all but what others allow; {remedy}")
    words.take()
    what = words.take()
    if what.text not in _DENIED or words.next.text not in ("to", "from", "of"):
        raise LineError(words.next if what.text in _DENIED else what, f"is not expected here; {remedy}")
    words.take()
    namespace, pods = read_subject(words.take(), label, bare=True)
    denied = _DENIED[what.text]
    return NetworkPolicy(
        namespace,
        "",
        pods,
        () if Direction.INGRESS in denied else None,
        () if Direction.EGRESS in denied else None,
    )


def _allow(words: Words, label: str) -> NetworkPolicy:
    namespace, pods = read_subject(words.take(), label)
    rules: Rules = {}
    nobody: dict[Direction, Word] = {}
    _rule(words, namespace, label, rules, nobody)
    while words.skip(";"):
        _rule(words, namespace, label, rules, nobody)
    ingress, egress = (rules.get(direction) for direction in (Direction.INGRESS, Direction.EGRESS))
    return NetworkPolicy(
        namespace,
        "",
        pods,
        None if ingress is None else tuple(ingress),
        None if egress is None else tuple(egress),
    )


def _rule(words: Words, namespace: str, label: str, rules: Rules, nobody: dict[Direction, Word]) -> None:
    begin = words.take()
    direction = _DIRECTIONS.get(begin.text)
    if direction is None:
        raise LineError(begin, f"a rule is missing here; {_RULE}")
    found = rules.setdefault(direction, [])
    first = words.next
    if words.skip(_NOBODY):
        nobody[direction] = first
    if direction in nobody and (found or first != nobody[direction]):
        raise LineError(
            first, f"'{begin.text} {_NOBODY}' stands for no rule; remove it where there are others"
        )
    if direction in nobody:
        return
    if words.skip(_DNS):
        if direction is Direction.INGRESS or words.next.text in ("on", ","):
            raise LineError(
                first, "stands for the cluster's DNS with its ports; write 'to dns' as a rule of its own"
            )
        found.append(dns(namespace))
        return
    peers = () if words.skip(_ANYONE) else _peers(words, namespace, label)
    found.append(Rule(peers, _ports(words) if words.skip("on") else ()))


def _peers(words: Words, namespace: str, label: str) -> tuple[Peer, ...]:
    found = []
    while True:
        word = words.take()
        if word.text in ("", ",", ";", "on"):
            raise LineError(
                word, f"whom it is about is missing; {_RULE}: pods, a block, 'anyone' or 'nobody'"
            )
        if word.text in (_ANYONE, _NOBODY, _DNS):
            raise LineError(
                word, "stands alone after 'from' or 'to'; write it as a rule of its own, after ';'"
            )
        found.append(read_peer(word, namespace, label))
        if not words.skip(","):
            return tuple(found)


def _ports(words: Words) -> tuple[Port, ...]:
    found = []
    while True:
        word = words.take()
        if word.text in ("", ",", ";"):
            raise LineError(word, "a port is missing; write one such as tcp/8080, udp/5000-5100 or tcp/http")
        found.append(read_port(word))
        if not words.skip(","):
            return tuple(found)
