"""The secrets of a volume as they are kept: encrypted under a key in a file of its own, HOME/secret.key (0600).

Signatures cannot be checked without the secrets in clear, so they are decrypted into memory, and stand nowhere else:
neither in keys.json nor on the disks, which have shares of the key (docs/decisions/0027).
"""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from siltstone.errors import ConfigInvalid, Unavailable
from siltstone.home import write_whole

KEY_BYTES = 64
KEY_FILE = "secret.key"


class Vault:
    """A key, and what is encrypted under it. The same secret of the same name is always the same text (AES-SIV), so
    that settings that have not changed are the same bytes."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES
        self.key = key
        self._cipher = AESSIV(key)

    @classmethod
    def load(cls, path: Path) -> Vault | None:
        """The one whose key is in a file; None if there is no such file. Raises ConfigInvalid, Unavailable."""
        try:
            key = bytes.fromhex(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigInvalid(f"{path} does not hold the key of the volume's secrets") from error
        if len(key) != KEY_BYTES:
            raise ConfigInvalid(f"{path} does not hold the key of the volume's secrets")
        return cls(key)

    @classmethod
    def make(cls) -> Vault:
        """A new one, which is in no file yet."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def save(self, path: Path) -> None:
        """Write the key into a file, durably, unless it is there."""
        if not path.exists():
            write_whole(path, self.key.hex().encode() + b"\n", mode=0o600)

    def seal(self, name: str, secret: str) -> str:
        """A secret, encrypted; ``name`` says whose it is, and must be said to open it."""
        return base64.b64encode(self._cipher.encrypt(secret.encode(), [name.encode()])).decode()

    def open(self, name: str, sealed: str) -> str:
        """The secret. Raises ConfigInvalid when it is not one of this name under this key."""
        try:
            return self._cipher.decrypt(base64.b64decode(sealed, validate=True), [name.encode()]).decode()
        except (InvalidTag, ValueError) as error:
            raise ConfigInvalid(
                f"the secret of access key {name} cannot be decrypted: {KEY_FILE} is another volume's, or one of both "
                "files is damaged"
            ) from error
