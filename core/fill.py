"""Filling: what leaves the log goes to dead places of worn stripes, where free rows are scarce.

New rows cost (k + m) / k written bytes for each byte; a hole costs up to m + 1, but emptying a worn stripe to write it
anew costs (k + m) / k for each byte of the dead share alone, and more the fuller the pool is. So holes are filled when
rows are scarce, before anything is relocated.

The order is what makes it safe (docs/decisions/0005; engine/stripe/fill.py does the steps on the disks): (a) new parity
in fresh rows; (b) one batch with the stripes' new records, the extents' new places and redo records; (c) when that is
durable and nobody reads by the old records any more, the bytes in place; (d) the redo records go. A redo record that
a crash or a failing disk left is redone from the log, which keeps the payload until then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from siltstone.core.carrier import current_extent, fetch_current, join_neighbours
from siltstone.core.fill_plan import Candidate, FillPart, StripeFill, fill_bytes_min, plan_fills
from siltstone.core.ledger import Ledger, StripeInfo
from siltstone.core.packing import Movable, short_runs
from siltstone.core.reader import Reader
from siltstone.core.split import Splitter
from siltstone.core.worn import Worn, use_of
from siltstone.engine.stripe.fill import Fill, Filled
from siltstone.engine.stripe.reader import StripeAddress
from siltstone.errors import SiltstoneError
from siltstone.limits import KIB, ROW_BYTES
from siltstone.meta import extents, space
from siltstone.meta import records as meta_records
from siltstone.meta.keys import Reference
from siltstone.meta.records import Extent, Place
from siltstone.meta.store.store import Transaction
from siltstone.types import Buffer, Lsn, SlabId, StripeId, slab_of

SCARCE_SHARE = 16
AMPLE_SHARE = 12
"""Holes are filled from when less than one part in SCARCE_SHARE of the pool can still be written, until more than one
in AMPLE_SHARE can. Relocation, which costs more, begins later; and what a pool at its goal of 95 % live data has
free is less than either."""

STRIPES_MAX = 128
"""Stripes that are filled together: more share a flush, and they are all looked at again in the turn that commits."""

RUN_BYTES_MAX = 64 * KIB
"""Longer runs go to rows of their own: in holes they would be in too many parts."""

HOLES_AHEAD = 2
"""Long stripes are split until there are so many bytes of holes for each that is to settle: some fit nothing."""

CANDIDATES_MAX = 512
"""Worn stripes that are looked at for one batch."""


class FillStatistics(NamedTuple):
    """Counts since the volume was opened; bytes are of users' data."""

    filled_stripes: int
    filled_bytes: int
    redone: int
    """Redo records that opening found."""
    pending: int
    """Stripes whose bytes are not all in place: a disk is away, or the log cannot be read."""


class _Part(NamedTuple):
    """Bytes [start, start + length) of the extent number ``extent``, at ``position`` of a stripe's data."""

    extent: int
    start: int
    length: int
    position: int


class _Wanted(NamedTuple):
    """A stripe that is to be filled: its record as it was looked up, and what goes there: runs of parts that follow
    each other without a gap."""

    stripe_id: StripeId
    info: StripeInfo
    runs: list[list[_Part]]


class _Moved(NamedTuple):
    """Where an extent of the log lies now."""

    reference: Reference
    places: list[Extent]


class _Held(NamedTuple):
    """What the bytes of a fill wait for: its batch is durable, and the reads by the old record have ended."""

    lsn: Lsn
    era: int


