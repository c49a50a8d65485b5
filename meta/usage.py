"""What is in every directory tree, exactly, at any moment: how many bytes, files and directories; and its limits.

How an inode counts follows from its record alone: a file in its home (meta/homes.py), a directory with all that is in
it in its parent. So a batch changes the usage of trees by what its inodes were and are. That is noted in memory for the
one directory that is concerned, in the turn in which the batch is committed, and passed on to those above it when
somebody asks, when a directory moves, or when records are written. The records follow with the next memtable that is
applied (``Store.derive``): they are never in the log, and LMDB has them as of the LSN that it has everything of. A
restart reads the rest of the log, and counts what it changes as was counted then.

Quotas have sums of their own, which every batch changes at once. What is written and not yet committed is *pending*:
it counts against quotas as if it were there, and nowhere else.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from typing import Any

from siltstone.errors import QuotaExceeded
from siltstone.limits import PARTITION_COUNT
from siltstone.meta import keys
from siltstone.meta.inodes import KIND_BITS, find_inode
from siltstone.meta.records import Inode, InodeFlag, Quota, Usage, decode, decode_inode, encode
from siltstone.meta.store.port import Reader
from siltstone.meta.store.transaction import Put, Transaction
from siltstone.types import Ino, PartitionId

UNLIMITED = 1 << 63

NODES_MAX = 100_000
"""Directories kept in memory, about, at 200 bytes each; what is forgotten is read again."""

_INODE = ord(keys.INODE)
_QUOTA = ord(keys.QUOTA)
_PARTITION_KEY = ord("p")

_ADDED, _MADE, _MOVED, _PENDING, _REMOVED = range(5)

Step = tuple[int, Any, Any, Any, Any, Any]
"""What ``apply`` did, so that it can be undone: _ADDED to a directory bytes, files, directories, and bytes that were
pending; _MADE a directory in another; _MOVED one from and to; _PENDING what a file had pending, where; _REMOVED one."""


class _Node:
    """A directory, and what is below it, but for what is due."""

    __slots__ = ("bytes", "directories", "files", "parent")

    def __init__(self, parent: int, usage: Usage) -> None:
        self.parent = parent
        self.bytes = usage.bytes
        self.files = usage.files
        self.directories = usage.directories


class _Limit:
    """A quota, and all that it limits as of now: bytes with those that are pending, files with directories.

    ``bytes_before`` and ``files_before``: what there was before the batch with the number ``batch``.
    """

    __slots__ = ("batch", "bytes", "bytes_before", "bytes_max", "files", "files_before", "files_max", "ino", "quota")

    def __init__(self, ino: Ino, quota: Quota, node: _Node, pending: int) -> None:
        self.ino = ino
        self.quota = quota
        self.bytes = node.bytes + pending
        self.files = node.files + node.directories
        self.bytes_max = quota.bytes or UNLIMITED
        self.files_max = quota.files or UNLIMITED
        self.batch = self.bytes_before = self.files_before = 0


class TreeUsage:
    """The usage of all trees of a volume of one shard."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.is_known = False
        """Whether it is right; otherwise nothing is counted, and there are no quotas."""
        self._nodes: dict[int, _Node] = {}
        self._due: dict[int, list[int]] = {}
        """Bytes, files and directories to add to a directory and all above it."""
        self._changed: set[int] = set()
        """Directories whose records are to be written."""
        self._removed: set[Ino] = set()
        """Those of them that are gone."""
        self._pending: dict[Ino, tuple[int, int]] = {}
        """Where a file has how many bytes pending."""
        self._limits: dict[int, _Limit] = {}
        self._has_rates = False
        self._limits_over: dict[int, tuple[_Limit, ...]] = {}
        """Those that limit a directory, of directories that were asked for since one moved."""
        self._batch = 0
        self._grown: list[_Limit] = []
        """Limits of which what they limit was changed by the batch with that number."""

    def load(self) -> None:
        """Begin with what the store has, before anything is replayed over it."""
        self.forget()
        self.is_known = self._reader.get(keys.USAGE_STATE) is not None
        if self.is_known:
            for ino, quota in _quotas_in(self._reader):
                self.note_quota(ino, quota)

    def forget(self) -> None:
        """It is not to be known any more, and with it the quotas."""
        self.is_known = self._has_rates = False
        for known in (self._nodes, self._due, self._pending, self._limits, self._limits_over):
            known.clear()
        self._begin_batch()
        self._changed.clear()
        self._removed.clear()

    # --- asking ----------------------------------------------------------------------------------------------------

    def usage(self, ino: Ino) -> Usage:
        """What is committed in a directory and below it. One read at the most."""
        self._pass_on()
        node = self._nodes.get(ino)
        return _read(self._reader, ino) if node is None else Usage(node.bytes, node.files, node.directories)

    def held(self, ino: Ino) -> tuple[int, int]:
        """Of a directory with a quota, the bytes with those that are pending, and the files and directories."""
        limit = self._limits[ino]
        return limit.bytes, limit.files

    @property
    def has_quotas(self) -> bool:
        """Whether anything is limited."""
        return bool(self._limits)

    @property
    def has_rates(self) -> bool:
        """Whether any tree is used at a limited rate."""
        return self._has_rates

    @property
    def quotas(self) -> dict[Ino, Quota]:
        """All quotas."""
        return {limit.ino: limit.quota for limit in self._limits.values()}

    def quotas_over(self, ino: Ino) -> list[tuple[Ino, Quota]]:
        """Every quota that limits what is in a directory, the nearest first."""
        return [(limit.ino, limit.quota) for limit in self._find_limits(ino)]

    def home_of(self, ino: Ino) -> Ino:
        """The directory that a file counts in; of a directory itself. 0 for none."""
        pending = self._pending.get(ino)
        if pending is not None:
            return Ino(pending[0])
        if ino in self._nodes:
            return ino
        inode = find_inode(self._reader, ino)
        if inode is None:
            return Ino(0)
        return ino if inode.is_directory else Ino(inode.home)

    def is_below(self, ino: Ino, directory: Ino) -> bool:
        """Whether a file counts in a directory, or below it."""
        at = int(self.home_of(ino))
        while at not in (0, directory):
            at = self._node(at).parent
        return at != 0

    def is_removed(self, ino: Ino) -> bool:
        """Whether a directory is gone whose record is still there."""
        return ino in self._removed

    # --- what batches do -------------------------------------------------------------------------------------------

    def apply(self, transaction: Transaction) -> list[Step]:
        """Count what a batch does that is committed next, in this turn. Returns how to undo it."""
        steps: list[Step] = []
        if not self.is_known:
            return steps
        self._begin_batch()
        nodes, due, limits, reads = self._nodes, self._due, self._limits, transaction.reads
        for ino, put in transaction.inodes.items():
            # On the path of every create and write: what is most frequent is looked at here, the rest in ``_count``.
            if put is None:
                self._count(ino, reads.get(keys.inode(ino)), None, steps)
                continue
            key, home, nlink, size, mode = put
            kind = mode & KIND_BITS
            if kind == stat.S_IFDIR:
                node = nodes.get(ino)
                if node is None or node.parent != home or not nlink:
                    self._count_directory(ino, reads.get(key), home if nlink and home != ino else 0, steps)
            elif (old := reads.get(key)) is not None:
                self._count(ino, old, put, steps)
            elif home and nlink:
                if kind != stat.S_IFREG:
                    size = 0
                known = due.get(home)
                if known is None:
                    due[home] = [size, 1, 0]
                else:
                    known[0] += size
                    known[1] += 1
                if limits:
                    self._add_to_limits(home, size, 1)
                steps.append((_ADDED, home, size, 1, 0, 0))
        return steps

    def check_room(self, directory: Ino, usage: Usage) -> None:
        """Raise QuotaExceeded unless so much fits into a directory now."""
        for limit in self._find_limits(directory):
            if usage.bytes + limit.bytes > limit.bytes_max:
                raise _exceeded(limit.ino, usage.bytes + limit.bytes, "bytes", limit.bytes_max)
            files = usage.files + usage.directories + 1 + limit.files
            if files > limit.files_max:
                raise _exceeded(limit.ino, files, "files and directories", limit.files_max)

    def check_grown(self) -> None:
        """Raise QuotaExceeded if what was counted last passes a quota that it added to."""
        for limit in self._grown:
            if limit.bytes > limit.bytes_max and limit.bytes > limit.bytes_before:
                raise _exceeded(limit.ino, limit.bytes, "bytes", limit.bytes_max)
            if limit.files > limit.files_max and limit.files > limit.files_before:
                raise _exceeded(limit.ino, limit.files, "files and directories", limit.files_max)

    def _begin_batch(self) -> None:
        self._batch += 1
        if self._grown:
            self._grown.clear()

    def undo(self, steps: Iterable[Step]) -> None:
        """The batch is not committed after all."""
        for kind, ino, one, two, three, four in reversed([*steps]):
            if kind == _ADDED:
                self._tally(ino, -one, -two, -three, -four)
            elif kind == _MADE:
                if one:
                    self._tally(one, 0, 0, -1, 0)
                self._pass_on()
                del self._nodes[ino]
                self._changed.discard(ino)
            elif kind == _MOVED:
                self._move(ino, self._node(ino), one)
            elif kind == _PENDING:
                self._pending[ino] = one, two
            else:
                self._removed.discard(ino)
                if one is not None:
                    self.note_quota(ino, one)

    def replay(self, writes: Mapping[bytes, bytes | None]) -> None:
        """Count a batch of an earlier life that is about to be merged into the store."""
        if not self.is_known:
            return
        if keys.USAGE_STATE in writes and writes[keys.USAGE_STATE] is None:
            self.forget()
            return
        ignored: list[Step] = []
        for key, value in writes.items():
            if key[0] != _PARTITION_KEY:
                continue
            if key[2] == _INODE:
                found = None if value is None else decode_inode(value)
                put = None if found is None else (key, directory_of(found), found.nlink, found.size, found.mode)
                self._count(keys.inode_ino(key), self._reader.get(key), put, ignored)
            elif key[2] == _QUOTA:
                self.note_quota(keys.inode_ino(key), None if value is None else decode(Quota, value))

    def note_quota(self, ino: Ino, quota: Quota | None) -> None:
        """A directory has this quota from now on, or none."""
        self._pass_on()
        if quota is None:
            self._limits.pop(ino, None)
        else:
            self._limits[ino] = _Limit(ino, quota, self._node(ino), self._pending_below(ino))
        self._limits_over.clear()
        self._begin_batch()
        quotas = self.quotas.values()
        self._has_rates = any(quota.read_bytes or quota.write_bytes or quota.operations for quota in quotas)

    def derive(self) -> dict[bytes, bytes | None]:
        """The records of what has changed since the last time: as of now, for the store."""
        self._pass_on()
        nodes = self._nodes
        writes: dict[bytes, bytes | None] = {}
        for ino in self._changed:
            node = nodes[ino]
            writes[keys.usage(Ino(ino))] = encode(Usage(node.bytes, node.files, node.directories))
        for ino in self._removed:
            del nodes[ino]
            writes[keys.usage(ino)] = None
        self._changed.clear()
        self._removed.clear()
        if len(nodes) > NODES_MAX:
            nodes.clear()
        if len(self._limits_over) > NODES_MAX:
            self._limits_over.clear()
        return writes

    # --- what is not committed yet ---------------------------------------------------------------------------------

    def reserve(self, ino: Ino, growth: int, home: int | None = None) -> None:
        """A file is to grow by so many bytes that are not committed yet. ``home``: where it counts, if that was read in
        this turn. Raises QuotaExceeded."""
        if not self._limits:
            return
        known = self._pending.get(ino)
        held = 0
        if known is not None:
            home, held = known
        elif home is None:
            home = self.home_of(ino)
        if not home:
            return
        limits = self._limits_over.get(home)
        if limits is None:
            limits = self._find_limits(home)
        for limit in limits:
            if limit.bytes + growth > limit.bytes_max:
                raise _exceeded(limit.ino, limit.bytes + growth, "bytes", limit.bytes_max)
        for limit in limits:
            limit.bytes += growth
        self._pending[ino] = home, held + growth

    def note_pending(self, grown: Iterable[tuple[Ino, int]]) -> None:
        """Files have grown by so many bytes that are not committed yet; nothing was known of that."""
        self._pending.clear()
        for ino, growth in grown:
            home = self.home_of(ino)
            if home and growth > 0:
                self._add_to_limits(home, growth, 0)
                self._pending[ino] = home, growth

    def release(self, ino: Ino) -> None:
        """Nothing of a file is pending any more."""
        known = self._pending.pop(ino, None)
        if known is not None and known[1] and self._limits:
            self._add_to_limits(known[0], -known[1], 0)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _count(self, ino: Ino, old: bytes | None, put: Put | None, steps: list[Step]) -> None:
        """Count what becomes of an inode's record: what it was, and what it is to be."""
        home = size = 0
        if put is not None:
            _, home, nlink, size, mode = put
            kind = mode & KIND_BITS
            if kind == stat.S_IFDIR:
                self._count_directory(ino, old, home if nlink and home != ino else 0, steps)
                return
            if not nlink:
                home = 0
            if kind != stat.S_IFREG:
                size = 0
        if old is None:
            if home:
                steps.append((_ADDED, home, size, 1, 0, 0))
                self._tally(home, size, 1, 0, 0)
            return
        before = decode_inode(old)
        kind = before.mode & KIND_BITS
        if kind == stat.S_IFDIR:
            self._remove(ino, steps)
            return
        old_home = before.home if before.nlink else 0
        old_size = before.size if kind == stat.S_IFREG else 0
        known = self._pending.get(ino) if self._pending else None
        if home == old_home:
            if not home or size == old_size:
                return
            landed = 0
            if known is not None and size > old_size:
                landed = min(size - old_size, known[1])
                steps.append((_PENDING, ino, *known, 0, 0))
                self._pending[ino] = home, known[1] - landed
            steps.append((_ADDED, home, size - old_size, 0, 0, landed))
            self._tally(home, size - old_size, 0, 0, landed)
            return
        held = 0
        if known is not None:
            held = known[1]
            steps.append((_PENDING, ino, *known, 0, 0))
            if home:
                self._pending[ino] = home, held
            else:
                del self._pending[ino]
        if old_home:
            steps.append((_ADDED, old_home, -old_size, -1, 0, held))
            self._tally(old_home, -old_size, -1, 0, held)
        if home:
            steps.append((_ADDED, home, size, 1, 0, -held))
            self._tally(home, size, 1, 0, -held)

    def _count_directory(self, ino: Ino, old: bytes | None, home: int, steps: list[Step]) -> None:
        node = self._nodes.get(ino)
        if node is None:
            if old is None:
                self._nodes[ino] = _Node(home, Usage())
                self._changed.add(ino)
                steps.append((_MADE, ino, home, 0, 0, 0))
                if home:
                    self._tally(home, 0, 0, 1, 0)
                return
            node = self._load(ino)
        if node.parent != home:
            steps.append((_MOVED, ino, node.parent, home, 0, 0))
            self._move(ino, node, home)

    def _tally(self, home: int, size: int, files: int, directories: int, landed: int) -> None:
        """Note what is to be added to a directory and all above it. ``landed``: so many of the bytes were pending."""
        due = self._due.get(home)
        if due is None:
            self._due[home] = [size, files, directories]
        else:
            due[0] += size
            due[1] += files
            due[2] += directories
        if self._limits and (size != landed or files or directories):
            self._add_to_limits(home, size - landed, files + directories)

    def _add_to_limits(self, home: int, size: int, files: int) -> None:
        limits = self._limits_over.get(home)
        if limits is None:
            limits = self._find_limits(home)
        batch = self._batch
        for limit in limits:
            if limit.batch != batch:
                limit.batch, limit.bytes_before, limit.files_before = batch, limit.bytes, limit.files
                self._grown.append(limit)
            limit.bytes += size
            limit.files += files

    def _find_limits(self, directory: int) -> tuple[_Limit, ...]:
        found: list[_Limit] = []
        at = directory if self._limits else 0
        while at:
            if (limit := self._limits.get(at)) is not None:
                found.append(limit)
            at = self._node(at).parent
        limits = self._limits_over[directory] = tuple(found)
        return limits

    def _pass_on(self) -> None:
        """Add what is due."""
        if not self._due:
            return
        nodes, changed = self._nodes, self._changed
        for home, (size, files, directories) in self._due.items():
            at = home
            while at:
                node = nodes.get(at)
                if node is None:
                    node = self._load(at)
                node.bytes += size
                node.files += files
                node.directories += directories
                changed.add(at)
                at = node.parent
        self._due.clear()

    def _move(self, ino: Ino, node: _Node, target: int) -> None:
        """Take a directory from where it is to another, with all that is in it."""
        self._pass_on()
        pending = self._pending_below(ino) if self._limits else 0
        if node.parent:
            self._tally(node.parent, -node.bytes, -node.files, -node.directories - 1, pending)
            self._pass_on()
        node.parent = target
        self._limits_over.clear()
        if target:
            self._tally(target, node.bytes, node.files, node.directories + 1, -pending)

    def _pending_below(self, ino: Ino) -> int:
        found = 0
        for home, size in self._pending.values():
            at = home
            while at not in (0, ino):
                at = self._node(at).parent
            found += size if at else 0
        return found

    def _remove(self, ino: Ino, steps: list[Step]) -> None:
        """A directory is gone, and with it its quota."""
        node = self._node(ino)
        if node.parent:
            steps.append((_MOVED, ino, node.parent, 0, 0, 0))
            self._move(ino, node, 0)
        self._pass_on()
        limit = self._limits.pop(ino, None)
        self._limits_over.clear()
        self._removed.add(ino)
        steps.append((_REMOVED, ino, None if limit is None else limit.quota, 0, 0, 0))

    def _node(self, ino: int) -> _Node:
        return self._nodes.get(ino) or self._load(ino)

    def _load(self, ino: int) -> _Node:
        inode = find_inode(self._reader, Ino(ino))
        parent = 0 if inode is None or not inode.nlink or inode.parent == ino else directory_of(inode)
        node = self._nodes[ino] = _Node(parent, _read(self._reader, Ino(ino)))
        return node


def directory_of(inode: Inode) -> int:
    """Where an inode counts that has a name; what is in a snapshot nowhere."""
    if inode.flags & InodeFlag.SNAPSHOT:
        return 0
    return inode.parent if inode.mode & KIND_BITS == stat.S_IFDIR else inode.home


def _exceeded(ino: Ino, wanted: int, what: str, limit: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"directory {ino} would have {wanted} {what}, and its quota is {limit}: delete some, or raise it with "
        "`siltstone quota set`"
    )


def _read(reader: Reader, ino: Ino) -> Usage:
    value = reader.get(keys.usage(ino))
    return Usage() if value is None else decode(Usage, value)


def _quotas_in(reader: Reader) -> Iterable[tuple[Ino, Quota]]:
    """Every quota that is stored."""
    for partition in map(PartitionId, range(PARTITION_COUNT)):
        for key, value in reader.scan(*keys.prefix_range(keys.all_of(keys.QUOTA, partition))):
            yield keys.inode_ino(key), decode(Quota, value)
