"""Moving units of slabs to other disks: what a lost disk held is rebuilt, a draining disk emptied, a new one levelled.

One unit of a slab at a time, two slabs side by side: a slab takes no new stripes meanwhile, its living stripes' units
are copied or computed into a new chunk file, and when that is durable one batch puts the other disk into the slab's
record. Nothing else notes how far it came, so a restart goes on with the slabs that are left; a crash in between leaves
a stray file. Rows that no stripe has are not copied.
Since slabs with a disk that is away take no stripes, a disk that returns is never stale: whatever was not moved yet is
simply used again.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio

from siltstone.core.away import AwayTimes
from siltstone.core.ledger import Ledger
from siltstone.core.move_plan import Move, MoveKind, SlabView, plan_level, plan_moves
from siltstone.core.pace import WINDOWS_ALONE, Pace
from siltstone.core.types import Progress, ProgressListener
from siltstone.core.windows import window_from
from siltstone.engine.pool import DiskRole, DiskState
from siltstone.engine.snapshot.files import SnapshotFiles
from siltstone.engine.stripe.layout import Slab
from siltstone.errors import DiskError, Refused, SiltstoneError, Unavailable
from siltstone.meta import space
from siltstone.types import DiskId, SlabId, make_stripe_id, slab_of

LOOK_SECONDS = 1.0
"""How often the background looks whether something is to be moved."""

MOVES_AT_ONCE = 2
"""Units that are moved side by side: while the last of one is flushed and recorded, the next is being read."""

PROGRESS_SECONDS = 0.25
"""How often those who wait are told how far it is, and how soon they see what nobody tells them."""

PATIENCE_SECONDS = 30.0
"""Who waits is refused when nothing could be moved for so long: freed rows are punched, and what failed was tried
again, but there is no room, or it failed again."""

RETRY_SECONDS = 10.0
"""A unit whose move failed is left alone for this long."""

CLAIM_SECONDS = 0.1
"""The same if somebody else has the slab: those who fill or scrub have it for a moment."""

AWAY_STATES = (DiskState.MISSING, DiskState.FAILED)

RoleListener = Callable[[DiskId, DiskRole], None]
"""Told when the mover gives a disk another role: a new one that is level has become a member like others."""


class MoveStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is being moved, and what is left. Bytes are of chunk files."""

    kind: str
    """rebuild, drain, level, or empty when nothing is moved; like source and target of the oldest move under way."""
    source: int
    target: int
    units_left: int
    """Chunk files that wait for their move or are at it."""
    done_bytes: int
    """Since this round of moves began."""
    total_bytes: int
    bytes_per_second: float
    seconds_left: float
    since_ns: int
    waiting: str
    """Why some of it cannot be moved now; empty if all can."""
    unreadable_stripes: int
    """Stripes of the last unit of which too few units were left to compute it."""
    last_error: str


