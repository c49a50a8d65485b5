"""What shards say to each other. msgspec structs, array-like and tagged: they are sent as msgpack.

Every request may arrive late, twice, or not at all, and so may its answer; docs/decisions/0011 says why that does no
harm.
"""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec

from siltstone.errors import Unavailable
from siltstone.meta.shards.map import Placement
from siltstone.types import ShardId

Entries = list[tuple[bytes, bytes]]


class Fetch(msgspec.Struct, array_like=True, tag="fetch", frozen=True):
    """Wants records, and the first part of ranges (start, end, reverse). What is about to change is waited for;
    with ``exact`` also counts and times that are.

    A partition's counters are fetched to make an inode: the answer's ``serial + 1`` is reserved for whoever asked.
    """

    keys: list[bytes]
    ranges: list[tuple[bytes, bytes, bool]]
    exact: bool


class Fetched(msgspec.Struct, array_like=True, tag="fetched", frozen=True):
    """Values in the order of the keys; of each range some entries, and the range that is left."""

    values: list[bytes | None]
    chunks: list[tuple[Entries, tuple[bytes, bytes] | None]]


class Change(msgspec.Struct, array_like=True, frozen=True):
    """A record that changes from ``old`` (None also where nothing is merged) to ``new`` (None: it goes)."""

    key: bytes
    old: bytes | None
    new: bytes | None


class Prepare(msgspec.Struct, array_like=True, tag="prepare", frozen=True):
    """Is this still so, and can it change so? Then hold it until the end. ``lasting``: also across a crash."""

    transaction: bytes
    reads: list[tuple[bytes, bytes | None]]
    scans: list[tuple[bytes, bytes, bool, Entries]]
    changes: list[Change]
    lasting: bool


class Vote(msgspec.Struct, array_like=True, tag="vote", frozen=True):
    """Whether it is prepared; otherwise nothing is held."""

    prepared: bool


class Decide(msgspec.Struct, array_like=True, tag="decide", frozen=True):
    """The end of a transaction: make its changes, or none."""

    transaction: bytes
    commit: bool


class Ask(msgspec.Struct, array_like=True, tag="ask", frozen=True):
    """What has become of this transaction of yours?"""

    transaction: bytes


class Verdict(enum.IntEnum):
    """What a coordinator knows of one of its transactions."""

    OPEN = 0
    COMMITTED = 1
    ABORTED = 2
    """Or never heard of, or everybody has made its changes long ago."""


class Told(msgspec.Struct, array_like=True, tag="told", frozen=True):
    """The answer to Ask."""

    verdict: Verdict


class Settle(msgspec.Struct, array_like=True, tag="settle", frozen=True):
    """Which of these committed transactions have been made here, durably?"""

    transactions: list[bytes]


class Settled(msgspec.Struct, array_like=True, tag="settled", frozen=True):
    """Those that have."""

    transactions: list[bytes]


class Forget(msgspec.Struct, array_like=True, tag="forget", frozen=True):
    """These have been made everywhere; nobody will ask again."""

    transactions: list[bytes]


class NotMine(msgspec.Struct, array_like=True, tag="not-mine", frozen=True):
    """Nothing was done: these partitions have other owners."""

    placements: list[Placement]


class Copy(msgspec.Struct, array_like=True, tag="copy", frozen=True):
    """A part of a partition that may come: keep it, for nobody to see (meta/shards/handover.py).

    ``attempt``: grows with each time that its owner begins to give a partition away. ``step``: from 0 on; with the
    first all that earlier attempts left goes. An entry without a value is one that went meanwhile.
    """

    partition: int
    giver: int
    attempt: int
    step: int
    entries: list[tuple[bytes, bytes | None]]


class Seal(msgspec.Struct, array_like=True, tag="seal", frozen=True):
    """That was all, in ``steps`` steps. Is it all there, durably? Then it stays until its owner says whose it is."""

    partition: int
    attempt: int
    steps: int


class Handed(msgspec.Struct, array_like=True, tag="handed", frozen=True):
    """The partition is yours: the owner has committed that."""

    placement: Placement
    giver: int
    attempt: int


class AskHanded(msgspec.Struct, array_like=True, tag="ask-handed", frozen=True):
    """What has become of this attempt of yours to give a partition away?"""

    partition: int
    attempt: int


class ListLent(msgspec.Struct, array_like=True, tag="list-lent", frozen=True):
    """Which inodes behind ``after`` do you still have bytes of, of the partition that you gave away with this move?"""

    partition: int
    generation: int
    after: int


class Lent(msgspec.Struct, array_like=True, tag="lent", frozen=True):
    """Some, in order; none: there are no more. ``is_ready``: false while the owner of old is still sorting them out."""

    is_ready: bool
    inodes: list[int]


class ReadLent(msgspec.Struct, array_like=True, tag="read-lent", frozen=True):
    """Wants bytes of such an inode."""

    ino: int
    offset: int
    size: int


class Bytes(msgspec.Struct, array_like=True, tag="bytes", frozen=True):
    """These."""

    data: bytes


class Release(msgspec.Struct, array_like=True, tag="release", frozen=True):
    """The bytes of these inodes are needed no more."""

    partition: int
    generation: int
    inodes: list[int]


class Done(msgspec.Struct, array_like=True, tag="done", frozen=True):
    """Carried out."""


class Failed(msgspec.Struct, array_like=True, tag="failed", frozen=True):
    """An error: the name of its class in errors.py, and its text."""

    kind: str
    message: str


Message = (
    Fetch | Prepare | Decide | Ask | Settle | Forget | Copy | Seal | Handed | AskHanded | ListLent | ReadLent | Release
)
Reply = Fetched | Vote | Told | Settled | NotMine | Lent | Bytes | Done


class PeerLost(Unavailable):
    """Another shard gives no answer; whether it got the request is not known."""


class Peers(Protocol):
    """The other shards."""

    async def call(self, shard: ShardId, message: Message) -> Reply:
        """The answer of a shard. Raises PeerLost."""
