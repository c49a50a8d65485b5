"""What the owner of a volume asks of one shard as a whole: work that a person or the calendar wants, over all it has.

Each method is asked for by name (core/orders.py), so that it does not matter in which process the shard is; what
arguments and results are, the annotations say. ``progress`` is not sent: whoever asked is told by and by.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import msgspec
import trio

from siltstone.config import DiskConfig
from siltstone.core.check.findings import Finding
from siltstone.core.check.names import NamePage
from siltstone.core.check.shard import ShardCheck, read_everything
from siltstone.core.check.transactions import TransactionRecords
from siltstone.core.forfeit import Stand, forfeit_of
from siltstone.core.mover import MoveStatus
from siltstone.core.scrub_report import ScrubReport
from siltstone.core.status import VolumeStatus
from siltstone.core.types import ProgressListener
from siltstone.core.volume import Volume
from siltstone.engine.pool import DiskRole
from siltstone.errors import InvalidArgument, Refused, Unavailable
from siltstone.meta.shards.map import Placement
from siltstone.meta.usage_count import forget_usage
from siltstone.types import DiskId, PartitionId, ShardId

TRANSACTIONS_LOOK_SECONDS = 0.1
"""How often who waits for transactions looks whether they are over."""


class Among(Protocol):
    """A shard among others (core/shard.py)."""

    def open_transactions(self) -> int:
        """How many over several shards have not ended here."""

    async def give(self, partition: PartitionId, to: ShardId) -> Placement:
        """Make a partition another shard's; where it is then. Raises HandoverFailed."""

    def placements(self) -> list[Placement]:
        """What the shard knows for certain of where partitions are."""

    def note_shards(self, count: int, placements: list[Placement]) -> None:
        """There are so many shards from now on."""

    def front_ends(self) -> list[bytes]:
        """Those that listen to the shard."""

    async def announce(self, count: int, placements: list[Placement]) -> None:
        """Tell all front-ends so, and return when they have heard."""

    def needs_of(self, other: ShardId) -> str:
        """What another shard is needed for here; empty if for nothing any more."""

    async def remains(self) -> str:
        """What the shard itself is needed for; empty if for nothing any more."""


class SettleReport(msgspec.Struct, frozen=True, kw_only=True):
    """What settling by hand has done."""

    settled_bytes: int
    log_live_bytes: int
    """What stays in the log."""


