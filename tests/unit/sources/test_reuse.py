"""A request on a connection that the server had closed meanwhile is sent again; on a new one it is not."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from agent.sources.apiserver.connect import Connection
from tests.unit.sources.scripted import write_config

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
PART = ANSWER[:7]
UNVERIFIED = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")


class Server:
    """Serves each connection by one list of the script, request by request.

    Bytes are the answer; None closes the connection without an answer, and so does the end of the list.
    """

    def __init__(self, script: list[list[bytes | None]], tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[int] = []
        """The number of the connection of each request."""
        self._script = script
        self._tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _run(self) -> None:
        for number, answers in enumerate(self._script):
            try:
                made, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(number, made, answers), daemon=True).start()

    def _serve(self, number: int, made: socket.socket, answers: list[bytes | None]) -> None:
        with self._tls.wrap_socket(made, server_side=True) if self._tls else made as connection:
            for answer in answers:
                if not _request(connection):
                    return
                self.requests.append(number)
                if answer is None:
                    return
                connection.sendall(answer)


def _request(connection: socket.socket) -> bytes:
    """Read one request; return nothing where the other end has closed the connection."""
    found = b""
    while not found.endswith(b"\r\n\r\n"):
        more = connection.recv(4096)
        if not more:
            return b""
        found += more
    return found


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate of 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "identity.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return path


@pytest.fixture(params=["plain", pytest.param("tls", marks=UNVERIFIED)])
def start(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., tuple[Server, Connection]]]:
    """Starts a server with a script, and makes a connection to it."""
    started: list[Server] = []

    def made(*script: list[bytes | None]) -> tuple[Server, Connection]:
        tls = None
        if request.param == "tls":
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(request.getfixturevalue("identity"))
        server = Server(list(script), tls)
        started.append(server)
        write_config(tmp_path / "config", server.url, {"token": "one"}, insecure=tls is not None)
        return server, Connection(str(tmp_path / "config"))

    yield made
    for server in started:
        server.close()


Start = Callable[..., tuple[Server, Connection]]


def get(connection: Connection, *, anew: bool = False) -> bytes:
    response = connection.get("/version", {}, 5.0, anew=anew)
    body: bytes = response.read()
    response.release_conn()
    return body


def broken(connection: Connection) -> None:
    with pytest.raises(urllib3.exceptions.HTTPError):
        get(connection)


def test_a_kept_connection_that_was_closed_costs_no_answer(start: Start) -> None:
    server, connection = start([ANSWER, ANSWER, None], [ANSWER])
    assert get(connection) == get(connection) == b"{}"
    assert server.requests == [0, 0]
    # It is closed only when the third request is there: nothing can have told of it before.
    assert get(connection) == b"{}"
    assert server.requests == [0, 0, 0, 1]


def test_each_kept_connection_may_have_been_closed(start: Start) -> None:
    """A proxy that is started again closes all of them."""
    server, connection = start([ANSWER, None], [ANSWER, None], [ANSWER], [ANSWER])
    for numbers in ([0, 1], [0, 0, 1, 1, 2, 3]):
        both = [connection.get("/version", {}, 5.0) for _ in range(2)]
        for response in both:
            assert response.read() == b"{}"
            response.release_conn()
        assert sorted(server.requests) == numbers


def test_a_new_connection_that_is_closed_is_a_failure_of_the_server(start: Start) -> None:
    server, connection = start([None], [ANSWER])
    broken(connection)
    assert server.requests == [0]
    assert get(connection) == b"{}"


def test_a_new_connection_in_place_of_a_kept_one_is_tried_once(start: Start) -> None:
    server, connection = start([ANSWER, None], [None], [ANSWER])
    get(connection)
    broken(connection)
    assert server.requests == [0, 0, 1]


def test_an_answer_that_has_begun_is_not_asked_for_again(start: Start) -> None:
    server, connection = start([ANSWER, PART], [ANSWER])
    get(connection)
    broken(connection)
    assert server.requests == [0, 0]


def test_a_connection_that_is_to_be_new_is_not_asked_for_again(start: Start) -> None:
    server, connection = start([ANSWER], [None], [ANSWER])
    get(connection)
    with pytest.raises(urllib3.exceptions.HTTPError):
        get(connection, anew=True)
    assert server.requests == [0, 1]
