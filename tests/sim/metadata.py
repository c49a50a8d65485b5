"""A metadata store in memory with a root, and an oracle of its own for whether the metadata agrees with itself.

The oracle computes every derived field, count and back reference anew. It shares nothing with core/fsck.py, so that
neither hides what the other forgets.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from siltstone.engine.stripe.layout import checksums_bytes
from siltstone.meta import keys, space
from siltstone.meta.counters import partitions_in_use, read_counters
from siltstone.meta.extents import borrowed_key
from siltstone.meta.inodes import format_root, get_inode, orphans
from siltstone.meta.keys import Reference
from siltstone.meta.names import SNAPSHOTS_NAME, lookup
from siltstone.meta.records import (
    Counters,
    Extent,
    Inode,
    InodeFlag,
    Place,
    Version,
    decode,
    decode_dentry,
    decode_extent,
    decode_inode,
)
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Store
from siltstone.types import ROOT_INO, Ino, StripeId, partition_of, slab_of
from sim.backing import SimBacking
from sim.fake_log import FakeLog


def open_metadata(now_ns: int = 1) -> Store:
    """A store that holds a root directory."""
    store = Store(SimBacking())
    store.connect(FakeLog())
    transaction = store.begin()
    format_root(transaction, now_ns)
    transaction.commit()
    return store


def resolve(reader: Reader, path: bytes) -> tuple[Ino, Inode]:
    """Walk a path from the root; empty elements mean nothing. Raises what a lookup raises."""
    ino, inode = ROOT_INO, get_inode(reader, ROOT_INO)
    for name in path.split(b"/"):
        if name:
            ino, inode = lookup(reader, ino, name)
    return ino, inode


class Problem(NamedTuple):
    """One disagreement. ``subject`` names what it is about ("inode 257"), ``message`` what is wrong with it."""

    subject: str
    message: str


class _Seen:
    """What is known of one inode while its records go by."""

    __slots__ = ("allocated_bytes", "entries", "holder", "holders", "inode", "names", "subdirectories")

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.names = 0
        self.entries = 0
        self.subdirectories = 0
        self.allocated_bytes = 0
        self.holder: Ino | None = None
        """The directory whose entry was seen last."""
        self.holders: Counter[Ino] = Counter()
        """In which directories its names are."""


def check_metadata(reader: Reader) -> Iterator[Problem]:
    """Every disagreement in the metadata. The reader must not change meanwhile."""
    yield from check_names(reader)
    yield from check_space(reader)


def check_names(reader: Reader) -> Iterator[Problem]:
    """Every disagreement between names, inodes and lengths of extents: of all shards together, if there are some."""
    seen = {keys.inode_ino(key): _Seen(decode_inode(value)) for key, value in _scan_all(reader, keys.INODE)}
    if ROOT_INO not in seen:
        yield Problem("the root", "has no inode")
        return
    yield from _check_dentries(reader, seen)
    yield from _check_versions(reader, seen)
    yield from _check_extents(reader, seen)
    yield from _check_inodes(reader, seen)
    yield from _check_reachable(seen)
    yield from _check_homes(reader, seen)
    yield from _check_companions(reader, seen)
    yield from _check_counters(reader, seen)


def check_space(reader: Reader) -> Iterator[Problem]:
    """Every disagreement between extents, what refers to them, and stripes: of one shard, if there are several."""
    for key, value in _scan_all(reader, keys.EXTENT):
        ino, offset, extent = keys.inode_ino(key), keys.extent_offset(key), decode_extent(value)
        if extent.place in (Place.LOG, Place.STRIPE, Place.REMOTE):
            yield from _check_back_reference(reader, f"extent of inode {ino} at {offset}", ino, offset, extent)
    yield from _check_references(reader)
    yield from _check_borrowed(reader)
    yield from _check_stripes(reader)


def _scan_all(reader: Reader, kind: bytes) -> Iterator[tuple[bytes, bytes]]:
    for partition in partitions_in_use(reader):
        yield from reader.scan(*keys.prefix_range(keys.all_of(kind, partition)))


def _check_dentries(reader: Reader, seen: dict[Ino, _Seen]) -> Iterator[Problem]:
    for key, value in _scan_all(reader, keys.DENTRY):
        directory, name, entry = keys.inode_ino(key), keys.dentry_name(key), decode_dentry(value)
        subject = f"entry {name!r} of directory {directory}"
        holder, held = seen.get(directory), seen.get(Ino(entry.ino))
        if holder is None or not holder.inode.is_directory:
            yield Problem(subject, "is in a directory that does not exist")
            continue
        holder.entries += 1
        if held is None:
            yield Problem(subject, f"leads to inode {entry.ino}, which does not exist")
            continue
        if entry.kind != stat.S_IFMT(held.inode.mode):
            yield Problem(subject, f"says kind {entry.kind:o}, inode {entry.ino} has mode {held.inode.mode:o}")
        held.names += 1
        held.holder = directory
        held.holders[directory] += 1
        holder.subdirectories += held.inode.is_directory
        is_holder = name == SNAPSHOTS_NAME and bool(holder.inode.flags & InodeFlag.HAS_SNAPSHOTS)
        is_part = bool(holder.inode.flags & InodeFlag.SNAPSHOT) or is_holder
        if is_part != bool(held.inode.flags & InodeFlag.SNAPSHOT):
            yield Problem(subject, f"is {'' if is_part else 'not '}in a snapshot, the inode says otherwise")


def _check_versions(reader: Reader, seen: dict[Ino, _Seen]) -> Iterator[Problem]:
    nulls: dict[tuple[Ino, bytes], int] = {}
    pointers: dict[tuple[Ino, bytes], int] = {}
    for key, value in _scan_all(reader, keys.VERSION):
        directory, name = keys.inode_ino(key), keys.version_name(key)
        if not keys.is_version(key):
            pointers[directory, name] = int.from_bytes(value, "big")
            continue
        version, subject = decode(Version, value), f"version of {name!r} in directory {directory}"
        if directory not in seen or not seen[directory].inode.is_directory:
            yield Problem(subject, "is of a directory that does not exist")
        if not version.version_id:
            if (directory, name) in nulls:
                yield Problem(subject, "is a second null version")
            nulls[directory, name] = keys.version_order(key)
        if version.ino:
            held = seen.get(Ino(version.ino))
            if held is None or not held.inode.is_file:
                yield Problem(subject, f"leads to inode {version.ino}, which is no file")
            else:
                held.names += 1
                held.holder = directory
                held.holders[directory] += 1
    if nulls != pointers:
        yield Problem("null versions", f"are {nulls}, and found as {pointers}")


def _check_extents(reader: Reader, seen: dict[Ino, _Seen]) -> Iterator[Problem]:
    last_ino, last_end = Ino(0), 0
    for key, value in _scan_all(reader, keys.EXTENT):
        ino, offset, extent = keys.inode_ino(key), keys.extent_offset(key), decode_extent(value)
        subject = f"extent of inode {ino} at {offset}"
        if ino == last_ino and offset < last_end:
            yield Problem(subject, f"overlaps the one before it, which ends at {last_end}")
        last_ino, last_end = ino, offset + extent.length
        owner = seen.get(ino)
        if owner is None:
            yield Problem(subject, "is of an inode that does not exist")
            continue
        owner.allocated_bytes += extent.length
        if last_end > owner.inode.size:
            yield Problem(subject, f"ends at {last_end}, beyond the file's size {owner.inode.size}")
        if extent.length <= 0 or extent.place not in list(Place):
            yield Problem(subject, f"has length {extent.length} and place {extent.place}")
        elif extent.place == Place.INLINE and len(extent.blob) != extent.length:
            yield Problem(subject, f"holds {len(extent.blob)} bytes and says {extent.length}")


def _check_back_reference(reader: Reader, subject: str, ino: Ino, offset: int, extent: Extent) -> Iterator[Problem]:
    reference = Reference(extent.address, extent.skip, ino, offset)
    if extent.place == Place.LOG:
        key = keys.log_reference(reference)
        if extent.skip + extent.length > extent.span:
            yield Problem(subject, f"ends at {extent.skip + extent.length} of a payload of {extent.span} bytes")
    elif extent.place == Place.REMOTE:
        key = borrowed_key(ino, offset, extent)
    else:
        key = keys.stripe_reference(reference)
        stripe = space.get_stripe(reader, StripeId(extent.address))
        if stripe is None:
            yield Problem(subject, f"is in stripe {extent.address:x}, which does not exist")
        elif extent.skip + extent.length > stripe.data_bytes:
            yield Problem(subject, f"ends at {extent.skip + extent.length} of a stripe of {stripe.data_bytes} bytes")
    value = reader.get(key)
    if value is None:
        yield Problem(subject, "has no back reference")
    elif keys.decode_length(value) != extent.length:
        yield Problem(subject, f"has {extent.length} bytes, its back reference says {keys.decode_length(value)}")


def _check_inodes(reader: Reader, seen: dict[Ino, _Seen]) -> Iterator[Problem]:
    marked = set(orphans(reader))
    for ino in marked - seen.keys():
        yield Problem(f"orphan mark {ino}", "is of an inode that does not exist")
    trashed = {keys.trash_ino(key) for key, _ in reader.scan(b"p", b"q") if key[2:3] == keys.TRASH}
    for ino in trashed & marked | (trashed - seen.keys()):
        yield Problem(f"inode {ino}", "is in the trash, and an orphan or not there")
    marked |= trashed
    for ino, found in seen.items():
        inode, subject = found.inode, f"inode {ino}"
        if inode.is_directory:
            alive = found.names > 0 or ino == ROOT_INO
            links = 2 + found.subdirectories if alive else 0
            if found.names > (ino != ROOT_INO):
                yield Problem(subject, f"is a directory with {found.names} names")
            if inode.size != found.entries:
                yield Problem(subject, f"counts {inode.size} entries, there are {found.entries}")
            if alive and inode.parent != (found.holder or ROOT_INO):
                yield Problem(subject, f"names {inode.parent} as its parent, {found.holder} holds it")
        else:
            links = found.names
        if inode.nlink != links:
            yield Problem(subject, f"has link count {inode.nlink}, there are {links}")
        if (links == 0) != (ino in marked):
            yield Problem(subject, f"has {links} links and is {'' if ino in marked else 'not '}marked as an orphan")
        if inode.allocated_bytes != found.allocated_bytes:
            yield Problem(subject, f"counts {inode.allocated_bytes} bytes, its extents have {found.allocated_bytes}")
        if stat.S_ISLNK(inode.mode) and inode.size != len(inode.target):
            yield Problem(subject, f"is a symbolic link of {inode.size} bytes to {len(inode.target)} bytes")


def _check_homes(reader: Reader, seen: dict[Ino, _Seen]) -> Iterator[Problem]:
    """Where files count, and of those with several names, where these are."""
    homes: dict[Ino, Counter[Ino]] = {}
    for key, value in _scan_all(reader, keys.HOME):
        homes.setdefault(keys.inode_ino(key), Counter())[keys.home_directory(key)] = keys.decode_length(value)
    for ino, found in seen.items():
        if found.inode.is_directory:
            continue
        noted = homes.pop(ino, Counter())
        if found.inode.flags & InodeFlag.SNAPSHOT:
            if noted or found.inode.home:
                yield Problem(f"inode {ino}", "is in a snapshot, and counts")
            continue
        if noted != (found.holders if found.names > 1 else Counter()):
            yield Problem(f"inode {ino}", f"has names in {dict(found.holders)}, and notes {dict(noted)}")
        if found.inode.home not in (found.holders or {0: 1}):
            yield Problem(f"inode {ino}", f"counts in {found.inode.home}, and has names in {dict(found.holders)}")
    for ino in homes:
        yield Problem(f"homes of inode {ino}", "are of a file that does not exist")


def _check_reachable(seen: dict[Ino, _Seen]) -> Iterator[Problem]:
    """Directories that hold each other in a circle agree with themselves and hang on nothing."""
    reached = {ROOT_INO}
    for ino, found in seen.items():
        path: set[Ino] = set()
        step: Ino | None = ino if found.inode.is_directory else found.holder
        while step is not None and step not in reached and step not in path:
            path.add(step)
            step = seen[step].holder
        if step is not None and step in path:
            yield Problem(f"directory {step}", "is below itself, not below the root")
        reached |= path


def _check_companions(reader: Reader, seen: dict[Ino, _Seen]) -> Iterator[Problem]:
    """Records that belong to an inode: attributes, objects, buckets, uploads."""
    for kind, letter, flag in (
        ("extended attribute", keys.XATTR, InodeFlag.HAS_XATTRS),
        ("object", keys.OBJECT, InodeFlag.HAS_OBJECT),
        ("bucket", keys.BUCKET, None),
        ("bucket document", keys.BUCKET_DOCUMENT, None),
        ("upload", keys.UPLOAD, None),
    ):
        for key, _ in _scan_all(reader, letter):
            ino = keys.inode_ino(key)
            if ino not in seen:
                yield Problem(f"{kind} of inode {ino}", "is of an inode that does not exist")
            elif flag is not None and not seen[ino].inode.flags & flag:
                yield Problem(f"{kind} of inode {ino}", "is there, the inode's flag says that it is not")
    for ino, found in seen.items():
        if found.inode.flags & InodeFlag.HAS_OBJECT and reader.get(keys.object_(ino)) is None:
            yield Problem(f"inode {ino}", "has no object record, its flag says that it has")


def _check_references(reader: Reader) -> Iterator[Problem]:
    for prefix, place in ((keys.LOG_REFERENCES, Place.LOG), (keys.STRIPE_REFERENCES, Place.STRIPE)):
        for key, _ in reader.scan(*keys.prefix_range(prefix)):
            reference = keys.parse_reference(key)
            value = reader.get(keys.extent(reference.ino, reference.offset))
            extent = None if value is None else decode_extent(value)
            if extent is None or (extent.place, extent.address, extent.skip) != (place, *reference[:2]):
                yield Problem(
                    f"reference to {place.name.lower()} {reference.address:x}+{reference.skip}",
                    f"is of an extent of inode {reference.ino} at {reference.offset} that is not there",
                )


def _check_borrowed(reader: Reader) -> Iterator[Problem]:
    for key, _ in reader.scan(*keys.prefix_range(keys.BORROWED)):
        borrowed = keys.parse_borrowed(key)
        value = reader.get(keys.extent(borrowed.ino, borrowed.offset))
        extent = None if value is None else decode_extent(value)
        if extent is None or (extent.place, extent.span, extent.skip) != (Place.REMOTE, *borrowed[:2]):
            yield Problem(
                f"reference to byte {borrowed.lent_offset} of inode {borrowed.lent_ino} in another shard",
                f"is of an extent of inode {borrowed.ino} at {borrowed.offset} that is not there",
            )


def _check_stripes(reader: Reader) -> Iterator[Problem]:
    slabs = dict(space.slabs(reader))
    known: set[StripeId] = set()
    for stripe_id, stripe in space.stripes(reader):
        known.add(stripe_id)
        subject = f"stripe {stripe_id:x}"
        checksums = space.get_checksums(reader, stripe_id)
        slab = slabs.get(slab_of(stripe_id))
        if slab is None:
            yield Problem(subject, f"is in slab {slab_of(stripe_id)}, which does not exist")
        elif checksums is None or len(checksums) != checksums_bytes(slab, stripe):
            length = "no" if checksums is None else str(len(checksums))
            yield Problem(subject, f"has {length} bytes of checksums, not {checksums_bytes(slab, stripe)}")
        if not space.is_referenced(reader, stripe_id):
            yield Problem(subject, "holds nothing that is alive")
    for key, _ in reader.scan(*keys.prefix_range(keys.STRIPE_CHECKSUMS)):
        if keys.stripe_id(key) not in known:
            yield Problem(f"checksums of stripe {keys.stripe_id(key):x}", "are of a stripe that does not exist")


def _check_counters(reader: Reader, seen: dict[Ino, _Seen]) -> Iterator[Problem]:
    counted = {partition: read_counters(reader, partition) for partition in partitions_in_use(reader)}
    for partition in sorted(counted.keys() | {partition_of(ino) for ino in seen}):
        here = {ino: found.inode for ino, found in seen.items() if partition_of(ino) == partition}
        counters = counted.get(partition, Counters())
        found = Counters(
            len(here), sum(inode.allocated_bytes for inode in here.values()), max((ino >> 8 for ino in here), default=0)
        )
        if (counters.inodes, counters.bytes) != (found.inodes, found.bytes) or counters.serial < found.serial:
            yield Problem(f"counters of partition {partition}", f"are {counters}, the inodes say {found}")
