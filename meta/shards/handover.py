"""Moving a partition from one shard to another while it is in use.

The giver copies all records of the partition to the taker, who keeps them where nobody looks; then what has changed
meanwhile, in rounds that get shorter; then, for some milliseconds, nothing in the partition changes (``Guard``,
``LockTable.frozen``): the last changes go over, the taker makes all durable and seals it, and the giver commits that
the partition is the taker's. That batch is the point at which it changes hands. The taker is told until he has heard,
and asks himself if he does not: a giver that knows nothing of an attempt never committed it (as in coordinator.py).

The bytes of files stay where they are: the taker's extents name the giver's inodes (``Place.REMOTE``), and the giver
keeps the records of these, and of where their bytes are, until it is told that they are not needed (lending.py).
See docs/decisions/0016.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
import trio

from siltstone.errors import InvalidArgument, Unavailable
from siltstone.limits import MIB
from siltstone.meta import extents, keys
from siltstone.meta.records import Extent, Place, decode_extent, encode
from siltstone.meta.shards.locks import LockTable
from siltstone.meta.shards.map import MapView, Placement
from siltstone.meta.shards.messages import AskHanded, Copy, Done, Handed, PeerLost, Peers, Seal, Told, Verdict, Vote
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Store, Transaction
from siltstone.ports import Clock
from siltstone.types import Ino, Lsn, PartitionId, ShardId

COPY_ENTRIES = 512
COPY_BYTES = 1 * MIB
"""What one message carries: the loop of either side is busy with it for some milliseconds."""

ROUNDS_MAX = 32
FEW_CHANGES = 32
"""What has changed meanwhile is sent in rounds until it is so little, or so often."""

FREEZE_SECONDS = 0.1
"""How long nothing may change, or the attempt is given up: whoever waits for it must not wait for long."""

RESEND_SECONDS = 0.05
PATIENCE_SECONDS = 5.0
"""How long a taker may give no answer, before anything is frozen."""

ASK_SECONDS = 1.0
"""How long a taker waits to hear of what it has sealed, before it asks."""

WIPE_STEP = 512
"""Records that are deleted together."""

logger = logging.getLogger("siltstone.shards")


class HandoverFailed(Unavailable):
    """A partition could not be given away at the moment; it is where it was."""


class Moved(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """Where a partition is that has come to this shard or gone from it, and with which attempt of the giver.

    Of one that has gone: ``is_told``: its owner knows. ``is_sorted``: of what was here only what is lent is left.
    """

    owner: int
    generation: int
    attempt: int
    is_told: bool = False
    is_sorted: bool = False


class Staged(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """A partition that is on its way here. ``is_sealed``: it is all there, and only the giver may say what becomes of
    it."""

    giver: int
    attempt: int
    is_sealed: bool


_decode_moved = msgspec.msgpack.Decoder(Moved).decode
_decode_staged = msgspec.msgpack.Decoder(Staged).decode
_decode_placement = msgspec.msgpack.Decoder(Placement).decode


class Guard(Protocol):
    """What the shard does with its partitions beside their records."""

    def held_back(self, partition: PartitionId) -> AbstractAsyncContextManager[None]:
        """A context in which no call about a partition is under way, and its files have no dirty bytes in memory.

        Raises HandoverFailed when that takes too long.
        """

    def is_clean(self, partition: PartitionId) -> bool:
        """Whether there are no dirty bytes of its files."""

    def left(self, partition: PartitionId) -> None:
        """It is another shard's from this turn on."""

    def taken(self, partition: PartitionId) -> None:
        """It is this shard's from this turn on."""


def read_moved(reader: Reader) -> dict[PartitionId, Moved]:
    """Every partition that has come to this shard or gone from it, where it is as far as that is known here."""
    return {
        keys.partition_of_move(key): _decode_moved(value) for key, value in reader.scan(*keys.prefix_range(keys.MOVED))
    }


def get_moved(reader: Reader, partition: PartitionId) -> Moved | None:
    """The same of one partition; None if it has done neither."""
    value = reader.get(keys.moved(partition))
    return None if value is None else _decode_moved(value)


def put_moved(transaction: Transaction, partition: PartitionId, moved: Moved) -> None:
    """Note it."""
    transaction.put(keys.moved(partition), encode(moved))


def get_lender(reader: Reader, partition: PartitionId) -> Placement | None:
    """Who still has bytes of a partition of this shard, and which move made it so (the placement that it led to has
    that generation)."""
    value = reader.get(keys.lender(partition))
    return None if value is None else _decode_placement(value)


