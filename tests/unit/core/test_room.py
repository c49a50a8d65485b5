"""What lies idle goes back to the disks when somebody needs it there, or nobody writes; not before."""

from __future__ import annotations

import random

import msgspec
import trio

from siltstone.core.fsck import fsck
from siltstone.core.volume import Volume
from siltstone.errors import NoSpace
from siltstone.limits import KIB, MIB
from siltstone.types import ROOT_INO
from sim.clock import autojump
from sim.volume import SimVolume, small_config

CAPACITY = 16 * MIB


async def write(volume: Volume, name: bytes, size: int) -> None:
    """Make a file, durably."""
    ino = (await volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
    await volume.write(ino, 0, random.Random(name).randbytes(size))
    await volume.fsync(ino)


def punched(volume: Volume) -> int:
    """Free rows without blocks behind them, in all slabs."""
    states = volume.ledger.stripes.slabs.open_slabs()
    return sum(state.data.punched_free + state.parity.punched_free for state in states)


def test_rows_are_written_again_as_they_are_until_disks_are_short_of_room_or_nobody_writes() -> None:
    async def main() -> None:
        config = msgspec.structs.replace(small_config(), segment_bytes=256 * KIB, log_bytes_low=256 * KIB)
        world = SimVolume(config, capacity_bytes=CAPACITY)
        await world.create()
        async with world.opened() as volume:
            # Until free rows are scarce.
            names: list[bytes] = []
            while (space := await volume.space()).available_bytes > space.total_bytes // 20:
                names.append(b"%d" % len(names))
                await write(volume, names[-1], MIB // 2)
            for name in names[::24]:
                await volume.unlink(ROOT_INO, name)
            for index in range(15):  # somebody goes on writing
                await trio.sleep(1)
                await write(volume, b"small %d" % index, KIB)
            assert not punched(volume)
            await trio.sleep(30)
            assert punched(volume)
            for name in names[1::3]:
                await volume.unlink(ROOT_INO, name)
            await volume.sync()
            # Long runs need new slabs, for which the rows that came free are punched.
            written = 0
            try:
                while True:
                    await write(volume, b"again %d" % written, 64 * KIB)
                    written += 64 * KIB
            except NoSpace:
                pass
            assert written > len(names[1::3]) * MIB // 2
            assert await fsck(volume, deep=True) == []

    trio.run(main, clock=autojump())
