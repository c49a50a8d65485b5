"""What a look at all replicas of something found: of a piece of the log, or of a snapshot of the metadata."""

from __future__ import annotations

from dataclasses import dataclass, field

from siltstone.types import DiskId


@dataclass
class ReplicasChecked:
    """Bytes by disk: read everywhere, mended and unmended on those that differed or could not be read.

    ``missing``: disks on which the file is not there.
    """

    read_bytes: dict[DiskId, int] = field(default_factory=dict)
    mended_bytes: dict[DiskId, int] = field(default_factory=dict)
    unmended_bytes: dict[DiskId, int] = field(default_factory=dict)
    missing: set[DiskId] = field(default_factory=set)
