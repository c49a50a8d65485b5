"""The log against a list of frames, while disks tear, rot, leave, come back stale, fail and fill up.

What must hold after every recovery: the frames are exactly a prefix of those appended, and it holds every acknowledged
one. At most two disks are away at a time, and every segment keeps one that is up: that is what the log promises for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.engine.format.frame import Frame
from siltstone.engine.format.segment import SEGMENT_HEADER_BYTES, segment_name
from siltstone.engine.log.log import Log
from siltstone.engine.log.segment import SegmentStatus
from siltstone.errors import LogDamaged, TooFewDisks
from siltstone.limits import KIB
from siltstone.types import DiskId, Lsn
from sim.clock import SimClock, autojump
from sim.disk import SimDisk
from sim.pool import SimPool, make_sim_pool, reopen_sim_pool
from sim.randomness import SimRandom

UUID = bytes(range(16))
SEGMENT_BYTES = 16 * KIB
DISKS = 5
REPLICAS = 3
STEPS = 14
LONG_SECONDS = 60.0


class Appended(NamedTuple):
    """A frame of the model."""

    lsn: Lsn
    end_lsn: Lsn
    kind: int
    payload: bytes
    body: bytes

    def is_same_as(self, frame: Frame) -> bool:
        """Whether recovery found this frame."""
        found = (frame.lsn, frame.end_lsn, frame.kind, frame.payload_bytes, frame.body)
        return found == (self.lsn, self.end_lsn, self.kind, len(self.payload), self.body)


class Machine:
    """The log, the model, and the rules that act on both. ``draw`` decides everything."""

    def __init__(self, data: st.DataObject, seen: Counter[str]) -> None:
        self.data = data
        self.seen = seen
        self.random = SimRandom(data.draw(st.integers(0, 2**32), label="seed"))
        self.sim: SimPool = make_sim_pool(DISKS, seed=self.random.below(2**32))
        self.clock = SimClock()
        self.frames: list[Appended] = []
        self.acked = self.applied = Lsn(0)
        self.retired_end = Lsn(0)
        self.away: set[DiskId] = set()
        self.log: Log
        self.nursery: trio.Nursery
        self.serial = 0
        self.is_dark = False
        self.rotten: set[tuple[Lsn, DiskId, Lsn]] = set()

    def draw(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))

    # --- a life from open to crash ---------------------------------------------------------------------------------

    async def play(self) -> None:
        self.log = await Log.create(
            self.sim.pool, self.clock, volume_uuid=UUID, segment_bytes=SEGMENT_BYTES, replicas=REPLICAS
        )
        for _ in range(self.draw(1, 4)):
            async with trio.open_nursery() as self.nursery:
                await self.nursery.start(self.log.run)
                self.nursery.start_soon(self.sim.pool.watch, self.clock)
                for _ in range(self.draw(0, STEPS)):
                    await self.step()
                    await self.check()
                doomed = await self.end()
                self.nursery.cancel_scope.cancel()
            if doomed is not None:
                await self.fail_to_recover(*doomed)
                return
            await self.recover()

    async def step(self) -> None:
        rules = (
            *(self.append_and_wait, self.append_and_wait, self.append, self.append_many, self.sleep, self.seal),
            *(self.apply, self.retire, self.lose_disk, self.lose_disk, self.return_disk, self.heal, self.punch),
            *(self.fail_operations, self.fill_disk),
        )
        rule = rules[self.draw(0, len(rules) - 1)]
        self.seen[rule.__name__] += 1
        await rule()

    async def end(self) -> tuple[Appended, SegmentStatus] | None:
        """Close or crash; returns a frame if it is to be damaged beyond repair."""
        how = self.draw(0, 9)
        if how == 1:
            doomed = await self.choose_doomed()
            if doomed is not None:
                self.lose_power()
                return doomed
        if how == 0:
            await self.close()
        else:
            await self.crash_in_the_middle()
            if how < 5:
                self.rot_one_replica()
        return None

    # --- rules -----------------------------------------------------------------------------------------------------

    def append_one(self) -> Lsn:
        self.serial += 1
        payload = bytes([self.serial % 251]) * self.draw(0, 3000)
        body = b"body %d" % self.serial * self.draw(0, 9)
        lsn, payload_lsn = self.log.next_lsn, self.log.next_payload_lsn
        cut = self.draw(0, len(payload))
        end = self.log.append_nowait(self.serial % 256, [payload[:cut], payload[cut:]], body)
        self.frames.append(Appended(lsn, end, self.serial % 256, payload, body))
        assert not payload or self.log.read_nowait(payload_lsn, len(payload)) == payload
        return end

    async def append(self) -> None:
        self.append_one()

    async def append_and_wait(self) -> None:
        await self.wait(self.append_one())

    async def append_many(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(self.draw(2, 6)):
                nursery.start_soon(self.wait, self.append_one())

    async def wait(self, lsn: Lsn) -> None:
        with trio.move_on_after(LONG_SECONDS) as scope:
            await self.log.wait_durable(lsn)
            self.acked = max(self.acked, lsn)
        if scope.cancelled_caught:
            self.seen["stalled"] += 1
            assert len(self.sim.pool.up()) < 2 and self.log.statistics().is_stalled

    async def sleep(self) -> None:
        before = self.log.next_lsn
        await trio.sleep([0.3, 1.2, 5.0][self.draw(0, 2)])
        if trio.current_time() and self.log.durable_lsn >= before:
            self.acked = max(self.acked, before)

    async def seal(self) -> None:
        with trio.move_on_after(LONG_SECONDS):
            await self.log.seal()
            self.acked = max(self.acked, self.log.durable_lsn)

    async def apply(self) -> None:
        borders = [frame.end_lsn for frame in self.frames if self.applied <= frame.end_lsn <= self.log.durable_lsn]
        if borders:
            self.applied = borders[self.draw(0, len(borders) - 1)]
            self.acked = max(self.acked, self.applied)

    async def retire(self) -> None:
        old = [segment for segment in self.log.segments() if segment.sealed and segment.end <= self.applied]
        if old:
            await self.log.retire(old[0].start)
            self.retired_end = max(self.retired_end, old[0].end)

    async def punch(self) -> None:
        old = [segment for segment in self.log.segments() if segment.sealed and segment.end <= self.applied]
        if old:
            await self.log.punch(old[0].start, old[0].end)
            self.retired_end = max(self.retired_end, old[0].end)

    async def heal(self) -> None:
        with trio.move_on_after(LONG_SECONDS):
            await self.log.heal()

    async def lose_disk(self) -> None:
        disk = self.sim.disks[self.draw(0, DISKS - 1)]
        if disk.disk_id not in self.away and self.may_lose(disk.disk_id):
            self.away.add(disk.disk_id)
            disk.disappear()

    def may_lose(self, disk_id: DiskId) -> bool:
        """Two away at the most, and every segment keeps one sound disk."""
        up = {disk.disk_id for disk in self.sim.disks} - self.away - {disk_id}
        rotten = {(start, holder) for start, holder, _ in self.rotten}
        return len(up) >= DISKS - 2 and all(
            {holder for holder in segment.disks if holder in up and (segment.start, holder) not in rotten}
            for segment in self.log.segments()
        )

    async def return_disk(self) -> None:
        if self.away:
            disk_id = sorted(self.away)[self.draw(0, len(self.away) - 1)]
            self.away.discard(disk_id)
            self.sim.disks[disk_id].return_()
            if self.draw(0, 1):
                await self.sim.pool.probe()

    async def fail_operations(self) -> None:
        operation = ["write", "flush", "create", "rename", "delete", "read"][self.draw(0, 5)]
        self.sim.disks[self.draw(0, DISKS - 1)].fail(operation, "log/", skip=self.draw(0, 3), count=self.draw(1, 2))

    async def fill_disk(self) -> None:
        self.sim.disks[self.draw(0, DISKS - 1)].fail_full("create", "log/", count=self.draw(1, 2))

    # --- ends of a life --------------------------------------------------------------------------------------------

    async def close(self) -> None:
        try:
            with trio.fail_after(LONG_SECONDS):
                await self.log.close()
            self.acked = self.log.next_lsn
            assert self.log.durable_lsn == self.log.next_lsn
            self.seen["closed"] += 1
        except TooFewDisks:
            assert len(self.sim.pool.up()) < 2 + len([disk for disk in self.sim.disks if disk.faults])
            self.seen["closed in vain"] += 1

    async def crash_in_the_middle(self) -> None:
        """Power goes while appends, a seal and a heal are on their way."""
        for _ in range(self.draw(0, 4)):
            self.nursery.start_soon(self.wait, self.append_one())
        if self.draw(0, 1):
            self.nursery.start_soon(self.log.seal)
        for _ in range(self.draw(0, 30)):
            await trio.lowlevel.checkpoint()
        self.acked = max(self.acked, self.log.durable_lsn)
        self.lose_power()

    def lose_power(self) -> None:
        self.is_dark = True
        for disk in self.sim.disks:
            disk.power_off()

    def rot_one_replica(self) -> None:
        """Damage a frame that recovery will read, on one disk of a segment that has another one up."""
        placed = [(f, s) for f in self.frames for s in self.log.segments() if self.applied <= f.lsn and holds(s, f)]
        if not placed:
            return
        frame, segment = placed[self.draw(0, len(placed) - 1)]
        up = [disk_id for disk_id in segment.disks if disk_id not in self.away]
        if len(up) > 1:
            self.rot(frame, segment, self.sim.disks[up[0]])
            self.rotten.add((segment.start, up[0], frame.lsn))
            self.seen["rot"] += 1

    def rot(self, frame: Appended, segment: SegmentStatus, disk: SimDisk) -> None:
        name = segment_name(segment.start, segment.epoch)
        if name in disk.names:
            offset = SEGMENT_HEADER_BYTES + frame.lsn - segment.start
            disk.rot(name, offset + self.draw(0, frame.end_lsn - frame.lsn - 1))

    async def choose_doomed(self) -> tuple[Appended, SegmentStatus] | None:
        """A frame that recovery needs, when all of the log is durable and marked so."""
        await trio.sleep(5)
        marked = self.log.durable_lsn
        if self.log.next_lsn != marked or self.log.statistics().marked_lsn != marked:
            return None
        if self.away & set(self.log.segments()[-1].disks):
            return None
        placed = [(f, s) for f in self.frames for s in self.log.segments() if self.applied <= f.lsn and holds(s, f)]
        return placed[self.draw(0, len(placed) - 1)] if placed else None

    async def fail_to_recover(self, frame: Appended, segment: SegmentStatus) -> None:
        """Damage the frame on all disks: recovery must say so, and where."""
        self.restart()
        for disk in self.sim.disks:
            if (segment.start, disk.disk_id, frame.lsn) not in self.rotten:  # twice the same bit would be none
                self.rot(frame, segment, disk)
        with pytest.raises(LogDamaged) as caught:
            await self.open(lambda _frame: None)
        assert caught.value.lsn == frame.lsn
        self.seen["damaged"] += 1

    def restart(self) -> None:
        self.is_dark = False
        for disk in self.sim.disks:
            disk.heal()
            disk.crash(self.random)
        self.away = {disk_id for disk_id in sorted(self.away) if self.draw(0, 1)}
        for disk in self.sim.disks:
            if self.draw(0, 2) == 2 and self.may_lose(disk.disk_id):
                self.away.add(disk.disk_id)
        for disk_id in self.away:
            self.sim.disks[disk_id].disappear()
        self.sim = reopen_sim_pool(self.sim.disks, self.random)

    async def open(self, on_frame: Callable[[Frame], None]) -> Log:
        return await Log.recover(
            self.sim.pool,
            self.clock,
            volume_uuid=UUID,
            segment_bytes=SEGMENT_BYTES,
            replicas=REPLICAS,
            applied_lsn=self.applied,
            on_frame=on_frame,
        )

    async def recover(self) -> None:
        while self.draw(0, 3) == 3:
            await self.crash_in_recovery()
        self.restart()
        found: list[Frame] = []
        self.log = await self.open(found.append)
        self.seen["recovered"] += 1
        end = self.log.next_lsn
        assert end >= self.acked, "an acknowledged frame is lost"
        assert self.log.durable_lsn == end
        expected = [frame for frame in self.frames if self.applied < frame.end_lsn <= end]
        assert len(expected) == len(found)
        assert all(frame.is_same_as(other) for frame, other in zip(expected, found, strict=True))
        assert not expected or expected[-1].end_lsn == end
        self.seen["un-acknowledged frames kept"] += end > self.acked
        self.frames = [frame for frame in self.frames if frame.end_lsn <= end]
        self.acked = end
        self.rotten = {rot for rot in self.rotten if rot[2] < self.applied or rot[1] in self.away}
        self.check_replicas()

    async def crash_in_recovery(self) -> None:
        self.restart()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.open_in_vain)
            for _ in range(self.draw(0, 60)):
                await trio.lowlevel.checkpoint()
            self.lose_power()
            nursery.cancel_scope.cancel()
        self.seen["crashed in recovery"] += 1

    async def open_in_vain(self) -> None:
        try:
            await self.open(lambda _frame: None)
        except TooFewDisks:
            assert self.is_dark, "there were disks enough"

    # --- what must hold --------------------------------------------------------------------------------------------

    def check_replicas(self) -> None:
        """Every disk that a segment counts on has every frame of it; those that recovery read are alike to the byte."""
        rotten = {(start, disk_id) for start, disk_id, _ in self.rotten}
        for frame in self.frames:
            for segment in self.log.segments():
                if frame.lsn < self.retired_end or not holds(segment, frame):
                    continue
                offset = SEGMENT_HEADER_BYTES + frame.lsn - segment.start
                name = segment_name(segment.start, segment.epoch)
                copies = {
                    self.sim.disks[disk_id].contents(name)[offset : offset + frame.end_lsn - frame.lsn]
                    for disk_id in segment.disks
                    if self.applied <= frame.lsn or (segment.start, disk_id) not in rotten
                }
                assert len(segment.disks) >= 2 or frame.lsn < self.applied
                assert len(copies) <= 1
                assert not copies or frame.payload in copies.pop()

    async def check(self) -> None:
        log = self.log
        assert self.acked <= log.durable_lsn <= log.next_lsn
        segments = log.segments()
        assert all(first.end <= second.start for first, second in pairwise(segments))
        assert all(
            segment.end == other.start or other.start <= self.retired_end for segment, other in pairwise(segments)
        )
        live = [frame for frame in self.frames if frame.lsn >= self.retired_end and frame.payload]
        if not live:
            return
        frame = live[self.draw(0, len(live) - 1)]
        payload_lsn = Lsn(frame.lsn + 64)
        at_hand = log.read_nowait(payload_lsn, len(frame.payload))
        try:
            assert await log.read(payload_lsn, len(frame.payload), lambda data: data == frame.payload) == frame.payload
        except TooFewDisks:
            faulty = {disk.disk_id for disk in self.sim.disks if disk.faults} | self.away
            assert {disk_id for disk_id in self.holders(frame) if self.sim.pool.is_up(disk_id)} <= faulty
        else:
            rotten = {disk_id for _, disk_id, _ in self.rotten}
            assert at_hand is None or at_hand == frame.payload or rotten & set(self.holders(frame))

    def holders(self, frame: Appended) -> tuple[DiskId, ...]:
        return next((segment.disks for segment in self.log.segments() if holds(segment, frame)), ())


def holds(segment: SegmentStatus, frame: Appended) -> bool:
    return segment.start <= frame.lsn and frame.end_lsn <= segment.end


SEEN: Counter[str] = Counter()


@settings(max_examples=150, report_multiple_bugs=False)
@given(st.data(), st.random_module())
def test_recovery_finds_a_prefix_with_every_acknowledged_frame(data: st.DataObject, _seed: object) -> None:
    machine = Machine(data, SEEN)
    trio.run(machine.play, clock=autojump())


def test_the_machine_took_its_rare_branches() -> None:
    rare = {"recovered", "crashed in recovery", "rot", "closed", "un-acknowledged frames kept", "lose_disk", "damaged"}
    assert not SEEN or rare <= {name for name, count in SEEN.items() if count}
