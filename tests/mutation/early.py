"""Breakages of what is read of network plugins' results."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

EARLY = (
    Mutation(
        "a result counts for any pod of its name",
        "agent.sources.cni.early:_counts",
        "result.uid == pod.uid",
        "True",
        (Selection.EARLY,),
    ),
    Mutation(
        "a result that goes takes its pod's address",
        "agent.sources.cni.early:Early._merged",
        "given = known.kept",
        "given = result.addresses if result is not None else ()",
        (Selection.EARLY,),
    ),
    Mutation(
        "a pod whose network was taken away keeps its address",
        "agent.sources.cni.early:Early.lost",
        "not all(map(self._is_link, result.links))",
        "False",
        (Selection.EARLY,),
    ),
    Mutation(
        "an address is withdrawn that another pod was given",
        "agent.sources.cni.early:Early._tell",
        "left.difference(*(pod.addresses for pod in others))",
        "left",
        (Selection.EARLY,),
    ),
    Mutation(
        "a pod has an address back that it lost before it was told",
        "agent.sources.cni.early:Early._first",
        "frozenset(ended.addresses)",
        "frozenset()",
        (Selection.EARLY,),
    ),
    Mutation(
        "an address may open again as soon as the event that took it away was taken",
        "agent.runtime.withdrawing:Withdrawing._followed",
        "not any(address in one.addresses and owner in (None, one.event.object.key) for one in unmade)",
        "True",
        (Selection.WITHDRAWN,),
    ),
    Mutation(
        "an address that was closed beside the loop stays so for good",
        "agent.dataplane.iptables.change.executor:Executor.close_unwritten",
        "self.closed.joined(self.held.closed, shut)",
        "self.held.closed",
        (Selection.WITHDRAWN_PACKETS,),
    ),
    Mutation(
        "an address that is withdrawn once more as it is to open is open",
        "agent.dataplane.iptables.change.executor:Executor.close_unwritten",
        "Gains(opened & late)",
        "Gains()",
        (Selection.WITHDRAWN_PACKETS,),
    ),
    Mutation(
        "an address that is withdrawn as it is to be known is known",
        "agent.dataplane.iptables.change.carrying:Carrying._admit",
        "added & late",
        "set()",
        (Selection.WITHDRAWN_PACKETS,),
    ),
    Mutation(
        "an address that was closed beside the loop opens before the program has followed",
        "agent.dataplane.iptables.change.executor:Executor.close_unwritten",
        "shut & withdrawn",
        "frozenset()",
        (Selection.WITHDRAWN_PACKETS,),
    ),
    Mutation(
        "a pod that has an address again in the same step as it lost it stays closed",
        "agent.runtime.withdrawing:Withdrawing.is_withdrawal",
        "id(event) in self._unmade",
        "False",
        (Selection.WITHDRAWN,),
    ),
    Mutation(
        "a result without a uid is any pod's of its second",
        "agent.sources.cni.early:Early._take_for",
        "not known.had",
        "False",
        (Selection.EARLY,),
    ),
    Mutation(
        "the status adds nothing to a result",
        "agent.sources.cni.early:Early._merged",
        "{len(address) for address in pod.addresses}",
        "set()",
        (Selection.EARLY,),
    ),
    Mutation(
        "of several results the oldest counts",
        "agent.sources.cni.early:Early._newest",
        "max(counting, key=lambda result: result.at, default=None)",
        "min(counting, key=lambda result: result.at, default=None)",
        (Selection.EARLY,),
    ),
    Mutation(
        "what the watch tells late undoes an answer",
        "agent.sources.cni.early:Early._delete",
        "asked is not None",
        "False",
        (Selection.EARLY,),
    ),
    Mutation(
        "a folder that comes is watched without a look at what is in it",
        "agent.sources.cni.folder:Folders._attach",
        "yield from self._list(folder, live=live)",
        "pass",
        (Selection.FOLDERS,),
    ),
    Mutation(
        "a runtime is answered before the pod is isolated",
        "agent.sources.nri.plugin:NriPlugin._begin",
        "done = self._enforced(known, max(0.0, seconds - (self._now() - began)))",
        "done = True",
        (Selection.NRI,),
    ),
    Mutation(
        "addresses of any interface are the pod's",
        "agent.sources.cni.result:_texts",
        "return interfaces[number].name == INTERFACE and bool(interfaces[number].sandbox)",
        "return True",
        (Selection.RESULTS,),
    ),
)
