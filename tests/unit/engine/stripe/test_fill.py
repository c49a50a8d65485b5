"""Filling holes: readers see old or new bytes; a crash at any instant with m disks lost leaves every living byte."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.engine.stripe.fill import Fill, Filled
from siltstone.engine.stripe.reader import StripeAddress
from siltstone.engine.stripe.store import WrittenStripe
from siltstone.limits import KIB, ROW_BYTES, SLOT_BYTES
from siltstone.types import DiskId, SlabId, StripeId
from sim.clock import autojump
from sim.stripes import StripeRig

CHUNK = 128 * KIB


class PowerLost(Exception):
    """The disks stop."""


def address_of(written: WrittenStripe) -> StripeAddress:
    return StripeAddress(written.slab, written.stripe_id, written.stripe, written.checksums)


def patched(data: bytes, fills: list[Fill]) -> bytes:
    changed = bytearray(data)
    for offset, piece in fills:
        changed[len(changed) : offset] = bytes(max(0, offset - len(changed)))
        changed[offset : offset + len(piece)] = piece
    return bytes(changed)


def choose(rig: StripeRig, count: int) -> dict[StripeId, list[Fill]]:
    """Some fills for some stripes, apart and on slots, inside what the stripes have room for."""
    wanted: dict[StripeId, list[Fill]] = {}
    for stripe_id in rig.random.sample(sorted(rig.live), min(count, len(rig.live))):
        written, _ = rig.live[stripe_id]
        slots = written.slab.data_units * written.stripe.unit_bytes // SLOT_BYTES
        borders = sorted(rig.random.sample(range(slots + 1), min(slots + 1, rig.random.choice([2, 2, 4]))))
        fills = []
        for low, high in zip(borders[::2], borders[1::2], strict=True):
            size = rig.random.randint((high - low - 1) * SLOT_BYTES + 1, (high - low) * SLOT_BYTES)
            fills.append(Fill(low * SLOT_BYTES, rig.random.randbytes(size)))
        wanted[stripe_id] = fills
    return wanted


def record(rig: StripeRig, filled: Filled) -> None:
    """What the batch does, with everything that is in memory."""
    written, data = rig.live[filled.stripe_id]
    after = written._replace(stripe=filled.stripe, checksums=filled.checksums)
    rig.live[filled.stripe_id] = (after, patched(data, list(filled.fills)))
    rig.store.filler.lay_over(filled)


async def fill(rig: StripeRig, wanted: dict[StripeId, list[Fill]], committed: list[Filled]) -> None:
    """The whole sequence."""
    filler = rig.store.filler
    done = await filler.prepare([(address_of(rig.live[key][0]), fills) for key, fills in wanted.items()])
    for filled in done:
        if filled is not None:
            record(rig, filled)
            committed.append(filled)
    await rig.check_all()
    await filler.complete(committed)
    for filled in committed:
        filler.release_parity(filled)


@given(seed=st.integers(0, 9999), code=st.sampled_from([(2, 1), (4, 2), (1, 1)]), size=st.sampled_from([16, 64, 100]))
@settings(max_examples=40, deadline=None)
def test_filled_stripes_read_back_and_their_parity_is_that_of_the_new_bytes(
    seed: int, code: tuple[int, int], size: int
) -> None:
    async def main() -> None:
        rig = StripeRig(*code, sum(code), chunk_bytes=8 * CHUNK, seed=seed)
        await rig.write_runs([rig.random.randint(1, size * KIB) for _ in range(5)])
        for _ in range(3):
            committed: list[Filled] = []
            await fill(rig, choose(rig, 3), committed)
            assert committed
            await rig.check_all()
            for written, _ in rig.live.values():
                assert await rig.verify(written) == []
        assert rig.store.space().raw_used_bytes == rig.live_raw_bytes()
        assert rig.reopened().space().raw_used_bytes == rig.live_raw_bytes()
        for lost in combinations(range(sum(code)), code[1]):
            for index in lost:
                rig.disks[index].disappear()
            await rig.check_all()
            for index in lost:
                rig.disks[index].return_()
            await rig.pool.probe()

    trio.run(main)


@given(
    seed=st.integers(0, 9999),
    code=st.sampled_from([(2, 1), (4, 2)]),
    operations=st.integers(0, 40),
    lost=st.sets(st.integers(0, 5), max_size=2),
)
@settings(max_examples=120, deadline=None)
def test_a_crash_in_a_fill_and_lost_disks_leave_every_byte(
    seed: int, code: tuple[int, int], operations: int, lost: set[int]
) -> None:
    async def main() -> None:
        rig = StripeRig(*code, sum(code), chunk_bytes=CHUNK, seed=seed)
        await rig.write_runs([rig.random.randint(1, 32 * KIB) for _ in range(4)])
        left = operations

        def count(*_: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise PowerLost

        for disk in rig.disks:
            disk.on_operation = count
        committed: list[Filled] = []
        try:
            await fill(rig, choose(rig, 3), committed)
        except* PowerLost:
            pass
        for disk in rig.disks:
            disk.on_operation = None
        rig.crash(seed)
        for index in sorted(lost)[: code[1]]:
            if index < len(rig.disks):
                rig.disks[index].disappear()
        await rig.pool.probe()
        for filled in committed:  # the redo records, as the metadata has them
            rig.store.filler.lay_over(filled)
        await rig.check_all()
        await rig.store.filler.complete(committed)
        await rig.check_all()

    trio.run(main)


def test_a_stripe_that_dies_before_its_bytes_are_in_place_keeps_its_rows_until_then() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK)
        written = await rig.write(5000)
        (filled,) = await rig.store.filler.prepare([(address_of(written), [Fill(0, b"x" * 100)])])
        assert filled is not None
        record(rig, filled)
        rig.release(written.stripe_id)
        used = rig.store.space().raw_used_bytes
        await rig.store.filler.complete([filled])
        assert rig.store.space().raw_used_bytes < used
        rig.store.filler.release_parity(filled)
        assert rig.store.space().raw_used_bytes == 0

    trio.run(main)


def test_a_read_under_which_a_fill_ends_finds_nothing_wrong() -> None:
    """It has the old bytes of one disk, and still waits for another, when the overlay goes."""

    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK)
        written = await rig.write(8000)
        (filled,) = await rig.store.filler.prepare([(address_of(written), [Fill(0, b"x" * 100)])])
        assert filled is not None
        record(rig, filled)
        rig.disks[written.slab.disks[0]].slow(0.01, "read")
        rig.disks[written.slab.disks[1]].slow(0.1, "read")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(rig.check_all, ranges=0))
            await trio.sleep(0.05)
            assert await rig.store.filler.complete([filled]) == []
        assert rig.store.statistics().degraded_reads == 0

    trio.run(main, clock=autojump())


@pytest.mark.parametrize("operation", ["write", "flush"])
def test_a_disk_that_fails_the_new_parity_leaves_all_as_it_was(operation: str) -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK)
        written = await rig.write(5000)
        used = rig.store.space().raw_used_bytes
        rig.disks[written.slab.disks[2]].fail(operation, "slab/")
        assert await rig.store.filler.prepare([(address_of(written), [Fill(0, b"x" * 100)])]) == [None]
        assert rig.store.space().raw_used_bytes == used
        await rig.check_all()

    trio.run(main)


def test_a_slab_full_of_data_has_room_for_new_parity() -> None:
    async def main() -> None:
        chunk_bytes = 256 * ROW_BYTES
        rig = StripeRig(2, 1, 3, chunk_bytes=chunk_bytes, capacity_bytes=4 * chunk_bytes)
        rows = await rig.write_runs([2 * ROW_BYTES] * 252)
        assert rig.store.space().data_free_bytes == 0
        committed: list[Filled] = []
        await fill(rig, {rows[7].stripe_id: [Fill(512, b"y" * 600)]}, committed)
        assert [filled.stripe_id for filled in committed] == [rows[7].stripe_id]
        await fill(rig, {rows[8].stripe_id: [Fill(0, b"z" * 8192)]}, [])
        await rig.check_all()

    trio.run(main)


def test_nothing_is_filled_where_a_disk_is_away() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK)
        written = await rig.write(5000)
        rig.disks[DiskId(1)].disappear()
        await rig.pool.probe()
        assert await rig.store.filler.prepare([(address_of(written), [Fill(0, b"x")])]) == [None]
        assert rig.slabs.keys() == {SlabId(1)}

    trio.run(main)
