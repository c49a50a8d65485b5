"""What status shows: exact, without a look at each record, and without hiding what does not add up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from siltstone.core.status import VolumeStatus
from siltstone.core.volume import Volume
from siltstone.limits import MIB, PARTITION_COUNT
from siltstone.meta import counters, keys, space
from siltstone.meta.records import encode
from siltstone.types import ROOT_INO, Ino, PartitionId, StripeId, slab_of
from sim.clock import autojump
from sim.volume import SimVolume, small_config


def run(*lives: Callable[[Volume], Awaitable[None]]) -> None:
    async def main() -> None:
        sim = SimVolume(small_config())
        await sim.create()
        for life in lives:
            async with sim.opened() as volume:
                await life(volume)

    trio.run(main, clock=autojump())


async def write(volume: Volume, name: bytes, size: int) -> Ino:
    ino = (await volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
    await volume.write(ino, 0, bytes(range(251)) * (size // 251) + bytes(size % 251))
    await volume.fsync(ino)
    return ino


def check_against_records(volume: Volume, status: VolumeStatus) -> None:
    store = volume.ledger.store
    slabs = dict(space.slabs(store))
    stripes = list(space.stripes(store))
    assert status.stripes == len(stripes)
    assert status.stripe_data_bytes == sum(stripe.data_bytes for _, stripe in stripes)
    assert status.stripe_raw_bytes == sum(
        stripe.unit_bytes * len(slabs[slab_of(stripe_id)].disks) for stripe_id, stripe in stripes
    )
    assert status.log_live_bytes == space.log_live_bytes(store)


def test_totals_are_exact_through_writes_settling_deletes_and_restarts() -> None:
    async def fill(volume: Volume) -> None:
        for number, size in enumerate([300, 5000, 70_000, 300_000, 2 * MIB] * 3):
            await write(volume, b"%d" % number, size)
            check_against_records(volume, volume.status())
        await volume.settle()
        check_against_records(volume, volume.status())
        assert volume.status().log_live_bytes == 0
        await write(volume, b"last", 20_000)

    async def empty(volume: Volume) -> None:
        check_against_records(volume, volume.status())
        assert volume.status().log_live_bytes == 20_000
        for number in range(15):
            await volume.unlink(ROOT_INO, b"%d" % number)
            check_against_records(volume, volume.status())
        await trio.sleep(30)
        check_against_records(volume, volume.status())
        assert volume.status().stripes == 0

    run(fill, empty)


def test_looking_takes_no_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million stripes are a million records; whoever asks each second must not hold the loop for seconds."""

    async def body(volume: Volume) -> None:
        await write(volume, b"file", MIB)
        scanned: list[bytes] = []
        store, scan = volume.ledger.store, volume.ledger.store.scan

        def noted(start: bytes, end: bytes, *, reverse: bool = False) -> object:
            scanned.append(start)
            return scan(start, end, reverse=reverse)

        with monkeypatch.context() as patched:
            patched.setattr(store, "scan", noted)
            assert next(iter(space.stripes(store)), None) is not None
            assert scanned == [keys.stripe(StripeId(0))]
            scanned.clear()
            volume.status()
            await volume.space()
            assert scanned == []

    run(body)


def test_utilisation_is_what_it_says() -> None:
    async def body(volume: Volume) -> None:
        assert volume.status().utilisation == 1.0
        await write(volume, b"whole rows", 2 * MIB)
        assert volume.status().utilisation == 1.0
        await write(volume, b"in the log", 100_000)
        status = volume.status()
        assert (status.live_bytes, status.log_live_bytes) == (2 * MIB, 100_000)
        both = status.live_bytes * 1.5 + 100_000 * 3
        assert status.utilisation_with_log == round(both / (status.raw_used_bytes + status.log_raw_bytes), 4)
        assert status.utilisation == 1.0
        await volume.settle()
        status = volume.status()
        assert (status.live_bytes, status.log_live_bytes) == (2 * MIB + 100_000, 0)
        assert status.utilisation == round(status.live_bytes * 1.5 / status.raw_used_bytes, 4) < 1.0

    run(body)


def test_an_error_in_the_accounts_shows_as_a_utilisation_over_one() -> None:
    async def body(volume: Volume) -> None:
        await write(volume, b"file", 2 * MIB)
        transaction = volume.ledger.begin()
        for partition in map(PartitionId, range(PARTITION_COUNT)):
            record = counters.read_counters(transaction, partition)
            record.bytes *= 2
            transaction.put(keys.counters(partition), encode(record))
        volume.ledger.commit(transaction)
        assert volume.status().utilisation == 2.0

    run(body)
