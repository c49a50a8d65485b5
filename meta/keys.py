"""The keys of the metadata store: composed and taken apart here and nowhere else.

All integers are big endian, so that keys sort by number. Partition-scoped keys start with ``p`` and the partition;
what describes the shard's own space (slabs, stripes, references) starts with ``s``.

| key | record |
|---|---|
| ``p`` partition ``c`` | Counters |
| ``p`` partition ``d`` directory ino (8) name | Dentry |
| ``p`` partition ``e`` ino (8) file offset (8) | Extent |
| ``p`` partition ``h`` ino (8) directory ino (8) | how many names (4) a file with more than one has in the directory |
| ``p`` partition ``i`` ino (8) | Inode |
| ``p`` partition ``g`` directory ino (8) name | a document of a bucket's configuration, raw |
| ``p`` partition ``k`` directory ino (8) | Bucket |
| ``p`` partition ``l`` directory ino (8) | Quota |
| ``p`` partition ``m`` bucket ino (8) key 00 upload id (16) | Upload |
| ``p`` partition ``n`` upload id (16) part number (2) | Part |
| ``p`` partition ``q`` client (16) request number (8) | what the request was answered, msgpack; number 0: Watermark |
| ``p`` partition ``o`` ino (8) | empty: an orphan (no name, to be purged when nobody holds it) |
| ``p`` partition ``b`` ino (8) | Object |
| ``p`` partition ``t`` removed, nanoseconds (8) ino (8) | Trashed |
| ``p`` partition ``u`` directory ino (8) | Usage |
| ``p`` partition ``v`` directory ino (8) name 00 | place in the order (8) of the name's null version |
| ``p`` partition ``v`` directory ino (8) name 00 place in the order, from above (8) | Version |
| ``p`` partition ``x`` ino (8) name | value of an extended attribute, raw |
| ``p`` partition ``z`` ino (8) | TreeSnapshot, of the top of a snapshot |
| ``s`` ``S`` slab id (4) | Slab |
| ``s`` ``T`` stripe id (8) | Stripe |
| ``s`` ``f`` stripe id (8) | Fill: bytes that are on their way to dead places of the stripe |
| ``s`` ``K`` stripe id (8) | checksums of the stripe's units, raw |
| ``s`` ``a`` | AwayRecord: since when disks are away |
| ``s`` ``c`` | ScrubRecord: how far scrubbing has come |
| ``s`` ``l`` log address (8) skip (4) ino (8) file offset (8) | length (4): an extent refers to the log here |
| ``s`` ``r`` stripe id (8) skip (4) ino (8) file offset (8) | length (4): an extent refers to the stripe here |
| ``s`` ``m`` partition, lent ino (8) offset in it (8) ino (8) file offset (8) | length (4): an extent of REMOTE bytes |
| ``x`` ``i`` transaction (16) | Intent: what a transaction of another shard may change here; empty once it has |
| ``x`` ``d`` transaction (16) | Decision: a transaction of this shard is committed, others may not have heard |
| ``x`` ``f`` | the note of the last batch that has one, raw (meta/notes.py) |
| ``x`` ``p`` partition | Moved: where a partition is that has come or gone |
| ``x`` ``s`` partition | Staged: a partition that is on its way here |
| ``x`` ``l`` partition | Placement: the shard that still has bytes of a partition of this one, and as of which move |
| ``x`` ``n`` | how often this shard has begun to give a partition away (8) |

A directory's entries and the inodes of its files are in the directory's partition; all keys of one inode are in the
partition that its number names. Uploads and parts are in the partition of their bucket's directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, unpack
from typing import NamedTuple

from siltstone.meta.zero_free import escape, unescape
from siltstone.types import Ino, PartitionId, SlabId, StripeId, TransactionId

_HEAD = Struct(">cBcQ")
_HEAD_OFFSET = Struct(">cBcQQ")
_PART = Struct(">cBc16sH")
_ANSWER = Struct(">cBc16sQ")
_SLAB = Struct(">2sI")
_STRIPE = Struct(">2sQ")
_REFERENCE = Struct(">2sQIQQ")
_BORROWED = Struct(">2sBQQQQ")
_LENGTH = Struct(">I")

INO_KEY_BYTES = _HEAD.size
"""Length of a key that ends with an inode number; a name follows in dentry and xattr keys."""


def inode(ino: Ino) -> bytes:
    """Key of an inode."""
    return _HEAD.pack(b"p", ino & 0xFF, b"i", ino)


def inode_ino(key: bytes) -> Ino:
    """The inode number in an inode key, or in any key that goes on behind one (the directory of a dentry, ...)."""
    return Ino(int.from_bytes(key[3:INO_KEY_BYTES], "big"))


def dentry(directory: Ino, name: bytes) -> bytes:
    """Key of a directory entry."""
    return _HEAD.pack(b"p", directory & 0xFF, b"d", directory) + name


def dentry_name(key: bytes) -> bytes:
    """The name in a dentry key."""
    return key[INO_KEY_BYTES:]


def extent(ino: Ino, offset: int) -> bytes:
    """Key of the extent that starts at a file offset."""
    return _HEAD_OFFSET.pack(b"p", ino & 0xFF, b"e", ino, offset)


def extent_offset(key: bytes) -> int:
    """The file offset in an extent key."""
    return int.from_bytes(key[-8:], "big")


def object_(ino: Ino) -> bytes:
    """Key of an Object record."""
    return _HEAD.pack(b"p", ino & 0xFF, b"b", ino)


def bucket(directory: Ino) -> bytes:
    """Key of a Bucket record."""
    return _HEAD.pack(b"p", directory & 0xFF, b"k", directory)


def bucket_document(directory: Ino, name: bytes) -> bytes:
    """Key of a document of a bucket's configuration."""
    return _HEAD.pack(b"p", directory & 0xFF, b"g", directory) + name


