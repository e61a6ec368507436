"""Which pods, policies and sets a node's compiler gets, and when: the agent's inputs on the Kubernetes API, without I/O or clock.

    pods of this node --> LocalPods ---+
    policies -----------> PolicyCache -+--> who selects whom --> PolicyHandover --> Mailbox (one step)
    address sets -------> NeededSets --+                              |
         ^--- sets by name, policies by namespace (NamespaceLists) <--+

A policy matters here when it selects a live pod of this node. It is handed over when each set that it needs was seen at least as
new as it was published with, or when it has waited long enough (see `policy_handover`).

    LISTING --every kind was read whole--> STARTING --all is known that matters, or sets are late for too long--> RUNNING

An agent that starts takes over when it is RUNNING; until then the kernel keeps what the agent before it wrote.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum

from netpol_agent.inputs.input_problems import InputProblems
from netpol_agent.inputs.local_pods import LocalPods, NamespaceChange, is_live
from netpol_agent.inputs.mailbox import Mailbox, SourceStatus
from netpol_agent.inputs.namespace_lists import NEVER, UNKNOWN, NamespaceLists, placeholder
from netpol_agent.inputs.needed_sets import NeededSets
from netpol_agent.inputs.policy_cache import PolicyCache
from netpol_agent.inputs.policy_handover import PolicyHandover
from netpol_api.api_objects import JsonView, version_number
from netpol_api.compiled_policy import PublishedPolicy
from netpol_api.spans import span_of
from netpol_compiler.model.objects import Key, Pod
from netpol_compiler.reading.objects import parse_pod

START_WAIT_SECONDS = 5.0
"""For all sets together, before an agent that has just started takes over."""


class Phase(Enum):
    """How far an agent's start is."""

    LISTING = "not all kinds of objects were read whole"
    STARTING = "all was read; policies that matter here may be unknown, not understood, or wait for sets"
    RUNNING = "what comes is programmed"


