"""Where programs find the API server and how they prove who they are, and what they say when they cannot."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from netpol_kube import kubeconfig
from netpol_kube.credentials import (
    Credentials,
    CredentialsError,
    from_kubeconfig,
    in_cluster,
    through_environment_proxy,
)


def config(folder: Path, cluster: dict, user: dict) -> Path:
    path = folder / "config"
    data = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(data))
    return path


def test_a_kubeconfigs_files_are_found_beside_it_and_a_token_file_is_read_anew(tmp_path):
    (tmp_path / "ca.crt").write_text("CA")
    (tmp_path / "token").write_text("one\n")
    path = config(tmp_path, {"server": "https://x:1/", "certificate-authority": "ca.crt"}, {"tokenFile": "token"})
    found = from_kubeconfig(path)
    assert (found.server, found.ca, found.bearer()) == ("https://x:1", "CA", "one")
    (tmp_path / "token").write_text("two\n")
    assert found.bearer() == "two"


def test_certificates_may_stand_in_the_kubeconfig_itself(tmp_path):
    data = base64.b64encode(b"CERT").decode()
    found = from_kubeconfig(config(tmp_path, {"server": "https://x"}, {"client-certificate-data": data, "client-key-data": data}))
    assert (found.certificate, found.key) == ("CERT", "CERT")


@pytest.mark.parametrize(
    ("cluster", "user", "words"),
    [
        ({}, {}, "has no server"),
        ({"server": "https://x"}, {"exec": {"command": "aws"}}, "'u' needs 'exec'"),
        ({"server": "https://x", "certificate-authority": "missing.crt"}, {}, "missing.crt"),
        ({"server": "https://x", "certificate-authority-data": "%"}, {}, "certificate-authority-data"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_why(tmp_path, cluster, user, words):
    with pytest.raises(CredentialsError, match=words):
        from_kubeconfig(config(tmp_path, cluster, user))


def test_a_context_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CredentialsError, match="no context 'there'"):
        from_kubeconfig(config(tmp_path, {"server": "https://x"}, {}), "there")


def test_in_a_pod_the_service_account_is_used_and_outside_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(CredentialsError) as error:
        in_cluster(tmp_path)
    assert "--kubeconfig" in error.value.remedy
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_text("CA")
    found = in_cluster(tmp_path)
    assert (found.server, found.bearer()) == ("https://[fd00::1]:443", "t")


def test_a_pods_namespace_is_that_of_its_service_account(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    for name, text in (("token", "t"), ("ca.crt", "CA")):
        (tmp_path / name).write_text(text)
    assert in_cluster(tmp_path).namespace == "default"
    (tmp_path / "namespace").write_text("web\n")
    assert in_cluster(tmp_path).namespace == "web"


# -- what is shown to the server ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "header"),
    [
        ({}, ""),
        ({"token": "t"}, "Bearer t"),
        ({"username": "u", "password": "p:q"}, "Basic " + base64.b64encode(b"u:p:q").decode()),
        ({"token": "t", "exec": {"command": "/none/such", "apiVersion": "x"}}, "Bearer t"),
    ],
)
def test_the_header_of_each_kind_of_user(tmp_path, user, header):
    assert from_kubeconfig(config(tmp_path, {"server": "https://x"}, user)).authorization() == header


def plugin(folder: Path, name: str, answer: dict, code: int = 0) -> dict:
    """A user whose credentials a program gives, which counts how often it was run."""
    script = folder / name
    text = json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", **answer})
    lines = [f"#!{sys.executable}", "import sys", f"open({str(folder / 'runs')!r}, 'a').write('x')", f"print({text!r})"]
    script.write_text("\n".join([*lines, f"sys.exit({code} and 'the token service is away')"]))
    script.chmod(0o755)
    return {"exec": {"command": str(script), "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}}


def test_a_plugins_token_is_shown_and_asked_for_again_when_it_has_expired(tmp_path):
    answer = {"status": {"token": "of-the-plugin", "expirationTimestamp": "2020-01-01T00:00:00Z"}}
    found = from_kubeconfig(config(tmp_path, {"server": "https://x"}, plugin(tmp_path, "ask", answer)), plugins=True)
    before = len((tmp_path / "runs").read_text())
    assert found.authorization() == "Bearer of-the-plugin"
    assert len((tmp_path / "runs").read_text()) > before


def test_a_plugins_client_certificate_is_used(tmp_path):
    answer = {"status": {"clientCertificateData": "CERT", "clientKeyData": "KEY"}}
    found = from_kubeconfig(config(tmp_path, {"server": "https://x"}, plugin(tmp_path, "ask", answer)), plugins=True)
    assert (found.certificate, found.key, found.authorization()) == ("CERT", "KEY", "")


def test_a_plugin_that_fails_is_told_in_its_words(tmp_path):
    path = config(tmp_path, {"server": "https://x"}, plugin(tmp_path, "ask", {}, code=1))
    with pytest.raises(CredentialsError, match=r"user 'u': its plugin gave no credentials: exec: .*the token service is away"):
        from_kubeconfig(path, plugins=True)


def test_an_auth_providers_token_is_shown_and_without_plugins_it_is_refused(tmp_path):
    expiry = "2999-01-01T00:00:00Z"
    user = {"auth-provider": {"name": "gcp", "config": {"access-token": "of-the-provider", "expiry": expiry}}}
    path = config(tmp_path, {"server": "https://x"}, user)
    assert from_kubeconfig(path, plugins=True).authorization() == "Bearer of-the-provider"
    with pytest.raises(CredentialsError, match="'u' needs 'auth-provider', which the daemons do not run"):
        from_kubeconfig(path)


def test_the_kubernetes_library_is_loaded_for_a_plugin_alone(tmp_path):
    code = (
        "import sys; from pathlib import Path; from netpol_kube.client import ApiClient; from netpol_kube.credentials import *\n"
        "ApiClient(from_kubeconfig(Path(sys.argv[1]), plugins=True)); print('kubernetes' in sys.modules)"
    )
    answer = {"status": {"token": "of-the-plugin"}}
    for user, loaded in (({"token": "t"}, "False"), (plugin(tmp_path, "ask", answer), "True")):
        path = config(tmp_path, {"server": "https://x"}, user)
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == loaded


# -- several files, as kubectl merges them -----------------------------------------------------------------


def part(path: Path, **sections) -> Path:
    """A kubeconfig with only these sections: {name: fields} each, and `current`."""
    kinds = {"contexts": "context", "clusters": "cluster", "users": "user"}
    data = {s: [{"name": n, kinds[s]: f} for n, f in entries.items()] for s, entries in sections.items() if s in kinds}
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({**data, **({"current-context": sections["current"]} if "current" in sections else {})}))
    return path


def test_of_several_files_the_first_that_says_something_wins_and_paths_are_of_their_own_file(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "token").write_text("b's")
    a = part(tmp_path / "a" / "config", clusters={"c": {"server": "https://first"}})
    b = part(
        tmp_path / "b" / "config",
        clusters={"c": {"server": "https://second"}},
        users={"u": {"tokenFile": "token"}},
        contexts={"one": {"cluster": "c", "user": "u", "namespace": "space"}, "two": {"cluster": "c"}},
        current="one",
    )
    c = part(tmp_path / "c" / "config", contexts={"three": {"cluster": "c"}}, current="three")
    found = from_kubeconfig([a, tmp_path / "missing", b, c])
    assert (found.server, found.bearer(), found.namespace, found.where) == ("https://first", "b's", "space", "context one")
    assert list(kubeconfig.read([a, b, c]).contexts) == ["one", "two", "three"]
    assert from_kubeconfig([a, b, c], "three").bearer() == ""


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"contexts": {"x": {"cluster": "c"}}}, "no context is the current one"),
        ({"contexts": {"x": {"cluster": "c"}}, "current": "x"}, "no cluster 'c'"),
        ({"contexts": {"x": {"cluster": "c", "user": "u"}}, "clusters": {"c": {"server": "x"}}, "current": "x"}, "no user 'u'"),
    ],
)
def test_what_a_kubeconfig_lacks_is_named(tmp_path, sections, words):
    with pytest.raises(CredentialsError, match=words):
        from_kubeconfig(part(tmp_path / "config", **sections))


@pytest.mark.parametrize(
    "text",
    [
        "a: [1\n",
        "secret",
        "- secret\n",
        "users: secret\n",
        "users: [secret]\n",
        "users: [{name: u, user: secret}]\n",
        "{" * 5000,
        "\0",
    ],
)
def test_a_file_that_is_no_kubeconfig_is_refused_without_its_content(tmp_path, text):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(CredentialsError, match=r"^kubeconfig ") as error:
        from_kubeconfig(path)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ({"token": ["very-secret"]}, "user 'u': token is not text"),
        ({"client-certificate-data": None, "token": "very-secret"}, "user 'u': client-certificate-data is empty"),
        ({"client-key-data": base64.b64encode(b"very-secret").decode()}, "belong together"),
        ({"client-key-data": "very-secret"}, "user 'u': client-key-data: "),
    ],
)
def test_a_users_mistake_is_told_without_the_secret(tmp_path, user, words):
    with pytest.raises(CredentialsError, match=words) as error:
        from_kubeconfig(config(tmp_path, {"server": "https://x"}, user))
    assert "very-secret" not in str(error.value)


# -- the cluster's own settings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "server"),
    [
        ({"server": "example.org:8080/"}, "http://example.org:8080"),
        ({"server": "example.org", "insecure-skip-tls-verify": True}, "https://example.org"),
        ({"server": "https://example.org:6443/k8s/clusters/c-1/"}, "https://example.org:6443/k8s/clusters/c-1"),
    ],
)
def test_a_server_without_a_scheme_is_taken_as_kubectl_takes_it(tmp_path, cluster, server):
    assert from_kubeconfig(config(tmp_path, cluster, {})).server == server


def test_a_proxy_that_is_not_http_is_refused(tmp_path):
    path = config(tmp_path, {"server": "https://x", "proxy-url": "socks5://127.0.0.1:1"}, {})
    with pytest.raises(CredentialsError, match="cluster 'c': its proxy-url is neither http nor https"):
        from_kubeconfig(path)


@pytest.mark.parametrize(
    ("server", "no_proxy", "proxy"),
    [
        ("https://example.org", "", "http://p:1"),
        ("http://example.org", "", ""),
        ("https://127.0.0.1:6443", "", ""),
        ("https://[::1]:6443", "", ""),
        ("https://localhost:6443", "", ""),
        ("https://example.org:6443", "other.org, .example.org", ""),
        ("https://notexample.org:6443", "example.org", "http://p:1"),
        ("https://10.1.2.3:6443", "10.1.0.0/16", ""),
        ("https://10.2.2.3:6443", "10.1.0.0/16", "http://p:1"),
        ("https://example.org", "*", ""),
    ],
)
def test_the_environments_proxy_is_for_what_no_proxy_leaves_and_never_for_this_machine(monkeypatch, server, no_proxy, proxy):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://p:1")
    monkeypatch.setenv("no_proxy", no_proxy)
    assert through_environment_proxy(Credentials(server)).proxy == proxy
    assert through_environment_proxy(Credentials(server, proxy="http://own:1")).proxy == "http://own:1"
