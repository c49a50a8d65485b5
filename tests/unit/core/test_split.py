"""Splitting worn stripes: nothing that anybody reads changes, dead rows come free, and holes can be filled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import combinations, pairwise
from random import Random

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.core.fsck import fsck
from siltstone.core.object_store import ObjectStore
from siltstone.core.packing import SPLIT_BYTES_MIN
from siltstone.core.split import Splitter
from siltstone.core.split_plan import GroupKind, groups_of, plan_cuts
from siltstone.core.types import SetAttributes
from siltstone.core.volume import Volume
from siltstone.engine.stripe.layout import GROUP_ROWS, Slab, Stripe, split_range, split_stripe, unit_ranges
from siltstone.limits import CHECKSUM_BLOCK_BYTES, KIB, MIB, ROW_BYTES, SLOT_BYTES
from siltstone.meta import space
from siltstone.types import ROOT_INO, DiskId, Ino, SlabId, make_stripe_id
from sim.clock import autojump
from sim.volume import SimVolume, small_config

Body = Callable[[SimVolume, Volume], Awaitable[None]]
LARGE = 896 * KIB
"""What one stripe of the simulated volume holds."""


def run(body: Body, *, seed: int = 0, capacity_bytes: int = 64 * MIB) -> None:
    async def main() -> None:
        # The log is to the disks what it is in life: a small part.
        config = msgspec.structs.replace(
            small_config(),
            chunk_bytes=1 * MIB,
            segment_bytes=256 * KIB,
            log_bytes_low=256 * KIB,
            log_bytes_high=1 * MIB,
        )
        world = SimVolume(config, capacity_bytes=capacity_bytes, seed=seed)
        await world.create()
        async with world.opened() as volume:
            await body(world, volume)

    trio.run(main, clock=autojump())


async def write(volume: Volume, name: bytes, data: bytes) -> Ino:
    ino = (await volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
    await volume.write(ino, 0, data)
    await volume.fsync(ino)
    return ino


async def compare(volume: Volume, contents: dict[Ino, bytearray]) -> None:
    for ino, data in contents.items():
        assert await volume.read(ino, 0, 4 * MIB) == data


# --- pure ------------------------------------------------------------------------------------------------------------

stripes = st.tuples(st.integers(1, 70), st.integers(1, 4), st.sampled_from([-1, 300])).map(
    lambda drawn: (Stripe(drawn[0] * ROW_BYTES, drawn[0] * ROW_BYTES * drawn[1], drawn[2], 7), drawn[1])
)


@given(stripes, st.data())
def test_the_parts_of_a_split_stripe_hold_the_same_bytes_with_the_same_checksums(
    drawn: tuple[Stripe, int], data: st.DataObject
) -> None:
    stripe, width = drawn
    slab = Slab(width, 2, 1 << 20, tuple(DiskId(disk) for disk in range(width + 2)))
    blocks = -(-stripe.unit_bytes // CHECKSUM_BLOCK_BYTES)
    checksums = b"".join(b"%4d%4d" % (unit, block) for unit in range(width + 2) for block in range(blocks))
    possible = range(GROUP_ROWS, stripe.rows, GROUP_ROWS)
    cuts = sorted(data.draw(st.sets(st.sampled_from(possible)))) if possible else []
    whole = make_stripe_id(SlabId(3), 40)
    parts = split_stripe(slab, whole, stripe, checksums, cuts)
    assert sum(part.stripe.rows for part in parts) == stripe.rows
    at = 0
    for part in parts:
        assert part.stripe_id == whole + at
        assert part.stripe.parity_row == (-1 if stripe.parity_row == -1 else stripe.parity_row + at)
        assert part.stripe.written == 7
        count = -(-part.stripe.unit_bytes // CHECKSUM_BLOCK_BYTES)
        first = at // GROUP_ROWS
        expected = [b"%4d%4d" % (unit, first + block) for unit in range(width + 2) for block in range(count)]
        assert part.checksums == b"".join(expected)
        at += part.stripe.rows
    capacity = width * stripe.unit_bytes
    start = data.draw(st.integers(0, capacity - 1))
    size = data.draw(st.integers(1, capacity - start))
    pieces = split_range(stripe, cuts, start, size)
    borders = [0, *cuts]

    def places(of: Stripe, row: int, offset: int, length: int) -> list[tuple[int, int]]:
        """(unit, place in the whole unit) of bytes, every 512th."""
        return [
            (unit, row * ROW_BYTES + inner)
            for byte in range(offset, offset + length, 512)
            for unit, inner, _ in unit_ranges(of, byte, 1)
        ]

    at = start
    for piece in pieces:
        part = parts[piece.part]
        assert piece.offset + piece.size <= part.stripe.data_bytes
        found = places(part.stripe, borders[piece.part], piece.offset, piece.size)
        assert found == places(stripe, 0, at, piece.size)
        at += piece.size
    assert at == start + size


@given(stripes, st.data())
def test_cuts_set_dead_rows_apart_and_leave_living_ones_together(
    drawn: tuple[Stripe, int], data: st.DataObject
) -> None:
    stripe, width = drawn
    slots = width * stripe.unit_bytes // SLOT_BYTES
    borders = sorted(data.draw(st.sets(st.integers(0, slots), max_size=10)))
    dead = [(a * SLOT_BYTES, b * SLOT_BYTES) for a, b in zip(borders[::2], borders[1::2], strict=False)]
    groups = groups_of(stripe, width, dead)
    kinds = [group.kind for group in groups]
    assert sum(group.dead_bytes for group in groups) == sum(end - start for start, end in dead)
    of_use = [end - start for start, end in dead if end - start >= SPLIT_BYTES_MIN]
    assert sum(group.hole_bytes for group in groups) == sum(of_use)
    assert len(kinds) == -(-stripe.rows // GROUP_ROWS)
    flags = bytearray(width * stripe.unit_bytes // SLOT_BYTES)
    for start, end in dead:
        flags[start // SLOT_BYTES : end // SLOT_BYTES] = b"\1" * ((end - start) // SLOT_BYTES)
    per_unit = stripe.unit_bytes // SLOT_BYTES
    per_group = CHECKSUM_BLOCK_BYTES // SLOT_BYTES
    for group, kind in enumerate(kinds):
        cells = [
            flags[unit * per_unit + group * per_group : unit * per_unit + min(per_unit, (group + 1) * per_group)]
            for unit in range(width)
        ]
        assert (kind is GroupKind.DEAD) == all(all(cell) for cell in cells)
    cuts = plan_cuts(groups, groups_max=0)
    edges = [0, *(cut // GROUP_ROWS for cut in cuts), len(kinds)]
    for low, high in pairwise(edges):
        assert len({kind is GroupKind.DEAD for kind in kinds[low:high]}) == 1
    apart = plan_cuts(groups, groups_max=1000)
    edges = [0, *(cut // GROUP_ROWS for cut in apart), len(kinds)]
    for low, high in pairwise(edges):
        assert high == low + 1 or GroupKind.HOLEY not in kinds[low:high]


# --- in a volume -----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 9999))
@settings(max_examples=20, deadline=None)
def test_no_byte_and_no_invariant_changes_when_worn_stripes_are_split(seed: int) -> None:
    random = Random(seed)

    async def body(world: SimVolume, volume: Volume) -> None:
        contents: dict[Ino, bytearray] = {}
        store = ObjectStore(volume)
        await store.create_bucket("b", owner="me")
        for index in range(6):
            written = random.randbytes(random.choice([9000, 100 * KIB, LARGE, 3 * LARGE + 5000]))
            contents[await write(volume, b"%d" % index, written)] = bytearray(written)
        await volume.settle()
        for ino, data in contents.items():
            for _ in range(random.randrange(6)):
                at, size = random.randrange(len(data)), random.choice([100, 5000, 40 * KIB, 200 * KIB])
                new = random.randbytes(min(size, len(data) - at))
                await volume.write(ino, at, new)
                data[at : at + len(new)] = new
            if random.randrange(3) == 0:
                size = random.randrange(len(data))
                await volume.set_attributes(ino, SetAttributes(size=size))
                del data[size:]
            await volume.fsync(ino)
        await volume.settle()
        splitter = Splitter(volume.ledger)
        volume.ledger.worn.look()
        used = volume.ledger.stripes.space().raw_used_bytes
        for _ in range(20):
            splitter.free_dead_rows()
            splitter.make_holes(64 * MIB)
        await compare(volume, contents)
        await volume.sync()
        await volume.ledger.reclaimer.wait_idle()
        freed = used - volume.ledger.stripes.space().raw_used_bytes
        assert freed == splitter.freed_bytes * 6 // 4
        assert volume.ledger.worn.with_dead_rows() == []
        assert await fsck(volume, deep=True) == []
        gone = random.choice(list(combinations(range(6), 2)))
        for index in gone:
            world.disks[index].disappear()
        await volume.ledger.pool.probe()
        await compare(volume, contents)
        for index in gone:
            world.disks[index].return_()
        await volume.ledger.pool.probe()

    run(body, seed=seed)


def test_rows_in_which_nothing_lives_come_free_although_the_stripe_lives_on() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        data = bytearray(Random(1).randbytes(LARGE))
        ino = await write(volume, b"f", bytes(data))
        (_, stripe), *others = space.stripes(volume.ledger.store)
        assert not others and stripe.unit_bytes == LARGE // 4
        used = volume.ledger.stripes.space().raw_used_bytes
        for unit in range(4):
            # The second half of every unit is written anew.
            at = unit * stripe.unit_bytes + stripe.unit_bytes // 2
            new = Random(unit).randbytes(stripe.unit_bytes // 2)
            await volume.write(ino, at, new)
            data[at : at + len(new)] = new
        await volume.fsync(ino)
        await trio.sleep(2)
        assert volume.status().relocation.split_freed_bytes == LARGE // 2
        # What was written anew may have been settled meanwhile.
        settled = volume.settler.settled_bytes * 6 // 4
        assert volume.ledger.stripes.space().raw_used_bytes - settled <= used // 2
        await compare(volume, {ino: data})
        assert await fsck(volume, deep=True) == []

    run(body)


@pytest.mark.parametrize("reader_is_slow", [False, True])
def test_what_is_overwritten_in_place_on_a_full_pool_goes_to_the_holes_that_it_left(reader_is_slow: bool) -> None:
    """Otherwise every overwrite would cost its share of emptying a long stripe."""

    async def body(world: SimVolume, volume: Volume) -> None:
        random = Random(5)
        contents: dict[Ino, bytearray] = {}
        index = 0
        while (await volume.space()).available_bytes > 2 * MIB:
            data = random.randbytes(LARGE)
            contents[await write(volume, b"%d" % index, data)] = bytearray(data)
            index += 1
            await trio.sleep(1)
        files = sorted(contents)
        for turn in range(2500):
            ino = random.choice(files)
            at = random.randrange(LARGE // CHECKSUM_BLOCK_BYTES) * CHECKSUM_BLOCK_BYTES
            new = random.randbytes(CHECKSUM_BLOCK_BYTES)
            await volume.write(ino, at, new)
            contents[ino][at : at + len(new)] = new
            if turn % 8 == 0:
                await volume.fsync(ino)
            if reader_is_slow and turn % 50 == 0:
                other = random.choice(files)
                assert await volume.read(other, 0, 4 * MIB) == contents[other]
        await volume.settle()
        status = volume.status()
        assert status.filled_bytes > 500 * CHECKSUM_BLOCK_BYTES
        assert status.relocation.split_stripes > 0
        await compare(volume, contents)
        assert await fsck(volume, deep=True) == []

    run(body, capacity_bytes=24 * MIB)
