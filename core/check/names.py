"""Names against inodes, in the partitions that a shard owns: I2, I3, and the counters of I6.

Names and inodes meet at the inode. A name whose inode is in another partition than its directory is a *fact* that is
handed to whoever owns that partition, perhaps another shard: ``NameWalk`` reads all names once and gives the facts out
in pages. Then ``NameCheck`` goes through its partitions one by one, in slices of so many inodes at most, and compares
the names that it reads there, and the facts that it was given, with the inodes. So memory is bounded but for the facts:
20 bytes for each directory, and for each file that was moved or linked from another directory.
"""

from __future__ import annotations

import stat
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from struct import Struct

import msgspec

from siltstone.core.check.findings import Findings
from siltstone.core.check.tree_snapshots import held_by
from siltstone.meta import counters, keys
from siltstone.meta.homes import homes_of
from siltstone.meta.records import Dentry, Inode, InodeFlag, Part, Trashed, Version, decode_dentry, decode_inode
from siltstone.meta.store.port import Reader
from siltstone.types import ROOT_INO, Ino, PartitionId, partition_of

SLICE_INODES = 1 << 20
"""Inodes that are compared together: 22 bytes each and some hundred for each directory, and a walk over the names of
the partition for each slice."""

PAGE_FACTS = 16_384
"""Facts and edges that are handed on together."""

PART_KIND = 0
"""Of a fact that is no name but a part of an upload; no file has it."""

_FACT = Struct("<QQI")
_EDGE = Struct("<QQ")

_decode_version = msgspec.msgpack.Decoder(Version).decode
_decode_trashed = msgspec.msgpack.Decoder(Trashed).decode
_decode_part = msgspec.msgpack.Decoder(Part).decode


class NamePage(msgspec.Struct, frozen=True, array_like=True):
    """A part of what a walk over all names gives. ``facts``: for each partition that is not the shard's own, facts
    (inode, directory, kind), packed. ``edges``: of all entries that are directories, (inode, directory), packed."""

    facts: dict[int, bytes]
    edges: bytes
    is_last: bool


def edges_in(page: NamePage) -> Iterator[tuple[Ino, Ino]]:
    """The edges of a page."""
    for ino, directory in _EDGE.iter_unpack(page.edges):
        yield Ino(ino), Ino(directory)


class NameWalk:
    """Reads all names of the owned partitions, all versions of objects and all parts of uploads, once."""

    def __init__(self, reader: Reader, owned: Sequence[PartitionId], check: NameCheck) -> None:
        self._reader = reader
        self._owned = set(owned)
        self._check = check
        self._records = self._scan(owned)

    async def next_page(self, findings: Findings) -> NamePage:
        """The next page. What concerns partitions of the shard itself goes to its own check at once."""
        facts: dict[int, bytearray] = defaultdict(bytearray)
        edges = bytearray()
        own: dict[int, bytearray] = defaultdict(bytearray)
        count = 0
        for ino, directory, kind in self._records:
            await findings.step()
            partition = partition_of(ino)
            if partition != partition_of(directory) or kind == PART_KIND:
                (own if partition in self._owned else facts)[partition] += _FACT.pack(ino, directory, kind)
                count += 1
            if stat.S_ISDIR(kind):
                edges += _EDGE.pack(ino, directory)
                count += 1
            if count >= PAGE_FACTS:
                break
        else:
            self._check.take(own)
            return NamePage({partition: bytes(packed) for partition, packed in facts.items()}, bytes(edges), True)
        self._check.take(own)
        return NamePage({partition: bytes(packed) for partition, packed in facts.items()}, bytes(edges), False)

    def _scan(self, owned: Iterable[PartitionId]) -> Iterator[tuple[Ino, Ino, int]]:
        """Of each name its inode, directory and kind; what does not parse is left to the check."""
        for partition in owned:
            for key, value in self._reader.scan(*keys.prefix_range(keys.all_of(keys.DENTRY, partition))):
                try:
                    entry = decode_dentry(value)
                except msgspec.MsgspecError:
                    continue
                if 0 < entry.ino < 1 << 64:
                    yield Ino(entry.ino), keys.inode_ino(key), entry.kind & 0xFFFFFFFF
            for key, value in self._reader.scan(*keys.prefix_range(keys.all_of(keys.VERSION, partition))):
                version = _version_or_none(key, value)
                if version is not None and 0 < version.ino < 1 << 64:
                    yield Ino(version.ino), keys.inode_ino(key), stat.S_IFREG
            for _, value in self._reader.scan(*keys.prefix_range(keys.all_of(keys.PART, partition))):
                try:
                    yield Ino(_decode_part(value).ino), Ino(partition), PART_KIND
                except msgspec.MsgspecError:
                    continue


