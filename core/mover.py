"""Moving units of slabs to other disks: what a lost disk held is rebuilt, a draining disk emptied, a new one levelled.

Here is decided what moves, when and where to; core/unit_mover.py moves one unit. One unit of a slab at a time, two
slabs side by side: a slab takes no new stripes meanwhile. Nothing but the slabs' records notes how far it came, so a
restart goes on with the slabs that are left.
Since slabs with a disk that is away take no stripes, a disk that returns is never stale: whatever was not moved yet is
simply used again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

import msgspec
import trio

from siltstone.core.away import AwayTimes
from siltstone.core.ledger import Ledger
from siltstone.core.move_plan import Move, MoveKind, SlabView, plan_level
from siltstone.core.move_queue import MoveQueue
from siltstone.core.pace import Pace
from siltstone.core.types import Progress, ProgressListener
from siltstone.core.unit_mover import UnitMover
from siltstone.engine.pool import DiskRole, DiskState
from siltstone.engine.snapshot.files import SnapshotFiles
from siltstone.errors import DiskError, Refused, SiltstoneError
from siltstone.types import DiskId, SlabId

LOOK_SECONDS = 1.0
"""How often the background looks whether something is to be moved."""

MOVES_AT_ONCE = 2
"""Units that are moved side by side: while the last of one is flushed and recorded, the next is being read."""

PROGRESS_SECONDS = 0.25
"""How often those who wait are told how far it is, and how soon they see what nobody tells them."""

PATIENCE_SECONDS = 30.0
"""Who waits is refused when nothing could be moved for so long: freed rows are punched, and what failed was tried
again, but there is no room, or it failed again."""

FAILING_SECONDS = 60.0
"""The same where moves fail: each is tried some times."""

RETRY_SECONDS = 10.0
"""A unit whose move failed is left alone for this long."""

CLAIM_SECONDS = 0.1
"""The same if somebody else has the slab: those who fill or scrub have it for a moment."""

AWAY_STATES = (DiskState.MISSING, DiskState.FAILED)

_Room = dict[tuple[DiskId, int, MoveKind], bool]
"""Whether a disk has room for a file of so many bytes that moves for that reason."""

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
    seconds_left: float | None
    """None while nothing is moved, or nothing has moved yet that it could be told from."""
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
        self._unit_mover = UnitMover(ledger, Pace(ledger, bytes_per_second=bytes_per_second))
        self._hurry = 0
        """How many wait for everything that can be rebuilt to be rebuilt, without grace."""
        self._away = AwayTimes(ledger)
        self._wake = trio.Event()
        self._moving: dict[SlabId, tuple[Move, DiskId]] = {}
        """What is being moved, and where to."""
        self._is_moving = False
        """A round is under way: it ends when nothing is being moved and nothing can be for now."""
        self._queue = MoveQueue()
        self._changed: set[SlabId] = set()
        """Slabs that have changed since that was brought up to date."""
        self._level: Move | None = None
        """What brings a new disk level, as long as nothing else is to be moved."""
        self._retry_at: dict[tuple[SlabId, int], int] = {}
        self._began_ns = 0
        self._began_wall_ns = 0
        self._looked = trio.Event()
        self._ended = trio.Event()
        """Set when a move has ended."""
        self._role_listener: RoleListener = lambda disk_id, role: None
        self._ask_settle_at_ns = 0
        self.moved_units = 0
        self.waiting = ""
        self.last_error = ""
        """Why the last move failed; empty when it did not."""
        self._pool.subscribe(self._note_disk)
        self._slabs.units.subscribe(self._changed_slab)

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
            await self._wait_for(lambda: not self._queue and not self._moving, progress)
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

    @property
    def stranded(self) -> Set[SlabId]:
        """Slabs with a unit on a disk that is given up, and no other disk that could take it."""
        return self._queue.stranded

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
            elif clock.monotonic_ns() - hopeful_ns >= (FAILING_SECONDS if self.last_error else PATIENCE_SECONDS) * 1e9:
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
        return len(self._queue) > self._queue.stranded_count

    def status(self) -> MoveStatus:
        """Where moving stands."""
        now = next(iter(self._moving.values()), None)
        waiting_bytes = self._queue.size + (self._level.size if self._level is not None else 0)
        unfinished_bytes = self._unit_mover.unfinished_bytes
        done = self._unit_mover.finished_bytes + unfinished_bytes
        left = max(0, waiting_bytes - unfinished_bytes)
        elapsed = (self._ledger.clock.monotonic_ns() - self._began_ns) / 1e9
        rate = done / elapsed if now is not None and elapsed > 0 else 0.0
        return MoveStatus(
            kind="" if now is None else now[0].kind.value,
            source=-1 if now is None else now[0].source,
            target=-1 if now is None else now[1],
            units_left=len(self._queue) + (self._level is not None),
            done_bytes=done,
            total_bytes=done + left,
            bytes_per_second=round(rate, 1),
            seconds_left=round(left / rate, 1) if rate else None,
            since_ns=self._began_wall_ns,
            waiting=self.waiting,
            unreadable_stripes=self._unit_mover.unreadable_stripes,
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

    def _changed_slab(self, slab_id: SlabId) -> None:
        self._changed.add(slab_id)

    def _note_disk(self, _disk_id: DiskId, _is_up: bool) -> None:
        self._wake.set()

    async def _start_moves(self, nursery: trio.Nursery) -> float:
        """Start the first moves that can be made; returns after how many seconds to look again at the latest."""
        await self._away.note({disk.disk_id for disk in self._pool.status() if disk.state in AWAY_STATES})
        self._plan()
        self._looked.set()
        self._looked = trio.Event()
        now_ns = self._ledger.clock.monotonic_ns()
        wait_ns = int(LOOK_SECONDS * 1e9)
        takers = self._pool.choose(len(self._pool.status()))
        room: _Room = {}
        is_cramped = False
        for move in self._queue if self._level is None else (self._level,):
            if len(self._moving) == MOVES_AT_ONCE:
                break
            if move.slab_id in self._moving:
                continue
            retry_ns = self._retry_at.get((move.slab_id, move.unit), 0) - now_ns
            if retry_ns > 0:
                wait_ns = min(wait_ns, retry_ns)
                continue
            target = await self._target_of(move, takers, room)
            if target is None:
                is_cramped = is_cramped or move is not self._level
                if len(room) >= len(takers) and not any(room.values()):
                    break  # no disk has room for anything
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
        if not self._queue and not self._moving:
            self._retry_at.clear()  # of slabs that have gone
        self.waiting = "" if self._moving else self._why_waiting()
        return wait_ns / 1e9

    async def _target_of(self, move: Move, takers: Sequence[DiskId], room: _Room) -> DiskId | None:
        """The first of ``takers`` that has room for a unit. ``room``: what was found out about that already.

        What is reserved for settle is left as long as the log holds something to settle: were it taken here, nothing
        could make room in the log any more. It is never taken for a move without which nothing is missing. What is held
        back for snapshots is only taken where redundancy is lost, which counts more.
        """
        use_reserve = move.kind is not MoveKind.LEVEL and not self._ledger.totals.log_live_bytes
        use_held_back = use_reserve and move.kind is MoveKind.REBUILD
        for disk_id in filter(move.targets.__contains__, takers):
            has_room = room.get((disk_id, move.size, move.kind))
            if has_room is None:
                has_room = await self._slabs.disk_room.has_room(
                    disk_id, move.size, use_reserve=use_reserve, use_held_back=use_held_back
                )
                room[disk_id, move.size, move.kind] = has_room
            if has_room:
                return disk_id
        return None

    def _begin_round(self) -> None:
        self._began_ns = self._ledger.clock.monotonic_ns()
        self._began_wall_ns = self._ledger.clock.now_ns()
        self._unit_mover.finished_bytes = 0
        self._is_moving = True
        if not self._retry_at:
            self.last_error = ""  # else what failed is only tried again, and who waits for it is not to hope anew
        self._retry_at.clear()

    def _why_waiting(self) -> str:
        count, stranded = len(self._queue), self._queue.stranded_count
        if not count:
            return ""
        sources = self._queue.sources
        disks = f"disk {sources[0]}" if len(sources) == 1 else f"disks {', '.join(map(str, sources))}"
        what = f"{count} chunk files of {disks} wait to be moved: "
        if stranded == count:
            return what + "every other disk has a part of the same slabs already; add a disk"
        now_ns = self._ledger.clock.monotonic_ns()
        is_failing = any(
            retry_ns > now_ns and self._queue.has_move(slab_id, unit)
            for (slab_id, unit), retry_ns in self._retry_at.items()
        )
        if self.last_error and is_failing:
            return what + f"moving them failed and is tried again ({self.last_error})"
        if not stranded:
            return what + "no other disk has room for them; add a disk or delete something"
        return what + (
            f"{count - stranded} for room on another disk, the others since every other disk has a part of the same "
            "slabs already; add a disk"
        )

    def _plan(self) -> None:
        """Bring up to date what is to be moved. Looks at the slabs that have changed, and where disks have at those
        with a unit on them."""
        lost, draining, new = self._disks_by_need()
        takers = set(self._pool.placeable())
        changed, self._changed = self._changed, set()
        if (lost, draining, takers) != self._queue.disks:
            units = self._slabs.units
            concerned = {slab_id for disk_id in lost | draining for slab_id in units.on(disk_id)}
            self._queue.set_disks(lost, draining, takers, filter(None, map(self._view, concerned)))
        elif lost or draining:
            for slab_id in changed:
                view = self._view(slab_id)
                if view is None:
                    self._queue.remove(slab_id)
                else:
                    self._queue.put(view)
        self._level = None if self._queue or not new else self._plan_level(new)

    def _view(self, slab_id: SlabId) -> SlabView | None:
        state = self._slabs.recorded(slab_id)
        return None if state is None else SlabView(slab_id, state.slab.disks, state.slab.chunk_bytes)

    def _plan_level(self, new: set[DiskId]) -> Move | None:
        """The next move that brings new disks level; where there is none they become members like others."""
        units = self._slabs.units
        capacities = {
            disk.disk_id: disk.space.total_bytes
            for disk in self._pool.status()
            if disk.space is not None and self._pool.is_placeable(disk.disk_id)
        }
        planned = plan_level(
            {disk_id: units.on(disk_id) for disk_id in capacities},
            # One without room is as full as it can be, whatever else fills it (the log, snapshots): it is level.
            new=set(filter(self._slabs.disk_room.takes_chunk, new)),
            capacities=capacities,
            chunk_bytes=self._slabs.chunk_bytes,
            is_movable=lambda slab_id: self._slabs.recorded(slab_id) is not None,
        )
        if planned is not None:
            slab_id, source, target = planned
            slab = self._slabs.get(slab_id).slab
            return Move(MoveKind.LEVEL, slab_id, slab.disks.index(source), source, {target}, slab.chunk_bytes)
        for disk_id in new:
            self._pool.set_role(disk_id, DiskRole.MEMBER)
            self._role_listener(disk_id, DiskRole.MEMBER)
        return None

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
        lost.update(self._slabs.units.disks() - known)
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
            if await self._unit_mover.carry_out(move, target):
                self.moved_units += 1
                retry_seconds = 0.0
                await self._unit_mover.forget_source(move)
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
        if seconds:
            self._retry_at[move.slab_id, move.unit] = self._ledger.clock.monotonic_ns() + int(seconds * 1e9)
        else:
            self._retry_at.pop((move.slab_id, move.unit), None)

    def _note_failure(self, error: SiltstoneError) -> None:
        if isinstance(error, DiskError):
            self._pool.report(error)
        self.last_error = str(error)
