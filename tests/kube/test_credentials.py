"""Where the daemons find the API server, and what they say when they cannot."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import yaml

from netpol_kube.credentials import CredentialsError, from_kubeconfig, in_cluster


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
