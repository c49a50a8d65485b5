"""Room: how much user data still fits, measured each second, and slabs and rows that go back to the disks."""

from __future__ import annotations

from fractions import Fraction

from siltstone.core.ledger import Ledger
from siltstone.core.relocate import CRAMPED_BYTES
from siltstone.core.write_back import WriteBack
from siltstone.engine.stripe.layout import GROUP_ROWS
from siltstone.errors import SiltstoneError, TooFewDisks
from siltstone.meta import space
from siltstone.types import DiskId

MEASURE_SECONDS = 1.0

HURRIED_SECONDS = 0.1
"""How often room is measured while writers wait for some."""

PUNCH_IDLE_SECONDS = 10.0
"""Freed rows are punched when nothing was committed for this long, and else only as many as disks are short of room:
rows that were written before are much faster to write again than punched ones."""

STRANDED_SHARE = 8
"""Where disks are away all free rows are punched while less than one part in so many of the pool is free: then new
slabs, on other disks, are what can be written to."""

RECLAIM_SHARE = 128
"""One part in so many of the pool is for relocation alone: it cannot make room without any."""

LOG_SHARE_MAX = 32
"""The files of the log have room of their own up to its high-water mark, but no more than one part in so many of the
pool: users must not take it meanwhile, or there is no room to settle the log into (with 1/64 the log took what it was
to be settled into, and then nothing moved). What the files take beyond that is lent: settling gives it back."""

SETTLE_MARGIN_BYTES = 4 * CRAMPED_BYTES
"""What stays when all of the log is settled: stripes are not packed without loss, and relocation, which is what makes
room then, has to put somewhere what it moves."""

PAYLOAD_PERCENT = 75
"""Of a segment of small changes; the rest is their metadata."""

HOLES_OF_USE_PERCENT = 90
"""So much of the dead places of living stripes is counted on: some lie on slabs that take no writes now, or are gaps
that nothing fits."""

METADATA_FULL_PERCENT = 90
"""Nothing is added when the metadata store is this full: what is left is for deletes and settling."""

EMPTY_SLABS_KEPT = 2
"""Empty slabs that stay for the next writes; further ones are deleted."""