class Mover:
    """Moves units of a volume's slabs.

    ``grace``: seconds that a disk may be away before what it holds is rebuilt elsewhere; ``bytes_per_second``: how fast
    chunk files may be filled, 0 without limit.
    """

    def __init__(self, ledger: Ledger, snapshots: SnapshotFiles, *, grace: float, bytes_per_second: int) -> None:
        self._ledger = ledger
        self._snapshots = snapshots
        self._slabs = ledger.stripes.slabs
        self._pool = ledger.pool
        self._grace = grace
        self._pace = Pace(ledger, bytes_per_second=bytes_per_second)
        self._hurry = 0
        """How many wait for everything that can be rebuilt to be rebuilt, without grace."""
        self._away = AwayTimes(ledger)
        self._wake = trio.Event()
        self._moving: dict[SlabId, tuple[Move, DiskId]] = {}
        """What is being moved, and where to."""
        self._is_moving = False
        """A round is under way: it ends when nothing is being moved and nothing can be for now."""
        self._left: list[Move] = []
        self._retry_at: dict[tuple[SlabId, int], int] = {}
        self._began_ns = 0
        self._began_wall_ns = 0
        self._done_bytes = 0
        self._looked = trio.Event()
        self._ended = trio.Event()
        """Set when a move has ended."""
        self._role_listener: RoleListener = lambda disk_id, role: None
        self._ask_settle_at_ns = 0
        self._begun_moves = 0
        self.moved_units = 0
        self.unreadable_stripes = 0
        self.waiting = ""
        self.last_error = ""
        """Why the last move failed; empty when it did not."""
        self._pool.subscribe(self._note_disk)

    def on_role(self, listener: RoleListener) -> None:
        """Be told of roles that change here, so that they are remembered."""
        self._role_listener = listener

    # --- what people ask for ---------------------------------------------------------------------------------------

    async def rebuild(self, progress: ProgressListener | None = None) -> None:
        """Rebuild everything that disks which are away held, and empty draining ones, without waiting for the grace.

        Returns when nothing is left. Raises Refused when something is left that no disk can take, or has had room for,
        or that fails again and again; it goes on in the background as soon as that changes.
        """
        self._hurry += 1
        try:
            await self._wait_for(lambda: not any(map(_is_needed, self._left)) and not self._moving, progress)
        finally:
            self._hurry -= 1

    async def drain(self, disk_id: DiskId, progress: ProgressListener | None = None) -> None:
        """Return when a draining or lost disk holds nothing that the volume needs. Raises Refused when that cannot be
        (see ``rebuild``), and when the disk is no longer to be emptied."""

        def is_done() -> bool:
            role = next((disk.role for disk in self._pool.status() if disk.disk_id == disk_id), None)
            if role not in (DiskRole.DRAINING, DiskRole.LOST):
                raise Refused(f"disk {disk_id} is not being drained any more")
            for segment in self._ledger.log.segments():
                if disk_id in segment.disks and not any(map(self._pool.is_up, segment.disks)):
                    raise Refused(
                        f"the log from LSN {segment.start} to {segment.end} has no copy on a disk that is up: bring "
                        f"disk {' or '.join(map(str, sorted(segment.disks)))} back, or delete what cannot be read "
                        "(siltstone scrub names it)"
                    )
            return self.is_drained(disk_id)

        await self._wait_for(is_done, progress)

    def stranded(self) -> set[SlabId]:
        """Slabs with a unit on a disk that is given up, and no other disk that could take it."""
        return {move.slab_id for move in self._left if _is_needed(move) and not move.targets}

    def is_drained(self, disk_id: DiskId) -> bool:
        """Whether no slab, no log segment and no snapshot counts on a disk, nor would after a crash."""
        in_snapshots = any(disk_id in snapshot.disks for snapshot in self._snapshots.snapshots)
        in_log = any(disk_id in segment.disks for segment in self._ledger.log.segments())
        is_source = any(move.source == disk_id for move, _ in self._moving.values())
        return not in_log and not in_snapshots and not is_source and not self._slabs.units_of(disk_id)

    async def _wait_for(self, is_done: Callable[[], bool], progress: ProgressListener | None) -> None:
        await self._look()
        clock = self._ledger.clock
        hopeful_ns, moved_units = clock.monotonic_ns(), self.moved_units
        while not is_done():
            if progress is not None:
                status = self.status()
                progress(Progress(status.done_bytes, status.total_bytes, "bytes"))
            if self.waiting and not self._can_go_on():
                raise Refused(self.waiting)
            is_at_it = bool(self._moving) and not self.last_error
            if moved_units != self.moved_units or is_at_it or not (self.waiting or self.last_error):
                hopeful_ns, moved_units = clock.monotonic_ns(), self.moved_units
            elif clock.monotonic_ns() - hopeful_ns >= PATIENCE_SECONDS * 1e9:
                raise Refused(self.waiting or self.last_error)
            # Without a move: what is left is the log's to do, or one that failed waits to be tried again.
            with trio.move_on_after(PROGRESS_SECONDS):
                await self._ended.wait()
            await self._look()

    async def _look(self) -> None:
        """Wait for the background to look what is to be done."""
        self._wake.set()
        with trio.move_on_after(LOOK_SECONDS):
            await self._looked.wait()

    def _can_go_on(self) -> bool:
        return any(move.targets for move in self._left)

    def status(self) -> MoveStatus:
        """Where moving stands."""
        now = next(iter(self._moving.values()), None)
        left = sum(move.size for move in self._left)
        elapsed = (self._ledger.clock.monotonic_ns() - self._began_ns) / 1e9
        rate = self._done_bytes / elapsed if now is not None and elapsed > 0 else 0.0
        return MoveStatus(
            kind="" if now is None else now[0].kind.value,
            source=-1 if now is None else now[0].source,
            target=-1 if now is None else now[1],
            units_left=len(self._left),
            done_bytes=self._done_bytes,
            total_bytes=self._done_bytes + left,
            bytes_per_second=round(rate, 1),
            seconds_left=round(left / rate, 1) if rate else 0.0,
            since_ns=self._began_wall_ns,
            waiting=self.waiting,
            unreadable_stripes=self.unreadable_stripes,
            last_error=self.last_error,
        )

    # --- in the background -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Move what should be moved, for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                wait_seconds = await self._start_moves(nursery)
                with trio.move_on_after(wait_seconds):
                    await self._wake.wait()

    def _note_disk(self, _disk_id: DiskId, _is_up: bool) -> None:
        self._wake.set()

    async def _start_moves(self, nursery: trio.Nursery) -> float:
        """Start the first moves that can be made; returns after how many seconds to look again at the latest."""
        await self._away.note({disk.disk_id for disk in self._pool.status() if disk.state in AWAY_STATES})
        self._left = self._plan()
        self._looked.set()
        self._looked = trio.Event()
        now_ns = self._ledger.clock.monotonic_ns()
        wait_ns = int(LOOK_SECONDS * 1e9)
        room: dict[tuple[DiskId, int, MoveKind], bool] = {}
        is_cramped = False
        for move in self._left:
            if len(self._moving) == MOVES_AT_ONCE:
                break
            if move.slab_id in self._moving:
                continue
            retry_ns = self._retry_at.get((move.slab_id, move.unit), 0) - now_ns
            if retry_ns > 0:
                wait_ns = min(wait_ns, retry_ns)
                continue
            target = await self._target_of(move, room)
            if target is None:
                is_cramped = is_cramped or bool(move.targets)
                continue
            if not self._is_moving:
                self._begin_round()
            # The new file is made here, so that its disk shows how much room is left for another.
            if await self._begin(move, target):
                nursery.start_soon(self._carry_out, move, target)
            room.clear()
        if is_cramped and self._ledger.totals.log_live_bytes and now_ns >= self._ask_settle_at_ns:
            self._ask_settle_at_ns = now_ns + int(RETRY_SECONDS * 1e9)
            self._ledger.settle_wanted.set()
        self._is_moving = bool(self._moving)
        self.waiting = "" if self._moving else self._why_waiting()
        return wait_ns / 1e9

    async def _target_of(self, move: Move, room: dict[tuple[DiskId, int, MoveKind], bool]) -> DiskId | None:
        """The best disk that has room for a unit. ``room``: what was found out about that already.

        What is reserved for settle is left as long as the log holds something to settle: were it taken here, nothing
        could make room in the log any more. It is never taken for a move without which nothing is missing. What is held
        back for snapshots is only taken where redundancy is lost, which counts more.
        """
        use_reserve = _is_needed(move) and not self._ledger.totals.log_live_bytes
        use_held_back = use_reserve and move.kind is MoveKind.REBUILD
        for disk_id in move.targets:
            has_room = room.get((disk_id, move.size, move.kind))
            if has_room is None:
                has_room = await self._slabs.has_room(
                    disk_id, move.size, use_reserve=use_reserve, use_held_back=use_held_back
                )
                room[disk_id, move.size, move.kind] = has_room
            if has_room:
                return disk_id
        return None

    def _begin_round(self) -> None:
        self._began_ns = self._ledger.clock.monotonic_ns()
        self._began_wall_ns = self._ledger.clock.now_ns()
        self._done_bytes = 0
        self._is_moving = True
        self._retry_at.clear()
        self.last_error = ""

    def _why_waiting(self) -> str:
        left = list(filter(_is_needed, self._left))
        if not left:
            return ""
        sources = sorted({move.source for move in left})
        disks = f"disk {sources[0]}" if len(sources) == 1 else f"disks {', '.join(map(str, sources))}"
        what = f"{len(left)} chunk files of {disks} wait to be moved: "
        with_target = [move for move in left if move.targets]
        if not with_target:
            return what + "every other disk has a part of the same slabs already; add a disk"
        now_ns = self._ledger.clock.monotonic_ns()
        if self.last_error and any(self._retry_at.get((move.slab_id, move.unit), 0) > now_ns for move in with_target):
            return what + f"moving them failed and is tried again ({self.last_error})"
        if len(with_target) == len(left):
            return what + "no other disk has room for them; add a disk or delete something"
        return what + (
            f"{len(with_target)} for room on another disk, the others since every other disk has a part of the same "
            "slabs already; add a disk"
        )

    def _plan(self) -> list[Move]:
        lost, draining, new = self._disks_by_need()
        slabs = [
            SlabView(state.slab_id, state.slab.disks, state.slab.chunk_bytes)
            for state in self._slabs.open_slabs()
            if state.is_recorded
        ]
        if lost or draining:
            takers = self._pool.choose(len(self._pool.status()))
            moves = plan_moves(slabs, lost=lost, draining=draining, takers=takers)
            if moves:
                return moves
        if not new:
            return []
        capacities = {
            disk.disk_id: disk.space.total_bytes
            for disk in self._pool.status()
            if disk.space is not None and self._pool.is_placeable(disk.disk_id)
        }
        # One without room is as full as it can be, whatever else fills it (the log, snapshots): it is level.
        move = plan_level(slabs, new=set(filter(self._slabs.takes_chunk, new)), capacities=capacities)
        if move is not None:
            return [move]
        for disk_id in new:
            self._pool.set_role(disk_id, DiskRole.MEMBER)
            self._role_listener(disk_id, DiskRole.MEMBER)
        return []

    def _disks_by_need(self) -> tuple[set[DiskId], set[DiskId], set[DiskId]]:
        """(lost, draining, new): of the disks that are away those whose time is up."""
        lost: set[DiskId] = set()
        draining: set[DiskId] = set()
        new: set[DiskId] = set()
        known: set[DiskId] = set()
        for disk in self._pool.status():
            known.add(disk.disk_id)
            if disk.state not in AWAY_STATES:
                if disk.role is DiskRole.DRAINING:
                    draining.add(disk.disk_id)
                elif disk.role is DiskRole.NEW and disk.space is not None:
                    new.add(disk.disk_id)
                continue
            is_given_up = disk.role in (DiskRole.LOST, DiskRole.DRAINING) or self._hurry
            if is_given_up or self._away.seconds(disk.disk_id) >= self._grace:
                lost.add(disk.disk_id)
        for state in self._slabs.open_slabs():
            lost.update(disk_id for disk_id in state.slab.disks if disk_id not in known)
        return lost, draining, new

    # --- one move --------------------------------------------------------------------------------------------------

    async def _begin(self, move: Move, target: DiskId) -> bool:
        """Claim the slab and make the new chunk file; False when that cannot be done now."""
        if not self._ledger.try_claim(move.slab_id):
            self._leave_alone(move, CLAIM_SECONDS)
            return False
        is_begun = False
        self._moving[move.slab_id] = move, target
        try:
            is_begun = await self._slabs.moves.begin(move.slab_id, move.unit, move.source, target)
        except SiltstoneError as error:
            self._note_failure(error)
        finally:
            if not is_begun:
                self._end(move, RETRY_SECONDS)
        return is_begun

    async def _carry_out(self, move: Move, target: DiskId) -> None:
        """Move one unit, which was begun; what fails is tried again later."""
        retry_seconds = RETRY_SECONDS
        try:
            moved: Slab | None = None
            try:
                await self._fill(move, target)
                moved = await self._record(move, target)
                if moved is not None:
                    # Only then is the old file nobody's: a source that returns meanwhile would drop it as a stray, and
                    # a crash could bring back the record that counts on it.
                    await self._ledger.sync()
            finally:
                with trio.CancelScope(shield=True):
                    await self._slabs.moves.end(move.slab_id, moved=moved)
            if moved is not None:
                self.moved_units += 1
                retry_seconds = 0.0
                await self._forget_source(move)
        except SiltstoneError as error:
            self._note_failure(error)
        finally:
            self._end(move, retry_seconds)

    def _end(self, move: Move, retry_seconds: float) -> None:
        del self._moving[move.slab_id]
        self._ledger.release_claim(move.slab_id)
        self._leave_alone(move, retry_seconds)
        self._wake.set()
        self._ended.set()
        self._ended = trio.Event()

    def _leave_alone(self, move: Move, seconds: float) -> None:
        self._retry_at[move.slab_id, move.unit] = self._ledger.clock.monotonic_ns() + int(seconds * 1e9)

    def _note_failure(self, error: SiltstoneError) -> None:
        if isinstance(error, DiskError):
            self._pool.report(error)
        self.last_error = str(error)

    async def _fill(self, move: Move, target: DiskId) -> None:
        """Fill the new chunk file with the units of living stripes; durable on return."""
        self._begun_moves += 1
        number = self._begun_moves
        cursor = make_stripe_id(move.slab_id, 0)
        is_done = False
        failures: list[DiskError] = []
        unreadable = unflushed = 0

        async def work() -> None:
            nonlocal cursor, is_done, unreadable, unflushed
            while True:
                async with self._pace.window(number):
                    if is_done or failures:
                        return
                    # What is looked up in the fence stays in place until it is left: stripes may die, their rows wait.
                    era = self._pace.enter_fence()
                    try:
                        window = window_from(self._ledger.store, cursor)
                        if not window.addresses or slab_of(window.addresses[0].stripe_id) != move.slab_id:
                            is_done = True
                            return
                        cursor = window.cursor
                        copied = await self._ledger.stripes.copy_unit(window.addresses, move.unit, target)
                        unflushed += copied.written_bytes
                        if unflushed >= self._pace.flush_bytes:
                            unflushed = 0
                            await self._ledger.stripes.flush_unit(move.slab_id, move.unit, target)
                    except DiskError as error:
                        failures.append(error)
                        return
                    finally:
                        self._ledger.fence.leave(era)
                unreadable += len(copied.unreadable)
                await self._pace.wait_for_budget(copied.written_bytes)

        async with trio.open_nursery() as nursery:
            for _ in range(WINDOWS_ALONE):
                nursery.start_soon(work)
        if failures:
            raise failures[0]
        self.unreadable_stripes = unreadable
        hopes = self._hopes(move) if unreadable else []
        if hopes:
            # One may come back with what is missing. Until then the old file must be there, if it is the source, and
            # else its unit is to be computed: left out now it would be missing for ever, and nobody would know.
            raise Unavailable(
                f"{unreadable} stripes of slab {move.slab_id} cannot be read from the disks that are up, and unit "
                f"{move.unit} stays on disk {move.source}: bring disk {' or '.join(map(str, hopes))} back, or declare "
                "what is gone lost"
            )
        await self._ledger.stripes.flush_unit(move.slab_id, move.unit, target)
        self._done_bytes += move.size

    def _hopes(self, move: Move) -> list[DiskId]:
        """The disks whose return may bring back what a unit cannot be computed without."""
        roles = {disk.disk_id: disk.role for disk in self._pool.status()}
        return [
            disk_id
            for disk_id in sorted(self._slabs.get(move.slab_id).slab.disks)
            if roles.get(disk_id, DiskRole.LOST) is not DiskRole.LOST
            and (disk_id == move.source or not self._pool.is_up(disk_id))
        ]

    async def _record(self, move: Move, target: DiskId) -> Slab | None:
        """Commit the slab's record with the new disk; None if the slab is gone. Nothing is awaited after the commit."""
        await self._ledger.admit()
        self._pool.disk(target)  # else the source, which is about to be dropped, may be all that there is
        slab = space.get_slab(self._ledger.store, move.slab_id)
        if slab is None:
            return None
        assert slab.disks[move.unit] == move.source, "a slab was moved by two"
        disks = list(slab.disks)
        disks[move.unit] = target
        moved = msgspec.structs.replace(slab, disks=tuple(disks))
        transaction = self._ledger.begin()
        space.put_slab(transaction, move.slab_id, moved)
        self._ledger.commit(transaction)
        self._pace.note_own_commit()
        self._ledger.forget_slab(move.slab_id)
        return moved

    async def _forget_source(self, move: Move) -> None:
        """Delete the old chunk file when nobody reads it any more; the record that it has moved is durable."""
        await self._ledger.fence.wait_past(self._ledger.fence.advance())
        await self._slabs.moves.drop_source(move.slab_id, move.unit, move.source)


def _is_needed(move: Move) -> bool:
    """Whether redundancy, or a disk that is to be emptied, waits for it."""
    return move.kind is not MoveKind.LEVEL
