"""What several shards of a volume tell, as one. Pure.

All are on the same disks: what these have free is there once, what each shard has in slabs of its own adds up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from siltstone.config import VolumeConfig
from siltstone.core.mover import MoveStatus
from siltstone.core.relocate import RelocateStatus
from siltstone.core.scrub_report import ScrubStatus, sum_of_reports
from siltstone.core.snapshots import SnapshotStatus
from siltstone.core.status import DiskReport, VolumeStatus, WriteAmplification
from siltstone.core.types import VolumeSpace
from siltstone.engine.pool import DiskState
from siltstone.engine.stripe.store import Tier
from siltstone.types import ShardId

S = TypeVar("S", bound=msgspec.Struct)

_WORSE = [state.value for state in (DiskState.UP, DiskState.NEW, DiskState.DRAINING, DiskState.SUSPECT)] + [
    DiskState.MISSING.value,
    DiskState.FAILED.value,
]
"""States of a disk, the worst last."""

_OF_THE_FIRST = {"log_lsn", "log_durable_lsn", "log_applied_lsn"}
"""Each shard has a log of its own: these are the first's."""


def room_of_all(parts: Sequence[tuple[int, int]]) -> int:
    """What can be written in all: of each shard what it alone could, and how much of that is in its own slabs."""
    shared = min(total - min(own, total) for total, own in parts)
    return shared + sum(min(own, total) for total, own in parts)


def sum_of_spaces(spaces: Sequence[VolumeSpace]) -> VolumeSpace:
    """Room of a volume."""
    return VolumeSpace(
        total_bytes=max(space.total_bytes for space in spaces),
        free_bytes=room_of_all([(space.free_bytes, space.in_slabs_bytes) for space in spaces]),
        available_bytes=room_of_all([(space.available_bytes, space.in_slabs_bytes) for space in spaces]),
        inodes=sum(space.inodes for space in spaces),
        in_slabs_bytes=sum(space.in_slabs_bytes for space in spaces),
        inodes_max=sum(space.inodes_max for space in spaces),
    )


def sum_of_statuses(config: VolumeConfig, statuses: Mapping[ShardId, VolumeStatus]) -> VolumeStatus:
    """The status of a volume. Of one shard it is what that says."""
    parts = list(statuses.values())
    if len(parts) == 1:
        return parts[0]
    fields = {
        name: getattr(parts[0], name) if name in _OF_THE_FIRST else sum(getattr(part, name) for part in parts)
        for name, value in msgspec.structs.asdict(parts[0]).items()
        if isinstance(value, int | float)
    }
    redundancy = (config.data_units + config.parity_units) / config.data_units
    live, log_live = fields["live_bytes"] * redundancy, fields["log_live_bytes"] * config.log_replicas
    raw, log_raw = fields["raw_used_bytes"], fields["log_raw_bytes"]
    stored = fields["stripe_raw_bytes"] + log_raw
    fields |= {
        "utilisation": _share(live, raw),
        "utilisation_with_log": _share(live + log_live, raw + log_raw),
        "space_amplification": round(stored / fields["file_bytes"], 3) if fields["file_bytes"] else 0.0,
        "usable_total_bytes": max(part.usable_total_bytes for part in parts),
        "usable_free_bytes": room_of_all([(part.usable_free_bytes, part.in_slabs_bytes) for part in parts]),
        "available_bytes": room_of_all([(part.available_bytes, part.in_slabs_bytes) for part in parts]),
        "throttled_seconds": round(fields["throttled_seconds"], 3),
        "log_is_degraded": any(part.log_is_degraded for part in parts),
    }
    rest: dict[str, Any] = {
        "codec": min((part.codec for part in parts), key=lambda codec: codec != "zfec"),
        "write_amplification": _amplification(config, [part.write_amplification for part in parts]),
        "disks": _disks(statuses),
        "scrub": _scrub([part.scrub for part in parts]),
        "moves": _moves({shard: part.moves for shard, part in statuses.items()}),
        "relocation": _relocation({shard: part.relocation for shard, part in statuses.items()}),
        "snapshots": _snapshots([part.snapshots for part in parts]),
        "warnings": _said({shard: part.warnings for shard, part in statuses.items()}),
    }
    return VolumeStatus(**fields, **rest)


def _share(useful: float, taken: float) -> float:
    return round(useful / taken, 4) if taken else 1.0


def _said(by_shard: Mapping[ShardId, Iterable[str]]) -> list[str]:
    """Sentences, each once; those that not all say with the shards that do."""
    who: dict[str, list[ShardId]] = {}
    for shard, sentences in by_shard.items():
        for sentence in sentences:
            if shard not in who.setdefault(sentence, []):
                who[sentence].append(shard)
    return [
        sentence if len(shards) == len(by_shard) else f"shard {', '.join(map(str, shards))}: {sentence}"
        for sentence, shards in who.items()
    ]


