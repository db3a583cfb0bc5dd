"""A real kube-apiserver on etcd, inside a namespace: agents and tests reach it over the lab's underlay."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from tests.lab.children import dies_with_us
from tests.lab.client import ApiError, Client
from tests.lab.kube_build import kube_apiserver
from tests.lab.netns import Netns
from tests.lab.place import LabError
from tests.patience import PATIENCE

PORT = 6443
ACCOUNT = "/api/v1/namespaces/kube-system/serviceaccounts/netpol-agent"

_RBAC = Path(__file__).parents[2] / "deploy/base/rbac.yaml"
_COLLECTIONS = {
    "ServiceAccount": "/api/v1/namespaces/kube-system/serviceaccounts",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}
_TOKEN_SECONDS = 6 * 3600


class ApiServer:
    """etcd and kube-apiserver in ``netns``, listening on its ``address``; a context manager.

    etcd's data is in memory and gone with it. No controllers and no scheduler run: pods are bound by
    whoever creates them, and :class:`tests.lab.client.Client` finishes namespaces. The agent's account is
    there, with the permissions that ``deploy/`` gives it and no others. Call from the main thread: processes
    end with the thread that started them. ``flags`` are more of kube-apiserver's. Raises LabError when it
    does not become ready.
    """

    def __init__(self, netns: Netns, address: str, directory: Path, flags: Sequence[str] = ()) -> None:
        self.netns = netns
        self.address = address
        self.directory = directory
        self._flags = flags
        self._admin_token = secrets.token_hex(16)
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        binary = kube_apiserver()
        (directory / "data").mkdir(parents=True)
        try:
            self._start_etcd()
            self._start_apiserver(binary)
            self.client = Client(netns, self.url, self.certificate, self._admin_token)
            self._until("kube-apiserver", self._ready, 60)
            self._install_account()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ApiServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End both processes; their data goes with them."""
        for _, process in reversed(self._processes):
            process.kill()
            process.wait()
        self._processes.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"https://{self.address}:{PORT}"

    @property
    def certificate(self) -> Path:
        """The certificate that it made for itself on start, its issuer included."""
        return self.directory / "pki/apiserver.crt"

    def restart(self) -> None:
        """Stop kube-apiserver, and start it again on the same data."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Stop kube-apiserver, leaving etcd: connections break, and new ones are refused."""
        (process,) = (p for name, p in self._processes if name == "kube-apiserver")
        process.kill()
        process.wait()
        self._processes = [(n, p) for n, p in self._processes if p is not process]

    def start(self, timeout: float = PATIENCE) -> None:
        """Start kube-apiserver after :meth:`stop`, and wait until it has read what there is."""
        self._start_apiserver(kube_apiserver())
        self._until("kube-apiserver", self._ready, timeout)

    def agent_token(self) -> str:
        """Return a token of the agent's service account, as kubelet asks for one (TokenRequest)."""
        asked = {"spec": {"expirationSeconds": _TOKEN_SECONDS}}
        return str(self.client.post(f"{ACCOUNT}/token", asked)["status"]["token"])

    def kubeconfig(self, user: str) -> Path:
        """Write and return the kubeconfig of ``admin``, or of ``agent``: its service account's."""
        token = self._admin_token if user == "admin" else self._agent_token
        ca = base64.b64encode(self.certificate.read_bytes()).decode()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": self.url, "certificate-authority-data": ca}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
            "current-context": "lab",
        }
        path = self.directory / f"{user}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def _start_etcd(self) -> None:
        etcd = shutil.which("etcd")
        if etcd is None:
            raise LabError("etcd is not installed (Debian package etcd-server)")
        self._spawn(
            "etcd",
            [
                *("sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"', str(self.directory / "data"), etcd),
                f"--data-dir={self.directory / 'data/etcd'}",
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                "--listen-peer-urls=http://127.0.0.1:2380",
                "--initial-advertise-peer-urls=http://127.0.0.1:2380",
                "--initial-cluster=default=http://127.0.0.1:2380",
                "--quota-backend-bytes=4294967296",
            ],
            {"ETCD_UNSUPPORTED_ARCH": os.uname().machine.replace("aarch64", "arm64")},
        )
        self._until("etcd", self._etcd_listens, 30)

    def _etcd_listens(self) -> bool:
        with self.netns.entered():
            try:
                socket.create_connection(("127.0.0.1", 2379), 1).close()
            except OSError:
                return False
        return True

    def _start_apiserver(self, binary: Path) -> None:
        tokens = self.directory / "tokens.csv"
        tokens.write_text(f'{self._admin_token},admin,admin,"system:masters"\n')
        key = self.directory / "accounts.key"
        if not key.exists():
            key.write_bytes(_private_key())
        self._spawn(
            "kube-apiserver",
            [
                str(binary),
                "--etcd-servers=http://127.0.0.1:2379",
                f"--advertise-address={self.address}",
                f"--secure-port={PORT}",
                f"--cert-dir={self.directory / 'pki'}",
                f"--token-auth-file={tokens}",
                "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount",
                "--service-cluster-ip-range=10.96.0.0/24",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}",
                "--profiling=false",
                *self._flags,
            ],
            # Memory is less dear to tests than collecting it.
            {"GOGC": "400"},
        )

    def _spawn(self, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
        with self.netns.entered(), (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                dies_with_us(["unshare", "--mount", *command]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self._processes.append((name, process))

    def _until(self, name: str, condition: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            ended = any(p.poll() is not None for _, p in self._processes)
            if ended or time.monotonic() > deadline:
                tail = (self.directory / f"{name}.log").read_text(errors="replace")[-3000:]
                raise LabError(f"{name} {'ended' if ended else f'is not ready after {timeout} s'}:\n{tail}")
            time.sleep(0.05)

    def _ready(self) -> bool:
        with contextlib.suppress(OSError, ApiError):
            self.client.text("GET", "/readyz")
            return True
        return False

    def _has_system_namespace(self) -> bool:
        with contextlib.suppress(OSError, ApiError):
            self.client.get("/api/v1/namespaces/kube-system")
            return True
        return False

    def _install_account(self) -> None:
        # The server makes its own namespaces in the background.
        self._until("kube-apiserver", self._has_system_namespace, 30)
        for document in yaml.safe_load_all(_RBAC.read_text()):
            self.client.post(f"{_COLLECTIONS[document['kind']]}?fieldValidation=Strict", document)
        self._agent_token = self.agent_token()


def _private_key() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
