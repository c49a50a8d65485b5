"""Rates of the store and of the namespace in one process, each beside what does the least for the same end.

The store: point reads and transactions of two keys, on a volume's own store (its log on three disks, its LMDB behind
it), beside bare LMDB that flushes nothing. The namespace: what `Volume` does, beside the host's filesystem in a bare
directory. After every few operations others get their turn, as after a front-end's requests, so the log and LMDB are
fed meanwhile, and what that takes of the loop is counted in.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import lmdb
import trio

from metadata.host import Rate, rate
from siltstone.core.volume import Volume
from siltstone.limits import GIB
from siltstone.types import ROOT_INO, Ino

TURN = 16
"""Operations between two checkpoints: what comes in together is answered together."""

WRITERS = 64
VALUE = bytes(60)
NAMES_PER_DIRECTORY = 1000

Operation = Callable[[bytes], Awaitable[object]]
"""Something done to a name."""


class Figure(NamedTuple):
    """Something measured, and the floor. ``ratio``: by processor time, over the floor's. ``target``: of the rate."""

    what: str
    rate: Rate
    floor: Rate
    target: int | None = None

    @property
    def ratio(self) -> float:
        """How much of the floor's rate it reaches."""
        return round(self.rate.per_processor_second / self.floor.per_processor_second, 3)


def shuffled(items: Iterable[bytes]) -> list[bytes]:
    """In an order of no use to anybody."""
    mixed = list(items)
    random.Random(1).shuffle(mixed)
    return mixed


# --- the store -------------------------------------------------------------------------------------------------------