class Room:
    """Keeps ``Ledger.room_bytes`` and ``hole_bytes`` true, and gives back to the disks what lies idle."""

    def __init__(self, ledger: Ledger, write_back: WriteBack, *, log_bytes_high: int) -> None:
        self._ledger = ledger
        self._log_bytes_high = log_bytes_high
        self._write_back = write_back
        self._disk_returned = False
        ledger.measure_room = self.measure
        ledger.pool.subscribe(self._note_disk)
        self.last_error = ""
        """Why space could not be given back last time; empty when it could."""

    def available_bytes(self) -> int:
        """What users can write, though for some of it they may have to wait until the log is shorter; looked at now."""
        self.measure()
        return min(self._ledger.available_bytes, self.free_for_users() + self._ledger.hole_bytes)

    def free_for_users(self) -> int:
        """What can be written to stripes, less what is left for relocation and for the log; 0 or more. What the log has
        beyond its share counts as if it were back."""
        left, lent = self._left_for_users()
        return max(0, left + lent)

    def _left_for_users(self) -> tuple[int, int]:
        """What is left now, negative where the log has taken it; and what the log has taken and will give back.

        The files of the log count as they are, not what is in them: they come and go without any change of what fits.
        """
        log, room = self._ledger.log, self._ledger.stripes.space()
        data_share, share = self._data_share(), self._log_share()
        files = int(log.file_bytes * data_share)
        left = room.usable_free_bytes - room.usable_total_bytes // RECLAIM_SHARE - max(0, share - files)
        return left, max(0, files - max(share, int(log.idle_file_bytes * data_share)))

    def _data_share(self) -> Fraction:
        """Of the room of disks, what stripes of full width would hold of users."""
        slabs = self._ledger.stripes.slabs
        return Fraction(slabs.data_units, slabs.data_units + slabs.parity_units)

    def _log_share(self) -> int:
        """What the files of the log have for themselves, in bytes that users could write there instead."""
        at_most = int(self._log_bytes_high * self._ledger.log.replicas * self._data_share())
        return min(at_most, self._ledger.stripes.space().usable_total_bytes // LOG_SHARE_MAX)

    def _left_for_log(self, on_the_way: int) -> int:
        """How much more the log may take in so that all of it can be settled (R1).

        Each further segment makes less of the room for that, so what is looked for is how many of them there may be.
        Where there is room for all that its high-water mark lets it take, nothing else is in the way.
        """
        ledger, slabs = self._ledger, self._ledger.stripes.slabs
        segment_bytes = ledger.log.segment_bytes
        margin = min(SETTLE_MARGIN_BYTES, ledger.stripes.space().usable_total_bytes // RECLAIM_SHARE)
        segments = max(0, self._log_bytes_high - ledger.log.kept_bytes) // segment_bytes + 1
        best = 0
        for count in range(segments, -1, -1):
            holds = (ledger.log.open_bytes_left + count * segment_bytes) * PAYLOAD_PERCENT // 100 - ledger.ahead_bytes
            fits = slabs.disk_room.settle_free_bytes(files=count * ledger.log.replicas, file_bytes=segment_bytes)
            fits -= on_the_way + margin
            if count == segments and fits >= holds:
                return max(0, fits)
            best = max(best, min(holds, fits))
            if best == holds:
                break  # fewer segments hold less
        return best

    def measure(self) -> None:
        """Look how much fits: what is free, less what is on its way there (dirty in memory, or in the log)."""
        self._ledger.worn.look(briefly=not self._ledger.is_cramped)
        in_memory = self._write_back.dirty_bytes - self._write_back.in_flight_bytes
        on_the_way = in_memory + self._ledger.totals.log_live_bytes
        holes = self._ledger.worn.hole_bytes * HOLES_OF_USE_PERCENT // 100
        if self._ledger.stripes.slabs.spare_rows < GROUP_ROWS:
            holes = 0  # chunks are so small that a full slab has no rows for new parity
        try:
            self._ledger.stripes.check_disks()
            # What is on its way takes holes first, as settling does.
            left, lent = self._left_for_users()
            room = left - max(0, on_the_way - holes)
            holes = max(0, holes - on_the_way)
            to_settle = self._left_for_log(on_the_way)
        except TooFewDisks:
            # Everything rides in the log, which holds writers back by itself.
            room, lent, holes = self._log_bytes_high, 0, 0
            to_settle = self._log_bytes_high
        metadata = self._ledger.store.statistics().space
        if metadata.used_bytes > metadata.max_bytes * METADATA_FULL_PERCENT // 100:
            room = lent = holes = 0
        lent = max(0, lent + min(0, room))
        self._ledger.note_room(max(0, room), lent=lent, holes=holes, to_settle=to_settle)

    async def run(self) -> None:
        """Measure and give back, for ever."""
        clock = self._ledger.clock
        seen_lsn = self._ledger.store.last_lsn
        quiet = 0.0
        while True:
            is_hurried = self._ledger.waiting_for_room > 0
            await clock.sleep(HURRIED_SECONDS if is_hurried else MEASURE_SECONDS)
            self.measure()
            quiet = quiet + MEASURE_SECONDS if self._ledger.store.last_lsn == seen_lsn else 0.0
            try:
                if short := self._ledger.stripes.slabs.disk_room.short_disks():
                    await self._ledger.log.delete_free_files(short)
                missing = self._missing_bytes()
                if quiet >= PUNCH_IDLE_SECONDS or self._disk_returned or self._has_stranded_rows():
                    quiet = 0.0
                    await self._give_back(None)
                elif missing:
                    await self._give_back(missing)
                self.last_error = ""
            except SiltstoneError as error:
                self.last_error = str(error)
            seen_lsn = self._ledger.store.last_lsn

    def _has_stranded_rows(self) -> bool:
        """Whether rows may be free that nothing can be written to, as a disk of their slab is away or drained, while
        there is little room elsewhere."""
        pool, room = self._ledger.pool, self._ledger.stripes.space()
        is_scarce = room.usable_free_bytes < room.usable_total_bytes // STRANDED_SHARE
        return is_scarce and len(pool.placeable()) < len(pool.status())

    def _missing_bytes(self) -> int:
        """How much more room the disks should have: free rows are of no use to the log, to snapshots, or to who wants
        many neighbouring ones."""
        log, slabs = self._ledger.log, self._ledger.stripes.slabs
        share = int(self._log_share() / self._data_share())
        files = max(0, share - log.file_bytes) // log.segment_bytes
        return slabs.disk_room.missing_bytes(files=files, file_bytes=log.segment_bytes)

    def _note_disk(self, _disk_id: DiskId, is_up: bool) -> None:
        self._disk_returned = self._disk_returned or is_up

    async def _give_back(self, bytes_max: int | None) -> None:
        """Delete slabs in which nothing is stored, and punch free rows, about so many bytes of them at most."""
        if self._disk_returned:
            # It may hold chunk files of slabs that were deleted while it was away.
            self._disk_returned = False
            await self._ledger.stripes.collect_strays()
        await self._drop_empty()
        await self._ledger.stripes.punch_released(bytes_max)

    async def _drop_empty(self) -> None:
        empty = self._ledger.stripes.take_empty_slabs(keep=EMPTY_SLABS_KEPT)
        if not empty:
            return
        transaction = self._ledger.begin()
        for slab_id in empty:
            space.delete_slab(transaction, slab_id)
        self._ledger.commit(transaction)
        await self._ledger.sync()
        for slab_id in empty:
            self._ledger.forget_slab(slab_id)
            await self._ledger.stripes.drop_slab(slab_id)
