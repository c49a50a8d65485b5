"""Runs are read as their checksums say, or not at all, and in time."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import trio
from hypothesis import given
from hypothesis import strategies as st

from siltstone.engine.direct import DirectReader, UnitRun, part_around
from siltstone.engine.pace import STALL_SECONDS
from siltstone.engine.stripe.checksum import checksums_of
from siltstone.limits import CHECKSUM_BLOCK_BYTES
from sim.clock import autojump
from sim.pool import SimPool, make_sim_pool

OFFSET, SIZE = 4096, 5 * CHECKSUM_BLOCK_BYTES + 4096
DATA = random.Random(1).randbytes(SIZE)


def run(body: Callable[[SimPool, DirectReader, list[UnitRun]], Awaitable[None]], *, cache_misses: bool = True) -> None:
    """A run on each of three disks."""

    async def main() -> None:
        sim = make_sim_pool(3, cache_misses=cache_misses)
        runs: list[UnitRun] = []
        for disk in sim.disks:
            await disk.create("slab/1.0", OFFSET + SIZE)
            await disk.write("slab/1.0", OFFSET, [DATA])
            runs.append(UnitRun(disk.disk_id, "slab/1.0", OFFSET, SIZE, checksums_of([DATA])))
        await body(sim, DirectReader(sim.pool), runs)

    trio.run(main, clock=autojump())


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, SIZE - 1), st.integers(1, SIZE)), min_size=1, max_size=4))
def test_parts_are_whole_blocks_with_the_bytes_that_are_wanted(wanted: list[tuple[int, int, int]]) -> None:
    async def body(sim: SimPool, reader: DirectReader, runs: list[UnitRun]) -> None:
        parts = [part_around(runs[at], low, min(SIZE, low + size)) for at, low, size in wanted]
        found = await reader.read(parts)
        assert found is not None
        for (_, low, size), part, data in zip(wanted, parts, found, strict=True):
            assert part.low <= low and min(SIZE, low + size) <= part.high
            assert data == DATA[part.low : part.high]

    run(body)


@given(st.booleans(), st.integers(0, SIZE - 1))
def test_a_wrong_byte_is_not_given_out(cache_misses: bool, at: int) -> None:
    async def body(sim: SimPool, reader: DirectReader, runs: list[UnitRun]) -> None:
        sim.disks[1].rot("slab/1.0", OFFSET + at)
        parts = [part_around(one, 0, SIZE) for one in runs]
        assert await reader.read(parts) is None
        assert await reader.read(parts[:1]) == [DATA]
        assert reader.failed == 1
        before = at - at % CHECKSUM_BLOCK_BYTES
        if before:
            assert await reader.read([part_around(runs[1], 0, before)]) == [DATA[:before]]

    run(body, cache_misses=cache_misses)


def test_a_file_or_a_disk_that_is_away_gives_nothing() -> None:
    async def body(sim: SimPool, reader: DirectReader, runs: list[UnitRun]) -> None:
        parts = [part_around(one, 0, SIZE) for one in runs]
        await sim.disks[0].delete("slab/1.0")
        assert await reader.read(parts) is None
        assert sim.pool.is_up(sim.disks[0].disk_id)
        sim.disks[1].disappear()
        assert await reader.read(parts[1:]) is None
        assert await reader.read(parts[2:]) == [DATA]

    run(body)


def test_a_disk_that_is_late_or_hangs_is_not_waited_for() -> None:
    async def body(sim: SimPool, reader: DirectReader, runs: list[UnitRun]) -> None:
        sim.disks[0].slow(30, "read")
        for _ in range(40):  # more than may be given to others for being late
            began = trio.current_time()
            assert await reader.read([part_around(runs[0], 0, SIZE)]) is None
            assert trio.current_time() - began <= STALL_SECONDS + 0.5
        assert reader.late > 1
        began = trio.current_time()
        assert await reader.read([part_around(runs[0], 0, SIZE)]) is None
        assert trio.current_time() == began, "a disk that is stalled is asked"
        await trio.sleep(60)
        sim.disks[0].heal()
        assert await reader.read([part_around(runs[0], 0, SIZE)]) == [DATA]

    # Always a miss would be best; every second read goes to the disk.
    run(body)