async def measure_store(volume: Volume, folder: Path, count: int) -> AsyncIterator[Figure]:
    """Point reads from LMDB, and transactions."""
    keys = [b"q%012d" % number for number in range(count)]
    order = shuffled(keys)
    store = volume.ledger.store
    for first in range(0, count, 100):
        transaction = volume.ledger.begin()
        for key in keys[first : first + 100]:
            transaction.put(key, VALUE)
        volume.ledger.commit(transaction)
        await trio.lowlevel.checkpoint()
    await store.checkpoint()

    async def read_all() -> None:
        get = store.get
        for key in order:
            get(key)

    async def change_pairs() -> None:
        begin, commit = volume.ledger.begin, volume.ledger.commit
        for first in range(0, count - 1, 2):
            transaction = begin()
            for key in order[first : first + 2]:
                transaction.get(key)
                transaction.put(key, VALUE)
            commit(transaction)
            if first % (2 * TURN) == 0:
                await volume.ledger.admit()
                await trio.lowlevel.checkpoint()

    reads = await rate(read_all, count, rounds=3)
    transactions = await rate(change_pairs, count // 2, rounds=2)
    with lmdb.open(str(folder / "bare"), map_size=GIB, sync=False) as environment:
        with environment.begin(write=True) as writing:
            for key in keys:
                writing.put(key, VALUE)

        async def read_all_bare() -> None:
            with environment.begin() as reading:
                for key in order:
                    reading.get(key)

        async def change_pairs_bare() -> None:
            for first in range(0, count - 1, 2):
                with environment.begin(write=True) as changing:
                    for key in order[first : first + 2]:
                        changing.get(key)
                        changing.put(key, VALUE)

        yield Figure("point reads", reads, await rate(read_all_bare, count, rounds=3), 400_000)
        bare = await rate(change_pairs_bare, count // 2)
        yield Figure("transactions of two keys", transactions, bare, 40_000)


# --- the namespace ---------------------------------------------------------------------------------------------------


async def each(operation: Operation, names: list[bytes]) -> None:
    """Do it for each name, and let others run now and then."""
    for index, name in enumerate(names):
        await operation(name)
        if index % TURN == 0:
            await trio.lowlevel.checkpoint()


async def measure_names(volume: Volume, folder: Path, count: int) -> AsyncIterator[Figure]:
    """What programs do with names, in directories of a thousand."""
    names = [b"%d/IMG_%06d.jpg" % divmod(number, NAMES_PER_DIRECTORY) for number in range(count)]
    order = shuffled(names)
    top = (await volume.mkdir(ROOT_INO, b"names", mode=0o755, uid=0, gid=0)).ino
    bare = bytes(folder / "names")
    os.mkdir(bare)
    directories: dict[bytes, Ino] = {}
    for number in range(-(-count // NAMES_PER_DIRECTORY)):
        directories[b"%d" % number] = (await volume.mkdir(top, b"%d" % number, mode=0o755, uid=0, gid=0)).ino
        os.mkdir(b"%b/%d" % (bare, number))
    inos: dict[bytes, Ino] = {}

    def place(name: bytes) -> tuple[Ino, bytes]:
        directory, _, last = name.partition(b"/")
        return directories[directory], last

    async def create(name: bytes) -> None:
        inos[name] = (await volume.create(*place(name), mode=0o100644, uid=1000, gid=1000)).ino

    async def look_up(name: bytes) -> None:
        await volume.lookup(*place(name))

    async def stat(name: bytes) -> None:
        await volume.attributes(inos[name])

    async def rename(name: bytes) -> None:
        directory, last = place(name)
        await volume.rename(directory, last, directory, last + b"~")

    async def unlink(name: bytes) -> None:
        directory, last = place(name)
        await volume.unlink(directory, last + b"~")

    async def mkdir(name: bytes) -> None:
        await volume.mkdir(*place(name), mode=0o755, uid=1000, gid=1000)

    async def create_bare(name: bytes) -> None:
        os.close(os.open(b"%b/%b" % (bare, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))

    async def stat_bare(name: bytes) -> None:
        os.stat(b"%b/%b" % (bare, name))

    async def rename_bare(name: bytes) -> None:
        os.rename(b"%b/%b" % (bare, name), b"%b/%b~" % (bare, name))

    async def unlink_bare(name: bytes) -> None:
        os.unlink(b"%b/%b~" % (bare, name))

    async def mkdir_bare(name: bytes) -> None:
        os.mkdir(b"%b/%b" % (bare, name))

    async def measured(operation: Operation, names: list[bytes], rounds: int = 1) -> Rate:
        return await rate(partial(each, operation, names), count, rounds)

    yield Figure("creates", await measured(create, names), await measured(create_bare, names), 15_000)
    await volume.ledger.store.checkpoint()
    bare_stats = await measured(stat_bare, order, rounds=2)
    yield Figure("stats", await measured(stat, order, rounds=2), bare_stats, 80_000)
    yield Figure("lookups", await measured(look_up, order, rounds=2), bare_stats)
    yield Figure("renames", await measured(rename, order), await measured(rename_bare, order))
    yield Figure("unlinks", await measured(unlink, order), await measured(unlink_bare, order))
    yield Figure("mkdirs", await measured(mkdir, order), await measured(mkdir_bare, order))


# --- one directory for all -------------------------------------------------------------------------------------------


class Contention(NamedTuple):
    """Creates a second of 64 writers at once."""

    apart: Rate
    """Each in a directory of its own."""
    together: Rate
    """All in one."""

    @property
    def ratio(self) -> float:
        """How much of the rate is left in one directory, by processor time."""
        return round(self.together.per_processor_second / self.apart.per_processor_second, 3)


async def measure_contention(volume: Volume, count: int, rounds: int) -> Contention:
    """Both in turns, so that what else runs here hits both; the best round of each."""
    best = {True: Rate(0, 0), False: Rate(0, 0)}
    for number in range(rounds):
        for is_together in (False, True):
            name = b"%s-%d" % (b"together" if is_together else b"apart", number)
            top = (await volume.mkdir(ROOT_INO, name, mode=0o755, uid=0, gid=0)).ino
            places = [
                top if is_together else (await volume.mkdir(top, b"%d" % writer, mode=0o755, uid=0, gid=0)).ino
                for writer in range(WRITERS)
            ]
            found = await rate(partial(write_side_by_side, volume, places, count // WRITERS), count)
            best[is_together] = Rate(*map(max, zip(best[is_together], found, strict=True)))
    return Contention(apart=best[False], together=best[True])


async def write_side_by_side(volume: Volume, places: list[Ino], count: int) -> None:
    """A writer for each place, which lets the others run after every file."""

    async def write(writer: int, place: Ino) -> None:
        for number in range(count):
            await volume.create(place, b"%d-%d" % (writer, number), mode=0o100644, uid=1000, gid=1000)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for writer, place in enumerate(places):
            nursery.start_soon(write, writer, place)
