"""A StripeStore on simulated disks, beside a plain dict of what it must hold."""

from __future__ import annotations

import random

from siltstone.engine.stripe.layout import Slab, chunk_name, unit_offset
from siltstone.engine.stripe.reader import StripeAddress
from siltstone.engine.stripe.store import Run, StripeStore, Tier, WrittenStripe
from siltstone.limits import ROW_BYTES
from siltstone.types import DiskId, SlabId, StripeId, slab_of
from sim.disk import SimDisk
from sim.faults import Fault, FaultKind
from sim.pool import crash_sim_pool, make_sim_pool
from sim.randomness import SimRandom
from sim.workers import SimWorkers


class NthOperation:
    """Counts the operations of several disks."""

    def __init__(self, number: int) -> None:
        self.left = number

    def is_now(self) -> bool:
        """Count one; whether it is the one."""
        self.left -= 1
        return self.left == 0


class Vanish(Fault):
    """At the N-th operation of several disks the disk that it is for is pulled out."""

    def __init__(self, disk: SimDisk, nth: NthOperation) -> None:
        super().__init__(FaultKind.SLOW, "*", count=None)
        self._disk = disk
        self._nth = nth

    def would_strike(self, operation: str, name: str) -> bool:
        """Not for reads of the cache, which are not counted."""
        return False

    def strikes(self, operation: str, name: str) -> bool:
        """Pull the disk out when it is time."""
        if not self._nth.is_now():
            return False
        self._disk.disappear()
        self.fired += 1
        return True


