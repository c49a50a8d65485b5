"""What is said to be in each directory tree, against what is there; and whether quotas are of directories (I19)."""

from __future__ import annotations

import msgspec

from siltstone.core.check.findings import Findings
from siltstone.core.volume import Volume
from siltstone.limits import PARTITION_COUNT
from siltstone.meta import keys
from siltstone.meta.records import Quota, Usage, decode_inode
from siltstone.meta.usage_count import UsageCount
from siltstone.types import Ino, PartitionId

_decode_quota = msgspec.msgpack.Decoder(Quota).decode


async def check_usage(volume: Volume, findings: Findings) -> None:
    """Count everything in a volume of one shard anew. Where usage is not known there is nothing to check."""
    kept = volume.ledger.usage
    if not kept.is_known:
        return
    reader = volume.ledger.store
    count = UsageCount()
    for partition in map(PartitionId, range(PARTITION_COUNT)):
        for key, value in reader.scan(*keys.prefix_range(keys.all_of(keys.INODE, partition))):
            await findings.step()
            try:
                count.add(keys.inode_ino(key), decode_inode(value))
            except msgspec.MsgspecError:
                continue  # named by the check of space
    right: set[Ino] = set()
    for ino, usage in count.usages():
        await findings.step()
        right.add(ino)
        if (found := kept.usage(ino)) != usage:
            findings.report("I19", f"inode {ino}", f"is said to hold {_said(found)}; {_said(usage)} are right")
    for partition in map(PartitionId, range(PARTITION_COUNT)):
        for kind in (keys.USAGE, keys.QUOTA):
            for key, value in reader.scan(*keys.prefix_range(keys.all_of(kind, partition))):
                await findings.step()
                if kind == keys.QUOTA:
                    quota = findings.parsed(key, value, _decode_quota)
                    if quota is not None and quota != kept.quotas.get(keys.inode_ino(key)):
                        findings.report("I19", f"inode {keys.inode_ino(key)}", "has a quota that nobody heeds")
                if keys.inode_ino(key) not in right and not kept.is_removed(keys.inode_ino(key)):
                    message = "has a record of usage or a quota, and is no directory"
                    findings.report("I19", f"inode {keys.inode_ino(key)}", message)


def _said(usage: Usage) -> str:
    return f"{usage.bytes} bytes, {usage.files} files and {usage.directories} directories"
