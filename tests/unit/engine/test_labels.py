"""Labels: on every disk, the newest on those that return, and what the disks say is what was published last."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio

from siltstone.engine.format.label import LABEL_NAME, Label, parse_label
from siltstone.engine.labels import Labels
from siltstone.errors import TooFewDisks
from siltstone.types import DiskId
from sim.clock import SimClock, autojump
from sim.pool import SimPool, make_sim_pool

Body = Callable[[SimPool, Labels], Awaitable[None]]


def label(serial: int) -> Label:
    return Label(bytes(16), serial, b"settings %d" % serial)


def run(body: Body) -> None:
    async def main() -> None:
        sim = make_sim_pool(5)
        labels = Labels(sim.pool, minimum=2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sim.pool.watch, SimClock())
            nursery.start_soon(labels.run, SimClock())
            await body(sim, labels)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


def serials(sim: SimPool) -> list[int | None]:
    return [parse_label(disk.contents(LABEL_NAME)).serial if LABEL_NAME in disk.names else None for disk in sim.disks]


def test_a_label_is_on_every_disk_when_publish_returns_and_later_on_those_that_were_away() -> None:
    async def body(sim: SimPool, labels: Labels) -> None:
        await labels.publish(label(1))
        assert serials(sim) == [1] * 5
        sim.disks[2].disappear()
        await trio.sleep(2)
        await labels.publish(label(2))
        assert serials(sim) == [2, 2, 1, 2, 2]
        assert await labels.find() == label(2)
        sim.disks[2].return_()
        await trio.sleep(4)
        assert serials(sim) == [2] * 5

    run(body)


def test_an_older_label_than_the_last_is_not_written() -> None:
    async def body(sim: SimPool, labels: Labels) -> None:
        await labels.publish(label(5))
        await labels.publish(label(4))
        assert serials(sim) == [5] * 5

    run(body)


def test_on_too_few_disks_it_does_not_count_and_is_written_as_they_return() -> None:
    async def body(sim: SimPool, labels: Labels) -> None:
        for disk in sim.disks[1:]:
            disk.disappear()
        await trio.sleep(2)
        with pytest.raises(TooFewDisks):
            await labels.publish(label(1))
        for disk in sim.disks[1:]:
            disk.return_()
        await trio.sleep(4)
        assert serials(sim) == [1] * 5

    run(body)


def test_what_is_followed_is_published_when_its_serial_number_grows() -> None:
    async def body(sim: SimPool, labels: Labels) -> None:
        serial = 1
        labels.follow(lambda: serial, lambda: label(serial))
        await trio.sleep(2)
        assert serials(sim) == [1] * 5
        serial = 2
        await trio.sleep(2)
        assert serials(sim) == [2] * 5

    run(body)


def test_a_label_that_rots_on_one_disk_is_found_on_another() -> None:
    async def body(sim: SimPool, labels: Labels) -> None:
        await labels.publish(label(3))
        sim.disks[0].rot(LABEL_NAME, 20, 1)
        assert await labels.find() == label(3)

    run(body)


def test_each_disk_has_a_share_of_its_own_and_as_few_are_needed_as_could_be_written() -> None:
    asked: list[int] = []

    def split(disks: Sequence[DiskId], reached: int) -> dict[DiskId, bytes]:
        asked.append(reached)
        return {disk: b"%d of %d" % (disk, reached) for disk in disks}

    def shares(sim: SimPool) -> list[bytes]:
        return [parse_label(disk.contents(LABEL_NAME)).share for disk in sim.disks if LABEL_NAME in disk.names]

    async def body(sim: SimPool, labels: Labels) -> None:
        labels.split_by(split)
        await labels.publish(label(1))
        assert shares(sim) == [b"%d of 5" % disk for disk in range(5)]
        sim.disks[2].disappear()  # nobody has noticed yet
        await labels.publish(label(2))
        assert asked == [5, 5, 4]
        sim.disks[2].return_()
        await trio.sleep(5)
        assert serials(sim) == [2] * 5
        assert shares(sim) == [b"%d of 4" % disk for disk in range(5)]

    run(body)
