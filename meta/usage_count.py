"""Counting what is in every tree from the records of inodes: where it is not known, and to check it.

It is not known of a volume that a program made which did not keep it, that was imported, or that had several shards.
Then it is counted before the volume is used. Files of older volumes, of which nobody noted where they count, are given
their homes first.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import AsyncIterator, Iterator

import trio

from siltstone.limits import PARTITION_COUNT
from siltstone.meta import keys
from siltstone.meta.counters import read_totals
from siltstone.meta.homes import put_homes
from siltstone.meta.inodes import find_inode, get_inode, put_inode
from siltstone.meta.records import Inode, InodeFlag, Usage, Version, decode, decode_dentry, decode_inode, encode
from siltstone.meta.store.store import Store, Transaction
from siltstone.meta.usage import directory_of
from siltstone.types import Ino, PartitionId

STEP_RECORDS = 256
"""Records read between two checkpoints."""

BATCH_RECORDS = 512
"""Records that one batch writes."""

TOLD_RECORDS = 100_000
"""After so many it is told how far it has come."""

logger = logging.getLogger("siltstone.usage")


class UsageCount:
    """Adds up how inodes count: 200 bytes for each directory."""

    def __init__(self) -> None:
        self._own: dict[int, list[int]] = {}
        self._parents: dict[int, int] = {}

    def add(self, ino: Ino, inode: Inode) -> None:
        """Count an inode."""
        home = directory_of(inode)
        if not inode.nlink or home == ino:
            home = 0
        if inode.is_directory:
            self._parents[ino] = home
            self._of(ino)
        if home:
            own = self._of(home)
            own[0] += inode.size if inode.is_file else 0
            own[1 + inode.is_directory] += 1

    def usages(self) -> Iterator[tuple[Ino, Usage]]:
        """What is in each directory and below it; all were added. Those in a circle are left out."""
        below: dict[int, int] = dict.fromkeys(self._parents, 0)
        for parent in self._parents.values():
            if parent in below:
                below[parent] += 1
        ready = [ino for ino, count in below.items() if count == 0]
        while ready:
            ino = ready.pop()
            own, parent = self._own[ino], self._parents[ino]
            yield Ino(ino), Usage(*own)
            if parent in below:
                above = self._own[parent]
                for at, value in enumerate(own):
                    above[at] += value
                below[parent] -= 1
                if below[parent] == 0:
                    ready.append(parent)

    def _of(self, ino: int) -> list[int]:
        found = self._own.get(ino)
        if found is None:
            found = self._own[ino] = [0, 0, 0]
        return found


def forget_usage(store: Store) -> None:
    """Have it counted when the volume is opened the next time."""
    if store.get(keys.USAGE_STATE) is not None:
        transaction = store.begin()
        transaction.delete(keys.USAGE_STATE)
        transaction.commit()


async def count_usage(store: Store) -> None:
    """Give every file a home and every directory its record of usage; nothing else changes meanwhile.

    Durable on return. A crash in it leaves it to be done again.
    """
    # First, before anything is applied: the log's tail may have had the mark put.
    forget_usage(store)
    total = read_totals(store).inodes
    logger.info("counting what is in every directory: %d files and directories", total)
    await _give_homes(store, total)
    count = UsageCount()
    async for key, value in _every(store, keys.INODE):
        count.add(keys.inode_ino(key), decode_inode(value))
    usages = dict(count.usages())
    changes: list[tuple[bytes, bytes | None]] = [
        (key, None) async for key, _ in _every(store, keys.USAGE) if keys.inode_ino(key) not in usages
    ]
    changes += [(keys.usage(ino), encode(usage)) for ino, usage in usages.items()]
    for start in range(0, len(changes), BATCH_RECORDS):
        transaction = store.begin()
        for changed, content in changes[start : start + BATCH_RECORDS]:
            if content is None:
                transaction.delete(changed)
            else:
                transaction.put(changed, content)
        await _commit(store, transaction)
    transaction = store.begin()
    transaction.put(keys.USAGE_STATE, b"")
    transaction.commit()
    await store.checkpoint()
    logger.info("counted what is in every directory")


async def _give_homes(store: Store, total: int) -> None:
    """Note of every file where it counts that has a name, and of which nothing is noted."""
    several: dict[Ino, dict[Ino, int]] = {}
    transaction, done = store.begin(), 0
    async for ino, directory in _names_of_files(store):
        inode = find_inode(transaction, ino)
        if inode is None or inode.home or inode.nlink == 0 or inode.flags & InodeFlag.SNAPSHOT:
            continue
        if inode.nlink > 1:
            found = several.setdefault(ino, {})
            found[directory] = found.get(directory, 0) + 1
            continue
        inode.home = directory
        put_inode(transaction, ino, inode)
        done += 1
        if done % BATCH_RECORDS == 0:
            await _commit(store, transaction)
            transaction = store.begin()
        if done % TOLD_RECORDS == 0:
            logger.info("counting what is in every directory: %d of %d", done, total)
    await _commit(store, transaction)
    for ino, found in several.items():
        transaction = store.begin()
        inode = get_inode(transaction, ino)
        inode.home = put_homes(transaction, ino, found)
        put_inode(transaction, ino, inode)
        await _commit(store, transaction)


async def _names_of_files(store: Store) -> AsyncIterator[tuple[Ino, Ino]]:
    """Of each name of a file, and each version, the inode and the directory."""
    async for key, value in _every(store, keys.DENTRY):
        entry = decode_dentry(value)
        if not stat.S_ISDIR(entry.kind):
            yield Ino(entry.ino), keys.inode_ino(key)
    async for key, value in _every(store, keys.VERSION):
        if keys.is_version(key) and (version := decode(Version, value)).ino:
            yield Ino(version.ino), keys.inode_ino(key)


async def _every(store: Store, kind: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
    """Every record of a kind."""
    for partition in map(PartitionId, range(PARTITION_COUNT)):
        for at, entry in enumerate(store.scan(*keys.prefix_range(keys.all_of(kind, partition)))):
            if at % STEP_RECORDS == 0:
                await trio.lowlevel.checkpoint()
            yield entry


async def _commit(store: Store, transaction: Transaction) -> None:
    """Commit a batch, no faster than it is carried on."""
    lsn = transaction.commit()
    await store.log.wait_durable(lsn)
    while store.pressure:
        await store.wait_room()
