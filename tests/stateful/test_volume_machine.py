"""A whole volume in simulation against a model: writes, names, settling, crashes, lost disks, rot.

Holds promises 1-4 of the design: what was promised durable survives any crash and the loss of any two disks; everything
is visible at once, and durable within the commit interval; a crash leaves a state that was; no read returns bytes that
were not written. Every example ends with all disks back, everything read, and a deep fsck that finds nothing.
"""

from __future__ import annotations

import os
from collections import Counter

import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from siltstone.core.fsck import fsck
from siltstone.core.types import SetAttributes
from siltstone.core.volume import Volume
from siltstone.limits import KIB
from siltstone.types import ROOT_INO, Ino
from sim.clock import autojump
from sim.model import ModelFile, ModelVolume
from sim.volume import SimVolume, small_config

EXAMPLES = int(os.environ.get("SILTSTONE_SIM_EXAMPLES", "60"))
NAMES = [b"a", b"b", b"c", b"d"]
DISKS_AWAY_MAX = 2

offsets = st.sampled_from([0, 1, 511, 512, 4096, 10_000, 16 * KIB, 100_000, 256 * KIB, 400_000])
sizes = st.sampled_from([1, 100, 129, 4096, 16 * KIB + 1, 60_000, 256 * KIB, 300_000])
names = st.sampled_from(NAMES)
steps = st.one_of(
    st.tuples(st.just("write"), names, offsets, sizes),
    st.tuples(st.just("write"), names, offsets, sizes),
    st.tuples(st.just("truncate"), names, offsets, st.just(0)),
    st.tuples(st.just("rename"), names, st.integers(0, 3), st.just(0)),
    st.tuples(st.just("link"), names, st.integers(0, 3), st.just(0)),
    st.tuples(st.just("unlink"), names, st.just(0), st.just(0)),
    st.tuples(st.just("fsync"), names, st.just(0), st.just(0)),
    st.tuples(st.just("flush"), names, st.just(0), st.just(0)),
    st.tuples(st.just("sync"), st.just(b""), st.just(0), st.just(0)),
    st.tuples(st.just("settle"), st.just(b""), st.just(0), st.just(0)),
    st.tuples(st.just("wait"), st.just(b""), st.just(0), st.just(0)),
    st.tuples(st.just("crash"), st.just(b""), st.just(0), st.just(0)),
    st.tuples(st.just("restart"), st.just(b""), st.just(0), st.just(0)),
    st.tuples(st.just("lose disk"), st.just(b""), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("return disk"), st.just(b""), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("rot"), st.just(b""), st.integers(0, 5), st.integers(0, 2**16)),
)
Step = tuple[str, bytes, int, int]

fired: Counter[str] = Counter()


class Crashed(Exception):
    """Leaves the volume without closing it."""


