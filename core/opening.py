"""Making a volume and opening one: recovery, the background tasks, and the way everything ends.

Opening needs no fsck: the log is recovered, what LMDB does not have of it is replayed, and the allocator's state is
what the records say. A crash at any instant leaves a state that this brings up again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import trio

from siltstone.config import VolumeConfig
from siltstone.core.carrier import Carrier
from siltstone.core.events import Subscribers
from siltstone.core.fill import Filler
from siltstone.core.ledger import Ledger
from siltstone.core.mover import Mover
from siltstone.core.orphans import Orphans
from siltstone.core.pool_members import OpenDisk, PoolMembers
from siltstone.core.reader import Reader
from siltstone.core.relocate import Relocator
from siltstone.core.room import Room
from siltstone.core.scrub import Scrubber
from siltstone.core.settle import Settler
from siltstone.core.snapshots import Snapshots
from siltstone.core.split import Splitter
from siltstone.core.superblocks import superblock_of
from siltstone.core.trash import Trash
from siltstone.core.upload_cleaner import UploadCleaner
from siltstone.core.volume import Volume
from siltstone.core.write_back import WriteBack
from siltstone.engine.format.superblock import pack_superblock
from siltstone.engine.labels import Labels
from siltstone.engine.log.log import Log
from siltstone.engine.pool import DiskRole, Pool
from siltstone.engine.snapshot.files import SnapshotFiles
from siltstone.engine.stripe.store import StripeStore
from siltstone.errors import Corrupt, SiltstoneError, Unavailable
from siltstone.limits import RESERVE_CHUNKS
from siltstone.meta import inodes, keys, space
from siltstone.meta.shards.handover import get_moved
from siltstone.meta.shards.map import map_of
from siltstone.meta.store.port import Backing
from siltstone.meta.store.store import Store
from siltstone.meta.totals import SpaceTotals
from siltstone.meta.usage import TreeUsage
from siltstone.meta.usage_count import count_usage, forget_usage
from siltstone.ports import Clock, Disk, Fanout, Random, Workers
from siltstone.types import ROOT_INO, DiskId, Lsn, ShardId, partition_of

ONLY_SHARD = ShardId(0)

SHUTDOWN_SECONDS = 60.0
"""How long closing waits for what is not durable yet."""


async def create_volume(
    config: VolumeConfig,
    *,
    disks: Sequence[Disk],
    fanout: Fanout,
    backing: Backing,
    clock: Clock,
    random: Random,
    shard: ShardId = ONLY_SHARD,
) -> None:
    """Lay an empty volume, or a shard of one, on formatted disks: a log, and a root directory in it if the shard is the
    one that has the root's partition. Durable on return.

    Raises AlreadyExists when a disk has a log already, TooFewDisks.
    """
    config.check()
    pool = Pool(disks, fanout, random, clock)
    await pool.probe()
    log = await Log.create(
        pool,
        clock,
        volume_uuid=UUID(config.uuid).bytes,
        segment_bytes=config.segment_bytes,
        replicas=config.log_replicas,
        minimum=config.log_copies_min,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        store = Store(backing)
        store.connect(log)
        await nursery.start(store.run)
        if _has_root(config, shard):
            transaction = store.begin()
            inodes.format_root(transaction, clock.now_ns())
            if config.shards == 1:
                transaction.put(keys.USAGE_STATE, b"")
            await log.wait_durable(transaction.commit())
        await store.checkpoint()
        nursery.cancel_scope.cancel()
    await log.close()


@asynccontextmanager
async def open_volume(
    config: VolumeConfig,
    *,
    disks: Sequence[Disk],
    fanout: Fanout,
    backing: Backing,
    clock: Clock,
    random: Random,
    workers: Workers,
    shard: ShardId = ONLY_SHARD,
    join: Callable[[Volume, trio.Nursery], object] | None = None,
    open_disk: OpenDisk | None = None,
) -> AsyncIterator[Volume]:
    """The volume, or what one of its shards has of it, for as long as the context lasts; everything is durable when it
    has ended without an error.

    ``join``: makes it one of several shards (``core.shard.Shard``), before anything else happens in it; the nursery
    ends with the volume. ``open_disk``: for disks that are added later. Disks and backing stay the caller's, who closes
    them afterwards.

    Raises TooFewDisks, LogDamaged, Corrupt when the volume cannot be opened; then nothing was changed but replicas
    that were mended.
    """
    config.check()
    roles = {DiskId(disk.disk_id): DiskRole(disk.role) for disk in config.disks}
    pool = Pool(disks, fanout, random, clock, roles)
    await pool.probe()
    store = Store(backing, apply_interval=config.commit_interval, limit_seconds=config.disk_timeout)
    store.keeps_notes = config.shards == 1  # nobody could read what they say over shards
    usage = TreeUsage(store)
    if config.shards == 1:
        usage.load()
    store.before_replay, store.derive = usage.replay, usage.derive
    log = await _recover_log(config, pool, clock, store)
    stripes = StripeStore(
        pool,
        data_units=config.data_units,
        parity_units=config.parity_units,
        chunk_bytes=config.chunk_bytes,
        workers=workers,
        reserve_bytes=RESERVE_CHUNKS * max(config.chunk_bytes, config.segment_bytes),
    )
    stripes.slabs.disk_room.share_reserve(config.shards)
    gone = get_moved(store, partition_of(ROOT_INO))
    if _has_root(config, shard) and gone is None and store.get(keys.inode(ROOT_INO)) is None:
        raise Corrupt("the metadata has no root directory: this is not a volume, or its set-up was cut short")
    totals = SpaceTotals()
    totals.log_live_bytes = space.log_live_bytes(store)
    slabs = dict(space.slabs(store))
    stripes.load(slabs.items(), space.counted(totals, slabs, space.stripes(store)))
    await stripes.collect_strays()
    snapshots = snapshot_files(config, pool, random, workers)
    volume = _assemble(config, pool, store, log, stripes, snapshots, totals, usage, clock, random, open_disk)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        await nursery.start(store.run)
        if config.shards == 1 and not usage.is_known:
            await count_usage(store)
            usage.load()
        if join is not None:
            join(volume, nursery)
        await _start(nursery, config, volume)
        try:
            yield volume
        except BaseException as error:
            # Whoever used the volume broke off: nothing more is written, and the next opening recovers.
            failure = error
        else:
            # Without enough disks this would wait for ever; closing the log then says what is not durable.
            with trio.move_on_after(SHUTDOWN_SECONDS, shield=True):
                try:
                    await volume.sync()
                except SiltstoneError as error:
                    failure = error
                # If HOME gives no answer: the log has what it lacks, and the next opening replays it.
                with suppress(Unavailable):
                    await store.checkpoint()
        if store.stuck_because:
            store.abandon()
        nursery.cancel_scope.cancel()
    if failure is None:
        with trio.CancelScope(shield=True):
            await log.close()
    else:
        # Raised out here, the user's own error does not arrive in a group of the background tasks'.
        raise failure


async def run_log(config: VolumeConfig, pool: Pool, backing: Backing, clock: Clock) -> Lsn:
    """Run the log on the disks of a probed pool over what a backing has; returns where it ends, when all is durable
    there.

    Raises TooFewDisks, LogDamaged, Unavailable.
    """
    store = Store(backing, limit_seconds=config.disk_timeout)
    log = await _recover_log(config, pool, clock, store)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        await nursery.start(store.run)
        end = store.last_lsn
        forget_usage(store)
        await store.checkpoint()
        nursery.cancel_scope.cancel()
    await log.close()
    return end


async def _recover_log(config: VolumeConfig, pool: Pool, clock: Clock, store: Store) -> Log:
    """The log, and the store with all that is in it."""
    log = await Log.recover(
        pool,
        clock,
        volume_uuid=UUID(config.uuid).bytes,
        segment_bytes=config.segment_bytes,
        replicas=config.log_replicas,
        minimum=config.log_copies_min,
        applied_lsn=store.applied_lsn,
        on_frame=lambda frame: store.replay(frame.end_lsn, frame.body),
        commit_interval=config.commit_interval / 2,
    )
    store.connect(log)
    return log


def _has_root(config: VolumeConfig, shard: ShardId) -> bool:
    """Whether the root directory is among what a shard has."""
    return map_of(config).owner(partition_of(ROOT_INO)) == shard


def _share(bytes_per_second: int, shards: int) -> int:
    """What one of several shards may take of a rate, which is for the disks that they share; 0 is without limit."""
    return max(1, bytes_per_second // shards) if bytes_per_second else 0


def snapshot_files(config: VolumeConfig, pool: Pool, random: Random, workers: Workers) -> SnapshotFiles:
    """The snapshots of a volume: on as many disks as its log."""
    return SnapshotFiles(
        pool,
        random,
        workers,
        volume_uuid=UUID(config.uuid).bytes,
        copies=config.log_replicas,
        minimum=config.log_copies_min,
    )


def _assemble(
    config: VolumeConfig,
    pool: Pool,
    store: Store,
    log: Log,
    stripes: StripeStore,
    files: SnapshotFiles,
    totals: SpaceTotals,
    usage: TreeUsage,
    clock: Clock,
    random: Random,
    open_disk: OpenDisk | None,
) -> Volume:
    log_low, log_high = config.log_share
    ledger = Ledger(
        store,
        log,
        stripes,
        pool,
        clock,
        random,
        log_bytes_low=log_low,
        log_bytes_high=log_high,
        totals=totals,
        usage=usage,
    )
    write_back = WriteBack(
        ledger,
        dirty_bytes_max=config.dirty_bytes_max,
        payload_bytes_max=config.payload_bytes_max,
        stripe_bytes=stripes.stripe_bytes_max,
    )
    reader = Reader(ledger)
    orphans = Orphans(ledger, write_back)
    carrier = Carrier(ledger, reader, stripe_bytes=stripes.stripe_bytes_max)
    splitter = Splitter(ledger)
    filler = Filler(ledger, reader, splitter)
    snapshots = Snapshots(
        ledger, files, log_bytes_high=log_high, bytes_min=config.snapshot_bytes_min, feed_window=config.feed_window
    )
    settler = Settler(
        ledger,
        carrier,
        filler,
        snapshots,
        stripe_bytes=stripes.stripe_bytes_max,
        log_bytes_low=log_low,
        log_bytes_high=log_high,
    )
    cleaner = UploadCleaner(ledger, orphans)
    room = Room(ledger, write_back, log_bytes_high=log_high)
    superblocks = [superblock_of(config, disk, created_ns=clock.now_ns()) for disk in config.disks]
    scrubber = Scrubber(
        ledger,
        snapshots,
        {superblock.disk_id: pack_superblock(superblock) for superblock in superblocks},
        interval=config.scrub_interval,
        bytes_per_second=_share(config.scrub_bytes_per_second, config.shards),
    )
    rebuild_rate = _share(config.rebuild_bytes_per_second, config.shards)
    mover = Mover(ledger, files, grace=config.rebuild_grace, bytes_per_second=rebuild_rate)
    relocator = Relocator(ledger, carrier, mover, splitter, data_units=config.data_units)
    labels = Labels(pool, minimum=config.log_copies_min)
    members = PoolMembers(config, pool, scrubber, mover, clock, open_disk)
    volume = Volume(
        ledger,
        write_back,
        reader,
        carrier,
        orphans,
        settler,
        cleaner,
        room,
        scrubber,
        mover,
        relocator,
        snapshots,
        labels,
        members,
        Subscribers(),
    )
    volume.trash = Trash(volume, config.trash_days if config.shards == 1 else 0.0)
    return volume


async def _start(nursery: trio.Nursery, config: VolumeConfig, volume: Volume) -> None:
    """Start what runs in the background of an open volume; begins with what a crash left."""
    await volume.snapshots.adopt()
    await volume.settler.finish_fills()
    volume.room.measure()
    volume.orphans.find_all()
    nursery.start_soon(volume.ledger.reclaimer.run)
    volume.write_back.connect(nursery)
    nursery.start_soon(volume.write_back.run, config.commit_interval)
    nursery.start_soon(volume.orphans.run)
    nursery.start_soon(volume.settler.run)
    nursery.start_soon(volume.upload_cleaner.run)
    nursery.start_soon(volume.room.run)
    nursery.start_soon(volume.scrubber.run)
    nursery.start_soon(volume.mover.run)
    nursery.start_soon(volume.relocator.run)
    nursery.start_soon(volume.snapshots.run)
    nursery.start_soon(volume.feed.run)
    nursery.start_soon(volume.trash.run)
    nursery.start_soon(volume.labels.run, volume.ledger.clock)
    nursery.start_soon(volume.ledger.pool.watch, volume.ledger.clock)
    await trio.lowlevel.checkpoint()
