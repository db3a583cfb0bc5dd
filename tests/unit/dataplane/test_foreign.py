"""Chains read one by one, where a command stops at the first that it cannot show."""

from __future__ import annotations

from collections.abc import Iterable

from agent.dataplane.iptables.tables import foreign, hooks
from agent.dataplane.iptables.tables.foreign import Listing

HELD = {
    "FORWARD": ("-j KUBE-NETPOL-FORWARD", "-s 192.0.2.1/32 -j DROP"),
    "INPUT": ("-j ACCEPT", "?", "-j DROP"),
    "KUBE-NETPOL-FORWARD": ("-j RETURN",),
    "OTHER": (),
}


class Command:
    """Shows chains and rules as a restore does; it stops where a rule is ``?``, and may say so by name."""

    def __init__(self, *, says: bool = False) -> None:
        self.says = says
        self.asked: list[list[str]] = []

    def __call__(self, wanted: Iterable[str]) -> Listing:
        self.asked.append(list(wanted))
        printed = ""
        for one in self.asked[-1]:
            chain, _, number = one.partition(" ")
            rules = HELD[chain][int(number) - 1 : int(number)] if number else HELD[chain]
            if self.says and "?" in rules:
                return Listing(printed, f"chain `{chain}' in table `filter' is incompatible", 1)
            printed += "" if number else f"-N {chain}\n"
            for rule in rules:
                if rule == "?":
                    return Listing(f"{printed}-A {chain}", "an extension is missing", 1)
                printed += f"-A {chain} {rule}\n"
        return Listing(printed, "", 0)


def test_what_can_be_shown_is_and_the_rest_comes_rule_by_rule() -> None:
    for says in (False, True):
        command = Command(says=says)
        found = foreign.read_piecewise(HELD, command)
        assert found == {**HELD, "INPUT": ("-j ACCEPT", "[unread ?]", "-j DROP")}
        assert command.asked[0][0] == "KUBE-NETPOL-FORWARD"
        assert ["OTHER"] in command.asked
        assert foreign.unclear_chains(found) == ["INPUT"]


def test_the_forms_of_a_rule() -> None:
    assert (foreign.handle("-j X"), foreign.plain("-j X"), foreign.is_unclear("-j X")) == (
        None,
        "-j X",
        False,
    )
    clear = "[nft 7] -j X"
    assert (foreign.handle(clear), foreign.plain(clear), foreign.is_unclear(clear)) == (7, "-j X", False)
    unclear = "[nft 8 ?] -j X"
    assert (foreign.handle(unclear), foreign.plain(unclear), foreign.is_unclear(unclear)) == (
        8,
        unclear,
        True,
    )


def test_hooks_of_which_netlink_told_are_known_and_what_is_unclear_stays_behind() -> None:
    own = {chain: f"[nft {number}] -j {target}" for number, (chain, target) in enumerate(hooks.HOOKS.items())}
    in_front = {chain: (rule, "[nft 90 ?] -j DROP") for chain, rule in own.items()}
    assert hooks.misplaced(in_front) == {}
    for before in ("[nft 90 ?] -j DROP", "[unread ?]", "[nft 90 ?] by other means"):
        table = {**in_front, "FORWARD": (before, own["FORWARD"])}
        assert list(hooks.misplaced(table)) == ["FORWARD"]
        assert hooks.leading_handles(table, "FORWARD") == [1]
    assert hooks.remove(in_front) == []
    assert hooks.handles(hooks.leading_to(in_front, lambda name: "NETPOL" in name)) == [
        ("INPUT", 0),
        ("FORWARD", 1),
        ("OUTPUT", 2),
    ]