def lenders(reader: Reader) -> list[Placement]:
    """The same of all partitions."""
    return [_decode_placement(value) for _, value in reader.scan(*keys.prefix_range(keys.LENDERS))]


def placements_of(reader: Reader) -> list[Placement]:
    """What a shard knows for certain of where partitions are."""
    return [Placement(partition, moved.owner, moved.generation) for partition, moved in read_moved(reader).items()]


def _range_of(partition: PartitionId) -> tuple[bytes, bytes]:
    return keys.partition_from(partition), keys.partition_from(partition + 1)


class Giver:
    """Gives partitions away."""

    def __init__(
        self,
        shard: ShardId,
        store: Store,
        locks: LockTable,
        partitions: MapView,
        peers: Peers,
        clock: Clock,
        guard: Guard,
        nursery: trio.Nursery,
        *,
        commit: Callable[[Transaction], Lsn],
    ) -> None:
        self._shard = shard
        self._store = store
        self._locks = locks
        self._partitions = partitions
        self._peers = peers
        self._clock = clock
        self._guard = guard
        self._nursery = nursery
        self._commit = commit
        self._giving: dict[PartitionId, int] = {}
        for partition, moved in read_moved(store).items():
            if moved.owner != shard and not moved.is_told:
                nursery.start_soon(self._tell, partition, moved)

    @property
    def giving(self) -> list[PartitionId]:
        """Partitions that are being given away."""
        return [*self._giving]

    async def give(self, partition: PartitionId, to: ShardId) -> None:
        """Make a partition another shard's; durable on return.

        Raises InvalidArgument if it is not this shard's; HandoverFailed if it could not be done, and it still is.
        """
        placement = self._partitions().placement(partition)
        if placement.owner != self._shard:
            raise InvalidArgument(f"partition {partition} is shard {placement.owner}'s, not shard {self._shard}'s")
        if to == self._shard:
            return
        if partition in self._giving:
            raise HandoverFailed(f"partition {partition} is being given away already")
        if get_lender(self._store, partition) is not None:
            raise HandoverFailed(f"partition {partition} has just come, and its bytes are still on their way")
        self._giving[partition] = 0
        try:
            attempt = self._giving[partition] = await self._begin()
            await _Attempt(self, partition, to, attempt).run(placement.generation + 1)
        finally:
            del self._giving[partition]

    async def verdict(self, message: AskHanded) -> Verdict:
        """What has become of an attempt. It was given away when that is durable."""
        partition = PartitionId(message.partition)
        if self._giving.get(partition) == message.attempt:
            return Verdict.OPEN
        moved = get_moved(self._store, partition)
        if moved is None or moved.attempt != message.attempt or moved.owner == self._shard:
            return Verdict.ABORTED
        await self._store.log.wait_durable(self._store.last_lsn)
        return Verdict.COMMITTED

    async def _begin(self) -> int:
        """The number of a new attempt: none has it twice, in no life of the shard."""
        transaction = self._store.begin()
        value = transaction.get(keys.HANDOVERS)
        attempt = 1 + (0 if value is None else int.from_bytes(value, "big"))
        transaction.put(keys.HANDOVERS, attempt.to_bytes(8, "big"))
        await self._store.log.wait_durable(self._commit(transaction))
        return attempt

    async def _tell(self, partition: PartitionId, moved: Moved) -> None:
        """Tell the new owner until it has heard."""
        placement = Placement(partition, moved.owner, moved.generation)
        await self._store.log.wait_durable(self._store.last_lsn)
        while True:
            try:
                await self._peers.call(ShardId(moved.owner), Handed(placement, self._shard, moved.attempt))
                break
            except PeerLost:
                await self._clock.sleep(RESEND_SECONDS)
        transaction = self._store.begin()
        now = get_moved(transaction, partition)
        if now is not None and now.generation == moved.generation:
            put_moved(transaction, partition, msgspec.structs.replace(now, is_told=True))
            self._commit(transaction)