def bucket_document_name(key: bytes) -> bytes:
    """The document's name in such a key."""
    return key[INO_KEY_BYTES:]


ORDER_MAX = 1 << 63
"""Places in the order of versions are below; they are times, in nanoseconds, or a little later."""


def version(directory: Ino, name: bytes, order: int) -> bytes:
    """Key of a version of a name, by its place in the order; newer ones sort first."""
    assert 0 <= order < ORDER_MAX
    return null_version(directory, name) + (2 * ORDER_MAX - 1 - order).to_bytes(8, "big")


def null_version(directory: Ino, name: bytes) -> bytes:
    """Key of where the null version of a name is."""
    return versions(directory) + name + b"\0"


def versions_end(directory: Ino, name: bytes) -> bytes:
    """The end of the versions of a name."""
    return versions(directory) + name + b"\1"


def version_name(key: bytes) -> bytes:
    """The name in the key of a version, or of where the null version is."""
    return key[INO_KEY_BYTES : key.index(b"\0", INO_KEY_BYTES)]


def version_order(key: bytes) -> int:
    """The place in the order in the key of a version."""
    return 2 * ORDER_MAX - 1 - int.from_bytes(key[-8:], "big")


def is_version(key: bytes) -> bool:
    """Whether a key of that kind is of a version, and not of where the null version is."""
    return key.index(b"\0", INO_KEY_BYTES) < len(key) - 1


def tree_snapshot(top: Ino) -> bytes:
    """Key of a TreeSnapshot record."""
    return _HEAD.pack(b"p", top & 0xFF, b"z", top)


def home(ino: Ino, directory: Ino) -> bytes:
    """Key of how many names a file has in a directory."""
    return _HEAD_OFFSET.pack(b"p", ino & 0xFF, b"h", ino, directory)


def home_directory(key: bytes) -> Ino:
    """The directory in such a key."""
    return Ino(int.from_bytes(key[-8:], "big"))


def usage(directory: Ino) -> bytes:
    """Key of what is in a directory and below it."""
    return _HEAD.pack(b"p", directory & 0xFF, b"u", directory)


def quota(directory: Ino) -> bytes:
    """Key of the limits of a directory tree."""
    return _HEAD.pack(b"p", directory & 0xFF, b"l", directory)


def orphan(ino: Ino) -> bytes:
    """Key of an orphan mark."""
    return _HEAD.pack(b"p", ino & 0xFF, b"o", ino)


def orphan_ino(key: bytes) -> Ino:
    """The inode in an orphan key."""
    return Ino(int.from_bytes(key[3:11], "big"))


def trash(ino: Ino, removed_ns: int) -> bytes:
    """Key of an inode in the trash."""
    return _HEAD_OFFSET.pack(b"p", ino & 0xFF, b"t", removed_ns, ino)


def trash_removed_ns(key: bytes) -> int:
    """Since when it is there."""
    return int.from_bytes(key[3:11], "big")


def trash_ino(key: bytes) -> Ino:
    """The inode in a key of the trash."""
    return Ino(int.from_bytes(key[11:19], "big"))


def xattr(ino: Ino, name: bytes) -> bytes:
    """Key of an extended attribute."""
    return _HEAD.pack(b"p", ino & 0xFF, b"x", ino) + name


def xattr_name(key: bytes) -> bytes:
    """The attribute's name in an xattr key."""
    return key[INO_KEY_BYTES:]


def counters(partition: PartitionId) -> bytes:
    """Key of a partition's totals."""
    return b"p" + bytes((partition,)) + b"c"


