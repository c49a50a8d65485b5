"""Does it matter how deep a key is? Looking an object up at one level and at ten, through the directory index.

Below a common way of the depth, a thousand directories with an object each, asked for in no order. Beside it the same
by an index that has room for a tenth of them, and an entry at a time. Then what the index takes: memory for each
directory, and time of each batch.
"""

from __future__ import annotations

import stat
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import trio

from metadata.host import rate
from metadata.operations import shuffled
from siltstone.core.object_paths import KeyPath, find, split_key
from siltstone.core.objects import Objects
from siltstone.core.places import Start, find_bucket
from siltstone.core.volume import Volume
from siltstone.meta import keys, names
from siltstone.meta.directories import DIRECTORIES_MAX, DirectoryIndex
from siltstone.types import ROOT_INO, Ino

DEPTHS = (1, 2, 5, 10)
DIRECTORIES = 1000


class Depths(NamedTuple):
    """Microseconds of the processor for one object to be looked up, by the number of elements of its key."""

    indexed: dict[int, float]
    small_index: dict[int, float]
    one_by_one: dict[int, float]
    listed: dict[int, float]
    """A list of the one object, by its directory as prefix."""

    @property
    def ratio(self) -> float:
        """Ten levels over one, as it is."""
        return round(self.indexed[10] / self.indexed[1], 3)

    @property
    def ratio_one_by_one(self) -> float:
        """Ten levels over one, an entry at a time."""
        return round(self.one_by_one[10] / self.one_by_one[1], 3)


class IndexCost(NamedTuple):
    """What the directory index takes."""

    bytes_per_directory: float
    mib_when_full: float
    us_per_batch: float


async def make_keys(volume: Volume, bucket: Ino, depth: int) -> list[bytes]:
    """A thousand objects, each in a directory of its own (of one level: in the bucket)."""
    path = [b"y%d-%d" % (depth, level) for level in range(depth - 2)]
    above = bucket
    for name in path:
        above = (await volume.mkdir(above, name, mode=0o755, uid=0, gid=0)).ino
    found: list[bytes] = []
    for number in range(DIRECTORIES):
        parent, elements = above, path
        if depth > 1:
            elements = [*path, b"d%d-%04d" % (depth, number)]
            parent = (await volume.mkdir(above, elements[-1], mode=0o755, uid=0, gid=0)).ino
        name = b"object-%04d" % number
        await volume.create(parent, name, mode=0o100644, uid=0, gid=0)
        await trio.lowlevel.checkpoint()
        found.append(b"/".join([*elements, name]))
    return found


async def measure_depths(volume: Volume, repeats: int) -> Depths:
    """Look everything up so many times."""
    store = volume.ledger.store
    objects = Objects(volume)
    await objects.create_bucket("bucket", owner="me")
    bucket = await objects.find_bucket("bucket")
    made = {depth: await make_keys(volume, bucket, depth) for depth in DEPTHS}
    await store.checkpoint()
    small = DirectoryIndex(DIRECTORIES // 10)
    store.watch(small.forget)

    def start(key: bytes) -> Start:
        ino = find_bucket(store, "bucket")
        return Start(ino, ino, split_key(key).directory)

    def indexed(key: bytes) -> None:
        assert find(store, volume.directories, start(key), split_key(key)) is not None

    def in_small(key: bytes) -> None:
        assert find(store, small, start(key), split_key(key)) is not None

    def one_by_one(key: bytes) -> None:
        path = split_key(key)
        assert find(store, DirectoryIndex(1), Start(bucket, walk(volume, bucket, path), b""), path) is not None

    async def listed(key: bytes) -> None:
        prefix = key.rpartition(b"/")[0] + b"/" if b"/" in key else key
        page = await objects.list_keys("bucket", prefix=prefix, delimiter=b"/", limit=10)
        assert len(page.entries) == 1

    async def list_all(order: list[bytes]) -> None:
        for key in order:
            await listed(key)

    async def all_of(look: Callable[[bytes], None], order: list[bytes]) -> None:
        for _ in range(repeats):
            for key in order:
                look(key)

    async def each(look: Callable[[bytes], None]) -> dict[int, float]:
        found: dict[int, float] = {}
        for depth, keys_of_depth in made.items():
            order = shuffled(keys_of_depth)
            measured = await rate(partial(all_of, look, order), repeats * len(order), rounds=3)
            found[depth] = round(1e6 / measured.per_processor_second, 2)
        return found

    lists = {
        depth: round(1e6 / (await rate(partial(list_all, found[:200]), 200, rounds=3)).per_processor_second, 1)
        for depth, found in made.items()
    }
    return Depths(await each(indexed), await each(in_small), await each(one_by_one), lists)


def walk(volume: Volume, directory: Ino, path: KeyPath) -> Ino:
    """The directory of a key, an entry at a time."""
    for name in path.directory.split(b"/") if path.directory else ():
        entry = names.get_dentry(volume.ledger.store, directory, name)
        assert entry is not None and stat.S_ISDIR(entry.kind)
        directory = Ino(entry.ino)
    return directory


def measure_index() -> IndexCost:
    """Fill one: a tree whose directories hold sixteen each, with names of eight bytes."""
    index = DirectoryIndex()
    tracemalloc.start()
    known = [index.learn(ROOT_INO, b"dir-0000", Ino(1 << 20), keys.dentry(ROOT_INO, b"dir-0000"), None)]
    for number in range(1, DIRECTORIES_MAX):
        above = known[(number - 1) // 16]
        assert above is not None
        name = b"dir-%04d" % (number % 16)
        path = above.path_key[1] + b"/" + name
        known.append(index.learn(ROOT_INO, path, Ino((1 << 20) + number), keys.dentry(above.ino, name), above))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size -= known.__sizeof__()
    batch = {keys.inode(Ino(number)): b"" for number in (5, 7)} | {keys.dentry(Ino(5), b"name"): b""}
    began = time.thread_time()
    for _ in range(100_000):
        index.forget(batch)
    took = time.thread_time() - began
    return IndexCost(round(size / len(index), 1), round(size / 2**20, 1), round(took * 10, 3))
