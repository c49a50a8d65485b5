"""The store's backing in LMDB: one environment in a directory of the home, read in the loop's thread.

Reads go through one read transaction and one cursor that stand until the next apply. That pins no more than one old
version of the pages, because there is one apply at a time and it renews them.

An apply is one write transaction. LMDB binds its lock to a thread, so it begins and commits (the flushes) in a thread
of its own; the puts in between run in the loop, 64 at a time with a checkpoint after each slice. Why not in the thread,
too: py-lmdb gives the interpreter's lock away and takes it back for each put, so a thread with 50,000 puts and a loop
that wants to run hand it to and fro. Measured with 20,000 puts beside a loop whose tasks take 0.25 ms: puts in the
thread make the loop wait up to 8 ms (p99) and do 53 % of its work meanwhile; slices in the loop 0.5 ms and 80 %. A put
costs the loop 0.8 us; it may have to fetch a page from the disk for it, as any read may.
"""

from __future__ import annotations

import errno
import os
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import TypeVar

import lmdb
import trio

from siltstone.errors import FormatInvalid, NoSpace, SiltstoneError, Unavailable
from siltstone.meta.store.long_keys import PLAIN_BYTES_MAX, by_group, change_group, find_member, group_of, members
from siltstone.meta.store.port import BackingSpace
from siltstone.meta.store.writer_thread import WriterThread
from siltstone.types import Lsn

T = TypeVar("T")

FORMAT = b"1"
SLICE_ITEMS = 64
WARM_BYTES_MAX = 4 << 30
"""A longer file is not read through: it would push out of memory what is in use."""

WARM_STEP_BYTES = 1 << 20

BULK_ENTRIES = 128
"""From so many on the entries of a scan are fetched in one go."""

READERS_MAX = 16

_RECORDS = b"records"
_STATE = b"state"
_FORMAT_KEY = b"format"
_APPLIED_KEY = b"applied_lsn"
_LSN = struct.Struct("<Q")