def upload(bucket_ino: Ino, key: bytes, upload_id: bytes) -> bytes:
    """Key of an Upload record. ``upload_id`` has 16 bytes."""
    assert len(upload_id) == 16
    return uploads(bucket_ino, key) + b"\0" + upload_id


def upload_parts(key: bytes) -> tuple[bytes, bytes]:
    """(object key, upload id) of an upload key."""
    name = unescape(key[INO_KEY_BYTES:-17])
    assert name is not None, "an upload's key is not written as one is"
    return name, key[-16:]


def part(partition: PartitionId, upload_id: bytes, number: int) -> bytes:
    """Key of a Part record."""
    assert len(upload_id) == 16
    return _PART.pack(b"p", partition, b"n", upload_id, number)


def answer(partition: PartitionId, client: bytes, number: int) -> bytes:
    """Key of the answer to a numbered request of a client; number 0 has the client's watermark."""
    assert len(client) == 16
    return _ANSWER.pack(b"p", partition, b"q", client, number)


def answer_client(key: bytes) -> bytes:
    """The client in an answer key."""
    return key[3:19]


def part_number(key: bytes) -> int:
    """The part number in a part key."""
    return int.from_bytes(key[-2:], "big")


def slab(slab_id: SlabId) -> bytes:
    """Key of a slab."""
    return _SLAB.pack(b"sS", slab_id)


def slab_id(key: bytes) -> SlabId:
    """The slab of a slab key."""
    return SlabId(int.from_bytes(key[2:], "big"))


def stripe(stripe_id: StripeId) -> bytes:
    """Key of a stripe."""
    return _STRIPE.pack(b"sT", stripe_id)


def stripe_id(key: bytes) -> StripeId:
    """The stripe of a stripe, checksum or fill key."""
    return StripeId(int.from_bytes(key[2:10], "big"))


def stripe_checksums(stripe_id: StripeId) -> bytes:
    """Key of the checksums of a stripe."""
    return _STRIPE.pack(b"sK", stripe_id)


def fill(stripe_id: StripeId) -> bytes:
    """Key of the redo record of a stripe that is being filled."""
    return _STRIPE.pack(b"sf", stripe_id)


class Reference(NamedTuple):
    """Who refers to bytes in the log or in a stripe: the back reference of one extent record."""

    address: int
    skip: int
    ino: Ino
    offset: int


def log_reference(reference: Reference) -> bytes:
    """Key of the back reference of a LOG extent."""
    return _REFERENCE.pack(b"sl", *reference)


def stripe_reference(reference: Reference) -> bytes:
    """Key of the back reference of a STRIPE extent."""
    return _REFERENCE.pack(b"sr", *reference)


def parse_reference(key: bytes) -> Reference:
    """The back reference of a key."""
    _, address, skip, ino, offset = _REFERENCE.unpack(key)
    return Reference(address, skip, Ino(ino), offset)


class Borrowed(NamedTuple):
    """Who refers to bytes that another shard has: the back reference of one REMOTE extent record."""

    lent_ino: Ino
    """The inode there whose bytes they are, and the offset in it."""
    lent_offset: int
    ino: Ino
    offset: int


def borrowed_reference(borrowed: Borrowed) -> bytes:
    """Key of the back reference of a REMOTE extent."""
    return _BORROWED.pack(b"sm", borrowed.lent_ino & 0xFF, *borrowed)


def parse_borrowed(key: bytes) -> Borrowed:
    """The back reference of a key."""
    _, _, lent_ino, lent_offset, ino, offset = _BORROWED.unpack(key)
    return Borrowed(Ino(lent_ino), lent_offset, Ino(ino), offset)


def borrowed_of(partition: PartitionId, lent_ino: Ino | None = None) -> bytes:
    """Prefix of the references to bytes of a partition, or of one inode of it, that another shard has."""
    return b"sm" + bytes((partition,)) + (b"" if lent_ino is None else lent_ino.to_bytes(8, "big"))


def encode_length(length: int) -> bytes:
    """Value of a back reference."""
    return _LENGTH.pack(length)


def sum_of_lengths(values: Sequence[bytes]) -> int:
    """What the values of some back references add up to."""
    return sum(unpack(f">{len(values)}I", b"".join(values)))


def decode_length(value: bytes) -> int:
    """The length in a back reference's value."""
    length: int = _LENGTH.unpack(value)[0]
    return length


# --- ranges, as [start, end) ---------------------------------------------------------------------------------------


def after(key: bytes) -> bytes:
    """The smallest key behind all keys that start with ``key``."""
    stripped = key.rstrip(b"\xff")
    assert stripped, "a prefix of only 0xff has no end"
    return stripped[:-1] + bytes((stripped[-1] + 1,))


def prefix_range(prefix: bytes) -> tuple[bytes, bytes]:
    """The range of all keys that start with ``prefix``."""
    return prefix, after(prefix)


