"""TLS in front of a server that has none, as stunnel does it, and the certificates for that."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from services.common.ports import LOOPBACK

_CHUNK = 1 << 16
# A curve that gRPC takes too, which knows no Ed25519.
_NEW = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
_NEW += ("-nodes", "-days", "2")


class Certificates:
    """An authority of the test's own, and what it signed for the loopback address."""

    def __init__(self, folder: Path) -> None:
        self.authority = folder / "ca.pem"
        self._folder = folder
        self._openssl(
            *_NEW,
            *("-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"),
        )
        self.server = self._issue("server")
        self.client = self._issue("client")

    def _issue(self, name: str) -> tuple[Path, Path]:
        """Paths of a certificate and its key."""
        self._openssl(
            *_NEW,
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{LOOPBACK}"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
            *("-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
        )
        return self._folder / f"{name}.pem", self._folder / f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)


@contextlib.contextmanager
def tls_front(certificates: Certificates, port: int) -> Iterator[int]:
    """A port that speaks TLS, asks for the client's certificate, and passes on to another port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.server)
    context.load_verify_locations(certificates.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server((LOOPBACK, 0))
    thread = threading.Thread(target=_accept, args=(listener, context, port))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def _accept(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    threads: list[threading.Thread] = []
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:  # shut down
            break
        threads.append(threading.Thread(target=_serve, args=(plain, context, port)))
        threads[-1].start()
    for thread in threads:
        thread.join()


def _serve(plain: socket.socket, context: ssl.SSLContext, port: int) -> None:
    """One request and its answer at a time, which is how the client speaks."""
    with (
        plain,
        contextlib.suppress(OSError),
        context.wrap_socket(plain, server_side=True) as outer,
        socket.create_connection((LOOPBACK, port)) as inner,
    ):
        back = threading.Thread(target=_copy, args=(inner, outer))
        back.start()
        _copy(outer, inner)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
