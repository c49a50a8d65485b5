"""Access keys of the S3 door, kept in HOME/keys.json (0600).

An access key belongs to an owner; several keys may share one. Secrets stand in the file encrypted, see vault.py.
"""

from __future__ import annotations

import base64
import contextlib
import re
import secrets
import string
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from siltstone.errors import AlreadyExists, ConfigInvalid, InvalidArgument, NotFound, Unavailable
from siltstone.home import write_whole
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.policy import Policy, parse_key_policy
from siltstone.vault import KEY_FILE, Vault

ACCESS_PATTERN = re.compile(r"[A-Za-z0-9._-]{3,128}")
SECRET_PATTERN = re.compile(r"[!-~]{8,256}")
OWNER_PATTERN = re.compile(r"[A-Za-z0-9._@:$-]{1,80}")
EMAIL_PATTERN = re.compile(r"[^@\s]{1,64}@[^@\s]{1,190}")
KEYS_MAX = 10_000


class AccessKey(msgspec.Struct, frozen=True, kw_only=True):
    """One access key: what clients sign with, and whose it is."""

    access: str
    secret: str
    owner: str
    display_name: str
    email: str = ""
    rules: str = ""
    """A policy as JSON: what of all that its owner may do the key may; empty: all of it."""

    is_server: bool = False
    """Not a key to sign with, but the volume's own, which objects are encrypted with: 32 bytes in base64."""

    @property
    def policy(self) -> Policy | None:
        """The same, parsed."""
        return _parsed(self.rules) if self.rules else None

    def __repr__(self) -> str:
        """Without the secret: what is printed ends in logs."""
        return f"AccessKey({self.access!r}, owner={self.owner!r})"


class StoredKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An access key as it is kept: its secret ``sealed`` (vault.py), or in clear as an earlier version left it."""

    access: str
    secret: str = ""
    sealed: str = ""
    owner: str
    display_name: str
    email: str = ""
    rules: str = ""
    is_server: bool = False

    def __repr__(self) -> str:
        """Without the secret."""
        return f"StoredKey({self.access!r}, owner={self.owner!r})"


def sealed_key(key: AccessKey, vault: Vault) -> StoredKey:
    """A key as it is kept."""
    fields = msgspec.structs.asdict(key)
    return StoredKey(**(fields | {"secret": "", "sealed": vault.seal(key.access, key.secret)}))


def opened_key(stored: StoredKey, vault: Vault | None) -> AccessKey:
    """A key that was kept. Raises ConfigInvalid when its secret cannot be had."""
    fields = msgspec.structs.asdict(stored)
    sealed = fields.pop("sealed")
    if sealed:
        if vault is None:
            raise ConfigInvalid(
                f"there is no {KEY_FILE}, which the secrets of access keys are encrypted under: put it back from a "
                "backup, or bring the volume back from its disks with `siltstone import`"
            )
        fields["secret"] = vault.open(stored.access, sealed)
    return AccessKey(**fields)


@lru_cache(maxsize=1024)
def _parsed(rules: str) -> Policy:
    return parse_key_policy(rules.encode())


class KeyRing:
    """The access keys of a volume. A change is on disk when the method returns, and holds for lookups from then on."""

    def __init__(self, path: Path, keys: dict[str, AccessKey], vault: Vault | None = None) -> None:
        self._path = path
        self._vault = vault
        self._has_clear = False
        self._keys = keys
        self._owners = _by_owner(keys)
        self._server: AccessKey | None = None

    @classmethod
    def load(cls, path: Path) -> KeyRing:
        """The keys in ``path``; none if there is no such file. Raises ConfigInvalid when it does not parse, or its
        secrets cannot be decrypted with what is beside it."""
        stored: list[StoredKey] = []
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=list[StoredKey])
        except FileNotFoundError:
            pass
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigInvalid(f"{path} does not hold access keys: {error}") from error
        except OSError as error:
            raise Unavailable(f"cannot read {path}: {error.strerror}") from error
        vault = Vault.load(path.with_name(KEY_FILE))
        ring = cls(path, {}, vault)
        ring._take(opened_key(key, vault) for key in stored)
        ring._has_clear = any(key.secret for key in stored)
        return ring

    @property
    def vault(self) -> Vault | None:
        """What the secrets are encrypted under; None before there is any."""
        return self._vault

    def seal(self) -> None:
        """Have no secret stand in the file in clear, as versions before this one left them."""
        if self._has_clear:
            self._replace(self._keys)

    def lookup(self, access: str) -> AccessKey | None:
        """The key with this access id."""
        return self._keys.get(access)

    def user(self, owner: str) -> AccessKey | None:
        """One of the keys of an owner."""
        return self._owners.get(owner)

    def user_by_email(self, email: str) -> AccessKey | None:
        """One of the keys of the owner with that address."""
        return next((key for key in self._keys.values() if key.email and key.email.lower() == email.lower()), None)

    def stored(self) -> tuple[StoredKey, ...]:
        """Everything that is kept, as it is kept: those of ``list``, and the volume's own."""
        found = [*self.list(), *([] if self._server is None else [self._server])]
        if not found:
            return ()
        assert self._vault is not None, "keys are kept with what their secrets are encrypted under"
        return tuple(sealed_key(key, self._vault) for key in found)

    def server_key(self) -> bytes | None:
        """The volume's own key, 32 bytes; None before there is one."""
        return None if self._server is None else base64.b64decode(self._server.secret)

    def make_server_key(self) -> bool:
        """Have there be one; whether it was made now. Without it what was encrypted with it is lost."""
        if self._server is not None:
            return False
        secret = base64.b64encode(secrets.token_bytes(32)).decode()
        self._server = AccessKey(access="server", secret=secret, owner="", display_name="", is_server=True)
        self._replace(self._keys)
        return True

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
        email: str = "",
        rules: str = "",
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
            raise InvalidArgument("an owner id is 1 to 80 letters, digits, '.', '_', '@', ':', '$' or '-'")
        if not display_name.isprintable() or not 1 <= len(display_name) <= 128:
            raise InvalidArgument("a display name is 1 to 128 printable characters")
        if email and not EMAIL_PATTERN.fullmatch(email):
            raise InvalidArgument(f"{email!r} is no e-mail address")
        if rules:
            try:
                _parsed(rules)
            except S3Error as error:
                raise InvalidArgument(f"the policy of the key: {error.message}") from None
        if access in self._keys:
            raise AlreadyExists(f"access key {access} exists already")
        key = AccessKey(access=access, secret=secret, owner=owner, display_name=display_name, email=email, rules=rules)
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
        self._take(keys)
        self._replace(self._keys)

    def _some_vault(self) -> Vault:
        if self._vault is None:
            self._vault = Vault.make()
        return self._vault

    def _take(self, keys: Iterable[AccessKey]) -> None:
        found = list_of(keys)
        self._server = next((key for key in found if key.is_server), None)
        self._keys = {key.access: key for key in found if not key.is_server}
        self._owners = _by_owner(self._keys)

    def _replace(self, keys: dict[str, AccessKey]) -> None:
        vault = self._some_vault()
        vault.save(self._path.with_name(KEY_FILE))  # before anything needs it
        kept = [*keys.values(), *([] if self._server is None else [self._server])]
        text = msgspec.json.format(msgspec.json.encode([sealed_key(key, vault) for key in kept]), indent=2)
        write_whole(self._path, text + b"\n", mode=0o600)
        self._has_clear = False
        self._keys = keys
        self._owners = _by_owner(keys)


