"""Who may what: the chart's roles on a real API server, both what they must allow and what they must not.

That the rights are enough is shown besides by the tests that run operator and agents with these very accounts; that they
are not too many is shown here alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import pytest

from chart import NAMESPACE, RIGHTS, Object, definitions, of_kind, rendered
from kubectl import Kubectl
from netpol_api.kinds import NODE_REPORT

ACCOUNTS = {who: f"system:serviceaccount:{NAMESPACE}:npctl-{who}" for who in ("operator", "agent")}
PERSON = "person-who-looks"
VIEWERS = tuple(f"viewer.{who}[0].{part}" for who in ("subjects", "proxySubjects") for part in ("kind=User", f"name={PERSON}"))
READ = "get,list,watch"

# Who, verbs, what (RESOURCE.GROUP/SUBRESOURCE), then perhaps `in NAMESPACE` and `named NAME`.
MAY = f"""
operator  {READ}                      pods
operator  {READ}                      namespaces
operator  {READ}                      nodes
operator  {READ}                      networkpolicies.networking.k8s.io
operator  {READ},create,update,delete  addresssets.npctl.dev
operator  {READ},create,update,delete  compiledpolicies.npctl.dev  in shop
operator  patch                       compiledpolicies.npctl.dev/status  in shop
operator  {READ},delete               nodereports.npctl.dev
operator  create                      events  in shop
operator  create                      leases.coordination.k8s.io  in {NAMESPACE}
operator  get,update                  leases.coordination.k8s.io  in {NAMESPACE} named npctl-operator
agent     {READ}                      pods
agent     {READ}                      addresssets.npctl.dev
agent     {READ}                      compiledpolicies.npctl.dev
agent     create,patch                nodereports.npctl.dev
agent     get                         nodes  named node-1
viewer    {READ}                      pods
viewer    {READ}                      networkpolicies.networking.k8s.io
viewer    {READ}                      nodereports.npctl.dev
viewer    get                         leases.coordination.k8s.io  in {NAMESPACE} named npctl-operator
viewer    get                         pods/proxy  in {NAMESPACE}
"""

MAY_NOT = f"""
operator  {READ}                      secrets
operator  {READ}                      secrets  in {NAMESPACE}
operator  {READ}                      configmaps  in {NAMESPACE}
operator  create,update,patch,delete  pods  in shop
operator  update,patch                pods/status  in shop
operator  create                      pods/exec  in {NAMESPACE}
operator  get                         pods/proxy  in {NAMESPACE}
operator  create,update,patch,delete  networkpolicies.networking.k8s.io  in shop
operator  update,patch                networkpolicies.networking.k8s.io/status  in shop
operator  create,update,patch,delete  namespaces
operator  create,update,patch,delete  nodes
operator  update,patch                nodes/status
operator  patch,deletecollection      addresssets.npctl.dev
operator  create,update,patch         nodereports.npctl.dev
operator  get,list,update,patch       leases.coordination.k8s.io  in kube-system
operator  create,update,patch         leases.coordination.k8s.io  in kube-node-lease
operator  update,patch,delete         leases.coordination.k8s.io  in {NAMESPACE} named another
operator  {READ},update,patch,delete  events  in shop
operator  {READ},create               customresourcedefinitions.apiextensions.k8s.io
operator  create                      serviceaccounts/token  in {NAMESPACE}
operator  impersonate                 users
agent     {READ}                      secrets
agent     {READ}                      configmaps  in {NAMESPACE}
agent     {READ}                      namespaces
agent     {READ}                      networkpolicies.networking.k8s.io
agent     create,update,patch,delete  pods  in shop
agent     update,patch                pods/status  in shop
agent     create                      pods/exec  in {NAMESPACE}
agent     get                         pods/proxy  in {NAMESPACE}
agent     list,watch,update,patch     nodes
agent     update,patch                nodes/status
agent     create,update,patch,delete  addresssets.npctl.dev
agent     create,update,patch,delete  compiledpolicies.npctl.dev  in shop
agent     update,patch                compiledpolicies.npctl.dev/status  in shop
agent     {READ},update,delete  nodereports.npctl.dev
agent     get,create,update           leases.coordination.k8s.io  in {NAMESPACE}
agent     create,patch                events  in shop
agent     create                      serviceaccounts/token  in {NAMESPACE}
viewer    {READ}                      secrets
viewer    create,update,patch,delete  compiledpolicies.npctl.dev  in shop
viewer    create,update,patch,delete  networkpolicies.networking.k8s.io  in shop
viewer    get                         pods/proxy  in shop
viewer    create,update               pods/proxy  in {NAMESPACE}
viewer    create                      pods/exec  in {NAMESPACE}
viewer    {READ}                      leases.coordination.k8s.io  in kube-system
viewer    update                      leases.coordination.k8s.io  in {NAMESPACE} named npctl-operator
"""


def _reviews(line: str) -> Iterator[Object]:
    """One SubjectAccessReview for each verb of a line."""
    who, verbs, what, *where = line.split()
    named = dict(zip(where[::2], where[1::2], strict=True))
    resource, _, subresource = what.partition("/")
    plural, _, group = resource.partition(".")
    if who in ACCOUNTS:
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"]
    else:
        groups = ["system:authenticated"]
    for verb in verbs.split(","):
        place = {"namespace": named.get("in", ""), "name": named.get("named", "")}
        attributes = {"verb": verb, "group": group, "resource": plural, "subresource": subresource, **place}
        spec = {"user": ACCOUNTS.get(who, PERSON), "groups": groups, "resourceAttributes": attributes}
        yield {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}


def _answers(kubectl: Kubectl, lines: str) -> dict[str, bool]:
    """Whether it is allowed, by `who verb what where`."""
    asked = {}
    for line in filter(None, lines.splitlines()):
        who, _, *rest = line.split()
        for review in _reviews(line):
            asked[" ".join((who, review["spec"]["resourceAttributes"]["verb"], *rest))] = review
    said = kubectl("create", "-f", "-", "-o", 'jsonpath={.status.allowed}{" "}', objects=asked.values()).split()
    return dict(zip(asked, (word == "true" for word in said), strict=True))


@pytest.fixture(scope="module")
def rights(kubectl: Kubectl) -> Kubectl:
    """kubectl, with the chart's accounts, roles and guard in force."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    guard = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    objects = [space, *definitions(), *of_kind(rendered(*VIEWERS), *RIGHTS, *guard)]
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", objects=objects)
    kubectl.until(lambda: all(_answers(kubectl, MAY).values()), f"rights, of {_answers(kubectl, MAY)}", 10)
    return kubectl


