"""A stripe store lives through writes, deletes, lost disks, rot, crashes and reclaim; every live stripe reads back.

At most m units of a stripe are harmed at a time: lost with their disk, rotten, or both.
"""

from __future__ import annotations

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from siltstone.errors import NoSpace, TooFewDisks
from siltstone.limits import KIB
from siltstone.types import DiskId, SlabId, StripeId
from sim.stripes import StripeRig

CHUNK = 64 * KIB
CAPACITY = 12 * CHUNK


class StripesThroughFaults(RuleBasedStateMachine):
    """Acts on a StripeRig; ``harmed`` are the rotten units of each stripe, ``lost`` the disks that are away."""

    rig: StripeRig

    def __init__(self) -> None:
        super().__init__()
        self.harmed: dict[StripeId, set[int]] = {}
        self.lost: set[DiskId] = set()
        self.empty: list[SlabId] = []

    @initialize(code=st.sampled_from([(2, 1), (4, 2), (2, 2)]), spare=st.integers(0, 2), seed=st.integers(0, 999))
    def begin(self, code: tuple[int, int], spare: int, seed: int) -> None:
        self.rig = StripeRig(*code, sum(code) + spare, chunk_bytes=CHUNK, capacity_bytes=CAPACITY, seed=seed)

    def harm_of(self, stripe_id: StripeId, extra: set[DiskId]) -> set[int]:
        """Units of a stripe that are not to be had when ``extra`` disks are away too."""
        disks = self.rig.live[stripe_id][0].slab.disks
        away = {unit for unit, disk_id in enumerate(disks) if disk_id in self.lost | extra}
        return self.harmed.get(stripe_id, set()) | away

    @rule(size=st.one_of(st.integers(1, CHUNK), st.sampled_from([1, 4096, CHUNK])), count=st.integers(1, 4))
    def write(self, size: int, count: int) -> None:
        async def attempt() -> None:
            before = self.rig.store.space().raw_used_bytes
            try:
                await self.rig.write(size)
            except NoSpace:
                assert count > 1 or self.rig.store.space().raw_used_bytes == before
            except TooFewDisks:
                assert len(self.rig.disks) - len(self.lost) <= self.rig.parity_units

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(attempt)

        trio.run(main)

    @precondition(lambda self: self.rig.live)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        stripe_id = data.draw(st.sampled_from(sorted(self.rig.live)))
        self.rig.release(stripe_id)
        self.harmed.pop(stripe_id, None)

    @rule(data=st.data())
    def lose_disk(self, data: st.DataObject) -> None:
        disk = data.draw(st.sampled_from(self.rig.disks))
        extra = {disk.disk_id}
        if all(len(self.harm_of(stripe_id, extra)) <= self.rig.parity_units for stripe_id in self.rig.live):
            disk.disappear()
            self.lost.add(disk.disk_id)

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def return_disk(self, data: st.DataObject) -> None:
        disk_id = data.draw(st.sampled_from(sorted(self.lost)))
        self.rig.disks[disk_id].return_()
        self.lost.discard(disk_id)

        async def main() -> None:
            await self.rig.pool.probe()
            await self.rig.store.collect_strays()

        trio.run(main)

    @precondition(lambda self: self.rig.live)
    @rule(data=st.data())
    def rot(self, data: st.DataObject) -> None:
        stripe_id = data.draw(st.sampled_from(sorted(self.rig.live)))
        written, _ = self.rig.live[stripe_id]
        unit = data.draw(st.integers(0, len(written.slab.disks) - 1))
        if len(self.harm_of(stripe_id, set()) | {unit}) <= self.rig.parity_units:
            self.harmed.setdefault(stripe_id, set()).add(unit)
            self.rig.rot(written, unit, data.draw(st.integers(0, written.stripe.unit_bytes - 1)))

    @rule()
    def verify(self) -> None:
        async def main() -> None:
            for stripe_id, (written, _) in self.rig.live.items():
                wrong = set(await self.rig.verify(written))
                assert wrong <= self.harm_of(stripe_id, set()), "only what was harmed is wrong"
                away = self.harm_of(stripe_id, set()) - self.harmed.get(stripe_id, set())
                assert away <= wrong
                if not self.lost:
                    self.harmed[stripe_id] = wrong

        trio.run(main)

    @rule()
    def punch(self) -> None:
        trio.run(self.rig.store.punch_released)

    @rule()
    def retire(self) -> None:
        self.empty += self.rig.store.take_empty_slabs(keep=0)
        for slab_id in self.empty:
            self.rig.slabs.pop(slab_id, None)  # the batch that deletes the records

    @precondition(lambda self: self.empty)
    @rule()
    def drop(self) -> None:
        trio.run(self.rig.store.drop_slab, self.empty.pop())

    @rule(seed=st.integers(0, 9999))
    def crash(self, seed: int) -> None:
        self.rig.crash(seed)
        self.empty.clear()
        for disk_id in self.lost:
            self.rig.disks[disk_id].disappear()

        async def main() -> None:
            await self.rig.pool.probe()
            await self.rig.store.collect_strays()
            for disk in self.rig.disks:
                if disk.disk_id not in self.lost:
                    assert {entry.name for entry in await disk.list("slab/")} == self.rig.chunk_names(disk.disk_id)

        trio.run(main)

    @rule()
    def read(self) -> None:
        trio.run(self.rig.check_all)

    @invariant()
    def rows_agree_with_the_records(self) -> None:
        if not hasattr(self, "rig"):
            return
        assert self.rig.store.space().raw_used_bytes == self.rig.live_raw_bytes()

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            trio.run(self.rig.check_all)


TestStripesThroughFaults = StripesThroughFaults.TestCase
TestStripesThroughFaults.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