class NodeInputs:
    """Feed it objects, then `settle`; `due` says when to call that again without news. Times are seconds of one clock."""

    def __init__(self, mailbox: Mailbox, bucket: int) -> None:
        self.phase = Phase.LISTING
        """How far the start is."""
        self.problems = InputProblems()
        """What is not understood, or late."""
        self.namespaces = NamespaceLists()
        """The namespaces whose policies are to be listed."""
        self.sets = NeededSets(mailbox, self.problems)
        """The sets that policies need, and which to fetch."""
        self._pods = LocalPods(mailbox)
        """The pods of this node."""
        self._policies = PolicyCache(self.problems)
        """All policies that were seen."""
        self._handover = PolicyHandover(mailbox, self.problems)
        """Those that select a pod here."""
        self._changed_policies: set[Key] = set()
        """Policies to look at in the next `settle`."""
        self._revisions: Mapping[str, str] = {}
        """Up to which resourceVersion each kind was seen."""
        self._start_deadline = NEVER
        """When STARTING waits for sets no longer."""
        self._bucket = bucket
        """Of this node, as in the labels of what the watch brings."""
        self._mailbox = mailbox
        """Where a step is delivered."""

    # -- what comes in ---------------------------------------------------------------------------------

    def put_pod(self, data: JsonView, now: float) -> None:
        pod, rejected = parse_pod(data)
        what = f"pod {data['metadata'].get('namespace')}/{data['metadata'].get('name')}"
        self.problems.clear(what)
        if rejected:
            self.problems.report(what, "; ".join(r.words for r in rejected), now)
        if pod is not None:
            self._select_pod(self._pods.put(pod.key, pod), pod, now)

    def delete_pod(self, key: Key, now: float) -> None:
        self.problems.clear(f"pod {key}")
        old = self._pods.put(key, None)
        if old is not None:
            self._select_pod(old, None, now)

    def put_policy(self, data: JsonView, now: float) -> None:
        key = self._policies.put(data, now)
        if key is not None:
            self._select_policy(key)

    def unwatch_policy(self, key: Key) -> bool:
        """A policy that the watch does not bring any more. Returns whether it must be asked for by name: answer with
        `put_policy` and `namespaces.policy_unlabelled`, or with `delete_policy`."""
        if key.namespace in self._pods.live:
            return True
        self._policies.delete(key)
        return False

    def delete_policy(self, key: Key, now: float) -> None:
        self._policies.delete(key)
        self.namespaces.policy_deleted(key.namespace, now)
        self._select_policy(key)

    def watch_listed(self, there: Collection[Key], now: float) -> None:
        """The watch begins anew, with a list of the policies that carry our label. A policy that only the list of a namespace
        has brought may have been deleted before that, of which no event tells."""
        for namespace in self._pods.live:
            missed = any(key not in there for key in self._policies.versions(namespace))
            self.namespaces.policy_deleted(namespace, now, missed)

    def namespace_listed(self, namespace: str, items: Iterable[JsonView], version: int, now: float) -> None:
        """All policies of a namespace that `namespaces` asked for, as of resourceVersion `version`."""
        policies = list(items)
        labelled = all(self._bucket in span_of(p["metadata"].get("labels") or {}) for p in policies)
        if not self.namespaces.answered(namespace, labelled, now):
            return
        there = {str(p["metadata"]["name"]) for p in policies}
        for key, cached in self._policies.versions(namespace).items():
            if key.name not in there and cached <= version:
                self._policies.delete(key)
                self._select_policy(key)
        for data in policies:
            self.put_policy(data, now)
        self._pods.changed |= self._pods.live.get(namespace, set())

    def synced(self, now: float) -> None:
        """All three kinds were read whole."""
        if self.phase is Phase.LISTING:
            self.phase, self._start_deadline = Phase.STARTING, now + START_WAIT_SECONDS
            self._changed_policies |= self._pods.selected.keys()
            self.sets.look_at_all()

    def reached(self, revisions: Mapping[str, str]) -> None:
        """Up to which resourceVersion each kind was seen."""
        self._revisions = revisions
        self.sets.watermark = version_number(revisions["addressSets"]) or self.sets.watermark

    # -- what goes out ---------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        return self.phase is Phase.RUNNING

    def settle(self, now: float) -> None:
        """Hand over all that can be handed over now, as one step."""
        # A pod that was isolated because its namespace was not known must not be open while what isolates it now waits for sets.
        fresh = frozenset(
            k for k in self._pods.changed if self._pods.has_new_address(k) or k.namespace in self.namespaces.isolated
        )
        for key in sorted(self._take_unsettled(fresh, now)):
            self._settle_policy(key, fresh, now)
        self._isolate_unlisted(now)
        kept = {k for k in self._pods.changed if (k not in fresh and self._keeps_labels(k)) or self._kept_back(k)}
        for key in self._pods.changed - kept:
            self._pods.hand_over(key)
        self._pods.changed = kept
        self._changed_policies |= self.sets.settle(now, self.phase is not Phase.LISTING, self._handover.waits)
        self._start(now)
        self._mailbox.deliver(SourceStatus(self.complete, self.problems.visible(now), self._revisions))

    def due(self, now: float) -> float | None:
        """When `settle` or a request has something to do even if nothing comes in; None: never."""
        times = [self._handover.due, self.namespaces.due(now), self.sets.fetches.due, self.problems.due(now)]
        times += [self._start_deadline] if self.phase is Phase.STARTING and now < self._start_deadline else []
        return min((t for t in times if t is not None and t < NEVER), default=None)

    def _start(self, now: float) -> None:
        """STARTING ends when all is known that matters here, or when a set does not come in time. What is not understood is not
        a matter of time."""
        if self.phase is not Phase.STARTING:
            return
        unknown = self._policies.unread or self.sets.unread or not self.namespaces.all_known
        late = bool(self._handover.waiting) and now < self._start_deadline
        if not unknown and not late:
            self.phase = Phase.RUNNING
            self._policies.sealing = True

    # -- who selects whom ------------------------------------------------------------------------------

    def _select_pod(self, old: Pod | None, new: Pod | None, now: float) -> None:
        pod = new or old
        if pod is None:
            return
        live, namespace = is_live(new), pod.key.namespace
        if live and is_live(old) and old is not None and new is not None and old.labels == new.labels:
            return
        change = self._pods.set_live(pod.key, live)
        if change is NamespaceChange.FIRST:
            self._policies.open(namespace, now)
            self.namespaces.opened(namespace, now)
        for policy, published in self._policies.of(namespace).items():
            if self._pods.select_pod(policy, pod.key, live and published.policy.pod_selector.matches(pod.labels)):
                self._changed_policies.add(policy)
        if change is NamespaceChange.LAST:
            self._policies.close(namespace)
            self.namespaces.closed(namespace)

    def _select_policy(self, key: Key) -> None:
        published = self._policies.get(key)
        self._pods.select(key, published.policy.pod_selector if published is not None else None)
        self._changed_policies.add(key)

    # -- policies --------------------------------------------------------------------------------------

    def _take_unsettled(self, fresh: frozenset[Key], now: float) -> set[Key]:
        """The policies that changed, or that need not wait any longer."""
        unsettled, self._changed_policies = self._changed_policies, set()
        unsettled |= self._handover.overdue(now)
        unsettled |= {k for k in self._handover.waiting if not fresh.isdisjoint(self._pods.selected.get(k, ()))}
        return unsettled | {k for k in self.sets.changed_users if self._handover.is_unsettled(k)}

    def _settle_policy(self, key: Key, fresh: frozenset[Key], now: float) -> None:
        latest, selected = self._policies.get(key), self._pods.selected.get(key)
        if latest is None or selected is None:
            self._handover.retire(key)
            self.sets.use(key, frozenset())
            return
        self.sets.use(key, latest.policy.set_names | self._handover.set_names(key))
        lacking = self.sets.lacking(latest, now)
        if lacking and not self._handover.is_notified(key, latest):
            deadline = self._deadline(key, latest, fresh, now)
            if self._handover.wait(key, latest, lacking, deadline, now):
                return
        self._handover.put_in_force(key, latest, lacking, now)
        self.sets.use(key, latest.policy.set_names)

    def _deadline(self, key: Key, latest: PublishedPolicy, fresh: frozenset[Key], now: float) -> float:
        """Until when a policy may wait for its sets."""
        match self.phase:
            case Phase.LISTING:
                return NEVER
            case Phase.STARTING:
                return self._start_deadline
            case Phase.RUNNING:
                selected = self._pods.selected[key]
                pods, new = ([self._pods.cached[k] for k in keys] for keys in (selected, selected & fresh))
                return self._handover.deadline(key, latest, pods, new, now)

    # -- pods ------------------------------------------------------------------------------------------

    def _keeps_labels(self, key: Key) -> bool:
        """Whether the pod's new labels wait, with the old ones in force, for the sets of a policy that now selects it."""
        return self._pods.keeps_address(key) and any(
            key in self._pods.selected.get(policy, ()) and self._handover.isolates_anew(policy, latest, [self._pods.cached[key]])
            for policy, latest in self._handover.waiting.items()
        )

    def _kept_back(self, key: Key) -> bool:
        """Whether the pod waits, unknown to the kernel, for the list of its namespace's policies."""
        if key in self._pods.notified or not is_live(self._pods.cached.get(key)):
            return False
        return not self.namespaces.known(key.namespace) and key.namespace not in self.namespaces.isolated

    def _isolate_unlisted(self, now: float) -> None:
        """Isolate the pods of namespaces whose policies do not come in time, and only as long as that lasts."""
        begun, ended = self.namespaces.isolate_overdue(now, self.complete)
        for namespace in begun:
            self._mailbox.policy(Key(namespace, UNKNOWN), placeholder(namespace))
            self._pods.changed |= self._pods.live.get(namespace, set())
            words = f"namespace {namespace}: its policies are not known yet; isolated"
            self.problems.report(f"namespace {namespace}", words, now)
        for namespace in ended:
            self._mailbox.policy(Key(namespace, UNKNOWN), None)
            self.problems.clear(f"namespace {namespace}")
