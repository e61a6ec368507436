"""The keys of a lab's API server: a certificate authority, a serving certificate, and the keys of service accounts' tokens.

In: a folder and the names and addresses that the server is reached at. Out: files there, readable by their owner only.
They live as long as the lab does and are worth nothing outside it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from netpol_lab.errors import LabError

_CURVE = ("-pkeyopt", "ec_paramgen_curve:prime256v1")
_VALID_DAYS = "3650"


@dataclass(frozen=True, slots=True)
class Keys:
    """Where the files are, all in PEM."""

    authority: Path
    certificate: Path
    key: Path
    account_public: Path
    account_key: Path


def make_keys(folder: Path, names: Sequence[str], addresses: Sequence[str]) -> Keys:
    """Make all keys in `folder`, which is made too; `names` and `addresses` are those that clients call the server by.

    Raises LabError with openssl's own words.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    keys = Keys(*(folder / n for n in ("ca.crt", "apiserver.crt", "apiserver.key", "accounts.pub", "accounts.key")))
    authority_key, request, extensions = folder / "ca.key", folder / "apiserver.csr", folder / "apiserver.ext"
    alternatives = [f"DNS:{n}" for n in names] + [f"IP:{a}" for a in addresses]
    extensions.write_text(f"subjectAltName={','.join(alternatives)}\nextendedKeyUsage=serverAuth\n")
    _openssl(
        "req", "-x509", "-newkey", "ec", *_CURVE, "-nodes", "-days", _VALID_DAYS, "-subj", "/CN=npctl-lab",
        "-keyout", authority_key, "-out", keys.authority,
    )  # fmt: skip
    _openssl("req", "-newkey", "ec", *_CURVE, "-nodes", "-subj", "/CN=kube-apiserver", "-keyout", keys.key, "-out", request)
    _openssl(
        "x509", "-req", "-in", request, "-CA", keys.authority, "-CAkey", authority_key, "-CAcreateserial", "-days", _VALID_DAYS,
        "-extfile", extensions, "-out", keys.certificate,
    )  # fmt: skip
    _openssl("genpkey", "-algorithm", "ec", *_CURVE, "-out", keys.account_key)
    _openssl("pkey", "-in", keys.account_key, "-pubout", "-out", keys.account_public)
    for path in (authority_key, keys.key, keys.account_key):
        os.chmod(path, 0o600)
    return keys


def make_identity(folder: Path, name: str, subject: str) -> tuple[Path, Path]:
    """A certificate by which its holder proves to be `subject` ("/O=group/CN=name"), and its key.

    It is its own authority: who is to believe it is given the certificate itself. Raises LabError with openssl's own words.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    _openssl(
        "req", "-x509", "-newkey", "ec", *_CURVE, "-nodes", "-days", _VALID_DAYS, "-subj", subject,
        "-addext", "extendedKeyUsage=clientAuth", "-keyout", key, "-out", certificate,
    )  # fmt: skip
    os.chmod(key, 0o600)
    return certificate, key


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"openssl {arguments[0]} failed ({done.returncode}): {done.stderr.strip()}")
