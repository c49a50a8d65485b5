"""The configuration of buckets, parsed once: every document is one of ``DOCUMENTS``, and what is parsed is kept by the
bucket's serial number, so that a change is seen at once and nothing is parsed twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import msgspec

from siltstone.core.object_types import NO_DOCUMENTS, BucketInfo
from siltstone.s3gw.acl import PRIVATE, Grants
from siltstone.s3gw.cors import CorsRule, parse_cors
from siltstone.s3gw.lifecycle_rules import Rule, parse_rules
from siltstone.s3gw.policy import Policy, parse_bucket_policy
from siltstone.s3gw.store import Store
from siltstone.s3gw.xml import parse

POLICY = "policy"
ACL = "acl"
OWNERSHIP = "ownership"
PUBLIC_ACCESS_BLOCK = "public-access-block"
CORS = "cors"
ENCRYPTION = "encryption"
NOTIFICATION = "notification"
LOGGING = "logging"
LIFECYCLE = "lifecycle"

CONFIGURATIONS_MAX = 1024

ENFORCED = "BucketOwnerEnforced"
PREFERRED = "BucketOwnerPreferred"
OBJECT_WRITER = "ObjectWriter"


class PublicAccessBlock(NamedTuple):
    """What of public access is kept off; S3's names in small letters."""

    block_public_acls: bool = False
    ignore_public_acls: bool = False
    block_public_policy: bool = False
    restrict_public_buckets: bool = False


class Configuration:
    """What a bucket's documents say. ``ownership``: "" where it was never said, which is as ObjectWriter."""

    def __init__(self, info: BucketInfo, documents: Mapping[str, bytes]) -> None:
        self.info = info
        self.documents = documents

    @cached_property
    def policy(self) -> Policy | None:
        """Its policy."""
        text = self.documents.get(POLICY)
        return None if text is None else parse_bucket_policy(text, self.info.name)

    @cached_property
    def grants(self) -> Grants:
        """Its access control list."""
        text = self.documents.get(ACL)
        return PRIVATE if text is None else msgspec.json.decode(text, type=tuple[str, ...])

    @cached_property
    def ownership(self) -> str:
        """Whose new objects are."""
        return self.documents.get(OWNERSHIP, b"").decode()

    @property
    def has_acls(self) -> bool:
        """Whether access control lists count here."""
        return self.ownership != ENFORCED

    @cached_property
    def public_access_block(self) -> PublicAccessBlock:
        """What is kept off; nothing where there is no document."""
        text = self.documents.get(PUBLIC_ACCESS_BLOCK)
        return PublicAccessBlock() if text is None else msgspec.json.decode(text, type=PublicAccessBlock)

    @cached_property
    def cors(self) -> tuple[CorsRule, ...]:
        """Its rules for browsers."""
        text = self.documents.get(CORS)
        return () if text is None else parse_cors(parse(text))

    @cached_property
    def lifecycle(self) -> tuple[Rule, ...]:
        """What is to go when."""
        text = self.documents.get(LIFECYCLE)
        return () if text is None else parse_rules(parse(text), _has_ids)

    @cached_property
    def encrypts(self) -> bool:
        """Whether what comes without a word on it is encrypted with the server's key."""
        return self.documents.get(ENCRYPTION) is not None


def _has_ids() -> str:
    raise AssertionError("a rule was stored without an ID")


class Configurations:
    """Those of all buckets that were asked for lately."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.logged: dict[str, Configuration] = {}
        """Those of buckets that have an access log, as they were seen last."""
        self._known: OrderedDict[tuple[int, int], Configuration] = OrderedDict()

    async def of(self, info: BucketInfo) -> Configuration:
        """A bucket's, as ``info`` has it or newer. Raises NoSuchBucket."""
        if info.serial == 0:
            return self._noted(Configuration(info, NO_DOCUMENTS))
        known = self._known.get((info.ino, info.serial))
        if known is not None and known.info.name == info.name:
            self._known.move_to_end((info.ino, info.serial))
            return self._noted(known)
        now, documents = await self._store.bucket_documents(info.name)
        found = self._known[now.ino, now.serial] = Configuration(now, documents)
        while len(self._known) > CONFIGURATIONS_MAX:
            self._known.popitem(last=False)
        return self._noted(found)

    def _noted(self, config: Configuration) -> Configuration:
        if LOGGING in config.documents:
            self.logged[config.info.name] = config
            while len(self.logged) > CONFIGURATIONS_MAX:
                del self.logged[next(iter(self.logged))]
        elif self.logged:
            self.logged.pop(config.info.name, None)
        return config
