"""The lab's commands: files to objects, one call of the lab's client, its answer as a table or as data."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from typing import Any

from netpol_api.kinds import USED
from netpol_lab.client import LabClient, labs
from netpol_lab.control import kubernetes_bin
from netpol_manifests.documents import Use, classify
from npctl.errors import ExitCode, usage
from npctl.inputs.state import load
from npctl.lab.common import lab_errors, progress_line
from npctl.output import Cell, Colour, Format, emit, hint, paint, say, table

_COLOURS = {"allowed": Colour.GREEN, "refused": Colour.RED, "error": Colour.YELLOW}


def objects_of(files: list[str]) -> list[Mapping[str, Any]]:
    """The objects of the files, after everything in them was found to be right."""
    state = load(files)
    return [d.data for d in state.documents.current.values() if classify(d) is Use.USED]


def up(name: str, files: list[str], output: Format, **options: Any) -> None:
    check_choices(**{k: v for k, v in options.items() if k in _CHOICES})
    objects = objects_of(files) if files else []
    with lab_errors(), progress_line() as progress:
        status_ = LabClient(name).up(objects, progress=progress, **options)
    if output.is_data:
        emit(status_, output)
        return
    say(f"lab {name} is up: {len(status_['nodes'])} nodes, {len(status_['pods'])} pods, {len(status_['services'])} services")
    if status_["api"]:
        say(f"export KUBECONFIG={shlex.quote(status_['api']['kubeconfig'])}")
        hint(_kubectl_hint())


def _kubectl_hint() -> str:
    """One line about kubectl: there may be none but the lab's own."""
    if shutil.which("kubectl"):
        return "that line is for kubectl and npctl, such as `kubectl get networkpolicies -A`"
    return f"that line is for kubectl and npctl; there is a kubectl at {kubernetes_bin.find().kubectl}"


_CHOICES = {
    "network": ("host-gw", "vxlan", "routed"),
    "backend": ("nft", "legacy"),
    "family": ("ipv4", "ipv6", "dual"),
    "established": ("cut", "keep"),
    "accept": ("return", "accept"),
    "guard": ("off", "report", "enforce"),
}


def check_choices(**options: str) -> None:
    """Raises CommandError for a value that the lab does not know."""
    for option, value in options.items():
        if value not in _CHOICES[option]:
            raise usage(f"--{option} {value}: there is {', '.join(_CHOICES[option])}")


def apply(name: str, files: list[str], output: Format, *, wait: bool, limit: float) -> None:
    objects = objects_of(files)
    with lab_errors(), progress_line() as progress:
        done = LabClient(name).apply(objects, wait=wait, limit=limit, progress=progress)
    _show_actions(done, output)


def delete(name: str, files: list[str], output: Format, *, wait: bool, limit: float) -> None:
    objects = objects_of(files)
    with lab_errors():
        done = LabClient(name).delete(objects, wait=wait, limit=limit)
    _show_actions(done, output)


def _show_actions(done: list[dict[str, str]], output: Format) -> None:
    if output.is_data:
        emit({"objects": done}, output)
        return
    for item in done:
        where = f" -n {item['namespace']}" if item.get("namespace") else ""
        say(f"{item['kind'].lower()}/{item['name']}{where} {item['action']}")


def kind_of(text: str) -> str:
    """`pods` -> `Pod`. Raises CommandError for what the lab has not."""
    for kind in USED:
        if text.lower() in kind.names:
            return kind.kind
    raise usage(f"no kind {text!r}", f"there are {', '.join(kind.plural for kind in USED)}")


def parse_labels(words: list[str]) -> dict[str, str | None]:
    """`a=b` sets, `a-` removes. Raises CommandError for anything else, and for keys and values that are no labels."""
    from netpol_compiler.reading.fields import label_key_error, label_value_error

    labels: dict[str, str | None] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals and not word.endswith("-"):
            raise usage(f"{word!r} is not a label", "write KEY=VALUE to set one, KEY- to remove it")
        key = key if equals else word[:-1]
        error = label_key_error(key) or (label_value_error(value) if equals else "")
        if error:
            raise usage(error)
        labels[key] = value if equals else None
    return labels


