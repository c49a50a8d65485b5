"""The settings of a volume, as they stand in HOME/volume.json, and what makes them valid. Pure."""

from __future__ import annotations

import msgspec

from siltstone.errors import ConfigInvalid, Refused
from siltstone.limits import (
    CHUNK_BYTES_DEFAULT,
    DISK_TIMEOUT_SECONDS,
    DISKS_MAX,
    FRAME_BYTES_MAX,
    GIB,
    KIB,
    LOG_REPLICAS,
    LOG_SEGMENTS_MIN,
    MIB,
    PARTITION_COUNT,
    ROW_BYTES,
    SEGMENT_BYTES_DEFAULT,
    SHARDS_MAX,
    UNITS_MAX,
)

DISK_TIMEOUT_MIN = 1.0
DISK_TIMEOUT_MAX = 3600.0

DISK_ROLES = ("member", "new", "draining", "lost")


class DiskConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One disk: its slot, its directory, its own id, how much of it may be used (0: all), and what it is to the volume.

    ``role``: member, new (it has less than its share yet), draining (its data is moved to others), or lost (gone for
    good: what it held is rebuilt elsewhere).
    """

    disk_id: int
    path: str
    uuid: str
    bytes_max: int = 0
    role: str = "member"


DAY_SECONDS = 24 * 3600.0


class VolumeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a volume. Sizes in bytes, times in seconds."""

    format: int = 1
    uuid: str
    data_units: int
    parity_units: int
    disks: tuple[DiskConfig, ...]
    log_replicas: int = LOG_REPLICAS
    chunk_bytes: int = CHUNK_BYTES_DEFAULT
    segment_bytes: int = SEGMENT_BYTES_DEFAULT
    commit_interval: float = 1.0
    dirty_bytes_max: int = 128 * MIB
    log_bytes_high: int = 1 * GIB
    log_bytes_low: int = 256 * MIB
    lmdb_bytes_max: int = 64 * GIB
    serial: int = 0
    """Grows with every change of these settings or of the access keys. The labels of the disks carry it, too."""
    leaving: tuple[DiskConfig, ...] = ()
    """Disks that were removed, and whose directories are yet to be emptied."""
    next_disk_id: int = 0
    """No disk of a lower number is ever added: what a removed disk may still hold must never pass for another's."""
    disk_timeout: float = DISK_TIMEOUT_SECONDS
    """A disk that gives no answer for so long is out of service, and everything that waits for it fails."""
    rebuild_grace: float = 600.0
    """How long a disk may be away before what it holds is rebuilt on others; 0: at once."""
    rebuild_bytes_per_second: int = 0
    """How fast units are moved to other disks; 0: as fast as the foreground allows."""
    scrub_interval: float = 30 * 24 * 3600.0
    """From the end of one pass of scrubbing to the next; 0: never by itself."""
    scrub_bytes_per_second: int = 64 * MIB
    """How fast the passes in the background may read, of all disks together; 0: without limit."""
    lifecycle_day: float = DAY_SECONDS
    """How long a day of lifecycle rules is; anything but a day is for tests."""
    lifecycle_per_second: int = 1000
    """How many versions lifecycle rules delete in a second, at most; five times as many are looked at."""
    snapshot_bytes_min: int = 16 * MIB
    """A full snapshot of the metadata is not taken for fewer bytes of increments than this."""

    feed_window: float = 24 * 3600.0
    """How long changes can be read back by who watches them; 0: only as long as they are kept anyway."""
    trash_days: float = 0.0
    """How long what is removed is kept in the trash; 0: not at all."""

    shards: int = 1
    """Processes that the metadata is spread over."""
    shards_void: int = 0
    """What shards from ``shards`` up to, and without, this one have in HOME and on the disks is worth nothing: they are
    being made, or are gone. 0: there is nothing of the kind."""
    shards_wanted: int = 0
    """So many of the shards are to have something; 0: all."""
    shards_max: int = 0
    """So many shards the volume may have by itself, when there is much to do; 0: it never gets any by itself."""
    grow_share: float = 0.8
    grow_seconds: float = 60.0
    """It gets one more when they have used so much of a processor on average for so long,"""
    shrink_share: float = 0.4
    shrink_seconds: float = 1800.0
    """and gives one back when all together would have left those that remain under this for so long."""
    shards_sized: int = 0
    """The lengths above are right for so many shards; 0: for as many as there are."""
    map_version: int = 1
    """Of no use any more: volumes of version 0.1 have it."""
    partition_owners: str = ""
    """The shard of each partition, two hexadecimal digits each; empty: shard 0 has all. Where a partition has moved
    since, the shards know (meta/shards/map.py)."""
    balance_shards: bool = True
    """Partitions go from a busy shard to an idle one by themselves."""
    partition_generations: str = ""
    """How often each partition has moved, eight hexadecimal digits each; empty: never."""

    def check(self) -> None:
        """Raise ConfigInvalid with what is wrong and what to do, if anything is."""
        k, m, n = self.data_units, self.parity_units, len(self.disks)
        if self.format != 1:
            raise ConfigInvalid(f"volume format {self.format} is not known to this version of siltstone (it knows 1)")
        if k < 1 or m < 0 or k + m > UNITS_MAX:
            raise ConfigInvalid(f"erasure code {k}+{m}: want K >= 1, M >= 0 and K+M <= {UNITS_MAX}")
        if not 1 <= n <= DISKS_MAX:
            raise ConfigInvalid(f"{n} disks: want 1 to {DISKS_MAX}")
        if k + m > n:
            raise ConfigInvalid(f"erasure code {k}+{m} needs {k + m} disks, there are {n}: add disks or narrow it")
        if len({disk.disk_id for disk in self.disks}) != n or len({disk.path for disk in self.disks}) != n:
            raise ConfigInvalid("the same disk is listed twice")
        chunk_max = ROW_BYTES << 16
        if self.chunk_bytes % ROW_BYTES or not ROW_BYTES <= self.chunk_bytes <= chunk_max:
            raise ConfigInvalid(f"chunk_bytes {self.chunk_bytes}: want a multiple of {ROW_BYTES} up to {chunk_max}")
        if self.segment_bytes < 64 * KIB or self.segment_bytes % ROW_BYTES:
            raise ConfigInvalid(f"segment_bytes {self.segment_bytes}: want a multiple of {ROW_BYTES} from 64 KiB up")
        if not 1 <= self.log_replicas <= n:
            raise ConfigInvalid(f"log_replicas {self.log_replicas}: want 1 to {n}, the number of disks")
        if any(disk.role not in DISK_ROLES for disk in self.disks):
            raise ConfigInvalid(f"a disk with an unknown role: want one of {', '.join(DISK_ROLES)}")
        if not DISK_TIMEOUT_MIN <= self.disk_timeout <= DISK_TIMEOUT_MAX:
            raise ConfigInvalid(
                f"disk_timeout {self.disk_timeout:g}: want {DISK_TIMEOUT_MIN:g} to {DISK_TIMEOUT_MAX:g} seconds"
            )
        if self.rebuild_grace < 0 or self.rebuild_bytes_per_second < 0:
            raise ConfigInvalid("rebuild_grace and rebuild_bytes_per_second must not be negative")
        if self.scrub_interval < 0 or self.scrub_bytes_per_second < 0:
            raise ConfigInvalid("scrub_interval and scrub_bytes_per_second must not be negative")
        if not 1 <= self.lifecycle_day <= DAY_SECONDS or self.lifecycle_per_second < 1:
            raise ConfigInvalid(
                f"lifecycle_day {self.lifecycle_day:g}: want 1 to {DAY_SECONDS:g} seconds; "
                f"lifecycle_per_second {self.lifecycle_per_second}: want 1 or more"
            )
        if self.feed_window < 0 or self.trash_days < 0:
            raise ConfigInvalid("feed_window and trash_days must not be negative")
        if self.trash_days and (self.shards > 1 or self.shards_max > 1):
            raise ConfigInvalid("a volume over several shards has no trash yet: trash_days must be 0, or shards 1")
        if self.serial < 0 or self.snapshot_bytes_min < 0:
            raise ConfigInvalid("serial and snapshot_bytes_min must not be negative")
        if self.log_bytes_low >= self.log_bytes_high:
            raise ConfigInvalid("log_bytes_low must be under log_bytes_high")
        if not 1 <= self.shards <= SHARDS_MAX:
            raise ConfigInvalid(f"{self.shards} shards: want 1 to {SHARDS_MAX}")
        if self.shards_void and not self.shards < self.shards_void <= SHARDS_MAX:
            raise ConfigInvalid(f"shards_void {self.shards_void}: want 0, or more than shards, up to {SHARDS_MAX}")
        if not 0 <= self.shards_wanted <= self.shards or not 0 <= self.shards_max <= SHARDS_MAX:
            raise ConfigInvalid(f"shards_wanted: want 0 to shards ({self.shards}); shards_max: 0 to {SHARDS_MAX}")
        if not 0 < self.shrink_share < self.grow_share or self.grow_seconds < 0 or self.shrink_seconds < 0:
            raise ConfigInvalid(
                f"shrink_share {self.shrink_share:g}, grow_share {self.grow_share:g}: want the first more than 0 and "
                "the second more than it; grow_seconds and shrink_seconds must not be negative"
            )
        if not 0 <= self.shards_sized <= SHARDS_MAX:
            raise ConfigInvalid(f"shards_sized {self.shards_sized}: want 0 to {SHARDS_MAX}")
        try:
            owners = self.owners
        except ValueError as error:
            raise ConfigInvalid(f"partition_owners is not hexadecimal: {error}") from error
        if len(owners) != PARTITION_COUNT or max(owners) >= self.shards:
            raise ConfigInvalid(
                f"partition_owners: want {PARTITION_COUNT} times two hexadecimal digits, each less than shards, "
                f"which is {self.shards}"
            )
        try:
            generations = self.generations
        except ValueError as error:
            raise ConfigInvalid(f"partition_generations is not hexadecimal: {error}") from error
        if len(generations) != PARTITION_COUNT:
            raise ConfigInvalid(f"partition_generations: want {PARTITION_COUNT} times eight hexadecimal digits")

    @property
    def owners(self) -> bytes:
        """The shard of each partition. Raises ValueError unless the setting is hexadecimal."""
        return bytes.fromhex(self.partition_owners) if self.partition_owners else bytes(PARTITION_COUNT)

    @property
    def generations(self) -> tuple[int, ...]:
        """How often each partition has moved. Raises ValueError unless the setting is hexadecimal."""
        data = bytes.fromhex(self.partition_generations) if self.partition_generations else bytes(4 * PARTITION_COUNT)
        return tuple(int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4))

    @property
    def log_share(self) -> tuple[int, int]:
        """The marks of the log of one shard (low, high): of what there was for those that they were made for."""
        sized = min(self.shards_sized or self.shards, self.shards)
        least = min(self.log_bytes_high, LOG_SEGMENTS_MIN * self.segment_bytes)
        high = max(self.log_bytes_high * sized // self.shards, least)
        return self.log_bytes_low * high // self.log_bytes_high, high

    @property
    def log_copies_min(self) -> int:
        """Copies below which the log rather waits for disks: two, or what the loss of m disks leaves."""
        return max(1, min(2, len(self.disks) - self.parity_units))

    @property
    def payload_bytes_max(self) -> int:
        """Most payload that one log frame carries: the rest of a frame is left for the batch's metadata."""
        return min(FRAME_BYTES_MAX, self.segment_bytes) // 2


S3_WORKERS_MAX = 64


def check_s3_workers(count: int) -> None:
    """Raise Refused unless the S3 door of a volume can be served by so many processes. With one shard as well: a volume
    that gets shards by itself, and gives them back, is to be served by the same command at any time."""
    if not 1 <= count <= S3_WORKERS_MAX:
        raise Refused(f"--s3-workers {count}: want 1 to {S3_WORKERS_MAX}")
