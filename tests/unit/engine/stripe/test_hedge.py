"""Reads go around disks that are slow or hang: whichever comes first is taken, and nothing is mended for being slow."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from siltstone.engine.pace import CREDIT_MAX, PATIENCE_SECONDS_UNKNOWN, STALL_SECONDS
from siltstone.engine.pool import DiskState
from siltstone.engine.stripe.store import StripeStatistics, WrittenStripe
from siltstone.errors import DiskError
from siltstone.limits import CHECKSUM_BLOCK_BYTES, DISK_TIMEOUT_SECONDS, KIB, MIB
from siltstone.ports import DiskRead, Lane
from sim.clock import autojump
from sim.fanout import SimReading
from sim.stripes import StripeRig

K, M = 4, 2
SIZE = K * 64 * KIB


class Rig(StripeRig):
    """A stripe of 4+2 on six disks whose reads all go to the disks."""

    def __init__(self) -> None:
        super().__init__(K, M, K + M, chunk_bytes=MIB)

    async def timed_read(self, written: WrittenStripe, unit: int, size: int = 1000) -> float:
        """Read some bytes of a unit, and compare them; how long it took."""
        started = trio.current_time()
        offset = unit * written.stripe.unit_bytes
        _, data = self.live[written.stripe_id]
        found = await self.store.read(written.slab, written.stripe_id, written.stripe, written.checksums, offset, size)
        assert found == data[offset : offset + size]
        return trio.current_time() - started

    def counts(self) -> StripeStatistics:
        """What the store has counted."""
        return self.store.statistics()

    def unit_disk(self, written: WrittenStripe, unit: int) -> int:
        """The disk that has a unit."""
        return written.slab.disks[unit]

    def miss(self) -> None:
        """Nothing is in any cache: every read takes a moment."""
        for disk in self.disks:
            disk.slow(0.001, "read")


def test_a_unit_that_is_late_is_computed_from_others_and_not_mended() -> None:
    async def main() -> None:
        rig = Rig()
        written = await rig.write(SIZE)
        rig.miss()
        rig.disks[rig.unit_disk(written, 1)].slow(5.0, "read")
        writes = rig.sim.fanout.writes
        assert await rig.timed_read(written, 1) == pytest.approx(PATIENCE_SECONDS_UNKNOWN, abs=0.01)
        assert rig.counts().hedged_reads == rig.counts().won_hedges == 1
        assert rig.counts().degraded_reads == rig.counts().repaired_blocks == 0
        assert rig.sim.fanout.writes == writes
        assert all(status.state is DiskState.UP for status in rig.pool.status())

    trio.run(main, clock=autojump())


def test_a_late_unit_that_comes_before_it_is_computed_is_taken() -> None:
    async def main() -> None:
        rig = Rig()
        written = await rig.write(SIZE)
        rig.disks[rig.unit_disk(written, 1)].slow(1.0, "read")
        for unit in (0, 2, 3, 4, 5):
            rig.disks[rig.unit_disk(written, unit)].slow(2.0, "read")
        assert await rig.timed_read(written, 1) == pytest.approx(1.0)
        assert rig.counts().hedged_reads == 1 and rig.counts().won_hedges == 0
        await rig.check_all(ranges=1)

    trio.run(main, clock=autojump())


def test_what_comes_late_and_wrong_is_computed_and_mended() -> None:
    async def main() -> None:
        rig = Rig()
        written = await rig.write(SIZE)
        rig.rot(written, 1, 5)
        rig.disks[rig.unit_disk(written, 1)].slow(1.0, "read", count=1)
        for unit in (0, 2, 3, 4, 5):
            rig.disks[rig.unit_disk(written, unit)].slow(2.0, "read", count=1)
        await rig.timed_read(written, 1)
        await rig.timed_read(written, 1)
        assert await rig.verify(written) == []

    trio.run(main, clock=autojump())


class Unseen(SimReading):
    """Has its answers, but they are seen only after so many looks: threads bring them in between two of them."""

    def __init__(self, reads: Sequence[DiskRead], looks: int) -> None:
        super().__init__(reads)
        self.looks = looks

    def result(self, index: int) -> bytes | DiskError | None:
        """Nothing, as long as there are looks left."""
        if self.looks:
            self.looks -= 1
            return None
        return super().result(index)

    async def wait(self, count: int) -> None:
        """Not woken either."""
        await super().wait(count)
        if self.looks:
            await trio.sleep_forever()


@pytest.mark.parametrize("looks", range(1, 12))
@pytest.mark.parametrize("size", [1000, SIZE])
def test_an_answer_may_come_at_any_moment(looks: int, size: int) -> None:
    async def main() -> None:
        rig = Rig()
        written = await rig.write(SIZE)
        rig.miss()
        start_read = rig.sim.fanout.start_read
        begun: list[SimReading] = []

        def start(reads: Sequence[DiskRead], lane: Lane) -> SimReading:
            begun.append(start_read(reads, lane) if begun else Unseen(reads, looks))
            return begun[-1]

        rig.sim.fanout.start_read = start  # type: ignore[method-assign]
        assert await rig.timed_read(written, 0, size) < 1.0
        assert rig.counts().degraded_reads == 0

    trio.run(main, clock=autojump())


def test_a_hedge_reads_only_the_blocks_that_were_asked_for() -> None:
    async def main() -> None:
        rig = Rig()
        written = await rig.write(SIZE)
        rig.miss()
        sizes: list[int] = []
        for disk in rig.disks:
            read = disk.read

            async def counted(name: str, offset: int, size: int, read=read) -> bytes:  # type: ignore[no-untyped-def]
                sizes.append(size)
                data: bytes = await read(name, offset, size)
                return data

            disk.read = counted  # type: ignore[method-assign]
        rig.disks[rig.unit_disk(written, 1)].slow(5.0, "read")
        await rig.timed_read(written, 1, 1000)
        assert sizes == [CHECKSUM_BLOCK_BYTES] * (1 + K)
        sizes.clear()
        rig.disks[rig.unit_disk(written, 1)].disappear()
        await rig.pool.probe()
        await rig.timed_read(written, 1, 1000)
        assert sizes == [CHECKSUM_BLOCK_BYTES] * K, "a degraded read decodes the range that is asked for"

    trio.run(main, clock=autojump())


def test_a_large_read_waits_for_the_slow_unit_only_as_long_as_it_pays() -> None:
    async def main() -> None:
        rig = Rig()
        written = await rig.write(SIZE)
        rig.miss()
        rig.disks[rig.unit_disk(written, 2)].slow(5.0, "read")
        assert await rig.timed_read(written, 0, SIZE) < 0.3
        assert rig.counts().won_hedges == 1

    trio.run(main, clock=autojump())


def test_where_everything_is_slow_hardly_anything_is_hedged() -> None:
    async def main() -> None:
        rig = Rig()
        written = await rig.write(SIZE)
        for disk in rig.disks:
            disk.slow(0.9, "read")
        for _ in range(300):
            await rig.timed_read(written, 1)
        assert rig.counts().hedged_reads <= 300 * 0.1 + CREDIT_MAX

    trio.run(main, clock=autojump())


def test_a_disk_that_is_slow_by_itself_is_hedged_up_to_a_tenth_of_the_reads() -> None:
    async def main() -> None:
        rig = Rig()
        written = await rig.write(SIZE)
        rig.miss()
        rig.disks[rig.unit_disk(written, 1)].slow(0.5, "read")
        seconds = [await rig.timed_read(written, number % K) for number in range(400)]
        assert 30 <= rig.counts().hedged_reads <= 400 * 0.1 + CREDIT_MAX
        assert rig.counts().won_hedges == rig.counts().hedged_reads
        assert sum(each < 0.1 for each in seconds) > 300 + 20

    trio.run(main, clock=autojump())


def test_a_disk_that_hangs_holds_up_a_read_for_a_second_at_most_long_before_it_is_given_up() -> None:
    async def main() -> None:
        rig = Rig()
        written = await rig.write(SIZE)
        rig.miss()
        hung = rig.disks[rig.unit_disk(written, 1)]
        hang = hung.hang("read")
        started = trio.current_time()
        seconds: list[float] = []
        while trio.current_time() < started + DISK_TIMEOUT_SECONDS - 2:
            seconds.append(await rig.timed_read(written, 1))
            await trio.sleep(0.1)
        assert max(seconds) < STALL_SECONDS and len(seconds) > 200
        assert hang.fired < 10, "a disk that answers nothing is not asked for more"
        assert sum(each > 0.01 for each in seconds) < 10
        assert rig.pool.is_up(hung.disk_id)
        # In the end it is given up, though nobody waits for it.
        await trio.sleep(5)
        status = rig.pool.status_of(hung.disk_id)
        assert status.state is DiskState.FAILED and "no answer to read" in status.reason
        await rig.timed_read(written, 1)
        assert rig.counts().degraded_reads == 1 and rig.counts().repaired_blocks == 0

    trio.run(main, clock=autojump())


def test_with_too_few_others_a_late_unit_is_waited_for() -> None:
    async def main() -> None:
        rig = Rig()
        written = await rig.write(SIZE)
        rig.miss()
        for unit in (0, 5):
            rig.disks[rig.unit_disk(written, unit)].disappear()
        await rig.pool.probe()
        rig.disks[rig.unit_disk(written, 1)].slow(5.0, "read")
        assert await rig.timed_read(written, 1) == pytest.approx(5.0, abs=0.1)
        assert rig.counts().hedged_reads == 0

    trio.run(main, clock=autojump())


def test_two_disks_that_hang_are_read_around_and_a_third_is_waited_for() -> None:
    async def main() -> None:
        rig = Rig()
        written = await rig.write(SIZE)
        rig.miss()
        for unit in (1, 2):
            rig.disks[rig.unit_disk(written, unit)].hang("read")
        for _ in range(50):
            assert await rig.timed_read(written, 1) < STALL_SECONDS
            assert await rig.timed_read(written, 2) < STALL_SECONDS
        third = rig.disks[rig.unit_disk(written, 3)]
        third.slow(4.0, "read")
        assert await rig.timed_read(written, 3) == pytest.approx(4.0, abs=0.1)

    trio.run(main, clock=autojump())


def test_a_reader_that_goes_away_leaves_nothing_that_counts_as_waiting() -> None:
    async def main() -> None:
        rig = Rig()
        written = await rig.write(SIZE)
        rig.disks[rig.unit_disk(written, 1)].slow(5.0, "read", count=1)
        with trio.move_on_after(0.1) as scope:
            await rig.timed_read(written, 1)
        assert scope.cancelled_caught
        await trio.sleep(10)
        rig.miss()
        assert await rig.timed_read(written, 1) < 0.1
        assert rig.counts().hedged_reads == 0

    trio.run(main, clock=autojump())
