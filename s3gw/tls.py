"""TLS of the S3 door: the certificate that new connections get, which may be replaced, and an encrypted socket that
does not block."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from pathlib import Path
from typing import NamedTuple

import trio
from cryptography import x509

from siltstone.errors import ConfigInvalid

log = logging.getLogger("siltstone.s3gw")

HANDSHAKE_SECONDS = 10.0


class Certificate(NamedTuple):
    """The files of a certificate: its chain and its private key, both in PEM."""

    chain: str
    key: str


class Tls:
    """What a door needs to know to speak TLS. Raises ConfigInvalid for files that are no certificate and its key."""

    def __init__(self, certificate: Certificate) -> None:
        self._files = certificate
        self.context, self.expires = _load(certificate)
        self.error = ""
        """Why the files could not be taken when they were read for the last time."""
        self.failed_handshakes = 0

    def reload(self) -> bool:
        """Read the files again, for connections that are yet to come; whether that was possible. What is wrong is
        logged and kept in ``error``, and the certificate stays what it was."""
        try:
            self.context, self.expires = _load(self._files)
        except ConfigInvalid as error:
            self.error = str(error)
            log.error("the certificate stays what it was: %s", error)
            return False
        self.error = ""
        log.info("certificate %s was read, it expires %s", self._files.chain, self.expires)
        return True

    def status(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "certificate": self._files.chain,
            "expires": self.expires,
            "error": self.error,
            "failed_handshakes": self.failed_handshakes,
        }

    async def accept(self, client: socket.socket) -> TlsSocket | None:
        """Agree with a client on a connection; None when that does not come about."""
        wrapped = None
        try:
            wrapped = self.context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
            agreed = TlsSocket(wrapped)
            with trio.move_on_after(HANDSHAKE_SECONDS):
                await agreed.handshake()
                return agreed
            log.debug("a client does not end its TLS handshake")
        except OSError as error:
            log.debug("no TLS with a client: %s", error)
        self.failed_handshakes += 1
        if wrapped is not None:
            wrapped.close()
        return None


class TlsSocket:
    """An encrypted connection with the methods of a socket that does not block, as far as Connection uses them."""

    def __init__(self, wrapped: ssl.SSLSocket) -> None:
        self._socket = wrapped
        self._wants_write = False
        """Whether a read cannot go on before something is written (a handshake's or key update's message)."""
        self._wants_read = False
        self._is_over = False

    def getblocking(self) -> bool:
        """See socket."""
        return self._socket.getblocking()

    async def handshake(self) -> None:
        """Do the server's part. Raises OSError."""
        while True:
            try:
                self._socket.do_handshake()
                return
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self._socket)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self._socket)

    def recv(self, size: int) -> bytes:
        """See socket: empty at the end. Raises BlockingIOError."""
        try:
            return self._socket.recv(size)
        except ssl.SSLWantReadError:
            self._wants_write = False
        except ssl.SSLWantWriteError:
            self._wants_write = True
        raise BlockingIOError

    def recv_into(self, view: memoryview) -> int:
        """See socket: 0 at the end. Raises BlockingIOError."""
        try:
            return self._socket.recv_into(view)
        except ssl.SSLWantReadError:
            self._wants_write = False
        except ssl.SSLWantWriteError:
            self._wants_write = True
        raise BlockingIOError

    def send(self, data: bytes | memoryview) -> int:
        """See socket. Raises BlockingIOError; the same bytes must be sent then."""
        try:
            return self._socket.send(data)
        except ssl.SSLWantWriteError:
            self._wants_read = False
        except ssl.SSLWantReadError:
            self._wants_read = True
        raise BlockingIOError

    def sendmsg(self, pieces: list[bytes]) -> int:
        """See socket: of several pieces the first may be all that is taken."""
        return self.send(pieces[0])

    def shutdown(self, how: int) -> None:
        """Say that nothing more will be sent; what still comes can be read, and means nothing."""
        self.end()
        self._socket.shutdown(how)

    def end(self) -> None:
        """Say that this is the end, as far as that can be said at once. For connections that ended well."""
        if not self._is_over:
            self._is_over = True
            with contextlib.suppress(OSError, ValueError):  # WantRead: the client has not said so yet
                self._socket.unwrap()

    def close(self) -> None:
        """See socket."""
        self._socket.close()

    async def wait_readable(self) -> None:
        """Return when ``recv`` may have something."""
        if self._socket.pending():
            await trio.lowlevel.checkpoint()
        elif self._wants_write:
            await trio.lowlevel.wait_writable(self._socket)
        else:
            await trio.lowlevel.wait_readable(self._socket)

    async def wait_writable(self) -> None:
        """Return when ``send`` may take something."""
        if self._wants_read:
            await trio.lowlevel.wait_readable(self._socket)
        else:
            await trio.lowlevel.wait_writable(self._socket)


def _load(files: Certificate) -> tuple[ssl.SSLContext, str]:
    """A context, and when the certificate expires."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for file in files:
        try:
            Path(file).read_bytes()
        except OSError as error:
            raise ConfigInvalid(f"cannot read {file}: {error.strerror}") from error
    try:
        context.load_cert_chain(files.chain, files.key, password=_no_password)
        certificate = x509.load_pem_x509_certificate(Path(files.chain).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"{files.chain} and {files.key} are not a certificate and its key: {error}") from error
    return context, certificate.not_valid_after_utc.isoformat()


def _no_password() -> str:
    """A key that is encrypted must not ask at the terminal of a process in the background."""
    raise ValueError("the key is encrypted: give one without a password")