class LmdbBacking:
    """See Backing. One process and one event loop at a time."""

    def __init__(self, path: str, *, bytes_max: int, create: bool) -> None:
        """Open the directory ``path``, or make it (``create``), with room for ``bytes_max``; durable on return.

        Raises NoSpace, FormatInvalid when what is there is no backing of this version, Unavailable when nothing is
        there or the host fails.
        """
        self._path = path
        self._bytes_max = bytes_max
        if not create and not os.path.exists(os.path.join(path, "data.mdb")):
            raise Unavailable(f"{path}: the metadata of the volume is missing here")
        try:
            # Safe at every crash: sync makes a commit flush the pages before it writes the meta page that points at
            # them, metasync (and the default O_DSYNC for that page) makes it return only when that is on the disk too;
            # without metasync the last commit could be lost after the log had let its frames go. No writemap: the
            # pages stay read-only in memory, so no stray write of a C library gets into them. The lock stays on: the
            # table of readers is what keeps pages alive that the standing read transaction looks at.
            self._environment = lmdb.open(
                path,
                map_size=bytes_max,
                subdir=True,
                create=create,
                sync=True,
                metasync=True,
                writemap=False,
                lock=True,
                max_dbs=2,
                max_readers=READERS_MAX,
                max_spare_txns=1,
                readahead=False,
            )
        except (lmdb.Error, OSError) as error:
            raise self._explained(error) from error
        try:
            self._open(create)
        except lmdb.Error as error:
            self._environment.close()
            raise self._explained(error) from error
        except BaseException:
            self._environment.close()
            raise
        self._writer = WriterThread()
        self._is_stuck = False

    def _open(self, create: bool) -> None:
        self._environment.reader_check()
        with self._environment.begin(write=True) as transaction:
            self._records = self._environment.open_db(_RECORDS, transaction, create=create)
            self._state = self._environment.open_db(_STATE, transaction, create=create)
            if create and transaction.get(_FORMAT_KEY, db=self._state) is None:
                transaction.put(_FORMAT_KEY, FORMAT, db=self._state)
                transaction.put(_APPLIED_KEY, _LSN.pack(0), db=self._state)
            written_as = transaction.get(_FORMAT_KEY, db=self._state)
            applied = transaction.get(_APPLIED_KEY, db=self._state)
        if written_as != FORMAT or applied is None:
            raise FormatInvalid(f"{self._path}: metadata of format {written_as!r}; this siltstone knows {FORMAT!r}")
        self._applied_lsn = Lsn(_LSN.unpack(applied)[0])
        if create:
            # LMDB flushes its files, and leaves the names of new ones to chance.
            for directory in (self._path, os.path.dirname(os.path.abspath(self._path))):
                _flush_directory(directory)
        self._begin_reading()

    def _begin_reading(self) -> None:
        self._read = self._environment.begin(self._records)
        self._cursor = self._read.cursor()

    @property
    def is_stuck(self) -> bool:
        """Whether an apply was cancelled while the host's disk gave no answer: it is still under way."""
        return self._is_stuck

    @property
    def applied_lsn(self) -> Lsn:
        """The LSN that came with the last apply."""
        return self._applied_lsn

    # --- reading ---------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None when there is none."""
        if len(key) <= PLAIN_BYTES_MAX:
            return self._read.get(key)
        return find_member(self._read.get(group_of(key)), key)

    def scan(self, start: bytes, end: bytes, *, reverse: bool, limit: int) -> list[tuple[bytes, bytes]]:
        """The first entries (the last ones, if reverse) in the range."""
        if start >= end:
            return []
        if reverse:
            return self._scan_back(start, end, limit)
        cursor = self._cursor
        found: list[tuple[bytes, bytes]] = []
        if not cursor.set_range(start if len(start) <= PLAIN_BYTES_MAX else group_of(start)):
            return found
        entries = iter(cursor)
        if limit >= BULK_ENTRIES:
            # Some that are behind the end may be read in vain; the loop below takes three times as long for each.
            found = list(islice(entries, limit))
            keys = [key for key, _ in found]
            if len(max(keys, key=len)) <= PLAIN_BYTES_MAX:
                return found[: bisect_left(keys, end)]
            found = []
            cursor.set_range(start if len(start) <= PLAIN_BYTES_MAX else group_of(start))
            entries = iter(cursor)
        for entry in entries:
            key = entry[0]
            if len(key) > PLAIN_BYTES_MAX:
                if key[:PLAIN_BYTES_MAX] >= end:
                    break
                found += [member for member in members(*entry) if start <= member[0] < end]
            elif key >= end:
                break
            else:
                found.append(entry)
            if len(found) >= limit:
                break
        return found

    def _scan_back(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        cursor = self._cursor
        found: list[tuple[bytes, bytes]] = []
        # The group that a long end would be in holds keys before it, and is itself behind the end, or not.
        at = cursor.set_range(end) if len(end) <= PLAIN_BYTES_MAX else cursor.set_range(group_of(end) + b"\0")
        if not (cursor.prev() if at else cursor.last()):
            return found
        for entry in cursor.iterprev():
            key = entry[0]
            if len(key) > PLAIN_BYTES_MAX:
                inside = [member for member in members(*entry) if start <= member[0] < end]
                found += reversed(inside)
                if key < start and not inside:
                    break
            elif key < start:
                break
            else:
                found.append(entry)
            if len(found) >= limit:
                break
        return found

    # --- writing ---------------------------------------------------------------------------------------------------

    async def apply(self, items: Iterable[tuple[bytes, bytes | None]], applied_lsn: Lsn) -> None:
        """Put and delete in one LMDB transaction; see Backing."""
        assert applied_lsn >= self._applied_lsn
        try:
            transaction = await self._in_writer(lambda: self._environment.begin(self._records, write=True))
            try:
                rest = iter(items)
                while piece := list(islice(rest, SLICE_ITEMS)):
                    _change(transaction, piece)
                    await trio.lowlevel.checkpoint()
                transaction.put(_APPLIED_KEY, _LSN.pack(applied_lsn), db=self._state)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self._in_writer(transaction.abort)
                raise
            await self._in_writer(transaction.commit)
        except lmdb.Error as error:
            raise self._explained(error) from error
        self._cursor.close()
        self._read.abort()
        self._begin_reading()
        self._applied_lsn = applied_lsn

    async def _in_writer(self, function: Callable[[], T]) -> T:
        """Run it in the thread of the write transactions, which is always the same one."""
        results: list[T] = []
        errors: list[BaseException] = []
        token, done = trio.lowlevel.current_trio_token(), trio.Event()

        def run() -> None:
            try:
                results.append(function())
            except BaseException as error:
                errors.append(error)
            with suppress(trio.RunFinishedError):  # nobody has waited for what hung
                token.run_sync_soon(done.set)

        self._writer.submit(run)
        try:
            await done.wait()
        except trio.Cancelled:
            self._is_stuck = True
            raise
        if errors:
            raise errors[0]
        return results[0]

    async def warm(self) -> None:
        """Read the file through in a thread, which fetches pages in order and not one by one."""
        await trio.to_thread.run_sync(_read_through, os.path.join(self._path, "data.mdb"), abandon_on_cancel=True)

    def space(self) -> BackingSpace:
        """How full it is: pages that the records are in, without those that became free for the next applies."""
        records = self._read.stat(self._records)
        pages = records["branch_pages"] + records["leaf_pages"] + records["overflow_pages"]
        return BackingSpace(pages * records["psize"], self._bytes_max)

    def close(self) -> None:
        """Close the environment and end the thread; one that is stuck is left to itself, and what it uses, too."""
        if self._is_stuck:
            return
        self._writer.end()
        self._cursor.close()
        self._read.abort()
        self._environment.close()

    def _explained(self, error: Exception) -> SiltstoneError:
        """What an error of LMDB or of the host means for the reader."""
        if isinstance(error, lmdb.MapFullError):
            return NoSpace(
                f"{self._path}: the metadata has reached {self._bytes_max} bytes, its limit; "
                "raise lmdb_bytes_max in volume.json"
            )
        code = error.errno if isinstance(error, OSError) else getattr(error, "code", 0)
        if code == errno.ENOSPC:
            return NoSpace(f"{self._path}: no space left on the disk of the metadata: {error}")
        damage = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.PageNotFoundError)
        if isinstance(error, (*damage, lmdb.NotFoundError)):
            return FormatInvalid(f"{self._path}: this is not a metadata store, or it is damaged: {error}")
        return Unavailable(f"{self._path}: {error}")


def _change(transaction: lmdb.Transaction[bytes], items: Sequence[tuple[bytes, bytes | None]]) -> None:
    """Put and delete a few keys. Atomic between tasks."""
    puts: list[tuple[bytes, bytes]] = []
    long: list[tuple[bytes, bytes | None]] = []
    for key, value in items:
        if len(key) > PLAIN_BYTES_MAX:
            long.append((key, value))
        elif value is None:
            transaction.delete(key)
        else:
            puts.append((key, value))
    if puts:
        with transaction.cursor() as cursor:
            cursor.putmulti(puts)
    for group_key, changes in by_group(long):
        group = change_group(transaction.get(group_key), changes)
        if group is None:
            transaction.delete(group_key)
        else:
            transaction.put(group_key, group)


def _read_through(path: str) -> None:
    with suppress(OSError), open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > WARM_BYTES_MAX:
            return
        buffer = bytearray(WARM_STEP_BYTES)
        while file.readinto(buffer):
            pass


def _flush_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