class Filler:
    """Fills worn stripes of a volume. One call at a time: the Settler's lock sees to it."""

    def __init__(self, ledger: Ledger, reader: Reader, splitter: Splitter) -> None:
        self._ledger = ledger
        self._reader = reader
        self._splitter = splitter
        self._engine = ledger.stripes.filler
        self._is_scarce = False
        self._pending: dict[StripeId, Filled] = {}
        self._held: dict[StripeId, _Held] = {}
        """Of those pending, the fills of this life that have not been waited for yet. Their slabs stay claimed: a scrub
        would mend, by the new record, what must still have the old bytes."""
        self._kept_claims: set[SlabId] = set()
        self._filled_stripes = self._filled_bytes = self._redone = 0
        self.last_error = ""
        """Why a redo record could not be redone; empty when all could."""

    def statistics(self) -> FillStatistics:
        """Counts since the volume was opened."""
        return FillStatistics(self._filled_stripes, self._filled_bytes, self._redone, len(self._pending))

    # --- filling ---------------------------------------------------------------------------------------------------

    async def fill(self, chunk: Sequence[Movable]) -> int:
        """Move some of these extents of the log to dead places, if rows are scarce; returns how many bytes moved.

        The others, those that cannot be read among them, are left to be carried to new stripes.
        """
        moved = 0
        while self._wants_holes():
            moved_now = await self._fill_once(chunk)
            moved += moved_now
            # New parity takes rows, few at a time, and gives as many back: there may be more to fill now.
            chunk = [movable for movable in chunk if current_extent(self._ledger.store, movable, Place.LOG)]
            if not moved_now or not chunk:
                break
            await self._ledger.admit()
        return moved

    async def _fill_once(self, chunk: Sequence[Movable]) -> int:
        claimed: set[SlabId] = set()
        self._ledger.worn.look()
        self._splitter.make_holes(HOLES_AHEAD * sum(extent.length for extent in chunk))
        try:
            wanted = self._plan(chunk, claimed)
            return await self._fill(chunk, wanted) if wanted else 0
        finally:
            self._release(claimed)

    def _wants_holes(self) -> bool:
        room = self._ledger.stripes.space()
        share = AMPLE_SHARE if self._is_scarce else SCARCE_SHARE
        self._is_scarce = room.usable_free_bytes < room.usable_total_bytes // share
        return self._is_scarce

    def _plan(self, chunk: Sequence[Movable], claimed: set[SlabId]) -> list[_Wanted]:
        """What goes where; claims the slabs."""
        runs = short_runs(chunk, RUN_BYTES_MAX)
        sizes = [sum(chunk[index].length for index in run) for run in runs]
        is_cramped = self._ledger.is_cramped
        candidates = self._candidates(claimed, is_cramped=is_cramped)
        fills = plan_fills(sizes, candidates, stripes_max=STRIPES_MAX, is_cramped=is_cramped)
        used = {slab_of(fill.stripe_id) for fill in fills}
        for slab_id in claimed - used:
            self._ledger.release_claim(slab_id)
        claimed &= used
        return [self._wanted(fill, runs, chunk) for fill in fills]

    def _wanted(self, fill: StripeFill, runs: Sequence[list[int]], chunk: Sequence[Movable]) -> _Wanted:
        parts = [_cut(runs[part.run], chunk, part) for part in fill.parts]
        return _Wanted(fill.stripe_id, self._ledger.stripe_info(fill.stripe_id), parts)

    def _candidates(self, claimed: set[SlabId], *, is_cramped: bool) -> Iterator[Candidate]:
        """Worn stripes of slabs that nobody else works on: of the most dead ones, those of slabs with most to fill
        first, so that few files are written and flushed."""
        store, worn = self._ledger.store, self._ledger.worn
        by_slab: dict[SlabId, list[Worn]] = {}
        for found in islice(worn.short(), CANDIDATES_MAX):
            by_slab.setdefault(slab_of(found.stripe_id), []).append(found)
        for slab_id in sorted(by_slab, key=lambda slab_id: -sum(found.hole_bytes for found in by_slab[slab_id])):
            if not self._ledger.stripes.takes_fills(slab_id) or not self._ledger.try_claim(slab_id):
                continue
            claimed.add(slab_id)
            parity_rows = self._ledger.stripes.slabs.get(slab_id).parity.allocator.free
            for found in by_slab[slab_id]:
                parity_rows -= found.unit_bytes // ROW_BYTES
                if parity_rows < 0:
                    break  # the others wait for the old parity of these
                is_of_use = found.hole_bytes >= fill_bytes_min(found.unit_bytes, is_cramped=is_cramped)
                if is_of_use and not space.has_fill(store, found.stripe_id):
                    dead = use_of(store, found.stripe_id, found.capacity).dead
                    yield Candidate(found.stripe_id, found.unit_bytes, dead)

    async def _fill(self, chunk: Sequence[Movable], wanted: Sequence[_Wanted]) -> int:
        current, payloads = await self._fetch(chunk, wanted)
        todo: list[_Wanted] = []
        requests: list[tuple[StripeAddress, list[Fill]]] = []
        for item in wanted:
            runs = [run for run in item.runs if all(part.extent in current for part in run)]
            if runs:
                info = item.info
                todo.append(item._replace(runs=runs))
                fills = [Fill(run[0].position, _joined(run, payloads)) for run in runs]
                requests.append((StripeAddress(info.slab, item.stripe_id, info.stripe, info.checksums), fills))
        if not requests:
            return 0
        prepared = await self._engine.prepare(requests)
        done: list[Filled] = []
        left = [filled for filled in prepared if filled is not None]
        try:
            await self._ledger.admit()
            transaction = self._ledger.begin()
            good = [
                (filled, item)
                for filled, item in zip(prepared, todo, strict=True)
                if filled is not None and self._is_still(filled, item.info)
            ]
            moved = self._move(transaction, good, chunk, current, done)
            if not done:
                return 0
            lsn = self._ledger.commit(transaction)
        except BaseException:
            done.clear()
            raise
        finally:
            committed = {filled.stripe_id for filled in done}
            for filled in left:
                if filled.stripe_id not in committed:
                    self._engine.abandon(filled)
        held = _Held(lsn, self._ledger.fence.advance())
        for filled in done:
            self._ledger.forget_stripe(filled.stripe_id)
            self._engine.lay_over(filled)
            self._pending[filled.stripe_id] = filled
            self._held[filled.stripe_id] = held
        self._filled_stripes += len(done)
        self._filled_bytes += moved
        await self._land(done)
        return moved

    async def _fetch(
        self, chunk: Sequence[Movable], wanted: Sequence[_Wanted]
    ) -> tuple[dict[int, Extent], dict[int, bytes]]:
        """The extents that are still what they were when they were listed, and their bytes."""
        indexes = {part.extent: chunk[part.extent] for item in wanted for run in item.runs for part in run}
        era = self._ledger.fence.enter()
        try:
            # What cannot be read the Carrier meets again, and tells.
            found = await fetch_current(self._ledger.store, self._reader, indexes, Place.LOG)
        finally:
            self._ledger.fence.leave(era)
        return found.current, found.payloads

    def _is_still(self, filled: Filled, info: StripeInfo) -> bool:
        """Whether the stripe is what it was when its new parity was computed, and the places are still dead."""
        store = self._ledger.store
        if space.get_stripe(store, filled.stripe_id) != filled.before:
            return False
        if space.get_checksums(store, filled.stripe_id) != info.checksums:
            return False
        dead = use_of(store, filled.stripe_id, info.slab.data_units * filled.before.unit_bytes).dead
        return all(
            any(start <= fill.offset and fill.offset + len(fill.data) <= end for start, end in dead)
            for fill in filled.fills
        )

    def _move(
        self,
        transaction: Transaction,
        good: Sequence[tuple[Filled, _Wanted]],
        chunk: Sequence[Movable],
        current: dict[int, Extent],
        done: list[Filled],
    ) -> int:
        """Point at the stripes what is still as it was and has a place for all of its bytes. Records the stripes that
        hold some of it, and adds them to ``done``. Returns how many bytes moved."""
        places: dict[int, list[tuple[int, Extent]]] = {}
        for filled, item in good:
            for extent, start, length, position in (part for run in item.runs for part in run):
                place = Extent(length, Place.STRIPE, filled.stripe_id, position)
                places.setdefault(extent, []).append((start, place))
        moved: dict[int, _Moved] = {}
        for index, found in places.items():
            reference, old = chunk[index].reference, current[index]
            new = [place for _, place in sorted(found, key=lambda item: item[0])]
            if sum(place.length for place in new) < old.length:
                continue  # one of the stripes that were to hold it could not be filled
            if extents.relocate(transaction, reference.ino, reference.offset, old, new, []):
                moved[index] = _Moved(reference, new)
        join_neighbours(transaction, [moved[index] for index in sorted(moved)])
        for filled, item in good:
            parts = [part for run in item.runs for part in run]
            if any(part.extent in moved for part in parts):
                # What did not move is written all the same: the parity has it.
                pieces = [
                    (part.position, extents.clip(current[part.extent], part.start, part.length)) for part in parts
                ]
                space.put_stripe(transaction, filled.stripe_id, filled.stripe, filled.checksums)
                space.put_fill(transaction, filled.stripe_id, meta_records.Fill(pieces))
                done.append(filled)
        return sum(current[index].length for index in moved)

    # --- finishing -------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Bring to their places the bytes of fills that were committed and are not in place yet.

        At opening, before anything else reads or is written: what a crash left. Later: what waits for a disk.
        """
        self.last_error = ""
        for stripe_id, record in list(space.fills(self._ledger.store)):
            if stripe_id not in self._pending:
                await self._load(stripe_id, record)
        if not self._pending:
            return
        claimed: set[SlabId] = set()
        ready: list[Filled] = []
        for filled in self._pending.values():
            slab_id = slab_of(filled.stripe_id)
            if slab_id not in claimed:
                if slab_id not in self._kept_claims and not self._ledger.try_claim(slab_id):
                    continue
                claimed.add(slab_id)
            # Its slab may have got another disk since.
            if space.get_stripe(self._ledger.store, filled.stripe_id) is not None:
                filled = filled._replace(slab=self._ledger.stripe_info(filled.stripe_id).slab)
            ready.append(filled)
        try:
            await self._land(ready)
        finally:
            self._release(claimed)

    def _release(self, claimed: set[SlabId]) -> None:
        """Let go of slabs but for those with fills that a cancelled settle left to be waited for."""
        self._kept_claims -= claimed
        self._kept_claims |= claimed & set(map(slab_of, self._held))
        for slab_id in claimed - self._kept_claims:
            self._ledger.release_claim(slab_id)

    async def _load(self, stripe_id: StripeId, record: meta_records.Fill) -> None:
        """Take up a fill that an earlier life left."""
        info = self._ledger.stripe_info(stripe_id)
        try:
            fills = [Fill(start, await self._reader.fetch(extent, 0, extent.length)) for start, extent in record.pieces]
        except SiltstoneError as error:
            # The new parity stands for the bytes, as far as it goes; the log keeps them, and this is tried again.
            self.last_error = f"stripe {stripe_id:x} cannot be filled from the log: {error}"
            return
        filled = Filled(info.slab, stripe_id, info.stripe, info.stripe, info.checksums, fills)
        self._engine.lay_over(filled)
        self._pending[stripe_id] = filled
        self._redone += 1

    async def _land(self, done: Sequence[Filled]) -> None:
        """Bring bytes to their places when they may go there (T11). Where this is cancelled, by a client that hangs up,
        ``finish`` begins it again, and waits for the same."""
        held = [self._held[filled.stripe_id] for filled in done if filled.stripe_id in self._held]
        if held:
            await self._ledger.log.wait_durable(max(lsn for lsn, _ in held))
            await self._ledger.fence.wait_past(max(era for _, era in held))
        for filled in done:
            if self._held.pop(filled.stripe_id, None) is not None:
                self._engine.release_parity(filled)
        await self._complete(done)

    async def _complete(self, done: Sequence[Filled]) -> None:
        left = {filled.stripe_id for filled in await self._engine.complete(done)}
        transaction = self._ledger.begin()
        for filled in done:
            if filled.stripe_id in left:
                continue
            del self._pending[filled.stripe_id]
            if space.get_stripe(self._ledger.store, filled.stripe_id) is not None:
                space.delete_fill(transaction, filled.stripe_id)
                self._ledger.worn.note(filled.stripe_id)
        if len(left) < len(done):
            self._ledger.commit(transaction)

    def needs(self, start: Lsn, end: Lsn) -> bool:
        """Whether a fill is to be redone from payload of the log in [start, end)."""
        return any(
            start <= extent.address < end
            for _, record in space.fills(self._ledger.store)
            for _, extent in record.pieces
        )


def _cut(run: Sequence[int], chunk: Sequence[Movable], part: FillPart) -> list[_Part]:
    """A part of a run as parts of its extents."""
    found: list[_Part] = []
    at = 0
    for index in run:
        length = chunk[index].length
        low, high = max(at, part.start), min(at + length, part.start + part.length)
        if low < high:
            found.append(_Part(index, low - at, high - low, part.position + low - part.start))
        at += length
    return found


def _joined(run: Sequence[_Part], payloads: Mapping[int, bytes]) -> Buffer:
    """The bytes of parts that follow each other."""
    views = [memoryview(payloads[part.extent])[part.start : part.start + part.length] for part in run]
    return views[0] if len(views) == 1 else b"".join(views)