def label(name: str, target: str, words: list[str], namespace: str, output: Format, *, wait: bool, limit: float) -> None:
    kind_text, slash, object_name = target.partition("/")
    if not slash:  # kubectl's other way: `label pod NAME key=value`
        if len(words) < 2:
            raise usage(f"{target!r} names no object", "write pod/NAME KEY=VALUE")
        object_name, words = words[0], words[1:]
    kind = kind_of(kind_text)
    labels = parse_labels(words)
    with lab_errors():
        where = namespace if kind == "Pod" else ""
        done = LabClient(name).label(kind, object_name, labels, namespace=where, wait=wait, limit=limit)
    if output.is_data:
        emit(done, output)
        return
    say(f"{kind.lower()}/{done['metadata']['name']} labeled")


def get(name: str, kind_text: str, object_name: str | None, namespace: str | None, output: Format) -> None:
    kind_text, slash, rest = kind_text.partition("/")
    kind = None if kind_text == "all" else kind_of(kind_text)
    with lab_errors():
        found = LabClient(name).get(kind, namespace, rest if slash else object_name)
    if output.is_data:
        emit({"apiVersion": "v1", "kind": "List", "items": found}, output)
        return
    if not found:
        raise usage("nothing found", "`npctl lab get all` shows what there is")
    rows = [[o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"], _detail(o)] for o in found]
    for line in table(["KIND", "NAMESPACE", "NAME", "DETAIL"], rows):
        say(line)


def _detail(data: Mapping[str, Any]) -> str:
    """The one thing that people look for, by kind."""
    kind, spec, status_ = data["kind"], data.get("spec") or {}, data.get("status") or {}
    if kind == "Pod":
        return f"{status_.get('podIP', 'no address')} on {spec.get('nodeName', 'no node')}"
    if kind == "Node":
        return ", ".join(a["address"] for a in status_.get("addresses", ()))
    if kind == "Service":
        ports = ", ".join(f"{p['port']}" + (f":{p['nodePort']}" if p.get("nodePort") else "") for p in spec.get("ports", ()))
        return f"{spec.get('clusterIP', '')} {ports}"
    if kind == "NetworkPolicy":
        return ", ".join(spec.get("policyTypes") or ["Ingress"])
    return ", ".join(f"{k}={v}" for k, v in (data["metadata"].get("labels") or {}).items())


def connect(name: str, source: str, destination: str, port: str | None, output: Format, *, limit: float, path: str) -> None:
    with lab_errors():
        seen = LabClient(name).connect(source, destination, port, limit=limit, path=path)
    _show_seen(seen, output)
    if any(s["verdict"] != "allowed" for s in seen):
        raise SystemExit(int(ExitCode.NEGATIVE))


def matrix(name: str, namespaces: list[str], output: Format, *, limit: float) -> None:
    with lab_errors(), progress_line() as progress:
        progress("sending packets")
        seen = LabClient(name).matrix(namespaces=namespaces, limit=limit)
    if output in (Format.WIDE, Format.JSON, Format.YAML):
        _show_seen(seen, output)
        return
    _show_grid(seen)


def _show_seen(seen: list[dict[str, Any]], output: Format) -> None:
    if output.is_data:
        emit({"connections": seen}, output)
        return
    for line in table(["FROM", "TO", "PORT", "ADDRESS", "VERDICT", "ANSWER"], map(_seen_row, seen)):
        say(line)


def _seen_row(seen: Mapping[str, Any]) -> list[Cell]:
    verdict = (seen["verdict"], _COLOURS.get(seen["verdict"]))
    return [
        seen["source"],
        seen["destination"],
        seen["port"] or "icmp",
        seen["destination_address"] or "",
        verdict,
        _answer(seen),
    ]


def _answer(seen: Mapping[str, Any]) -> str:
    server = seen.get("answered") or "the server"
    words = {"data": f"answered by {server}", "reset": "reset: nothing listens there", "none": "none"}
    text = words.get(str(seen["answer"]), str(seen["answer"] or ""))
    if seen["verdict"] == "error":
        return str(seen.get("detail") or text)
    return f"{text} in {seen['rtt_ms']:.1f} ms" if seen.get("rtt_ms") is not None else text


def _show_grid(seen: list[dict[str, Any]]) -> None:
    """The same table as `npctl matrix`, of what packets did."""
    sources, targets = (list(dict.fromkeys(s[k] for s in seen)) for k in ("source", "destination"))
    places = {p: str(i) for i, p in enumerate(dict.fromkeys([*targets, *sources]), start=1)}
    answers: dict[tuple[str, str], set[str]] = {}
    for s in seen:
        answers.setdefault((s["source"], s["destination"]), set()).add(s["verdict"])
    rows = [[places[a], a, *(_symbol(answers.get((a, b), set())) for b in targets)] for a in sources]
    for line in table(["#", "FROM \\ TO", *(places[b] for b in targets)], rows):
        say(line)
    for place in (t for t in targets if t not in sources):
        say(f"{places[place]} = {place}")
    say("\nRows are sources, columns destinations.   . all allowed   X all refused   ~ some ports   ! error   - not tried")


def _symbol(answers: set[str]) -> Cell:
    if not answers:
        return ("-", Colour.DIM)
    if "error" in answers:
        return ("!", Colour.YELLOW)
    if len(answers) > 1:
        return ("~", Colour.YELLOW)
    return (".", Colour.GREEN) if "allowed" in answers else ("X", Colour.RED)


def execute(name: str, target: str, command: list[str]) -> None:
    with lab_errors():
        code = LabClient(name).exec(target, command)
    raise SystemExit(code)


def down(name: str, every: bool, output: Format) -> None:
    names = list(labs()) if every else [name]
    with lab_errors():
        ended = {n: LabClient(n).down() for n in names}
    if output.is_data:
        emit({"labs": [{"name": n, "ended": e} for n, e in ended.items()]}, output)
        return
    for n, was_up in ended.items():
        say(f"lab {n} is down" if was_up else f"lab {n} was not up")
    if not ended:
        say("no lab is up")


def list_labs(output: Format) -> None:
    names = labs()
    if output.is_data:
        emit({"labs": [{"name": n} for n in names]}, output)
        return
    for line in names or ("no lab is up; `npctl lab up -f PATH` starts one",):
        say(line)


def status(name: str, output: Format) -> None:
    with lab_errors():
        found = LabClient(name).status()
    if output.is_data:
        emit(found, output)
    else:
        _show_status(found)
    if not found["in_force"]:
        raise SystemExit(int(ExitCode.NEGATIVE))


def _show_status(found: Mapping[str, Any]) -> None:
    say("lab {name}: network {network}, iptables {backend}, {family}, revision {revision}".format_map(found))
    if api := found.get("api"):
        ready = "ready" if api["ready"] else "not ready"
        say(f"API server {api['server']} (inside the lab {api['inside']}), {ready}; KUBECONFIG={api['kubeconfig']}")
    rows: list[list[Cell]] = []
    for node in found["nodes"]:
        report, lags = node.get("report") or {}, found["lagging"].get(f"agent-{node['name']}")
        state: Cell = (f"lags: {lags}", Colour.RED) if lags else ("in force", Colour.GREEN)
        sizes = report.get("sizes") or {}
        rules, sets = sum((sizes.get("rules") or {}).values()), sizes.get("sets", 0)
        revision = report.get("ir_revision") or (report.get("revisions") or {}).get("compiledPolicies", "")
        rows.append([node["name"], ", ".join(node["addresses"]), f"{revision}", f"{rules}", f"{sets}", state])
    for line in table(["NODE", "ADDRESSES", "IR", "RULES", "SETS", "POLICIES"], rows):
        say(line)
    others = {"agent-" + node["name"] for node in found["nodes"]}
    for name, why in found["lagging"].items():
        if name not in others:
            say(paint(f"{name} {why}", Colour.RED))
    for problem in found.get("problems", ()):
        say(f"problem: {problem}")
