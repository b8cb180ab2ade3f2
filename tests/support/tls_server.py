"""A REST API over TLS on loopback that records the requested host names and the connections."""

from __future__ import annotations

import contextlib
import http.server
import ipaddress
import json
import ssl
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

if TYPE_CHECKING:
    import socket
    from pathlib import Path


class TlsServer(http.server.ThreadingHTTPServer):
    """Responds to `GET /things?page=…` with one thing on pages 1 to 3 and none from page 4 on.

    `name` is the certificate's host or address. With `close_each`, a connection carries one request.
    """

    daemon_threads = False
    block_on_close = True

    def __init__(self, folder: Path, name: str, *, close_each: bool = False) -> None:
        self.names: list[str | None] = []  # the host name that the client sent, one per connection
        self.requests: list[str] = []
        self.location: str | None = None  # if set, every response redirects there
        self.close_each = close_each
        super().__init__(("127.0.0.1", 0), _Handler)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.trust = _certify(self._context, folder, name)
        self._context.sni_callback = lambda _, name, __: self.names.append(name)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, name="tls-server")
        self._thread.start()

    def finish_request(self, request: socket.socket, client_address: Any) -> None:  # type: ignore[override]
        """Runs in the connection's thread, so that a failed handshake ends that connection alone."""
        with contextlib.suppress(OSError), self._context.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open
    server: TlsServer

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.headers['Host']} {self.path}")
        page = int(self.path.rpartition("=")[2])
        body = json.dumps({"data": [{"id": page}] if page < 4 else []}).encode()
        self.send_response(302 if self.server.location else 200)
        if self.server.location:
            self.send_header("Location", self.server.location)
        if self.server.close_each:
            self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _certify(server: ssl.SSLContext, folder: Path, name: str) -> ssl.SSLContext:
    """Gives the server a certificate for the name. Returns the context of a client that trusts its issuer."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    signs = x509.KeyUsage(*[use in {5, 6} for use in range(9)])  # certificates and revocations
    root = (
        _certificate("the root", root_key.public_key(), root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(signs, critical=True)
        .sign(root_key, hashes.SHA256())
    )
    try:
        subject: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        subject = x509.DNSName(name)
    leaf = (
        _certificate(name, key.public_key(), root_key.public_key())
        .add_extension(x509.SubjectAlternativeName([subject]), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    file = folder / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + leaf.public_bytes(Encoding.PEM))
    server.load_cert_chain(file)
    return ssl.create_default_context(cadata=root.public_bytes(Encoding.PEM).decode())


def _certificate(
    name: str, key: ec.EllipticCurvePublicKey, signer: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the root")]),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
        key,
        x509.random_serial_number(),
        now - timedelta(days=1),
        now + timedelta(days=1),
        [
            x509.Extension(x509.SubjectKeyIdentifier.oid, False, x509.SubjectKeyIdentifier.from_public_key(key)),
            x509.Extension(
                x509.AuthorityKeyIdentifier.oid, False, x509.AuthorityKeyIdentifier.from_issuer_public_key(signer)
            ),
        ],
    )
