"""Breakages of what is kept and shown: the history, the status, the page."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

TOLD = (
    Mutation(
        "a row that never learns when the kernel had its change",
        "agent.history.writer:Writer._write",
        "store.settle(self._late.pop(number), settled[number])",
        "self._late.pop(number)",
        (Selection.WRITER,),
    ),
    Mutation(
        "rows given up in silence",
        "agent.history.writer:Writer._write",
        "waiting.insert(0, (0, _entry(lost)))",
        "pass",
        (Selection.WRITER,),
    ),
    Mutation(
        "a churn of other nodes' pods that displaces every other row",
        "agent.history.store:Store._first_to_go",
        "remote * _REMOTE_SHARE > rows",
        "False",
        (Selection.STORE,),
    ),
    Mutation(
        "a pod that was opened said to be isolated still",
        "agent.observe.history.text:since",
        'pod in getattr(effect, f"opened_{direction}")',
        "False",
        (Selection.ROWS,),
    ),
    Mutation(
        "a rule that is not in the kernel said to be unused",
        "agent.observe.status.text:_rule",
        "rule.packets is not None",
        "True",
        (Selection.STATUS,),
    ),
    Mutation(
        "a pod whose DNS rule matches nobody said to look up names",
        "agent.observe.status.text:_without_dns",
        "all(rule.nobody for rule in rules)",
        "False",
        (Selection.STATUS,),
    ),
    Mutation(
        "a name that is not understood taken for one that is not known",
        "agent.observe.page.pages:_asked",
        "str(error)",
        '""',
        (Selection.PAGE,),
    ),
)
