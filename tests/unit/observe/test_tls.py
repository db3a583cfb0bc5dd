"""The metrics port with TLS: a certificate from files that are exchanged while it serves."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.observe import tls
from agent.observe.routes import TEXT, Request, Response, Route
from agent.observe.server import RouteServer
from agent.observe.tls import Certificate
from tests.lab.cluster import wait_until
from tests.patience import PATIENCE


def write_pair(directory: Path, name: str) -> None:
    """Write a self-signed certificate of this name, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    (directory / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def serve(directory: Path) -> RouteServer:
    def answer(request: Request) -> Response:
        return Response(200, TEXT, request.authorization.encode())

    return RouteServer(
        "127.0.0.1",
        0,
        {"/metrics": Route(answer, large=True)},
        what="metrics",
        certificate=lambda: Certificate(directory / "tls.crt", directory / "tls.key"),
    )


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RouteServer]:
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0.0)
    write_pair(tmp_path, "first")
    server = serve(tmp_path)
    server.start()
    yield server
    server.stop()


def get(server: RouteServer) -> tuple[str, int, bytes]:
    """Return the name on the certificate, the status and the body."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=PATIENCE, context=context)
    with contextlib.closing(connection):
        connection.connect()
        given = connection.sock.getpeercert(binary_form=True)
        connection.request("GET", "/metrics", headers={"Authorization": "Bearer abc"})
        response = connection.getresponse()
        body = response.read()
    name = x509.load_der_x509_certificate(given or b"").subject.rfc4514_string()
    return name, response.status, body


def test_it_speaks_tls_and_reads_the_token(server: RouteServer) -> None:
    assert get(server) == ("CN=first", 200, b"Bearer abc")


def test_a_certificate_that_changes_is_read_again(server: RouteServer, tmp_path: Path) -> None:
    get(server)
    write_pair(tmp_path, "second")
    assert get(server)[0] == "CN=second"


def test_one_that_cannot_be_used_leaves_the_last_in_use(server: RouteServer, tmp_path: Path) -> None:
    (tmp_path / "tls.crt").write_text("no certificate")
    assert get(server)[0] == "CN=first"
    (tmp_path / "tls.key").unlink()
    assert get(server)[0] == "CN=first"
    write_pair(tmp_path, "third")
    assert get(server)[0] == "CN=third"


def test_plain_http_gets_nothing_and_costs_the_others_nothing(server: RouteServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        with pytest.raises((OSError, http.client.HTTPException)):
            connection.getresponse()
    assert get(server)[1] == 200


def test_without_files_it_says_so_and_serves_when_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.observe.server._BIND_SECONDS", 0.02)
    server = serve(tmp_path)
    server.start()
    try:
        (fault,) = server.faults()
        assert "metrics cannot be served" in fault.what
        assert "tls.crt" in fault.what
        assert "give a certificate" in fault.remedy
        assert not fault.blocking
        write_pair(tmp_path, "late")
        wait_until(lambda: not server.faults())
        assert get(server)[0] == "CN=late"
    finally:
        server.stop()