class StripeRig:
    """Disks, pool and store; ``live`` and ``slabs`` are what the metadata of a volume would hold.

    ``chunk_bytes`` is small; ``capacity_bytes`` is that of each disk.
    """

    def __init__(
        self,
        data_units: int,
        parity_units: int,
        disk_count: int,
        *,
        chunk_bytes: int,
        capacity_bytes: int = 1 << 30,
        seed: int = 0,
    ) -> None:
        self.data_units, self.parity_units, self.chunk_bytes = data_units, parity_units, chunk_bytes
        self.random = random.Random(seed)
        self.sim = make_sim_pool(disk_count, seed=seed, capacity_bytes=capacity_bytes, cache_misses=True)
        self.disks = self.sim.disks
        self.pool = self.sim.pool
        self.store = self._new_store()
        self.live: dict[StripeId, tuple[WrittenStripe, bytes]] = {}
        self.slabs: dict[SlabId, Slab] = {}
        self.faults: list[Fault] = []

    def _new_store(self) -> StripeStore:
        return StripeStore(
            self.pool,
            data_units=self.data_units,
            parity_units=self.parity_units,
            chunk_bytes=self.chunk_bytes,
            workers=SimWorkers(),
        )

    # --- what a volume does -----------------------------------------------------------------------------------------

    async def write(self, size: int, *, use_reserve: bool = False) -> WrittenStripe:
        """The same for one run; returns its first stripe, mostly the only one."""
        return (await self.write_runs([size], use_reserve=use_reserve))[0]

    async def write_runs(self, sizes: list[int], *, use_reserve: bool = False) -> list[WrittenStripe]:
        """Write runs of random bytes, each in two buffers, and record the stripes like a committed batch."""
        runs: list[Run] = []
        contents: list[bytes] = []
        for size in sizes:
            data = self.random.randbytes(size)
            cut = self.random.randrange(size + 1)
            contents.append(data)
            runs.append(Run([data[:cut], memoryview(data)[cut:]], size))
        pieces = await self.store.write_runs(runs, tier=Tier.DIRECT, use_reserve=use_reserve)
        ends = [0] * len(sizes)
        for piece in pieces:
            written = piece.written
            if written.new_slab:
                self.slabs[written.slab_id] = written.slab
            self.store.note_committed(written)
            assert self.slabs[written.slab_id] == written.slab
            self._check_apart(written)
            assert piece.offset == ends[piece.run]
            ends[piece.run] += written.stripe.data_bytes
            self.live[written.stripe_id] = (written, contents[piece.run][piece.offset : ends[piece.run]])
        assert ends == sizes
        return [piece.written for piece in pieces]

    def _check_apart(self, written: WrittenStripe) -> None:
        """The rows exist, and no other live stripe has any of them."""
        for unit in (0, written.slab.data_units):
            start = unit_offset(written.slab, written.stripe_id, written.stripe, unit)
            end = start + written.stripe.unit_bytes
            assert end <= written.slab.file_bytes(unit)
            for other_id, (other, _) in self.live.items():
                first = unit_offset(written.slab, other_id, other.stripe, unit)
                is_apart = first + other.stripe.unit_bytes <= start or end <= first
                assert slab_of(other_id) != written.slab_id or is_apart

    def release(self, stripe_id: StripeId) -> None:
        """Delete a stripe like a durable batch without readers."""
        written, _ = self.live.pop(stripe_id)
        self.store.release(stripe_id, written.stripe)

    async def read(self, written: WrittenStripe, offset: int, size: int) -> bytes:
        """Read through the store."""
        return await self.store.read(written.slab, written.stripe_id, written.stripe, written.checksums, offset, size)

    async def verify(self, written: WrittenStripe) -> list[int]:
        """Units that are not right, or whose disk is away."""
        at = StripeAddress(written.slab, written.stripe_id, written.stripe, written.checksums)
        checked = await self.store.check([at], mend=False, digests=frozenset)
        wrong = {damage.unit for found in checked.damages for damage in found.units}
        return sorted(wrong | {unit for unit, disk in enumerate(written.slab.disks) if not self.pool.is_up(disk)})

    async def check_all(self, ranges: int = 2) -> None:
        """Every live stripe reads back, whole and in random ranges."""
        for written, data in list(self.live.values()):
            assert await self.read(written, 0, len(data)) == data
            for _ in range(ranges):
                start = self.random.randrange(len(data))
                end = self.random.randrange(start + 1, len(data) + 1)
                assert await self.read(written, start, end - start) == data[start:end]
                nowait = self.store.read_nowait(
                    written.slab, written.stripe_id, written.stripe, written.checksums, start, end - start
                )
                assert nowait in (None, data[start:end])

    def live_raw_bytes(self) -> int:
        """Bytes of chunk files that the live stripes take, parity included."""
        return sum(written.stripe.unit_bytes * len(written.slab.disks) for written, _ in self.live.values())

    def chunk_names(self, disk_id: DiskId) -> set[str]:
        """The chunk files that the records put on a disk."""
        return {
            chunk_name(slab_id, unit)
            for slab_id, slab in self.slabs.items()
            for unit, owner in enumerate(slab.disks)
            if owner == disk_id
        }

    # --- what the world does ----------------------------------------------------------------------------------------

    def rot(self, written: WrittenStripe, unit: int, offset: int) -> None:
        """Change a byte of a unit behind the store's back."""
        disk = self.disks[written.slab.disks[unit]]
        disk.rot(
            chunk_name(written.slab_id, unit),
            unit_offset(written.slab, written.stripe_id, written.stripe, unit) + offset,
        )

    def fail_operation(self, number: int, kind: FaultKind | None) -> None:
        """Let the N-th operation from now on, on whichever disk, fail; with None its disk vanishes."""
        if kind is None:
            nth = NthOperation(number)
            self.faults = [Vanish(disk, nth) for disk in self.disks]
        else:
            self.faults = [Fault(kind, "*", skip=number - 1, cause="EIO", offset=2 * ROW_BYTES)] * len(self.disks)
        for disk, fault in zip(self.disks, self.faults, strict=True):
            disk.faults.append(fault)

    @property
    def has_failed(self) -> bool:
        """Whether the fault of ``fail_operation`` has struck."""
        return any(fault.fired for fault in self.faults)

    def crash(self, seed: int) -> None:
        """Lose power on all disks; what the volume recorded is known to a new store."""
        for disk in self.disks:
            disk.heal()
        self.sim = crash_sim_pool(self.sim, SimRandom(seed))
        self.pool = self.sim.pool
        self.store = self.reopened()

    def reopened(self) -> StripeStore:
        """A new store that knows only the records."""
        store = self._new_store()
        store.load(self.slabs.items(), [(stripe_id, written.stripe) for stripe_id, (written, _) in self.live.items()])
        return store