class Machine:
    """Applies steps to a simulated volume and to the model."""

    def __init__(self, seed: int) -> None:
        self.world = SimVolume(small_config(), seed=seed)
        self.model = ModelVolume()
        self.away: set[int] = set()
        self.rotten: set[int] = set()
        self.serial = 0

    async def run(self, program: list[Step]) -> None:
        """One example: lives of the volume, each ended by a crash or a restart, then the last look."""
        await self.world.create()
        todo = list(program)
        while todo:
            try:
                async with self.world.opened() as volume:
                    await self.look(volume)
                    try:
                        await self.live(volume, todo)
                    finally:
                        counts = volume.ledger.stripes.statistics()
                        fired["degraded read"] += counts.degraded_reads
                        fired["repaired block"] += counts.repaired_blocks
                        fired["failed write"] += counts.failed_writes
                        fired["mended log"] += volume.ledger.log.statistics().mended_bytes
            except Crashed:
                self.world.after_crash()
                for index in self.away:
                    self.world.disks[index].disappear()
                await self.recover()
            else:
                self.model.all_durable()
        await self.end()

    async def live(self, volume: Volume, todo: list[Step]) -> None:
        """Steps until the next crash or restart."""
        while todo:
            step = todo.pop(0)
            fired[step[0]] += 1
            if step[0] == "crash":
                self.world.power_off()
                raise Crashed
            if step[0] == "restart":
                return
            await getattr(self, "do_" + step[0].replace(" ", "_"))(volume, *step[1:])
            await self.compare(volume)

    async def recover(self) -> None:
        """After a crash: what is found must be explained by the model, and is the truth from then on."""
        async with self.world.opened() as volume:
            found = {entry.name: entry.ino for entry in volume.list_directory(ROOT_INO, after=None, limit=100)}
            assert found in self.model.history, f"{found} is none of {self.model.history}"
            for ino in set(found.values()):
                data = await read_all(volume, ino)
                problem = self.model.files[ino].explains(data)
                assert not problem, f"inode {ino}: {problem}"
                self.model.files[ino].adopt(data)
            self.model.adopt(found)

    async def end(self) -> None:
        """All disks back, time to heal, everything read, and a check that finds nothing."""
        for index in list(self.away):
            self.world.disks[index].return_()
        self.away.clear()
        async with self.world.opened() as volume:
            await trio.sleep(20)
            await self.look(volume)
            findings = await fsck(volume, deep=not self.rotten)
            assert not findings, "\n".join(map(str, findings))

    async def compare(self, volume: Volume) -> None:
        """Names are compared after each step; bytes where the step may have changed them are read by the step."""
        found = {entry.name: entry.ino for entry in volume.list_directory(ROOT_INO, after=None, limit=100)}
        assert found == self.model.names

    async def look(self, volume: Volume) -> None:
        """Everything as the model has it."""
        await self.compare(volume)
        for ino in set(self.model.names.values()):
            assert await read_all(volume, ino) == self.model.files[ino].data
            assert volume.attributes(ino).size == len(self.model.files[ino].data)
            assert volume.attributes(ino).nlink == list(self.model.names.values()).count(ino)

    # --- rules -----------------------------------------------------------------------------------------------------

    async def do_write(self, volume: Volume, name: bytes, offset: int, size: int) -> None:
        """Write, making the file if need be; readable at once."""
        ino = self.model.names.get(name)
        if ino is None:
            ino = (await volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
            self.model.files[ino] = ModelFile()
            self.model.change({**self.model.names, name: ino})
        self.serial += 1
        data = bytes([self.serial % 251 + 1]) * size
        await volume.write(ino, offset, data)
        self.model.files[ino].write(offset, data)
        low = max(0, offset - 10)
        assert await volume.read(ino, low, size + 20) == self.model.files[ino].data[low : low + size + 20]

    async def do_truncate(self, volume: Volume, name: bytes, size: int, _: int) -> None:
        """Cut or extend."""
        if (ino := self.model.names.get(name)) is not None:
            await volume.set_attributes(ino, SetAttributes(size=size))
            self.model.files[ino].truncate(size)
            assert await read_all(volume, ino) == self.model.files[ino].data

    async def do_rename(self, volume: Volume, name: bytes, target: int, _: int) -> None:
        """Rename, replacing what is there."""
        new_name = NAMES[target]
        ino = self.model.names.get(name)
        if ino is None:
            return
        await volume.rename(ROOT_INO, name, ROOT_INO, new_name)
        if self.model.names.get(new_name) != ino:
            after = {key: value for key, value in self.model.names.items() if key != name}
            self.model.change({**after, new_name: ino})

    async def do_link(self, volume: Volume, name: bytes, target: int, _: int) -> None:
        """A further name, if it is free."""
        new_name = NAMES[target]
        ino = self.model.names.get(name)
        if ino is not None and new_name not in self.model.names:
            await volume.link(ino, ROOT_INO, new_name)
            self.model.change({**self.model.names, new_name: ino})

    async def do_unlink(self, volume: Volume, name: bytes, _: int, __: int) -> None:
        """Remove a name."""
        if name in self.model.names:
            await volume.unlink(ROOT_INO, name)
            self.model.change({key: value for key, value in self.model.names.items() if key != name})

    async def do_fsync(self, volume: Volume, name: bytes, _: int, __: int) -> None:
        """What was done to this file, and every name, is durable now."""
        if (ino := self.model.names.get(name)) is not None:
            await volume.fsync(ino)
            self.model.files[ino].made_durable()
            self.model.names_durable()

    async def do_flush(self, volume: Volume, name: bytes, _: int, __: int) -> None:
        """As close does; promises nothing."""
        if (ino := self.model.names.get(name)) is not None:
            await volume.flush(ino)

    async def do_sync(self, volume: Volume, _: bytes, __: int, ___: int) -> None:
        """Everything is durable now."""
        await volume.sync()
        self.model.all_durable()

    async def do_settle(self, volume: Volume, _: bytes, __: int, ___: int) -> None:
        """Move the log's payload to stripes: nobody can tell."""
        await volume.settle()
        assert volume.status().log_live_bytes == 0
        await self.look(volume)
        self.model.all_durable()

    async def do_wait(self, volume: Volume, _: bytes, __: int, ___: int) -> None:
        """The commit interval passes: everything is durable though nobody asked."""
        await trio.sleep(2 * self.world.config.commit_interval)
        self.model.all_durable()

    async def do_lose_disk(self, volume: Volume, _: bytes, index: int, __: int) -> None:
        """A disk vanishes under the running volume; never more than two are away."""
        if index not in self.away and len(self.away | self.rotten) < DISKS_AWAY_MAX:
            self.world.disks[index].disappear()
            self.away.add(index)
            await self.look(volume)

    async def do_return_disk(self, volume: Volume, _: bytes, index: int, __: int) -> None:
        """It comes back with what it had, and is noticed."""
        if index in self.away:
            self.world.disks[index].return_()
            self.away.discard(index)
            await trio.sleep(3)

    async def do_rot(self, volume: Volume, _: bytes, index: int, place: int) -> None:
        """A byte of a chunk file changes; rotten and absent disks together are two at most."""
        if index in self.away or len(self.away | self.rotten | {index}) > DISKS_AWAY_MAX:
            return
        disk = self.world.disks[index]
        chunks = [name for name in disk.names if name.startswith("slab/")]
        if chunks:
            disk.rot(chunks[place % len(chunks)], place)
            self.rotten.add(index)
            await self.look(volume)


async def read_all(volume: Volume, ino: Ino) -> bytes:
    """A file's bytes, in pieces that share no border with anything."""
    pieces: list[bytes] = []
    at = 0
    while piece := await volume.read(ino, at, 77_777):
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces)


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(st.lists(steps, min_size=1, max_size=30), st.integers(0, 2**16), st.random_module())
@example([("write", b"a", 0, 262_144)], 0, None)
def test_a_volume_is_what_the_model_says_through_crashes_lost_disks_and_rot(
    program: list[Step], seed: int, _: object
) -> None:
    trio.run(Machine(seed).run, program, clock=autojump())