def test_each_may_do_what_it_is_there_for(rights: Kubectl) -> None:
    assert [what for what, allowed in _answers(rights, MAY).items() if not allowed] == []


def test_none_may_do_more(rights: Kubectl) -> None:
    assert [what for what, allowed in _answers(rights, MAY_NOT).items() if allowed] == []


def _rules(rights: Kubectl, who: str, namespace: str) -> set[tuple[str, str, str, str]]:
    """All that a service account may in a namespace beyond what every account may: group, resource, name, verb."""
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}}
    asked = rights("create", "-f", "-", "-o", "json", f"--as={ACCOUNTS[who]}", objects=[review])
    return {
        (group, resource, name, verb)
        for rule in json.loads(asked)["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
        for verb in rule["verbs"]
        if not resource.startswith("selfsubject")
    }


def _written(lines: str, who: str, namespace: str) -> set[tuple[str, str, str, str]]:
    """The same from MAY, where `in` counts for leases alone: everything else holds in every namespace."""
    rules = set()
    for line in filter(None, lines.splitlines()):
        if line.split()[0] != who or ("leases" in line and namespace != NAMESPACE):
            continue
        for review in _reviews(line):
            found = review["spec"]["resourceAttributes"]
            resource = "/".join(filter(None, (found["resource"], found["subresource"])))
            name = found["name"] if found["resource"] == "leases" else ""
            rules.add((found["group"], resource, name, found["verb"]))
    return rules


@pytest.mark.parametrize("namespace", [NAMESPACE, "shop", "kube-system"])
@pytest.mark.parametrize("who", ACCOUNTS)
def test_what_is_written_above_is_all(rights: Kubectl, who: str, namespace: str) -> None:
    assert _rules(rights, who, namespace) == _written(MAY, who, namespace)


# -- the guard of the reports ---------------------------------------------------------------------------


def _report(node: str) -> Object:
    status = {
        "schema": 1,
        "node": node,
        "version": "0.1.0",
        "time": "2026-01-02T03:04:05Z",
        "backend": "nft",
        "families": [4],
        "inSync": True,
        "complete": True,
        "revisions": {"pods": "1", "addressSets": "1", "compiledPolicies": "1"},
        "policies": {},
        "policyCount": 0,
        "failures": [],
        "failureCount": 0,
        "problems": [],
        "sizes": {},
        "syncs": 0,
        "repairs": 0,
        "connectionsCut": 0,
    }
    return {"apiVersion": NODE_REPORT.api_version, "kind": "NodeReport", "metadata": {"name": node}, "status": status}


def _changed(report: Object) -> Object:
    return {**report, "status": {**report["status"], "syncs": 1}}


def _removed(rights: Kubectl, names: Iterable[str]) -> None:
    for name in names:
        rights("delete", "-n", NAMESPACE, name, "--ignore-not-found", "--force", "--grace-period=0")


@pytest.fixture
def token(rights: Kubectl) -> Iterator[str]:
    """The token of an agent's pod on the node guarded-1, as its kubelet would get it."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "guarded-1"}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "guarded-agent", "namespace": NAMESPACE},
        "spec": {
            "nodeName": "guarded-1",
            "serviceAccountName": "npctl-agent",
            "containers": [{"name": "agent", "image": "npctl"}],
        },
    }
    names = ("pod/guarded-agent", "node/guarded-1", "nodereport/guarded-1", "nodereport/guarded-2")
    _removed(rights, names)
    rights("create", "-f", "-", objects=[node, pod])
    bound = ("--bound-object-kind=Pod", "--bound-object-name=guarded-agent")
    yield rights("create", "token", "npctl-agent", "-n", NAMESPACE, *bound).strip()
    _removed(rights, names)


def test_an_agent_writes_the_report_of_its_own_node_and_of_no_other(rights: Kubectl, token: str) -> None:
    as_agent = (f"--token={token}", "apply", "--server-side", "--force-conflicts", "-f", "-")
    assert rights("auth", "whoami", f"--token={token}", "-o", "jsonpath={.status.userInfo.username}") == ACCOUNTS["agent"]

    def refuses() -> bool:
        dry = rights.run(*as_agent, "--dry-run=server", objects=[_report("guarded-2")])
        return "the agent of node guarded-1 writes no report of node guarded-2" in dry.stderr

    rights.until(refuses, "the guard is in force")
    rights(*as_agent, objects=[_report("guarded-1")])
    rights(*as_agent, objects=[_changed(_report("guarded-1"))])
    rights("create", "-f", "-", objects=[_report("guarded-2")])
    assert "writes no report of node guarded-2" in rights.refused(*as_agent, objects=[_changed(_report("guarded-2"))])
    assert json.loads(rights("get", "nodereport/guarded-1", "-o", "json"))["status"]["syncs"] == 1
    assert json.loads(rights("get", "nodereport/guarded-2", "-o", "json"))["status"]["syncs"] == 0


def test_a_token_that_is_of_no_pod_says_no_node_and_is_not_guarded(rights: Kubectl, token: str) -> None:
    free = rights("create", "token", "npctl-agent", "-n", NAMESPACE).strip()
    rights("create", f"--token={free}", "--dry-run=server", "-f", "-", objects=[_report("guarded-2")])
