"""Stripes on simulated disks: what was written reads back, whatever happens to up to m units."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.errors import StripeUnreadable, TooFewDisks
from siltstone.limits import CHECKSUM_BLOCK_BYTES, KIB, MIB
from sim.stripes import StripeRig

CODES = [(1, 1), (2, 1), (4, 2), (3, 0), (2, 3)]
sizes = st.one_of(st.integers(1, 200_000), st.sampled_from([1, 4096, 16384, 65536, 65537, 262144]))


@given(code=st.sampled_from(CODES), size=st.lists(sizes, min_size=1, max_size=5), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_what_was_written_reads_back_in_any_range(code: tuple[int, int], size: list[int], seed: int) -> None:
    async def main() -> None:
        rig = StripeRig(*code, sum(code), chunk_bytes=512 * KIB, seed=seed)
        for one in size:
            await rig.write(one)
        await rig.check_all(ranges=6)
        assert rig.store.statistics().degraded_reads == 0

    trio.run(main)


@given(code=st.sampled_from(CODES), size=sizes, seed=st.integers(0, 999), data=st.data())
@settings(max_examples=80, deadline=None)
def test_reads_survive_any_m_units_lost_or_rotten_and_mend_what_they_touch(
    code: tuple[int, int], size: int, seed: int, data: st.DataObject
) -> None:
    k, m = code
    harmed = data.draw(st.lists(st.integers(0, k + m - 1), max_size=m, unique=True))
    kinds = [data.draw(st.sampled_from(["lost", "rotten", "file gone"])) for _ in harmed]

    async def main() -> None:
        rig = StripeRig(k, m, k + m, chunk_bytes=512 * KIB, seed=seed)
        written = await rig.write(size)
        absent = []
        for unit, kind in zip(harmed, kinds, strict=True):
            disk = rig.disks[written.slab.disks[unit]]
            if kind == "lost":
                disk.disappear()
                absent.append(unit)
            elif kind == "file gone":
                await disk.delete(f"slab/{written.slab_id:08x}.{unit}")
                absent.append(unit)
            else:
                for _ in range(3):
                    rig.rot(written, unit, rig.random.randrange(written.stripe.unit_bytes))
        await rig.check_all(ranges=4)
        wrong = await rig.verify(written)
        assert set(absent) <= set(wrong) <= set(harmed)
        read_units = -(-size // written.stripe.unit_bytes)
        whole_units = size // written.stripe.unit_bytes
        assert not [unit for unit in wrong if unit < whole_units and unit not in absent], "reads repair what they touch"
        assert rig.store.statistics().degraded_reads > 0 or all(unit >= min(read_units, k) - 1 for unit in harmed)

    trio.run(main)


def test_different_units_may_be_rotten_in_different_blocks() -> None:
    async def main() -> None:
        rig = StripeRig(4, 2, 6, chunk_bytes=MIB)
        written = await rig.write(4 * 6 * CHECKSUM_BLOCK_BYTES)
        for unit in range(6):
            rig.rot(written, unit, unit * CHECKSUM_BLOCK_BYTES + 5)
        await rig.check_all()
        assert await rig.verify(written) == []
        assert rig.store.statistics().repaired_blocks == 6

    trio.run(main)


def test_a_repair_writes_the_right_bytes_to_the_right_blocks() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=MIB)
        written = await rig.write(2 * 5 * CHECKSUM_BLOCK_BYTES)
        others = [await rig.write(50_000) for _ in range(2)]
        for block in (1, 2, 4):
            rig.rot(written, 1, block * CHECKSUM_BLOCK_BYTES + 7)
        data = rig.live[written.stripe_id][1]
        start = 5 * CHECKSUM_BLOCK_BYTES + CHECKSUM_BLOCK_BYTES - 10
        assert await rig.read(written, start, len(data) - start) == data[start:]
        assert rig.store.statistics().repaired_blocks == 3
        assert [await rig.verify(stripe) for stripe in (written, *others)] == [[], [], []]

    trio.run(main)


def test_a_slab_with_a_disk_that_is_down_is_not_written_to() -> None:
    async def main() -> None:
        rig = StripeRig(4, 2, 7, chunk_bytes=MIB)
        first = await rig.write(1000)
        rig.disks[first.slab.disks[3]].disappear()
        await rig.pool.probe()
        second = await rig.write(1000)
        assert second.slab.data_units == 4
        assert first.slab.disks[3] not in second.slab.disks
        assert rig.store.statistics().failed_writes == 0

    trio.run(main)


@pytest.mark.parametrize("offset", [0, 20_000])
def test_more_than_m_rotten_units_are_an_error_never_wrong_bytes(offset: int) -> None:
    async def main() -> None:
        rig = StripeRig(4, 2, 6, chunk_bytes=MIB)
        written = await rig.write(4 * 65536)
        for unit in (0, 2, 5):
            rig.rot(written, unit, 20_001)
        with pytest.raises(StripeUnreadable, match="checksum mismatch"):
            await rig.read(written, offset, 65536 - offset)
        data = rig.live[written.stripe_id][1]
        assert await rig.read(written, 0, 100) == data[:100], "what is right can still be read"
        assert await rig.verify(written) == [0, 2, 5]

    trio.run(main)


@given(down=st.integers(0, 4), size=sizes, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_with_fewer_disks_stripes_are_narrower_with_the_same_parity(down: int, size: int, seed: int) -> None:
    async def main() -> None:
        rig = StripeRig(4, 2, 6, chunk_bytes=512 * KIB, seed=seed)
        await rig.write(1000)
        for index in range(down):
            rig.disks[index].disappear()
        await rig.pool.probe()
        if down == 4:
            with pytest.raises(TooFewDisks, match="2 disks are up"):
                await rig.write(size)
            return
        written = await rig.write(size)
        assert (written.slab.data_units, written.slab.parity_units) == (4 - down, 2)
        assert all(disk_id >= down for disk_id in written.slab.disks)
        assert rig.store.statistics().failed_writes == 0
        del rig.live[min(rig.live)]
        for index in (down, down + 1):
            rig.disks[index].disappear()
        await rig.check_all()

    trio.run(main)


def test_many_writes_at_once_share_slabs_and_never_rows() -> None:
    async def main() -> None:
        rig = StripeRig(4, 2, 7, chunk_bytes=256 * KIB)
        async with trio.open_nursery() as nursery:
            for index in range(40):
                nursery.start_soon(rig.write, 10_000 + 5_000 * index)
        await rig.check_all(ranges=1)
        space = rig.store.space()
        used = sum(written.stripe.unit_bytes for written, _ in rig.live.values())
        assert space.data_bytes // 4 < used + 3 * 256 * KIB, "no slab is made without need"

    trio.run(main)


def test_a_stripe_whose_write_is_cancelled_is_whole_or_not_allocated() -> None:
    async def main() -> None:
        for steps in range(60):
            rig = StripeRig(2, 1, 3, chunk_bytes=256 * KIB)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(rig.write, 50_000)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            await rig.check_all(ranges=0)
            assert rig.store.space().raw_used_bytes == rig.live_raw_bytes()

    trio.run(main)