def _joined(by_shard: Mapping[ShardId, str]) -> str:
    return "; ".join(_said({shard: [text] if text else [] for shard, text in by_shard.items()}))


def _summed(parts: Sequence[S], names: Iterable[str]) -> dict[str, Any]:
    return {name: sum(getattr(part, name) for part in parts) for name in names}


def _amplification(config: VolumeConfig, parts: Sequence[WriteAmplification]) -> WriteAmplification:
    summed = _summed(parts, ["user_bytes", "logged_bytes", "log_bytes"])
    by_tier = {tier: sum(part.stripe_bytes.get(tier, 0) for part in parts) for tier in parts[0].stripe_bytes}
    written = summed["log_bytes"] + sum(by_tier.values())
    redundancy = (config.data_units + config.parity_units) / config.data_units
    user = summed["user_bytes"]
    needed = config.log_replicas * summed["logged_bytes"] + redundancy * user
    return WriteAmplification(
        **summed,
        stripe_bytes=by_tier,
        total=round(written / user, 3) if user else 0.0,
        engine=round((written - by_tier[Tier.MOVE.value]) / needed, 3) if user else 0.0,
    )


def _disks(statuses: Mapping[ShardId, VolumeStatus]) -> list[DiskReport]:
    """Each disk in the worst state that a shard sees it in."""
    seen: dict[int, list[tuple[ShardId, DiskReport]]] = {}
    for shard, status in statuses.items():
        for disk in status.disks:
            seen.setdefault(disk.disk_id, []).append((shard, disk))
    return [_disk(seen[disk_id], len(statuses)) for disk_id in sorted(seen)]


def _disk(seen: Sequence[tuple[ShardId, DiskReport]], shards: int) -> DiskReport:
    shard, worst = max(seen, key=lambda each: _WORSE.index(each[1].state))
    is_agreed = len(seen) == shards and all(disk.state == worst.state for _, disk in seen)
    reason = worst.reason if is_agreed or not worst.reason else f"shard {shard}: {worst.reason}"
    reports = [disk for _, disk in seen]
    return msgspec.structs.replace(
        worst,
        reason=reason,
        total_bytes=max(disk.total_bytes for disk in reports),
        free_bytes=min(disk.free_bytes for disk in reports),
        **_summed(reports, ["errors", "mismatches"]),
    )


def _scrub(parts: Sequence[ScrubStatus]) -> ScrubStatus:
    reports = [part.report for part in parts if part.report is not None]
    return ScrubStatus(
        is_running=any(part.is_running for part in parts),
        **_summed(parts, ["done_bytes", "total_bytes", "bytes_per_second"]),
        seconds_left=max((part.seconds_left for part in parts if part.seconds_left is not None), default=None),
        report=sum_of_reports(reports) if reports else None,
        last_error="; ".join(dict.fromkeys(part.last_error for part in parts if part.last_error)),
    )


def _moves(by_shard: Mapping[ShardId, MoveStatus]) -> MoveStatus:
    parts = list(by_shard.values())
    shown = next((part for part in parts if part.kind), parts[0])
    return msgspec.structs.replace(
        shown,
        **_summed(parts, ["units_left", "done_bytes", "total_bytes", "bytes_per_second", "unreadable_stripes"]),
        seconds_left=max((part.seconds_left for part in parts if part.seconds_left is not None), default=None),
        since_ns=min((part.since_ns for part in parts if part.kind), default=shown.since_ns),
        waiting=_joined({shard: part.waiting for shard, part in by_shard.items()}),
        last_error=_joined({shard: part.last_error for shard, part in by_shard.items()}),
    )


def _relocation(by_shard: Mapping[ShardId, RelocateStatus]) -> RelocateStatus:
    parts = list(by_shard.values())
    names = [name for name in RelocateStatus.__struct_fields__ if name != "last_error"]
    last_error = _joined({shard: part.last_error for shard, part in by_shard.items()})
    return RelocateStatus(**_summed(parts, names), last_error=last_error)


def _snapshots(parts: Sequence[SnapshotStatus]) -> SnapshotStatus:
    """Sizes are of all shards; ``newest_created_ns`` and ``newest_copies`` of the shard that is worst off, the LSNs of
    the first."""
    names = ["newest_bytes", "increments", "increment_bytes", "stored_bytes", "done_bytes", "total_bytes"]
    summed = _summed(parts, [*names, "taken", "taken_increments"])
    created = [part.newest_created_ns for part in parts if part.newest_created_ns]
    return msgspec.structs.replace(
        parts[0],
        **summed,
        newest_created_ns=min(created, default=0),
        newest_copies=min((part.newest_copies for part in parts if part.newest_created_ns), default=0),
        is_degraded=any(part.is_degraded for part in parts),
        is_running=any(part.is_running for part in parts),
    )