class _Attempt:
    """One attempt to give a partition away."""

    def __init__(self, giver: Giver, partition: PartitionId, to: ShardId, attempt: int) -> None:
        self._giver = giver
        self._store = giver._store
        self._partition = partition
        self._to = to
        self._attempt = attempt
        self._step = 0
        self._prefix = keys.partition_from(partition)
        self._changed: dict[bytes, None] = {}
        """Keys that have changed since they were sent, or before they were."""
        self._deadline_ns: int | None = None

    async def run(self, generation: int) -> None:
        """Raises HandoverFailed."""
        giver = self._giver
        self._store.watch(self._note)
        try:
            await self._send([])
            await self._copy()
            rounds = 0
            while len(self._changed) > FEW_CHANGES and rounds < ROUNDS_MAX:
                await self._send_changed()
                rounds += 1
            async with giver._guard.held_back(self._partition):
                self._deadline_ns = giver._clock.monotonic_ns() + round(FREEZE_SECONDS * 1e9)
                with giver._locks.frozen(self._partition):
                    await self._wait_unclaimed()
                    lsn, moved = await self._hand_over(generation)
        finally:
            self._store.unwatch(self._note)
        giver._nursery.start_soon(giver._tell, self._partition, moved)
        await self._store.log.wait_durable(lsn)

    def _note(self, writes: Mapping[bytes, bytes | None]) -> None:
        changed = self._changed
        for key in writes:
            if key.startswith(self._prefix):
                changed[key] = None

    async def _copy(self) -> None:
        rest: tuple[bytes, bytes] | None = _range_of(self._partition)
        while rest is not None:
            chunk = self._store.read_chunk(*rest, False, COPY_ENTRIES)
            # What is sent late may have changed by then: then the watcher has noted it.
            await self._send_all(chunk.entries)
            rest = chunk.rest

    async def _send_changed(self) -> None:
        """Send what has changed so far; what changes meanwhile is for the next round."""
        changed, self._changed = [*self._changed], {}
        await self._send_all((key, self._store.get(key)) for key in changed)

    async def _send_all(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Send records, in as many messages as it takes."""
        entries: list[tuple[bytes, bytes | None]] = []
        size = 0
        for key, value in records:
            entries.append((key, None if value is None else self._given(key, value)))
            size += len(key) + len(value or b"")
            if size >= COPY_BYTES or len(entries) == COPY_ENTRIES:
                await self._send(entries)
                entries, size = [], 0
        if entries:
            await self._send(entries)

    def _given(self, key: bytes, value: bytes) -> bytes:
        """A record as the taker has it: bytes of files stay here."""
        if keys.kind_of(key) != keys.EXTENT:
            return value
        extent = decode_extent(value)
        if extent.place == Place.INLINE:
            return value
        if extent.place == Place.REMOTE:
            raise HandoverFailed(f"partition {self._partition} refers to bytes of shard {extent.address}")
        ino, offset = keys.inode_ino(key), keys.extent_offset(key)
        return encode(Extent(extent.length, Place.REMOTE, self._giver._shard, offset, ino))

    async def _send(self, entries: list[tuple[bytes, bytes | None]]) -> None:
        message = Copy(self._partition, self._giver._shard, self._attempt, self._step, entries)
        self._step += 1
        await self._ask(message)

    async def _ask(self, message: Copy | Seal) -> None:
        """Raises HandoverFailed unless the taker agrees."""
        giver = self._giver
        limit_ns = giver._clock.monotonic_ns() + round(PATIENCE_SECONDS * 1e9)
        while True:
            try:
                vote = await self._call(message)
            except PeerLost as error:
                if giver._clock.monotonic_ns() > limit_ns:
                    raise HandoverFailed(f"shard {self._to} does not answer: {error}") from error
                await giver._clock.sleep(RESEND_SECONDS)
                continue
            assert isinstance(vote, Vote)
            if not vote.prepared:
                raise HandoverFailed(f"shard {self._to} cannot take partition {self._partition} at the moment")
            return

    async def _call(self, message: Copy | Seal) -> object:
        """The answer. While the partition is frozen there is a limit to how long that may take."""
        if self._deadline_ns is None:
            return await self._giver._peers.call(self._to, message)
        left_seconds = (self._deadline_ns - self._giver._clock.monotonic_ns()) / 1e9
        with trio.move_on_after(max(0.0, left_seconds)):
            return await self._giver._peers.call(self._to, message)
        raise HandoverFailed(f"partition {self._partition}: shard {self._to} is too slow to take it at the moment")

    async def _wait_unclaimed(self) -> None:
        """Wait until no transaction speaks for anything in the partition."""
        giver = self._giver
        assert self._deadline_ns is not None
        with trio.move_on_after(max(0.0, (self._deadline_ns - giver._clock.monotonic_ns()) / 1e9)):
            while (transaction := giver._locks.speaker_in(self._partition)) is not None:
                await giver._locks.wait(transaction)
            return
        raise HandoverFailed(f"partition {self._partition}: transactions of other shards hold it")

    async def _hand_over(self, generation: int) -> tuple[Lsn, Moved]:
        giver = self._giver
        while True:
            await self._send_changed()
            await self._ask(Seal(self._partition, self._attempt, self._step))
            # From here to the commit is one turn.
            if not self._changed and giver._guard.is_clean(self._partition):
                break
            await giver._clock.sleep(0)
        transaction = self._store.begin()
        moved = Moved(self._to, generation, self._attempt)
        put_moved(transaction, self._partition, moved)
        lsn = giver._commit(transaction)
        giver._partitions.place([Placement(self._partition, self._to, generation)])
        giver._guard.left(self._partition)
        return lsn, moved


class Taker:
    """Takes partitions that others give away."""

    def __init__(
        self,
        shard: ShardId,
        store: Store,
        partitions: MapView,
        peers: Peers,
        clock: Clock,
        guard: Guard,
        *,
        commit: Callable[[Transaction], Lsn],
    ) -> None:
        self._shard = shard
        self._store = store
        self._partitions = partitions
        self._peers = peers
        self._clock = clock
        self._guard = guard
        self._commit = commit
        self._coming: dict[PartitionId, _Coming] = {}
        self._leftovers: list[PartitionId] = []
        for key, value in store.scan(*keys.prefix_range(keys.STAGED)):
            staged, partition = _decode_staged(value), keys.partition_of_move(key)
            if staged.is_sealed:
                coming = self._coming[partition] = _Coming(ShardId(staged.giver), staged.attempt)
                coming.is_sealed = True
            else:
                self._leftovers.append(partition)

    @property
    def coming(self) -> list[PartitionId]:
        """Partitions that are on their way here."""
        return [*self._coming]

    def is_taking_from(self, giver: ShardId) -> bool:
        """Whether something is on its way here from a shard."""
        return any(coming.giver == giver for coming in self._coming.values())

    async def copy(self, message: Copy) -> Vote:
        """Keep a part. Knows what it has already."""
        partition = PartitionId(message.partition)
        if self._partitions().owner(partition) == self._shard:
            return Vote(prepared=False)
        coming = self._coming.get(partition)
        if message.step == 0 and (coming is None or coming.yields_to(message)):
            if coming is None and not self._may_begin(partition):
                return Vote(prepared=False)
            await self._start(partition, ShardId(message.giver), message.attempt)
            return Vote(prepared=True)
        if coming is None or (coming.giver, coming.attempt) != (message.giver, message.attempt):
            return Vote(prepared=False)
        coming.heard_ns = self._clock.monotonic_ns()
        async with coming.lock:
            if message.step != coming.next_step:
                # Twice, or out of order; of a sealed one that was found at the start of the process: no more comes.
                return Vote(prepared=coming.next_step > 0 and message.step < coming.next_step)
            while self._store.pressure:
                await self._store.wait_room()
            if self._coming.get(partition) is not coming:
                return Vote(prepared=False)
            transaction = self._store.begin()
            for key, value in message.entries:
                _stage(transaction, key, value)
            if coming.is_sealed:
                coming.is_sealed = False
                transaction.put(keys.staged(partition), encode(Staged(coming.giver, coming.attempt, False)))
            self._commit(transaction)
            coming.next_step += 1
            return Vote(prepared=True)

    async def seal(self, message: Seal) -> Vote:
        """Whether all of it is there; durable on return."""
        partition = PartitionId(message.partition)
        coming = self._coming.get(partition)
        if coming is None or coming.attempt != message.attempt:
            return Vote(prepared=False)
        async with coming.lock:
            if coming.next_step != message.steps or self._coming.get(partition) is not coming:
                return Vote(prepared=False)
            if not coming.is_sealed:
                transaction = self._store.begin()
                transaction.put(keys.staged(partition), encode(Staged(coming.giver, coming.attempt, True)))
                self._commit(transaction)
                coming.is_sealed = True
            coming.heard_ns = self._clock.monotonic_ns()
            await self._store.log.wait_durable(self._store.last_lsn)
            return Vote(prepared=True)

    async def handed(self, message: Handed) -> Done:
        """Own what was taken; durable on return. Knows what it owns already, or has owned."""
        self._take(message)
        await self._store.log.wait_durable(self._store.last_lsn)
        return Done()

    async def run(self) -> None:
        """Drop what was on its way when the last life ended, and ask after what nothing is heard of, for ever."""
        while self._leftovers:
            partition = self._leftovers[-1]
            if not self._wipe_step(partition):
                self._leftovers.pop()
            await trio.lowlevel.checkpoint()
        while True:
            for partition, coming in list(self._coming.items()):
                limit_ns = self._clock.monotonic_ns() - round(ASK_SECONDS * 1e9)
                if coming.heard_ns <= limit_ns:
                    await self._ask(partition, coming)
            await self._clock.sleep(ASK_SECONDS)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _may_begin(self, partition: PartitionId) -> bool:
        """Whether nothing of the partition is here: neither bytes that are lent nor what was left of an attempt."""
        start, end = _range_of(partition)
        return partition not in self._leftovers and next(iter(self._store.scan(start, end)), None) is None

    async def _start(self, partition: PartitionId, giver: ShardId, attempt: int) -> None:
        coming = self._coming[partition] = _Coming(giver, attempt)
        coming.heard_ns = self._clock.monotonic_ns()
        async with coming.lock:
            # First of all: from now on what is there is known to be on its way, and not lent.
            transaction = self._store.begin()
            transaction.put(keys.staged(partition), encode(Staged(giver, attempt, False)))
            self._commit(transaction)
            while self._wipe_step(partition, keep_mark=True):
                await trio.lowlevel.checkpoint()
            coming.next_step = 1

    def _wipe_step(self, partition: PartitionId, *, keep_mark: bool = False) -> bool:
        """Drop some of what is on its way; whether there is more."""
        transaction = self._store.begin()
        found = self._store.read_chunk(*_range_of(partition), False, WIPE_STEP)
        for key, _ in found.entries:
            _stage(transaction, key, None)
        is_more = found.rest is not None
        if not is_more and not keep_mark:
            transaction.delete(keys.staged(partition))
        self._commit(transaction)
        return is_more

    def _take(self, message: Handed) -> None:
        placement = message.placement
        partition = PartitionId(placement.partition)
        if self._partitions().placement(partition).generation >= placement.generation:
            return
        coming = self._coming.get(partition)
        assert coming is not None and coming.is_sealed and coming.attempt == message.attempt, (
            f"partition {partition} was handed over, and is not here"
        )
        transaction = self._store.begin()
        put_moved(transaction, partition, Moved(self._shard, placement.generation, message.attempt))
        transaction.delete(keys.staged(partition))
        transaction.put(keys.lender(partition), encode(Placement(partition, message.giver, placement.generation)))
        self._commit(transaction)
        del self._coming[partition]
        self._partitions.place([placement])
        self._guard.taken(partition)

    async def _ask(self, partition: PartitionId, coming: _Coming) -> None:
        try:
            told = await self._peers.call(coming.giver, AskHanded(partition, coming.attempt))
        except PeerLost:
            return
        assert isinstance(told, Told)
        # Of one that was handed over the giver tells us, by and by; unless that is what a message was about that came
        # when all was over.
        is_over = told.verdict == Verdict.ABORTED or (told.verdict == Verdict.COMMITTED and not coming.is_sealed)
        if not is_over:
            return
        async with coming.lock:
            if self._coming.get(partition) is not coming:
                return
            del self._coming[partition]
            self._leftovers.append(partition)
            transaction = self._store.begin()
            transaction.put(keys.staged(partition), encode(Staged(coming.giver, coming.attempt, False)))
            self._commit(transaction)
            while self._wipe_step(partition):
                await trio.lowlevel.checkpoint()
            self._leftovers.remove(partition)


class _Coming:
    """A partition that is on its way here. ``next_step``: 0 while what was there before is being dropped, and of one
    that an earlier life has sealed."""

    __slots__ = ("attempt", "giver", "heard_ns", "is_sealed", "lock", "next_step")

    def __init__(self, giver: ShardId, attempt: int) -> None:
        self.giver = giver
        self.attempt = attempt
        self.lock = trio.Lock()
        self.next_step = 0
        self.is_sealed = False
        self.heard_ns = 0
        """When something was heard of it (monotonic)."""

    def yields_to(self, message: Copy) -> bool:
        """Whether the first part of another attempt ends this one. A giver that begins anew has given this one up;
        what another says may be old, and must not touch what only its giver may decide on."""
        if message.giver == self.giver:
            return message.attempt > self.attempt
        return not self.is_sealed


def _stage(transaction: Transaction, key: bytes, value: bytes | None) -> None:
    """Put or delete a record of a partition that is not this shard's, with the back reference that it has if it is an
    extent. Its bytes are not here, so nothing is counted."""
    if keys.kind_of(key) == keys.EXTENT:
        ino, offset = keys.inode_ino(key), keys.extent_offset(key)
        before = transaction.get(key)
        for record in (before, value):
            if record is None:
                continue
            extent = decode_extent(record)
            if extent.place == Place.REMOTE:
                reference = extents.borrowed_key(Ino(ino), offset, extent)
                if record is value:
                    transaction.put(reference, keys.encode_length(extent.length))
                else:
                    transaction.delete(reference)
    if value is None:
        transaction.delete(key)
    else:
        transaction.put(key, value)
