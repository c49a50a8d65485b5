"""Access keys of the S3 door, kept in HOME/keys.json (0600).

An access key belongs to an owner; several keys may share one. The secret stands in the file in clear: signatures
cannot be checked without it.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import string
from collections.abc import Iterable
from pathlib import Path

import msgspec

from siltstone.errors import AlreadyExists, ConfigInvalid, InvalidArgument, NotFound, Unavailable
from siltstone.home import write_whole

ACCESS_PATTERN = re.compile(r"[A-Za-z0-9._-]{3,128}")
SECRET_PATTERN = re.compile(r"[!-~]{8,256}")
OWNER_PATTERN = re.compile(r"[A-Za-z0-9._@:-]{1,64}")
KEYS_MAX = 10_000


class AccessKey(msgspec.Struct, frozen=True, kw_only=True):
    """One access key: what clients sign with, and whose it is."""

    access: str
    secret: str
    owner: str
    display_name: str


class KeyRing:
    """The access keys of a volume. A change is on disk when the method returns, and holds for lookups from then on."""

    def __init__(self, path: Path, keys: dict[str, AccessKey]) -> None:
        self._path = path
        self._keys = keys

    @classmethod
    def load(cls, path: Path) -> KeyRing:
        """The keys in ``path``; none if there is no such file. Raises ConfigInvalid when it does not parse."""
        try:
            keys = msgspec.json.decode(path.read_bytes(), type=list[AccessKey])
        except FileNotFoundError:
            keys = []
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigInvalid(f"{path} does not hold access keys: {error}") from error
        except OSError as error:
            raise Unavailable(f"cannot read {path}: {error.strerror}") from error
        return cls(path, {key.access: key for key in keys})

    def lookup(self, access: str) -> AccessKey | None:
        """The key with this access id."""
        return self._keys.get(access)

    def list(self) -> list[AccessKey]:
        """All keys, by access id."""
        return [self._keys[access] for access in sorted(self._keys)]

    def add(
        self,
        *,
        access: str | None = None,
        secret: str | None = None,
        owner: str | None = None,
        display_name: str | None = None,
    ) -> AccessKey:
        """Add a key and return it; what is None is generated (owner: the access id; display name: the owner).

        Raises InvalidArgument for a malformed part, AlreadyExists for an access id that is taken.
        """
        if (access is None) != (secret is None):
            raise InvalidArgument("give both --access and --secret, or neither and a pair is generated")
        if len(self._keys) >= KEYS_MAX:
            raise InvalidArgument(f"there are {KEYS_MAX} access keys already, the most that a volume may have")
        access = generate_access() if access is None else access
        secret = secrets.token_urlsafe(30) if secret is None else secret
        owner = access if owner is None else owner
        display_name = owner if display_name is None else display_name
        if not ACCESS_PATTERN.fullmatch(access):
            raise InvalidArgument("an access id is 3 to 128 letters, digits, '.', '_' or '-'")
        if not SECRET_PATTERN.fullmatch(secret):
            raise InvalidArgument("a secret is 8 to 256 printable ASCII characters without a space")
        if not OWNER_PATTERN.fullmatch(owner):
            raise InvalidArgument("an owner id is 1 to 64 letters, digits, '.', '_', '@', ':' or '-'")
        if not display_name.isprintable() or not 1 <= len(display_name) <= 128:
            raise InvalidArgument("a display name is 1 to 128 printable characters")
        if access in self._keys:
            raise AlreadyExists(f"access key {access} exists already")
        key = AccessKey(access=access, secret=secret, owner=owner, display_name=display_name)
        self._replace({**self._keys, access: key})
        return key

    def remove(self, access: str) -> AccessKey:
        """Remove a key and return it. Raises NotFound."""
        if access not in self._keys:
            raise NotFound(f"there is no access key {access}")
        left = dict(self._keys)
        key = left.pop(access)
        self._replace(left)
        return key

    def put_back(self, keys: Iterable[AccessKey]) -> None:
        """Let these be the keys, as they were when they were added."""
        self._replace({key.access: key for key in keys})

    def _replace(self, keys: dict[str, AccessKey]) -> None:
        text = msgspec.json.format(msgspec.json.encode(list(keys.values())), indent=2)
        write_whole(self._path, text + b"\n", mode=0o600)
        self._keys = keys


class FollowedKeys:
    """The access keys of a volume as another process leaves them: the file is looked at before each lookup, and read
    when it has been replaced. One that cannot be read leaves the keys as they were."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._mark()
        self._keys = KeyRing.load(path)

    def lookup(self, access: str) -> AccessKey | None:
        """See KeyRing."""
        mark = self._mark()
        if mark != self._seen:
            with contextlib.suppress(ConfigInvalid, Unavailable):
                self._keys = KeyRing.load(self._path)
                self._seen = mark
        return self._keys.lookup(access)

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def generate_access() -> str:
    """A random access id of the usual form: 20 capital letters and digits."""
    return "SS" + "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(18))
