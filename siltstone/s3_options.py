"""How the S3 door is opened: where it listens, with how many processes, with which certificate, under which names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from siltstone.config import check_s3_workers
from siltstone.errors import ConfigInvalid, InvalidArgument, Refused

if TYPE_CHECKING:
    from siltstone.s3gw.tls import Tls

DOMAINS_MAX = 16
DOMAIN_PATTERN = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")


class S3Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Port 0 takes a free one. ``tls_cert``, ``tls_key``: absolute paths, both or neither. ``domains``: in small
    letters."""

    host: str
    port: int
    workers: int = 1
    tls_cert: str = ""
    tls_key: str = ""
    domains: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise Refused or ConfigInvalid unless a volume can be served so."""
        check_s3_workers(self.workers)
        if bool(self.tls_cert) != bool(self.tls_key):
            raise Refused("give both --tls-cert and --tls-key, or neither and S3 is served without TLS")
        if len(self.domains) > DOMAINS_MAX:
            raise Refused(f"--domain was given {len(self.domains)} times: {DOMAINS_MAX} at the most")
        for domain in self.domains:
            if not DOMAIN_PATTERN.fullmatch(domain) or len(domain) > 253:
                raise Refused(f"--domain {domain}: want a name as in s3.example.org, without a port")
        self.make_tls()

    def make_tls(self) -> Tls | None:
        """What connections are encrypted with; None for none. Raises ConfigInvalid."""
        if not self.tls_cert:
            return None
        from siltstone.s3gw.tls import Certificate, Tls  # the libraries for it are not needed otherwise

        return Tls(Certificate(self.tls_cert, self.tls_key))

    def url(self, started: tuple[str, int]) -> str:
        """What clients are given, of where the door listens."""
        host, port = started
        return f"http{'s' if self.tls_cert else ''}://{f'[{host}]' if ':' in host else host}:{port}"

    @classmethod
    def of_json(cls, text: str | bytes) -> S3Options:
        """Those that ``json`` said. Raises ConfigInvalid."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise ConfigInvalid(f"options of the S3 door: {error}") from error

    @classmethod
    def of_request(cls, arguments: dict[str, Any]) -> S3Options:
        """Those of a request to the control socket. Raises InvalidArgument."""
        try:
            return msgspec.convert(arguments, cls)
        except msgspec.ValidationError as error:
            raise InvalidArgument(f"options of the S3 door: {error}") from error

    def json(self) -> str:
        """For the command line of another process."""
        return msgspec.json.encode(self).decode()