list_of = list
"""Inside KeyRing that name is a method's."""


def _by_owner(keys: dict[str, AccessKey]) -> dict[str, AccessKey]:
    return {key.owner: key for key in reversed(keys.values())}


class FollowedKeys:
    """The access keys of a volume as another process leaves them: the file is looked at before each lookup, and read
    when it has been replaced. One that cannot be read leaves the keys as they were."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._mark()
        self._keys = KeyRing.load(path)

    def lookup(self, access: str) -> AccessKey | None:
        """See KeyRing."""
        return self._now().lookup(access)

    def user(self, owner: str) -> AccessKey | None:
        """See KeyRing."""
        return self._now().user(owner)

    def user_by_email(self, email: str) -> AccessKey | None:
        """See KeyRing."""
        return self._now().user_by_email(email)

    def server_key(self) -> bytes | None:
        """See KeyRing."""
        return self._now().server_key()

    def _now(self) -> KeyRing:
        mark = self._mark()
        if mark != self._seen:
            with contextlib.suppress(ConfigInvalid, Unavailable):
                self._keys = KeyRing.load(self._path)
                self._seen = mark
        return self._keys

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def generate_access() -> str:
    """A random access id of the usual form: 20 capital letters and digits."""
    return "SS" + "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(18))


def limited_to(buckets: Sequence[str], prefix: str, *, read_only: bool) -> dict[str, Any] | None:
    """The policy of a key that works only in some buckets, only for keys with a prefix, or only reads; None where
    nothing is asked for."""
    if not (buckets or read_only):
        return None
    read = ["s3:Get*", "s3:List*"]
    if not buckets:
        return {"Statement": [{"Effect": "Allow", "Action": read, "Resource": "*"}]}
    names = [f"arn:aws:s3:::{bucket}" for bucket in buckets]
    objects = [f"{name}/{_literal(prefix)}*" for name in names]
    statements: list[dict[str, Any]] = [
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject*", "s3:ListMultipartUploadParts"]
            if read_only
            else ["s3:GetObject*", "s3:PutObject*", "s3:DeleteObject*", "s3:*Multipart*"],
            "Resource": objects,
        }
    ]
    listing: dict[str, Any] = {"Effect": "Allow", "Action": "s3:List*", "Resource": names}
    if prefix:
        listing["Condition"] = {"StringLike": {"s3:prefix": f"{_literal(prefix)}*"}}
        statements.append({"Effect": "Allow", "Action": "s3:GetBucketLocation", "Resource": names})
    else:
        statements.append({"Effect": "Allow", "Action": read if read_only else "s3:*", "Resource": names})
    return {"Statement": [*statements, listing]}


def _literal(prefix: str) -> str:
    if "*" in prefix or "?" in prefix:
        raise InvalidArgument("a prefix with * or ? would be a pattern: write a policy for it (--policy)")
    return prefix
