"""Programs for a whole volume: steps that change a simulated volume and the model alike, and faults among them.

The world's part is here: lives of the volume, each ended by a crash or a restart, faults, and what must hold at the end
of each. What users do is in sim/rules.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import trio

from siltstone.core.fsck import fsck
from siltstone.core.volume import Volume
from siltstone.engine.pool import DiskRole
from siltstone.errors import NoSpace, Refused, SiltstoneError, Unavailable
from siltstone.limits import KIB, MIB, RESERVE_CHUNKS
from siltstone.meta import space
from siltstone.types import DiskId, Lsn, StripeId
from sim.disk import SimDisk
from sim.rules import Rules
from sim.volume import SimVolume, small_config

DISKS_MAX = 8
"""Of a volume that begins with six."""

IMPAIRED_MAX = 2
"""Disks that are away, rotten or failing at the same time: what promise 1 allows."""

STEP_SECONDS_MAX = 600.0
"""Simulated time in which every step must end; a volume that waits for ever fails the test."""


class Step(NamedTuple):
    """A rule and three numbers that it makes something of; see the rules."""

    rule: str
    a: int = 0
    b: int = 0
    c: int = 0


FAULTS = (
    ("write", "slab/"),
    ("flush", "slab/"),
    ("read", "slab/"),
    ("create", "slab/"),
    ("write", "log/"),
    ("flush", "log/"),
    ("read", "log/"),
    ("rename", "log/"),
    ("create", "log/"),
    ("list", ""),
    ("delete", ""),
    ("punch", ""),
)
"""What a disk can fail at: operations, and the files that they concern."""


HANGS = (("*", ""), ("write", ""), ("flush", ""), ("read", ""), ("rename", ""), ("create", ""), ("probe", ""), *FAULTS)
"""What gives no answer on a disk that hangs."""

ORDEALS = ("error", "full", "vanish", "hang", "power", "kill")
"""What one operation of a disk can meet: EIO, ENOSPC, the disk goes, or hangs, the power goes, the process dies."""


class Machine(Rules):
    """Applies steps to a simulated volume and to the model. ``fired`` counts rules, and the branches they led to."""

    def __init__(self, seed: int, fired: Counter[str]) -> None:
        super().__init__(SimVolume(small_config(), seed=seed), fired)
        self.away: set[int] = set()
        self.failing: set[int] = set()
        self.given_up: set[int] = set()
        """Disks that are replaced while they are away: never used again, and removed when they hold nothing."""
        self.hanging: set[int] = set()
        self.rotten: dict[int, set[str]] = {}
        self.is_kill = False
        """The next loss of power spares what was written: only the process dies."""
        self.must_recover = False
        self.has_lost_home = False
        self.was_impaired = False
        """Whether disks ever went, failed or rotted: until then no read may find anything to mend."""
        self.phase = ""
        self._life = trio.CancelScope()
        self._step: Step | None = None
        self._last_lsn = 0
        self._stripes: dict[StripeId, bytes] = {}
        self._segment_starts: set[Lsn] = set()

    @property
    def seconds_of_hangs(self) -> float:
        """How long the log may wait for disks that hang: some operations of each, one after the other."""
        return 4 * self.world.config.disk_timeout * len(self.hanging)

    # --- lives -----------------------------------------------------------------------------------------------------

    async def run(self, program: Sequence[Step], *, ordeal: str = "", operations: int = 0) -> bool:
        """One example: lives of the volume, each ended by a crash or a restart, then the last look.

        An ``ordeal``, one of ORDEALS, comes in the operation that begins after so many; False if there are not so many.
        """
        await self.world.create()
        is_untouched = bool(ordeal)

        def strike(disk: SimDisk, operation: str, name: str) -> None:
            nonlocal is_untouched
            is_untouched = False
            self._strike(ordeal, disk, operation, name)

        if ordeal:
            self.world.strike_after(operations, strike)
        todo = list(program)
        while todo:
            await self._one_life(todo)
        self.world.disarm()
        await self._end()
        return not is_untouched

    async def _one_life(self, todo: list[Step]) -> None:
        self.phase = "opening"
        self._let_home_go_on()
        self.home_hangs = False
        volumes: list[Volume] = []
        is_closed = is_refused = False
        try:
            with trio.CancelScope() as self._life:
                self._go_on()
                self.world.on_power_lost = lambda: self._power_lost(volumes)
                if self.has_lost_home:
                    restored = await self.world.lose_home()
                    self.fired["restored from a full snapshot"] += restored.full is not None
                    self.fired["restored from increments"] += restored.increments > 0
                    self.has_lost_home = False
                async with self.world.opened() as volume:
                    volumes.append(volume)
                    await self._begin_life(volume)
                    self.phase = "living"
                    await self._live(volume, todo)
                    self.phase = "closing"
                    self._go_on()
                is_closed = True
        except BaseException as error:
            reasons = (*([NoSpace] if self.is_tight else ()), *([Unavailable] if self.home_hangs else ()))
            is_refused = self.phase == "closing" and bool(reasons) and _is_only(error, *reasons)
            if not is_refused and not (self.world.is_off and _is_only(error, SiltstoneError, trio.Cancelled)):
                raise
            self.must_recover = True
        assert is_closed or is_refused or self.world.is_off, f"no end of {self.phase} after {self._step}"
        for volume in volumes:
            self._count(volume)
        self.held.clear()
        if self.world.is_off:
            self._after_loss()
        elif is_closed:
            self.model.all_durable()

    def _go_on(self, step: Step | None = None) -> None:
        """What begins now has its time."""
        self._step = step
        self._life.deadline = trio.current_time() + STEP_SECONDS_MAX

    def _power_lost(self, volumes: Sequence[Volume]) -> None:
        """In the middle of an operation of a disk: note what was under way."""
        for volume in volumes:
            self.fired["power lost in a move"] += bool(volume.mover.status().kind)
            self.fired["power lost in a fill"] += volume.settler.fills().pending > 0
            self.fired["power lost in a scrub"] += volume.scrubber.status().is_running
            self.fired["power lost in a relocation"] += volume.relocator._lock.locked()
        self._let_home_go_on()  # what hung may be there afterwards
        self._life.cancel()

    def _after_loss(self) -> None:
        self.fired[f"{'killed' if self.is_kill else 'power lost'} while {self.phase}"] += 1
        if self.is_kill:
            self.world.after_kill()
        else:
            self.world.after_crash()
        self.must_recover = True
        for index in self.away:
            self.world.disks[index].disappear()

    async def _begin_life(self, volume: Volume) -> None:
        volume.register_holder(self)
        volume.mover.on_role(lambda disk_id, role: self.world.set_role(disk_id, role.value))
        if self.must_recover:
            recovered = volume.ledger.log.segments()[-1].start
            self.fired["tail of the log cut"] += recovered < self._last_lsn
            found = await self.walk(volume)
            contents = {ino: await self.read_all(volume, ino) for ino in found.files}
            problem = self.model.explains(found.names, contents)
            assert not problem, problem
            self.model.adopt(found.names, contents)
            pictures = await self.pictures(volume)
            problem = self.model.explains_snapshots(pictures)
            assert not problem, problem
            self.model.adopt_snapshots(pictures)
            self.must_recover = False
        await self.look(volume)
        assert await self.pictures(volume) == self.model.snapshots

    async def _live(self, volume: Volume, todo: list[Step]) -> None:
        """Steps until the next restart, or the loss of power."""
        while todo:
            step = todo.pop(0)
            self.fired[step.rule] += 1
            if step.rule == "restart":
                return
            self._go_on(step)
            await getattr(self, "do_" + step.rule.replace(" ", "_"))(volume, step.a, step.b, step.c)
            await self.look(volume)
            self._note_branches(volume)

    async def _end(self) -> None:
        """All disks back, room again, time to heal: everything is there, and a check finds nothing."""
        self.phase = "opening"
        self._let_home_go_on()
        self.home_hangs = False
        self.world.on_power_lost = lambda: None
        for disk in self.world.disks:
            disk.heal()
            disk.capacity_bytes = self.world.capacity_bytes
        for index in self.away:
            self.world.disks[index].return_()
        self.away.clear()
        if self.has_lost_home:
            await self.world.lose_home()
        self.failing.clear()
        self.hanging.clear()
        self.is_tight = False
        with trio.fail_after(STEP_SECONDS_MAX):
            async with self.world.opened() as volume:
                await self._begin_life(volume)
                await trio.sleep(20)
                await self.look(volume)
                await self.do_watch(volume, 0, 0, 0)
                assert await self.pictures(volume) == self.model.snapshots
                await self._check(volume)
                staying = [disk for disk in volume.status().disks if disk.disk_id not in self.given_up]
                assert {disk.state for disk in staying} <= {"up", "new", "draining"}
                assert not volume.status().orphans
            self._count(volume)

    async def _check(self, volume: Volume) -> None:
        findings = await fsck(volume, deep=True)
        rot = [finding for finding in findings if finding.invariant == "I10"]
        if self.rotten or self.away or self.failing or self.hanging:
            findings = [finding for finding in findings if finding not in rot]
        assert not findings, "\n".join(map(str, findings))
        if not rot and not self.away and not self.hanging:
            for names in self.rotten.values():
                names.difference_update({name for name in names if name.startswith("slab/")})

    # --- counting --------------------------------------------------------------------------------------------------

    def _count(self, volume: Volume) -> None:
        stripes = volume.ledger.stripes.statistics()
        log = volume.ledger.log.statistics()
        self._last_lsn = volume.ledger.log.next_lsn
        is_spotless = not self.was_impaired and not self.world.is_off
        assert not (is_spotless and stripes.degraded_reads), "a unit is missing that no fault took"
        self.fired["degraded read"] += stripes.degraded_reads
        self.fired["hedged read"] += stripes.hedged_reads
        self.fired["hedge won"] += stripes.won_hedges
        self.fired["hedge lost"] += stripes.hedged_reads - stripes.won_hedges
        self.fired["hedged log read"] += log.hedged_reads
        self.fired["block repaired"] += stripes.repaired_blocks
        self.fired["stripe write failed"] += stripes.failed_writes
        self.fired["log formed again"] += log.segments_failed
        self.fired["log mended"] += log.mended_bytes > 0
        fills = volume.settler.fills()
        self.fired["hole filled"] += fills.filled_stripes
        self.fired["fill redone"] += fills.redone
        self.fired["unit moved"] += volume.mover.moved_units
        self.fired["stripes of another width"] += volume.relocator.rewidened_bytes > 0
        self.fired["relocated"] += volume.relocator.relocated_bytes > 0
        self.fired["stripe split"] += volume.relocator.status().split_stripes
        self.fired["disk hung"] += sum(disk.hangs for disk in self.world.disks)
        self.fired["settled"] += volume.settler.settled_bytes > 0
        self.fired["increment taken"] += volume.snapshots.status().taken_increments
        self.fired["full snapshot taken"] += volume.snapshots.status().taken
        self.fired["HOME hung"] += self.world.backing.gated and bool(volume.ledger.store.stuck_because)

    def _note_branches(self, volume: Volume) -> None:
        """See what came and went since the last step."""
        store = volume.ledger.store
        present = {stripe_id: space.get_checksums(store, stripe_id) or b"" for stripe_id, _ in space.stripes(store)}
        for stripe_id in self._stripes.keys() - present.keys():
            self.fired["stripe freed"] += self._stripes[stripe_id] != b""
            self._stripes[stripe_id] = b""
        for stripe_id, checksums in present.items():
            self.fired["rows used again"] += self._stripes.get(stripe_id) == b""
            self._stripes[stripe_id] = checksums
        starts = {segment.start for segment in volume.ledger.log.segments()}
        self.fired["segment retired"] += len(self._segment_starts - starts)
        self._segment_starts = starts
        self.fired["narrow slab"] += any(
            slab.data_units < self.world.config.data_units for _, slab in space.slabs(store)
        )
        for index in list(self.rotten):
            self.rotten[index] &= set(self.world.disks[index].names)
            if not self.rotten[index]:
                del self.rotten[index]

    # --- the end of a life -----------------------------------------------------------------------------------------

    async def do_crash(self, volume: Volume, operations: int, kill: int, _: int) -> None:
        """The power goes, now or in the middle of what comes: steps, closing, opening. ``kill``: the process only."""

        def go_off(_disk: SimDisk, _operation: str, _name: str) -> None:
            self.is_kill = kill % 4 == 1
            self.world.power_off()

        if operations > 0:
            self.world.strike_after(operations - 1, go_off)
        else:
            self.is_kill = kill % 4 == 1
            self.world.power_off()
            await trio.lowlevel.checkpoint()

    async def do_lose_home(self, volume: Volume, a: int, b: int, c: int) -> None:
        """The power goes, or the process dies, and HOME is lost; perhaps one disk as well, or two."""
        gone = {a % 6, b % 6} - self.away if c % 3 else set[int]()
        if gone and self._may_impair(*gone):
            self.away |= gone
            self.fired["disks lost with HOME"] += 1
        self.has_lost_home = True
        self.is_kill = c % 2 == 1
        self.world.power_off()
        await trio.lowlevel.checkpoint()

    async def do_snapshot(self, volume: Volume, _: int, __: int, ___: int) -> None:
        """A full snapshot is taken."""
        if not self.is_tight:
            with suppress(Unavailable):  # disks that fail meanwhile
                await volume.snapshots.take()

    # --- faults ----------------------------------------------------------------------------------------------------

    def _strike(self, ordeal: str, disk: SimDisk, operation: str, name: str) -> None:
        index = disk.disk_id
        self.was_impaired = True
        if ordeal == "error":
            disk.fail(operation, name)
            self.failing.add(index)
        elif ordeal == "full":
            disk.fail_full(operation, name)
        elif ordeal == "hang":
            disk.hang(operation, name, count=1)
            self.hanging.add(index)
        elif ordeal == "vanish":
            disk.disappear()
            self.away.add(index)
        else:
            self.is_kill = ordeal == "kill"
            self.world.power_off()

    def _may_impair(self, *indexes: int) -> bool:
        self.was_impaired = True
        impaired = self.away | self.failing | self.hanging | self.given_up | self.rotten.keys()
        return len(impaired | set(indexes)) <= IMPAIRED_MAX

    async def do_lose_disk(self, volume: Volume, a: int, b: int, _: int) -> None:
        """A disk vanishes, or two at once, before anybody notices."""
        chosen = {a % 6, b % 6} - self.away
        if chosen and self._may_impair(*chosen):
            for index in chosen:
                self.world.disks[index].disappear()
            self.away |= chosen
            self.fired["two disks lost at once"] += len(chosen) == 2
            await self.look(volume)

    async def do_vanish(self, volume: Volume, a: int, operations: int, _: int) -> None:
        """A disk vanishes in the middle of what comes."""
        index = a % 6
        if index in self.away or not self._may_impair(index):
            return
        self.away.add(index)

        def go(_disk: SimDisk, _operation: str, _name: str) -> None:
            if index in self.away:
                self.fired["disk vanished in an operation"] += 1
                self.world.disks[index].disappear()

        self.world.strike_after(operations, go)

    async def do_return_disk(self, volume: Volume, a: int, _: int, __: int) -> None:
        """A disk comes back with what it had, and is noticed."""
        if self.away:
            index = sorted(self.away)[a % len(self.away)]
            is_needed = volume.ledger.stripes.slabs.units_of(DiskId(index))
            self.fired["disk returned after a rebuild"] += bool(volume.mover.moved_units) and not is_needed
            self.fired["disk returned that misses fills"] += volume.settler.fills().pending > 0
            self.world.disks[index].return_()
            self.away.discard(index)
            await trio.sleep(3)

    async def do_add_disk(self, volume: Volume, _: int, __: int, ___: int) -> None:
        """Another disk, which gets its share by and by."""
        if len(self.world.config.disks) < DISKS_MAX:
            disk = self.world.make_disk()
            self.world.set_role(disk.disk_id, DiskRole.NEW.value)
            await self.world.publish(volume)
            volume.scrubber.expect_superblock(disk.disk_id, self.world.superblock(disk.disk_id))
            volume.ledger.pool.add(disk)
            await trio.sleep(2)

    async def do_drain_disk(self, volume: Volume, a: int, seconds: int, _: int) -> None:
        """A disk is to go: its data moves away, and when there is none left, it goes."""
        pool = volume.ledger.pool
        staying = [disk.disk_id for disk in self.world.config.disks if disk.role in ("member", "new")]
        draining = [disk.disk_id for disk in self.world.config.disks if disk.role in ("draining", "lost")]
        if not draining and len(staying) > self.world.config.data_units + self.world.config.parity_units:
            disk_id = DiskId(staying[a % len(staying)])
            self.world.set_role(disk_id, DiskRole.DRAINING.value)
            pool.set_role(disk_id, DiskRole.DRAINING)
            draining.append(disk_id)
        await trio.sleep(seconds * 3)
        for disk_id in map(DiskId, draining):
            if volume.mover.is_drained(disk_id):
                self.fired["disk drained and removed"] += 1
                self.world.set_role(disk_id, None)
                await self.world.publish(volume)
                volume.scrubber.forget_superblock(disk_id)
                pool.remove(disk_id)
                self.away.discard(disk_id)
                self.failing.discard(disk_id)
                self.given_up.discard(disk_id)
                self.hanging.discard(disk_id)
                self.rotten.pop(disk_id, None)

    async def do_replace_disk(self, volume: Volume, a: int, seconds: int, _: int) -> None:
        """Another disk takes the place of one, which is read as long as it is there, and given up when it is away."""
        staying = [disk.disk_id for disk in self.world.config.disks if disk.role in ("member", "new")]
        leaving = [disk.disk_id for disk in self.world.config.disks if disk.role in ("draining", "lost")]
        if leaving or len(self.world.config.disks) >= DISKS_MAX:
            return
        await self.do_add_disk(volume, 0, 0, 0)
        away = [disk_id for disk_id in staying if disk_id in self.away]
        disk_id = DiskId(away[0] if away and a % 2 else staying[a % len(staying)])
        role = DiskRole.LOST if disk_id in self.away else DiskRole.DRAINING
        if role is DiskRole.LOST:
            self.fired["disk given up"] += 1
            self.given_up.add(disk_id)
        self.world.set_role(disk_id, role.value)
        volume.ledger.pool.set_role(disk_id, role)
        await trio.sleep(seconds)

    async def do_hang_up(self, volume: Volume, a: int, operations: int, _: int) -> None:
        """A client asks for something long and is gone after so many operations of disks: it is cancelled."""
        with trio.CancelScope() as scope:
            self.world.strike_after(operations, lambda disk, operation, name: scope.cancel())
            async with trio.open_nursery() as nursery:
                with suppress(Refused):
                    if a % 3 == 0:
                        await self.attempt(volume.settle())
                    elif a % 3 == 1:
                        await self.attempt(volume.scrub())
                    else:
                        nursery.cancel_scope.deadline = trio.current_time() + 100
                        await self.attempt(volume.rebuild())
        self.fired["client hung up"] += scope.cancelled_caught

    async def do_rebuild(self, volume: Volume, _: int, __: int, ___: int) -> None:
        """What disks that are away held is made anew on others, where there are any."""
        with trio.move_on_after(100), suppress(Refused):
            await volume.rebuild()
        await self.look(volume)

    async def do_fault(self, volume: Volume, a: int, b: int, skip: int) -> None:
        """A disk fails one operation that comes."""
        if self._may_impair(a % 6):
            self.failing.add(a % 6)
            operation, prefix = FAULTS[b % len(FAULTS)]
            self.world.disks[a % 6].fail(operation, prefix, skip=skip % 4)

    async def do_heal(self, volume: Volume, _: int, __: int, ___: int) -> None:
        """Disks fail no more, and prove it."""
        for index in self.failing:
            self.fired["EIO"] += sum(fault.fired for fault in self.world.disks[index].faults)
            self.world.disks[index].heal()
        await trio.sleep(30)
        self.hanging -= self.failing
        self.failing.clear()

    async def do_hang(self, volume: Volume, a: int, b: int, skip: int) -> None:
        """A disk gives no answer any more to some kind of operation, perhaps not at once."""
        index = a % 6
        if index not in self.away and self._may_impair(index):
            self.hanging.add(index)
            operation, prefix = HANGS[(b + 12 * (a // 6)) % len(HANGS)]
            self.world.disks[index].hang(operation, prefix, skip=skip % 4)

    async def do_hang_home(self, volume: Volume, seconds: int, _: int, __: int) -> None:
        """HOME gives no answer any more, for some time or until the next life."""
        self.home_hangs = self.world.backing.gated = True
        await trio.sleep(2 * seconds)
        await self.look(volume)

    async def do_home_answers(self, volume: Volume, _: int, __: int, ___: int) -> None:
        """HOME goes on: what was refused is accepted, and nothing was lost."""
        if self.home_hangs:
            self.fired["HOME hung"] += bool(volume.ledger.store.stuck_because)
            self._let_home_go_on()
            await trio.sleep(3)
            for _file in range(1 + len(self.model.files)):
                if await self.attempt(volume.sync()):  # each file that could not be written tells it once
                    self.model.all_durable()
                    break
            else:
                assert self.is_tight, "sync fails though HOME answers"
            self.home_hangs = False
            await self.look(volume)

    def _let_home_go_on(self) -> None:
        if self.world.backing.gated:
            self.world.backing.gated = False
            self.world.backing.open_gate()

    async def do_let_go(self, volume: Volume, _: int, __: int, ___: int) -> None:
        """What hung goes on: late, in any order, torn. The disks prove themselves, and hold nothing against anybody."""
        for index in self.hanging:
            disk = self.world.disks[index]
            before = disk.late_effects
            disk.release(self.world.random)
            self.fired["late effect"] += disk.late_effects - before
        await trio.sleep(30)
        self.hanging.clear()
        if not self.is_tight:
            await self._check(volume)  # before anything is read, and mended thereby: nothing was damaged
        await self.look(volume)

    async def do_slow_disk(self, volume: Volume, a: int, b: int, c: int) -> None:
        """A disk takes long to read, or two: what is on them is computed from the others meanwhile."""
        chosen = {a % 6, b % 6} if c % 2 else {a % 6}
        slow = [(self.world.disks[index], self.world.disks[index].slow(1.0 + c, "read")) for index in chosen]
        await self.look(volume)
        for disk, fault in slow:
            if fault in disk.faults:
                disk.faults.remove(fault)

    async def do_rot(self, volume: Volume, a: int, place: int, b: int) -> None:
        """Bytes of a chunk file, of a log segment or of a snapshot change."""
        index, prefix = a % 6, "log/" if b % 3 == 0 else "snapshot/" if b % 6 == 5 else "slab/"
        disk = self.world.disks[index]
        names = [name for name in disk.names if name.startswith(prefix) and "free" not in name]
        if index in self.away or not names or not self._may_impair(index):
            return
        name = names[place % len(names)]
        size = len(disk.contents(name))
        disk.rot(name, place % min(size, 64 * KIB), 1 + b % 700)
        self.rotten.setdefault(index, set()).add(name)
        self.fired[f"rot in {prefix}"] += 1
        await self.look(volume)

    async def do_full(self, volume: Volume, a: int, extra: int, _: int) -> None:
        """Some disks, or all, have little room left above the reserve."""
        chosen = self.world.disks if a % 2 else self.world.disks[: 1 + a % 5]
        reserve = RESERVE_CHUNKS * max(self.world.config.chunk_bytes, self.world.config.segment_bytes)
        for disk in chosen:
            disk.settle_freed()
            disk.capacity_bytes = disk.used_bytes + reserve + extra % (2 * MIB)
        self.is_tight = True
        await trio.sleep(1.5)

    async def do_room(self, volume: Volume, _: int, __: int, ___: int) -> None:
        """There is room again: what was refused is accepted, and nothing was lost."""
        for disk in self.world.disks:
            disk.capacity_bytes = self.world.capacity_bytes
        await trio.sleep(3)
        for _ in range(1 + len(self.model.files)):
            # Each file that could not be written in the background tells it once.
            if await self.attempt(volume.sync()):
                break
        else:
            raise AssertionError("sync fails though there is room")
        self.is_tight = False
        self.model.all_durable()
        await self.look(volume)

    async def do_jump(self, volume: Volume, a: int, b: int, _: int) -> None:
        """The wall clock is set, forwards or backwards."""
        self.world.clock.jump((a - 3) * 10.0 ** (b % 9))

    async def do_scrub(self, volume: Volume, _: int, __: int, ___: int) -> None:
        """Everything is read and mended, while the volume is in use; what is impaired is never too much for it."""
        report = await self.attempt_for(volume.scrub())
        if report is None:
            return
        assert not report.lost_count, report.lost
        self.fired["scrub mended"] += any(disk.mended_blocks or disk.mended_log_bytes for disk in report.disks)
        is_sound = all(disk.state == "up" for disk in volume.status().disks)
        if is_sound and not self.away and not self.failing and not self.hanging:
            self.rotten.clear()
        await self.look(volume)

    async def do_check(self, volume: Volume, _: int, __: int, ___: int) -> None:
        """fsck, while the volume is in use."""
        if not self.is_tight:
            await self._check(volume)


def _is_only(error: BaseException, *kinds: type[BaseException]) -> bool:
    """Whether an error, or every one in a group, is of these kinds."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_only(inner, *kinds) for inner in error.exceptions)
    return isinstance(error, kinds)
