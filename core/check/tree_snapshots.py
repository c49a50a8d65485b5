"""What hangs on the tops of snapshots of trees, and on the directories that have them (I17)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from siltstone.core.check.findings import Findings
from siltstone.meta import keys
from siltstone.meta.names import SNAPSHOTS_NAME
from siltstone.meta.records import Inode, InodeFlag, TreeSnapshot, decode_dentry, decode_inode
from siltstone.meta.store.port import Reader
from siltstone.types import Ino, PartitionId

_decode_snapshot = msgspec.msgpack.Decoder(TreeSnapshot).decode


async def check_tree_snapshots(reader: Reader, owned: Sequence[PartitionId], findings: Findings) -> None:
    """Whether each record is of a top, in what holds the snapshots of a directory, and each top has one."""
    for partition in owned:
        tops: Counter[Ino] = Counter()
        for key, value in reader.scan(*keys.prefix_range(keys.all_of(keys.TREE_SNAPSHOT, partition))):
            await findings.step()
            findings.parsed(key, value, _decode_snapshot)
            ino = keys.inode_ino(key)
            top = _inode(reader, ino)
            if top is None or not _is_part(top):
                findings.report("I17", f"inode {ino}", "has the record of a snapshot, and is no directory of one")
            else:
                tops[Ino(top.parent)] += 1
        for holder, count in tops.items():
            await findings.step()
            inode = _inode(reader, holder)
            if inode is None or not _is_part(inode) or held_by(reader, Ino(inode.parent)) != holder:
                findings.report("I17", f"inode {holder}", "has snapshots as its entries, and does not hold any")
            elif inode.size != count:
                message = f"holds {inode.size} snapshots, of which {count} have a record"
                findings.report("I17", f"inode {holder}", message)


def held_by(reader: Reader, directory: Ino) -> Ino | None:
    """What holds a directory's snapshots, if it says that it has any, and there is such a thing."""
    inode = _inode(reader, directory)
    if inode is None or not inode.flags & InodeFlag.HAS_SNAPSHOTS:
        return None
    value = reader.get(keys.dentry(directory, SNAPSHOTS_NAME))
    try:
        holder = None if value is None else Ino(decode_dentry(value).ino)
    except msgspec.MsgspecError:
        return None
    held = None if holder is None else _inode(reader, holder)
    return holder if held is not None and _is_part(held) else None


def _is_part(inode: Inode) -> bool:
    return inode.is_directory and bool(inode.flags & InodeFlag.SNAPSHOT)


def _inode(reader: Reader, ino: Ino) -> Inode | None:
    value = reader.get(keys.inode(ino))
    try:
        return None if value is None else decode_inode(value)
    except msgspec.MsgspecError:
        return None  # named by the check of space