class _Slice:
    """Inodes of a partition, and what their names say of them. ``kinds`` has the type bits of their modes."""

    __slots__ = (
        "entries",
        "holders",
        "homes",
        "inos",
        "kinds",
        "names",
        "orphans",
        "parts",
        "subdirectories",
        "trashed",
    )

    def __init__(self) -> None:
        self.inos = array("Q")
        self.kinds = array("H")
        self.names = array("I")
        self.homes = array("Q")
        """The directories of all names of an inode, xored."""
        self.holders: dict[Ino, Ino] = {}
        """Of directories: where an entry for them was found last."""
        self.entries: dict[Ino, int] = defaultdict(int)
        self.subdirectories: dict[Ino, int] = defaultdict(int)
        self.orphans: set[Ino] = set()
        self.parts: set[Ino] = set()
        self.trashed: set[Ino] = set()

    def index(self, ino: Ino) -> int:
        """Where an inode is; -1 if it is not there."""
        at = bisect_left(self.inos, ino)
        return at if at < len(self.inos) and self.inos[at] == ino else -1


class NameCheck:
    """Compares names and inodes of the owned partitions."""

    def __init__(self, reader: Reader, owned: Sequence[PartitionId], findings: Findings) -> None:
        self._reader = reader
        self._owned = dict.fromkeys(owned)
        self._findings = findings
        self._facts: dict[int, bytearray] = defaultdict(bytearray)

    def take(self, facts: dict[int, bytes] | dict[int, bytearray]) -> None:
        """Facts on inodes of owned partitions that names in other partitions tell."""
        for partition, packed in facts.items():
            self._facts[partition] += packed

    async def check(self) -> None:
        """Check all partitions; every fact was given."""
        for partition in self._owned:
            await self._check_partition(partition)
        if partition_of(ROOT_INO) in self._owned and self._reader.get(keys.inode(ROOT_INO)) is None:
            self._findings.report("I2", "root", "there is no root directory")

    async def _check_partition(self, partition: PartitionId) -> None:
        start, end = keys.prefix_range(keys.all_of(keys.INODE, partition))
        low, inodes, size = Ino(0), 0, 0
        while True:
            some, rest = await self._next_slice(start, end)
            high = Ino((1 << 64) - 1) if rest is None else keys.inode_ino(rest)
            await self._read_names(partition, some, low, high)
            self._take_facts(partition, some, low, high)
            counted = await self._check_inodes(some, start, end if rest is None else rest)
            inodes, size = inodes + counted[0], size + counted[1]
            if rest is None:
                break
            start, low = rest, high
        self._facts.pop(partition, None)
        recorded = counters.read_counters(self._reader, partition)
        if (recorded.inodes, recorded.bytes) != (inodes, size):
            self._findings.report(
                "I6",
                f"partition {partition}",
                f"counts {recorded.inodes} inodes and {recorded.bytes} bytes, {inodes} and {size} are right",
            )

    async def _next_slice(self, start: bytes, end: bytes) -> tuple[_Slice, bytes | None]:
        """The inodes from ``start`` on, as many as go together, and the key of the first that does not."""
        some = _Slice()
        records = iter(self._reader.scan(start, end))
        for key, value in islice(records, SLICE_INODES):
            await self._findings.step()
            inode = _inode_or_none(value)
            some.inos.append(keys.inode_ino(key))
            some.kinds.append(0 if inode is None else stat.S_IFMT(inode.mode))
        some.names = array("I", bytes(4 * len(some.inos)))
        some.homes = array("Q", bytes(8 * len(some.inos)))
        following = next(records, None)
        return some, None if following is None else following[0]

    async def _read_names(self, partition: PartitionId, some: _Slice, low: Ino, high: Ino) -> None:
        """Count the names in a partition that concern the inodes in [low, high)."""
        for key, value in self._reader.scan(*keys.prefix_range(keys.all_of(keys.DENTRY, partition))):
            await self._findings.step()
            directory = keys.inode_ino(key)
            is_here = low <= directory < high
            entry = self._findings.parsed(key, value, decode_dentry) if is_here else _dentry_or_none(value)
            if entry is None:
                continue
            if is_here:
                self._count_entry(some, directory, entry)
            ino = Ino(entry.ino)
            if partition_of(ino) == partition and low <= ino < high:
                self._count_name(some, ino, directory, entry.kind)
        await self._read_versions(partition, some, low, high)
        for key, value in self._reader.scan(*keys.prefix_range(keys.all_of(keys.PART, partition))):
            await self._findings.step()
            if low == 0:
                self._findings.parsed(key, value, _decode_part)
        for key, value in self._reader.scan(*keys.prefix_range(keys.all_of(keys.TRASH, partition))):
            ino = keys.trash_ino(key)
            if low <= ino < high:
                self._findings.parsed(key, value, _decode_trashed)
                some.trashed.add(ino)
        for key, _ in self._reader.scan(*keys.prefix_range(keys.all_of(keys.ORPHAN, partition))):
            ino = keys.orphan_ino(key)
            if low <= ino < high:
                some.orphans.add(ino)

    async def _read_versions(self, partition: PartitionId, some: _Slice, low: Ino, high: Ino) -> None:
        """The same of versions of objects, which count as names of their inodes, and of where null versions are."""
        nulls = 0
        for key, value in self._reader.scan(*keys.prefix_range(keys.all_of(keys.VERSION, partition))):
            await self._findings.step()
            directory = keys.inode_ino(key)
            is_here = low <= directory < high
            if not keys.is_version(key):
                pointed = self._reader.get(
                    key + (2 * keys.ORDER_MAX - 1 - int.from_bytes(value, "big")).to_bytes(8, "big")
                )
                version = None if pointed is None else _version_or_none(key + bytes(8), pointed)
                if is_here and (version is None or version.version_id):
                    self._findings.report("I16", f"inode {directory}", "says where a null version is that is not there")
                nulls += is_here
                continue
            version = self._findings.parsed(key, value, _decode_version) if is_here else _version_or_none(key, value)
            if version is None:
                continue
            if is_here:
                nulls -= not version.version_id
                at = some.index(directory)
                if at < 0 or not stat.S_ISDIR(some.kinds[at]):
                    self._findings.report("I16", f"inode {directory}", "has versions of objects, and is no directory")
            ino = Ino(version.ino)
            if partition_of(ino) == partition and low <= ino < high and ino:
                self._count_name(some, ino, directory, stat.S_IFREG)
        if nulls:
            self._findings.report(
                "I16", f"partition {partition}", "has null versions that cannot be found by their name"
            )

    def _take_facts(self, partition: PartitionId, some: _Slice, low: Ino, high: Ino) -> None:
        for ino, directory, kind in _FACT.iter_unpack(self._facts.get(partition, b"")):
            if not low <= ino < high:
                continue
            if kind == PART_KIND:
                some.parts.add(Ino(ino))
            else:
                self._count_name(some, Ino(ino), Ino(directory), kind)

    def _count_entry(self, some: _Slice, directory: Ino, entry: Dentry) -> None:
        at = some.index(directory)
        if at < 0:
            self._findings.report("I2", f"inode {directory}", "has entries, and does not exist")
        elif not stat.S_ISDIR(some.kinds[at]):
            self._findings.report("I2", f"inode {directory}", "has entries, and is no directory")
        some.entries[directory] += 1
        some.subdirectories[directory] += stat.S_ISDIR(entry.kind)

    def _count_name(self, some: _Slice, ino: Ino, directory: Ino, kind: int) -> None:
        at = some.index(ino)
        if at < 0:
            self._findings.report("I2", f"inode {ino}", f"an entry of directory {directory} leads to it; no such inode")
            return
        some.names[at] += 1
        some.homes[at] ^= directory
        if some.kinds[at] not in (0, kind):
            message = f"an entry of directory {directory} says kind {kind:o}, its mode says {some.kinds[at]:o}"
            self._findings.report("I2", f"inode {ino}", message)
        if stat.S_ISDIR(kind):
            some.holders[ino] = directory

    async def _check_inodes(self, some: _Slice, start: bytes, end: bytes) -> tuple[int, int]:
        """Compare the inodes of a slice with their names; how many there are, and their bytes."""
        size = 0
        for at, (key, value) in enumerate(self._reader.scan(start, end)):
            await self._findings.step()
            inode = _inode_or_none(value)
            if inode is None:
                continue  # named by the check of space
            size += inode.allocated_bytes
            ino = keys.inode_ino(key)
            self._check_links(some, ino, inode, some.names[at])
            if not inode.is_directory and inode.home:
                self._check_home(ino, inode, some.homes[at])
            if inode.flags & InodeFlag.HAS_OBJECT and self._reader.get(keys.object_(ino)) is None:
                self._findings.report("I3", f"inode {ino}", "is marked as an object and has no Object record")
            if inode.flags & InodeFlag.HAS_SNAPSHOTS and held_by(self._reader, ino) is None:
                self._findings.report("I17", f"inode {ino}", "has snapshots, and nothing that holds them")
        for ino in some.trashed:
            if some.index(ino) < 0 or ino in some.orphans:
                self._findings.report("I3", f"inode {ino}", "is in the trash, and an orphan or not there")
        for ino in some.orphans:
            if some.index(ino) < 0:
                self._findings.report("I2", f"inode {ino}", "is marked as an orphan, and does not exist")
        return len(some.inos), size

    def _check_links(self, some: _Slice, ino: Ino, inode: Inode, found: int) -> None:
        subject, report = f"inode {ino}", self._findings.report
        if inode.nlink == 0 or (found == 0 and ino != ROOT_INO):
            if found:
                report("I3", subject, f"has {found} names and counts none")
            elif ino not in some.orphans and ino not in some.parts and ino not in some.trashed:
                report("I3", subject, "has no name and is neither an orphan nor in the trash nor a part of an upload")
            return
        if ino in some.orphans:
            report("I3", subject, "has a name and is marked as an orphan")
        if inode.name and partition_of(Ino(inode.parent)) in self._owned:
            entry = _dentry_or_none(self._reader.get(keys.dentry(Ino(inode.parent), inode.name)) or b"")
            if entry is None or entry.ino != ino:
                report("I3", subject, f"has no name {inode.name!r} in directory {inode.parent}, as it says it has")
        if not inode.is_directory:
            if inode.nlink != found:
                report("I3", subject, f"counts {inode.nlink} links, {found} names were found")
            return
        expected = 2 + some.subdirectories.get(ino, 0)
        if inode.nlink != expected:
            report("I3", subject, f"directory counts {inode.nlink} links, {expected} are right")
        if inode.size != some.entries.get(ino, 0):
            report("I3", subject, f"directory counts {inode.size} entries, it has {some.entries.get(ino, 0)}")
        if ino != ROOT_INO and (found != 1 or inode.parent != some.holders.get(ino)):
            report("I3", subject, f"directory has {found} names, and {inode.parent} as its parent")

    def _check_home(self, ino: Ino, inode: Inode, found: int) -> None:
        """Compare where a file is said to have names with where it has them (all together)."""
        homes = homes_of(self._reader, ino)
        noted = inode.home if inode.nlink == 1 else 0
        for directory, count in homes.items():
            noted ^= directory if count % 2 else 0
        if noted != found or inode.nlink == 0 or (inode.nlink > 1 and inode.home not in homes):
            names = ", ".join(f"{count} in {directory}" for directory, count in homes.items()) or "one"
            message = f"counts in directory {inode.home}, and is said to have names there: {names}; that is not so"
            self._findings.report("I18", f"inode {ino}", message)


def _inode_or_none(value: bytes) -> Inode | None:
    try:
        return decode_inode(value)
    except msgspec.MsgspecError:
        return None


def _version_or_none(key: bytes, value: bytes) -> Version | None:
    if not keys.is_version(key):
        return None
    try:
        return _decode_version(value)
    except msgspec.MsgspecError:
        return None


def _dentry_or_none(value: bytes) -> Dentry | None:
    try:
        return decode_dentry(value)
    except msgspec.MsgspecError:
        return None
