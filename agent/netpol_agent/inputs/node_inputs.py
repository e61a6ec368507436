"""Which pods, policies and sets a node's compiler gets, and when: the agent's inputs on the Kubernetes API, without I/O or clock.

    pods of this node --+
    policies -----------+--> who selects whom --> ready? --> Inbox (one step)
    address sets -------+                           |
         ^--- sets by name, policies by namespace <-+

A policy matters here when it selects a live pod of this node. It is handed over when each set that it needs was seen at least as
new as it was published with. What happens while a set is late is the one hard question, and the rule is: what is in force stays
until the new state can be put in force exactly, for a bounded time; after that isolation wins over exactness.

- A policy that isolates somebody anew (a new policy, a wider selector, a pod with new labels) waits HOLD_NEW seconds at most. At
  once would refuse, for the milliseconds by which a set is late, what both the old and the new state allow; longer would leave
  a pod open because a set does not come. After that it isolates and allows what the sets that are here allow.
- A pod whose address is new here never waits, and neither do the policies that select it: nothing was in force for it.
- A newer version of a policy that isolates nobody anew waits HOLD_OLD seconds at most. At once it could allow, through a set's
  older members, what neither version allows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from netpol_agent.inputs.mailbox import Inbox, Standing
from netpol_agent.inputs.namespaces import NEVER, UNKNOWN, Namespaces, placeholder
from netpol_agent.inputs.policies import PolicyStore, Published
from netpol_agent.inputs.problems import Complaints
from netpol_agent.inputs.sets import SetStore
from netpol_api.spans import span_of
from netpol_compiler.model.objects import Key, Pod
from netpol_compiler.policy.ir import AddressSet
from netpol_compiler.reading.objects import parse_pod

Json = Mapping[str, Any]

HOLD_NEW, HOLD_OLD, HOLD_START = 0.2, 5.0, 5.0
"""Seconds; HOLD_START: for all sets together before an agent that has just started takes over."""
FETCH_AFTER, FETCH_LATE, FETCH_AGAIN = 0.01, 1.0, 5.0
"""Seconds until a set is fetched by name: one that the watch did not bring, whose span usually comes within this time; one that
the watch brings, but too late; and again while the watch does not bring it."""


@dataclass(slots=True)
class _Waiting:
    """A policy that waits for sets until `deadline`; `since` is when it began."""

    published: Published
    since: float
    deadline: float


class NodeInputs:
    """Feed it objects, then `settle`; `due` says when to call that again without news. Times are seconds of one clock."""

    def __init__(self, inbox: Inbox, bucket: int) -> None:
        """`bucket`: of this node, as in the labels of what the watch brings."""
        self.complaints = Complaints()
        self.complete = False
        self.watermark = 0
        self.revisions: Mapping[str, str] = {}
        self._inbox = inbox
        self._sets = SetStore(self.complaints)
        self._policies = PolicyStore(self.complaints)
        self.known = Namespaces()
        self._bucket = bucket
        self._placeholders: set[str] = set()
        self._synced_at: float | None = None
        self._pods: dict[Key, Pod] = {}
        self._told_pods: dict[Key, Pod] = {}
        self._told_policies: dict[Key, Published] = {}
        self._told_sets: dict[str, AddressSet] = {}
        self._namespaces: dict[str, set[Key]] = {}
        self._chosen: dict[Key, set[Key]] = {}
        self._waiting: dict[Key, _Waiting] = {}
        self._late: set[Key] = set()
        self._users: dict[str, set[Key]] = {}
        self._uses: dict[Key, frozenset[str]] = {}
        self._fetch_at: dict[str, float] = {}
        self._fetching: set[str] = set()
        self._dirty_pods: set[Key] = set()
        self._dirty_policies: set[Key] = set()
        self._dirty_sets: set[str] = set()

    # -- what comes in ---------------------------------------------------------------------------------

    def put_pod(self, data: Json, now: float) -> None:
        pod, rejected = parse_pod(data)
        what = f"pod {data['metadata'].get('namespace')}/{data['metadata'].get('name')}"
        self.complaints.clear(what)
        if rejected:
            self.complaints.say(what, "; ".join(r.words for r in rejected), now)
        if pod is not None:
            old = self._pods.get(pod.key)
            self._pods[pod.key] = pod
            self._dirty_pods.add(pod.key)
            self._select_pod(old, pod, now)

    def gone_pod(self, key: Key, now: float) -> None:
        self.complaints.clear(f"pod {key}")
        old = self._pods.pop(key, None)
        if old is not None:
            self._dirty_pods.add(key)
            self._select_pod(old, None, now)

    def put_policy(self, data: Json, now: float) -> None:
        key = self._policies.put(data, now)
        if key is not None:
            self._select_policy(key)

    def left_policy(self, key: Key) -> bool:
        """A policy that the watch does not bring any more. Returns whether it must be asked for by name: answer with
        `put_policy` and `known.unlabelled`, or with `gone_policy`."""
        if key.namespace not in self._namespaces:
            self.gone_policy(key, 0.0)
            return False
        return True

    def gone_policy(self, key: Key, now: float) -> None:
        self._policies.gone(key)
        self.known.lost(key.namespace, now)
        self._select_policy(key)

    def watch_listed(self, there: Collection[Key], now: float) -> None:
        """The watch begins anew, with a list of the policies that carry our label. A policy that only the list of a namespace
        has brought may have gone before that, of which no event tells."""
        for namespace in self._namespaces:
            self.known.lost(namespace, now, unheard=any(key not in there for key in self._policies.held(namespace)))

    def put_set(self, data: Json, now: float) -> None:
        self._dirty_sets.add(self._sets.put(data, now))

    def left_set(self, object_name: str) -> None:
        """An AddressSet that the watch does not bring any more."""
        name = self._sets.left(object_name)
        if name is not None:
            self._dirty_sets.add(name)

    def synced(self, now: float) -> None:
        """All three kinds were read whole."""
        if self._synced_at is None:
            self._synced_at = now
            self._dirty_policies |= self._chosen.keys()
            self._dirty_sets |= self._users.keys()

    # -- sets by name ----------------------------------------------------------------------------------

    def take_fetches(self, now: float) -> list[str]:
        """The sets to fetch now; each is answered by `fetched` or `unfetched`."""
        names = sorted(n for n, at in self._fetch_at.items() if at <= now)
        for name in names:
            del self._fetch_at[name]
        self._fetching.update(names)
        return names

    def fetched(self, name: str, items: Iterable[Json], version: int, now: float) -> None:
        """All slices of a set, as of resourceVersion `version`."""
        self._fetching.discard(name)
        if name in self._users:
            self._sets.fetched(name, items, version, now)
            self._dirty_sets.add(name)
            if not self._sets.watched(name):
                self._fetch_at[name] = now + FETCH_AGAIN

    def unfetched(self, name: str, delay: float, now: float) -> None:
        """The API server did not answer; asked again after `delay` seconds."""
        self._fetching.discard(name)
        if name in self._users:
            self._fetch_at[name] = now + delay

    # -- policies by namespace -------------------------------------------------------------------------

    def listed(self, namespace: str, items: Iterable[Json], version: int, now: float) -> None:
        """All policies of a namespace that `known` asked for, as of resourceVersion `version`."""
        policies = list(items)
        labelled = all(self._bucket in span_of(p["metadata"].get("labels") or {}) for p in policies)
        if not self.known.listed(namespace, labelled, now):
            return
        there = {str(p["metadata"]["name"]) for p in policies}
        for key, held in self._policies.held(namespace).items():
            if key.name not in there and held <= version:
                self._policies.gone(key)
                self._select_policy(key)
        for data in policies:
            self.put_policy(data, now)
        self._dirty_pods |= self._namespaces.get(namespace, set())

    # -- what goes out ---------------------------------------------------------------------------------

    def settle(self, now: float) -> None:
        """Hand over all that can be handed over now, as one step."""
        fresh = {k for k in self._dirty_pods if self._fresh(k)}
        again = {k for k in self._waiting if self._look_again(k, fresh, now)}
        again |= {k for name in self._dirty_sets for k in self._users.get(name, ()) if k in self._waiting or k in self._late}
        policies, self._dirty_policies = self._dirty_policies | again, set()
        for key in sorted(policies):
            self._settle_policy(key, fresh, now)
        self._cover_unknown(now)
        held = {k for k in self._dirty_pods if (k not in fresh and self._held(k)) or self._kept_back(k)}
        for key in self._dirty_pods - held:
            self._tell_pod(key)
        for name in self._dirty_sets:
            self._settle_set(name, now)
        self._dirty_pods, self._dirty_sets = held, set()
        self._complete(now)
        self._inbox.deliver(Standing(self.complete, self.complaints.visible(now), self.revisions))

    def due(self, now: float) -> float | None:
        """When `settle` or `take_fetches` has something to do even if nothing comes in; None: never."""
        times = [t for t in (*(w.deadline for w in self._waiting.values()), self.known.due(now)) if t < NEVER]
        times += self._fetch_at.values()
        times += filter(None, [self.complaints.due(now)])
        if self._synced_at is not None and self._synced_at + HOLD_START > now:
            times.append(self._synced_at + HOLD_START)
        return min(times, default=None)

    # -- who selects whom ------------------------------------------------------------------------------

    def _select_pod(self, old: Pod | None, new: Pod | None, now: float) -> None:
        pod = new or old
        if pod is None:
            return
        key, namespace = pod.key, pod.key.namespace
        live = new is not None and new.is_live
        if live and old is not None and old.is_live and new is not None and old.labels == new.labels:
            return
        local = self._namespaces.setdefault(namespace, set())
        first = live and not local
        (local.add if live else local.discard)(key)
        if first:
            self._open(namespace, now)
        for policy, published in self._policies.of(namespace).items():
            picks = live and new is not None and published.policy.pod_selector.matches(new.labels)
            self._note(policy, key, picks)
        if not local:
            del self._namespaces[namespace]
            self._policies.close(namespace)
            self.known.closed(namespace)

    def _open(self, namespace: str, now: float) -> None:
        self._policies.open(namespace, now)
        self.known.opened(namespace, now)
        for key in self._policies.of(namespace):
            self._select_policy(key)

    def _select_policy(self, key: Key) -> None:
        published = self._policies.get(key)
        chosen = set()
        if published is not None:
            local = self._namespaces.get(key.namespace, ())
            chosen = {k for k in local if published.policy.pod_selector.matches(self._pods[k].labels)}
        self._choose(key, chosen)
        self._dirty_policies.add(key)

    def _note(self, policy: Key, pod: Key, picks: bool) -> None:
        chosen = self._chosen.get(policy, set())
        if picks != (pod in chosen):
            self._choose(policy, chosen | {pod} if picks else chosen - {pod})
            self._dirty_policies.add(policy)

    def _choose(self, policy: Key, chosen: set[Key]) -> None:
        if chosen:
            self._chosen[policy] = chosen
        else:
            self._chosen.pop(policy, None)

    # -- policies --------------------------------------------------------------------------------------

    def _settle_policy(self, key: Key, fresh: set[Key], now: float) -> None:
        published, told = self._policies.get(key), self._told_policies.get(key)
        if published is None or key not in self._chosen:
            self._retire(key)
            return
        self._use(key, published.policy.set_names | (told.policy.set_names if told else frozenset()))
        lacking = self._lacking(published, now)
        if published is not told and lacking and self._wait(key, published, fresh, now) > now:
            words = f"policy {key}: waits for set {', '.join(lacking)}"
            self.complaints.say(f"policy {key} sets", words, now, FETCH_LATE)
            return
        self._waiting.pop(key, None)
        (self._late.add if lacking else self._late.discard)(key)
        if lacking:
            words = f"policy {key}: in force with set {', '.join(lacking)} missing or older than it needs"
            self.complaints.say(f"policy {key} sets", words, now)
        else:
            self.complaints.clear(f"policy {key} sets")
        if published is not told:
            self._inbox.policy(key, published.policy)
            self._told_policies[key] = published
            self._use(key, published.policy.set_names)

    def _retire(self, key: Key) -> None:
        """It is gone, or selects nobody here."""
        self._waiting.pop(key, None)
        self._late.discard(key)
        self.complaints.clear(f"policy {key} sets")
        if self._told_policies.pop(key, None) is not None:
            self._inbox.policy(key, None)
        self._use(key, frozenset())

    def _wait(self, key: Key, published: Published, fresh: set[Key], now: float) -> float:
        """Until when a policy waits for its sets."""
        waiting = self._waiting.get(key)
        since = waiting.since if waiting else now
        if self._synced_at is None:
            deadline = NEVER
        elif not self.complete:
            deadline = self._synced_at + HOLD_START
        elif self._isolates_anew(key, published, self._chosen[key] & fresh):
            deadline = now
        else:
            deadline = since + (HOLD_NEW if self._isolates_anew(key, published, self._chosen[key]) else HOLD_OLD)
        deadline = min(deadline, waiting.deadline) if waiting else deadline
        self._waiting[key] = _Waiting(published, since, deadline)
        return deadline

    def _isolates_anew(self, key: Key, published: Published, pods: set[Key]) -> bool:
        """Whether one of `pods` is isolated by this version and not by the one in force."""
        told = self._told_policies.get(key)
        if told is None or published.policy.directions - told.policy.directions:
            return bool(pods)
        return not all(told.policy.pod_selector.matches(self._pods[k].labels) for k in pods)

    def _look_again(self, key: Key, fresh: set[Key], now: float) -> bool:
        """Whether a policy that waits may have to wait no more."""
        waits = self._waiting[key]
        return waits.deadline <= now or not self._chosen.get(key, fresh).isdisjoint(fresh)

    def _lacking(self, published: Published, now: float) -> list[str]:
        """The sets that are not here, or older than the policy was published with."""
        return sorted(n for n in published.policy.set_names if self._version(n, now) < published.need(n))

    def _version(self, name: str, now: float) -> int:
        """As of which resourceVersion the set's value is known; -1: there is none."""
        if not self._sets.current(name, now):
            return -1
        # All that the watch brings was seen up to its last event, whichever object that was about.
        return max(self._sets.version(name), self.watermark if self._sets.watched(name) else 0)

    # -- sets ------------------------------------------------------------------------------------------

    def _use(self, key: Key, names: frozenset[str]) -> None:
        """Note which sets a policy needs now."""
        before = self._uses.pop(key, frozenset())
        if names:
            self._uses[key] = names
        for name in names - before:
            self._users.setdefault(name, set()).add(key)
            self._dirty_sets.add(name)
        for name in before - names:
            self._users[name].discard(key)
            if not self._users[name]:
                del self._users[name]
                self._dirty_sets.add(name)

    def _settle_set(self, name: str, now: float) -> None:
        if name not in self._users:
            self._sets.release(name)
            self._fetch_at.pop(name, None)
            if self._told_sets.pop(name, None) is not None:
                self._inbox.address_set(name, None)
            return
        value, told = self._sets.value(name, now), self._told_sets.get(name)
        if value is not None and value is not told:
            self._inbox.address_set(name, value)
            self._told_sets[name] = value
        elif value is None and told is not None:
            # Somebody removed what is needed. The compiler keeps it in force as long as a rule names it.
            self._inbox.address_set(name, None)
            del self._told_sets[name]
            self._dirty_policies |= self._users[name]
        self._plan_fetch(name, now)

    def _plan_fetch(self, name: str, now: float) -> None:
        if self._sets.watched(name):
            late = any(key in self._waiting for key in self._users[name]) and self._synced_at is not None
            self._fetch_at.pop(name, None)
            after = FETCH_LATE if late else NEVER
        else:
            # Before the lists are whole nobody knows what the watch will bring.
            after = FETCH_AFTER if self._synced_at is not None else NEVER
        if after < NEVER and name not in self._fetching:
            self._fetch_at.setdefault(name, now + after)

    # -- pods ------------------------------------------------------------------------------------------

    def _fresh(self, key: Key) -> bool:
        """Whether the pod has an address here for which nothing is in force yet."""
        new, told = self._pods.get(key), self._told_pods.get(key)
        if new is None or not new.is_endpoint:
            return False
        return told is None or not told.is_endpoint or not set(new.addresses) <= set(told.addresses)

    def _held(self, key: Key) -> bool:
        """Whether the pod's new labels wait, with the old ones in force, for the sets of a policy that now selects it."""
        new, told = self._pods.get(key), self._told_pods.get(key)
        if new is None or told is None or not new.is_endpoint or not told.is_endpoint:
            return False
        return any(
            key in self._chosen.get(policy, ()) and self._isolates_anew(policy, waiting.published, {key})
            for policy, waiting in self._waiting.items()
        )

    def _kept_back(self, key: Key) -> bool:
        """Whether the pod waits, unknown to the kernel, for the list of its namespace's policies."""
        pod = self._pods.get(key)
        if pod is None or not pod.is_live or key in self._told_pods:
            return False
        return not self.known.known(key.namespace) and key.namespace not in self._placeholders

    def _cover_unknown(self, now: float) -> None:
        """Isolate the pods of namespaces whose policies do not come in time, and only as long as that lasts."""
        wanted = set(self.known.overdue(now)) if self.complete else set()
        for namespace in wanted - self._placeholders:
            self._inbox.policy(Key(namespace, UNKNOWN), placeholder(namespace))
            self._dirty_pods |= self._namespaces.get(namespace, set())
            self.complaints.say(f"namespace {namespace}", f"namespace {namespace}: its policies are not known yet; isolated", now)
        for namespace in self._placeholders - wanted:
            self._inbox.policy(Key(namespace, UNKNOWN), None)
            self.complaints.clear(f"namespace {namespace}")
        self._placeholders = wanted

    def _tell_pod(self, key: Key) -> None:
        pod = self._pods.get(key)
        if pod is not None:
            self._told_pods[key] = pod
            self._inbox.pod(key, pod)
        elif self._told_pods.pop(key, None) is not None:
            self._inbox.pod(key, None)

    # -- standing --------------------------------------------------------------------------------------

    def _complete(self, now: float) -> None:
        """An agent that starts takes over when it knows all that matters here, or when a set does not come in time.
        What is not understood is not a matter of time: until then the kernel keeps what the agent before it wrote."""
        if self.complete or self._synced_at is None:
            return
        if self._policies.unread or any(self._sets.unread(name) for name in self._users):
            return
        if not self.known.all_known:
            return
        if not self._waiting or now >= self._synced_at + HOLD_START:
            self.complete = self._policies.sealing = True
