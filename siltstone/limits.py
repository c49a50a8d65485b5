"""Fixed sizes and bounds, and the relations between them that the code relies on. Sizes are in bytes."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

NAME_BYTES_MAX = 255
SYMLINK_BYTES_MAX = 4095
KEY_BYTES_MAX = 1024
FILE_BYTES_MAX = 2**62
LINK_COUNT_MAX = 2**31 - 1
XATTR_VALUE_BYTES_MAX = 64 * KIB
XATTR_LIST_BYTES_MAX = 64 * KIB

CHECKSUM_BLOCK_BYTES = 16 * KIB
"""One xxh3-64 guards this much of a unit, or of a payload in the log."""

ROW_BYTES = 4 * KIB
"""Rows of a slab are allocated in this step; a unit is a whole number of rows."""

SLOT_BYTES = 128
"""Extents inside a stripe start on multiples of this (docs/decisions/0008)."""

UNIT_BYTES_MAX = 1 * MIB
"""Longest unit of a stripe of full width: a stripe holds at most k of them. Narrower stripes hold as much."""

INLINE_BYTES_MAX = 128
"""A file's run of at most this many bytes sits in its extent record."""

DIRECT_THRESHOLD_BYTES = 256 * KIB
"""Runs of at least this size go to stripes at once; smaller ones ride in the log."""

FRAME_BYTES_MAX = 8 * MIB
"""Longest frame of the log: header, payload and body."""

CHUNK_BYTES_DEFAULT = 64 * MIB
SEGMENT_BYTES_DEFAULT = 64 * MIB

RESERVE_CHUNKS = 3
"""Chunks (as long as log segments, by default) that a new slab leaves free on each disk: a full pool must be able to
log deletes (one segment in use, one to re-replicate another when a disk fails), and settle needs one slab to empty
the log into, which is what makes room."""

RESERVE_CHUNKS_FOR_LOG = 2
"""How much of that stays for the log alone, when settle or rebuild makes a slab."""

RESERVE_CHUNKS_FOR_SETTLE = 1
"""How much of it stays when settle or relocation writes rows of a slab that is there. They make room soon after: what
leaves the log has taken more there, in all its copies, than it takes in stripes."""

DISK_TIMEOUT_SECONDS = 30.0
"""By default a disk that gives no answer for so long is out of service. A disk that spins up takes up to 20 s, and
what the kernel tries again by itself (SCSI: 30 s a try) is lost either way."""

LOG_REPLICAS = 3
PARTITION_COUNT = 256
LOG_SEGMENTS_MIN = 8
"""However small disks are, the log may be as long as so many segments, or nothing could be gathered in it."""

SHARDS_MAX = 64
"""Processes that a volume's metadata may be spread over; each has threads, a log and a share of the memory."""

DISKS_MAX = 256
UNITS_MAX = 32
"""k + m of a stripe."""

MULTIPART_PART_BYTES_MIN = 5 * MIB
MULTIPART_PARTS_MAX = 10_000
USER_METADATA_BYTES_MAX = 2 * KIB

assert CHECKSUM_BLOCK_BYTES % ROW_BYTES == 0
assert ROW_BYTES % SLOT_BYTES == 0
assert UNIT_BYTES_MAX % ROW_BYTES == 0
assert CHUNK_BYTES_DEFAULT % UNIT_BYTES_MAX == 0
assert CHUNK_BYTES_DEFAULT // ROW_BYTES <= 1 << 16, "a row number has 16 bits in a stripe id"
assert DIRECT_THRESHOLD_BYTES < FRAME_BYTES_MAX <= SEGMENT_BYTES_DEFAULT
assert 1 <= RESERVE_CHUNKS_FOR_SETTLE < RESERVE_CHUNKS_FOR_LOG < RESERVE_CHUNKS
assert SHARDS_MAX <= PARTITION_COUNT
assert INLINE_BYTES_MAX < CHECKSUM_BLOCK_BYTES

BUCKET_DOCUMENT_BYTES_MAX = 256 * KIB
"""One document of a bucket's configuration, as it is stored."""