def dentries(directory: Ino) -> bytes:
    """Prefix of a directory's entries."""
    return dentry(directory, b"")


def extents(ino: Ino) -> bytes:
    """Prefix of a file's extents."""
    return _HEAD.pack(b"p", ino & 0xFF, b"e", ino)


def xattrs(ino: Ino) -> bytes:
    """Prefix of an inode's extended attributes."""
    return xattr(ino, b"")


def homes(ino: Ino) -> bytes:
    """Prefix of the directories that a file with more than one name has names in."""
    return _HEAD.pack(b"p", ino & 0xFF, b"h", ino)


def bucket_documents(directory: Ino) -> bytes:
    """Prefix of the documents of a bucket's configuration."""
    return bucket_document(directory, b"")


def versions(directory: Ino) -> bytes:
    """Prefix of the versions of a directory's names."""
    return _HEAD.pack(b"p", directory & 0xFF, b"v", directory)


def uploads(bucket_ino: Ino, prefix: bytes = b"") -> bytes:
    """Prefix of a bucket's uploads whose keys have a prefix, in the order of their keys."""
    return _HEAD.pack(b"p", bucket_ino & 0xFF, b"m", bucket_ino) + escape(prefix)


def parts(partition: PartitionId, upload_id: bytes) -> bytes:
    """Prefix of an upload's parts."""
    return b"p" + bytes((partition,)) + b"n" + upload_id


def partition_from(partition: int) -> bytes:
    """The smallest key of a partition; of 256, the end of all partitions."""
    return b"p" + bytes((partition,)) if partition < 256 else b"q"


def kind_of(key: bytes) -> bytes:
    """The letter that says what kind of record a partition-scoped key has; empty of any other key."""
    return key[2:3] if key[:1] == b"p" else b""


def key_partition(key: bytes) -> PartitionId:
    """The partition of a partition-scoped key."""
    return PartitionId(key[1])


def all_of(kind: bytes, partition: PartitionId) -> bytes:
    """Prefix of all records of one kind in a partition; ``kind`` is one of the letters below."""
    return b"p" + bytes((partition,)) + kind


ANSWER = b"q"
COUNTERS = b"c"
DENTRY = b"d"
EXTENT = b"e"
INODE = b"i"
OBJECT = b"b"
BUCKET = b"k"
BUCKET_DOCUMENT = b"g"
UPLOAD = b"m"
PART = b"n"
ORPHAN = b"o"
PART = b"n"
TRASH = b"t"
HOME = b"h"
USAGE = b"u"
QUOTA = b"l"
VERSION = b"v"
XATTR = b"x"
TREE_SNAPSHOT = b"z"


NOTE = b"xf"
INTENTS = b"xi"
DECISIONS = b"xd"


def intent(transaction: TransactionId) -> bytes:
    """Key of what a transaction that another shard coordinates may change here."""
    return INTENTS + transaction


def decision(transaction: TransactionId) -> bytes:
    """Key of the commit of a transaction that this shard coordinates."""
    return DECISIONS + transaction


MOVED = b"xp"
STAGED = b"xs"
LENDERS = b"xl"
HANDOVERS = b"xn"
"""Key of how often the shard has begun to give a partition away."""


def moved(partition: PartitionId) -> bytes:
    """Key of where a partition is that came to this shard or went from it."""
    return MOVED + bytes((partition,))


def staged(partition: PartitionId) -> bytes:
    """Key of a partition that is on its way here."""
    return STAGED + bytes((partition,))


def lender(partition: PartitionId) -> bytes:
    """Key of the shard that still has bytes of a partition of this one."""
    return LENDERS + bytes((partition,))


def partition_of_move(key: bytes) -> PartitionId:
    """The partition of one of these three."""
    return PartitionId(key[2])


def transaction_id(key: bytes) -> TransactionId:
    """The transaction of an intent or decision key."""
    return TransactionId(key[2:])


AWAY = b"sa"
"""Key of the record of disks that are away."""

SCRUB = b"sc"
"""Key of the record of scrubbing."""

USAGE_STATE = b"su"
"""Key of the mark that the Usage records are right."""

SLABS = b"sS"
STRIPES = b"sT"
FILLS = b"sf"
STRIPE_CHECKSUMS = b"sK"
LOG_REFERENCES = b"sl"
STRIPE_REFERENCES = b"sr"
BORROWED = b"sm"


def log_references_from(address: int) -> bytes:
    """First key of the references to log addresses at or after ``address``."""
    return _STRIPE.pack(b"sl", address)


def references_of_stripe(stripe_id: StripeId) -> bytes:
    """Prefix of the references to one stripe."""
    return _STRIPE.pack(b"sr", stripe_id)