class Administration:
    """The work on one shard; ``among`` others, if there are others."""

    def __init__(self, volume: Volume, among: Among | None = None) -> None:
        self._volume = volume
        self._among = among
        self._checks: dict[int, ShardCheck] = {}

    async def ask(self, method: str, *arguments: Any, progress: ProgressListener | None = None) -> Any:
        """Have a method carried out, by name; see AskedShard."""
        function = getattr(self, method)
        if progress is not None and "progress" in inspect.signature(function).parameters:
            return await function(*arguments, progress=progress)
        return await function(*arguments)

    # --- work ------------------------------------------------------------------------------------------------------

    async def status(self) -> VolumeStatus:
        """See Volume."""
        return self._volume.status()

    async def chunk_files(self) -> dict[int, int]:
        """How many chunk files each disk has here."""
        ledger = self._volume.ledger
        return {disk.disk_id: ledger.stripes.slabs.units_of(disk.disk_id) for disk in ledger.pool.status()}

    async def sync(self) -> None:
        """See Volume."""
        await self._volume.sync()

    async def settle(self, *, progress: ProgressListener | None = None) -> SettleReport:
        """See Volume."""
        before = self._volume.settler.settled_bytes
        await self._volume.settle(progress)
        return SettleReport(
            settled_bytes=self._volume.settler.settled_bytes - before,
            log_live_bytes=self._volume.ledger.totals.log_live_bytes,
        )

    async def scrub(self, *, progress: ProgressListener | None = None) -> ScrubReport:
        """See Volume."""
        return await self._volume.scrub(progress)

    async def rebuild(self, *, progress: ProgressListener | None = None) -> MoveStatus:
        """See Volume; where moving stands then."""
        await self._volume.rebuild(progress)
        return self._volume.mover.status()

    async def scrub_snapshots(self) -> None:
        """See Volume."""
        await self._volume.scrub_snapshots()

    async def forget_usage(self) -> None:
        """There are to be several shards, over which the usage of trees is not kept. Raises Refused while there are
        quotas. Durable on return."""
        usage, store = self._volume.ledger.usage, self._volume.ledger.store
        if usage.has_quotas:
            raise Refused(
                "the volume has quotas, which hold in a volume of one shard only: see `siltstone quota list`, and "
                "remove them first"
            )
        usage.forget()
        forget_usage(store)
        await self._volume.sync()

    async def wait_transactions(self) -> None:
        """Return when no transaction over several shards, and no move of a partition, is under way here."""
        while self._among is not None and self._among.open_transactions():
            await self._volume.ledger.clock.sleep(TRANSACTIONS_LOOK_SECONDS)

    # --- disks -----------------------------------------------------------------------------------------------------

    async def follow_disks(self, serial: int, disks: list[DiskConfig]) -> None:
        """See PoolMembers.follow."""
        await self._volume.members.follow(serial, disks)

    async def level_disks(self) -> list[int]:
        """See PoolMembers.level."""
        return [*self._volume.members.level]

    async def disks_up(self) -> list[int]:
        """The disks that may be read and written, as it is seen here."""
        return [*self._volume.ledger.pool.up()]

    async def stand(self, disk_id: int) -> Stand:
        """What giving up a disk would do here."""
        ledger = self._volume.ledger
        pool, snapshots = ledger.pool, self._volume.snapshots.files.snapshots
        away = [other.disk_id for other in pool.status() if not pool.is_up(other.disk_id) and other.disk_id != disk_id]
        return Stand(
            is_up=pool.is_up(DiskId(disk_id)),
            away=tuple(away),
            forfeit=forfeit_of(DiskId(disk_id), pool, ledger.stripes.slabs, ledger.log.segments(), snapshots),
        )

    async def drain(self, disk_id: int, *, progress: ProgressListener | None = None) -> None:
        """See Mover.drain."""
        await self._volume.mover.drain(DiskId(disk_id), progress)

    async def release_disk(self, disk_id: int) -> bool:
        """Whether a draining or lost disk holds nothing here, so that it may be let go of, also after a crash."""
        roles = {disk.disk_id: disk.role for disk in self._volume.ledger.pool.status()}
        is_given_up = roles.get(DiskId(disk_id)) in (DiskRole.DRAINING, DiskRole.LOST)
        if not is_given_up or not self._volume.mover.is_drained(DiskId(disk_id)):
            return False
        await self._volume.ledger.sync()
        return True

    # --- partitions ------------------------------------------------------------------------------------------------

    async def give(self, partition: int, to: int) -> Placement:
        """Make a partition another shard's; where it is then. Raises HandoverFailed."""
        return await self._others().give(PartitionId(partition), ShardId(to))

    # --- shards that come and go -----------------------------------------------------------------------------------

    async def placements(self) -> list[Placement]:
        """See Among."""
        return self._others().placements()

    async def note_shards(self, count: int, placements: list[Placement]) -> None:
        """See Among."""
        self._others().note_shards(count, placements)

    async def front_ends(self) -> list[bytes]:
        """See Among."""
        return self._others().front_ends()

    async def announce(self, count: int, placements: list[Placement]) -> None:
        """See Among."""
        await self._others().announce(count, placements)

    async def needs_of(self, other: int) -> str:
        """See Among."""
        return self._others().needs_of(ShardId(other))

    async def remains(self) -> str:
        """See Among."""
        return await self._others().remains()

    # --- fsck ------------------------------------------------------------------------------------------------------

    async def hold_check(self, number: int) -> None:
        """Hold changes back for a check, until this is cancelled. ``number``: of the check, from the asking side."""
        check = self._check(number)
        try:
            async with check.held():
                await trio.sleep_forever()
        finally:
            self._checks.pop(number, None)

    async def wait_check_held(self, number: int) -> list[int]:
        """Return when ``hold_check`` holds changes back, with the partitions that the shard owns."""
        return await self._check(number).wait_held()

    async def check_open_operations(self, number: int) -> int:
        """Operations and transactions over several shards that have begun and not ended."""
        return self._held_check(number).open_operations()

    async def check_transactions(self, number: int) -> TransactionRecords:
        """What there is of transactions."""
        return await self._held_check(number).transactions()

    async def check_names(self, number: int) -> NamePage:
        """The next part of what names here say of other shards' inodes, and of directories."""
        return await self._held_check(number).next_names()

    async def check_take_names(self, number: int, facts: dict[int, bytes]) -> None:
        """What names in other shards say of inodes here."""
        self._held_check(number).take_names(facts)

    async def check(self, number: int, *, progress: ProgressListener | None = None) -> list[Finding]:
        """What is wrong with the metadata here; all names were taken."""
        return await self._held_check(number).check(progress)

    async def check_bytes(self, *, progress: ProgressListener | None = None) -> list[Finding]:
        """What is wrong with what is on the disks; needs no hold."""
        return await read_everything(self._volume, progress)

    def _others(self) -> Among:
        if self._among is None:
            raise InvalidArgument("the volume has one shard")
        return self._among

    def _check(self, number: int) -> ShardCheck:
        is_open = (lambda: 0) if self._among is None else self._among.open_transactions
        return self._checks.setdefault(number, ShardCheck(self._volume, is_open))

    def _held_check(self, number: int) -> ShardCheck:
        check = self._checks.get(number)
        if check is None or not check.is_held:
            raise Unavailable("the check has ended here: was the shard started anew meanwhile? Run fsck again")
        return check
