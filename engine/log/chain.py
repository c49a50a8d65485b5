"""Decide, from the segment files found on the disks that are up, what the log consists of. Pure.

The rules, and why they hold (docs/formats/log.md has the argument in full):

- An attempt at a segment takes an epoch above every one seen. Frames are written only after every disk of the segment
  has its header (*prepared*) and then its word that all have (*established*). So a segment that is established on no
  disk holds nothing, and one that is established anywhere has its epoch on every disk it lives on.
- The newest established segment is the head. Its header names all living segments before it with their ends: what else
  lies on the disks (attempts given up, tails of a disk that was away, copies of what was retired) is not the log.
- A segment is started only where everything before is durable. So a file's mere start proves a durable LSN.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from siltstone.engine.format.segment import Ancestor, Lineage, SegmentHeader, SegmentName
from siltstone.errors import LogDamaged
from siltstone.types import DiskId, Lsn


class FoundSegment(NamedTuple):
    """One segment file on one disk.

    ``header`` is None if there is no sound one that agrees with the name, or if the disk cannot read it
    (``is_readable``). ``has_frame``: a sound frame header stands where the first frame begins.
    """

    disk_id: DiskId
    name: SegmentName
    file_bytes: int
    header: SegmentHeader | None
    lineage: Lineage | None
    is_readable: bool
    has_frame: bool


class Link(NamedTuple):
    """A segment of the log. ``end`` is None for the head: it is to be found by reading.

    ``disks`` have a replica that is worth reading; on those in ``whole`` nothing before ``applied_lsn`` is missing.
    ``marked_lsn`` is the highest mark on any of them.
    """

    start: Lsn
    end: Lsn | None
    epoch: int
    file_bytes: int
    disks: tuple[DiskId, ...]
    whole: tuple[DiskId, ...]
    marked_lsn: Lsn


class ChainPlan(NamedTuple):
    """``links`` oldest first, the last is the head; files that are in no link are not the log.

    The log was durable at least up to ``durable_lsn``. No epoch up to ``epoch_seen`` may be used again.
    """

    links: tuple[Link, ...]
    durable_lsn: Lsn
    epoch_seen: int


def plan_chain(found: Sequence[FoundSegment], applied_lsn: Lsn) -> ChainPlan:
    """The log that these files hold, needed from ``applied_lsn`` on. Raises LogDamaged if a segment is absent."""
    groups: defaultdict[SegmentName, list[FoundSegment]] = defaultdict(list)
    for file in found:
        groups[file.name].append(file)
    established = {name: group for name, group in groups.items() if _is_established(group)}
    if not established:
        _require_readable(groups, SegmentName(Lsn(0), 0))
        raise LogDamaged(applied_lsn, f"no disk that is up has a log segment (wanted from LSN {applied_lsn})")
    head = max(established, key=lambda name: (name.epoch, name.start))
    _require_readable(groups, head)
    ancestors = [entry for entry in _ancestors(head, established) if SegmentName(entry.start, entry.epoch) in groups]
    links = [_link(groups[SegmentName(entry.start, entry.epoch)], entry.end, applied_lsn) for entry in ancestors]
    links = [link for link in links if link.disks]
    links.append(_link(groups[head], None, applied_lsn))
    _require_contiguous(links, applied_lsn)
    return ChainPlan(
        links=tuple(links),
        durable_lsn=Lsn(max(applied_lsn, links[-1].marked_lsn, *(name.start for name in groups))),
        epoch_seen=max(name.epoch for name in groups),
    )


def _is_established(group: Sequence[FoundSegment]) -> bool:
    return any(file.has_frame or (file.header is not None and file.header.is_established) for file in group)


def _require_readable(groups: Mapping[SegmentName, Sequence[FoundSegment]], head: SegmentName) -> None:
    """What cannot be read may be a newer head: never go on without it."""
    for name, group in groups.items():
        unreadable = [file.disk_id for file in group if not file.is_readable]
        if name.epoch > head.epoch and unreadable:
            raise LogDamaged(
                name.start,
                f"disks {unreadable} cannot read the header of the newest log segment (LSN {name.start}); bring back "
                "disks that are missing, or take these out",
            )


def _ancestors(head: SegmentName, established: dict[SegmentName, list[FoundSegment]]) -> list[Ancestor]:
    """What the head's lineage says; where it is cut or unreadable, the rest by the order of epochs."""
    lineages = [file.lineage for file in established[head] if file.header is not None and file.lineage is not None]
    lineage = lineages[0] if lineages else Lineage((), is_cut=True)
    if not lineage.is_cut:
        return list(lineage.ancestors)
    oldest = lineage.ancestors[0] if lineage.ancestors else Ancestor(head.start, head.start, head.epoch)
    older: list[Ancestor] = []
    start = oldest.start
    for name in sorted(established, key=lambda name: (name.epoch, name.start), reverse=True):
        if name.epoch < oldest.epoch and name.start < start:
            older.append(Ancestor(name.start, start, name.epoch))
            start = name.start
    return [*reversed(older), *lineage.ancestors]


def _link(group: Sequence[FoundSegment], end: Lsn | None, applied_lsn: Lsn) -> Link:
    """Choose the replicas of one segment.

    What is read frame by frame, from ``applied_lsn`` on, is mended as it is read: there every replica is welcome but
    one that was only prepared (an attempt given up, on a disk that was away). What is not read must be vouched for: an
    earlier recovery may have lengthened the segment while a disk was away, and then it marked the others. So once any
    replica is marked as far as that, one that is not does not count.
    """
    start, epoch = group[0].name
    vouched_lsn = applied_lsn if end is None else min(end, applied_lsn)
    replicas = [file for file in group if _is_worth_reading(file)]
    marked = [file for file in replicas if file.header is not None and file.header.marked_lsn >= vouched_lsn]
    whole = replicas if vouched_lsn <= start else marked or replicas
    return Link(
        start=start,
        end=end,
        epoch=epoch,
        file_bytes=max(file.file_bytes for file in group),
        disks=tuple(sorted(file.disk_id for file in replicas)),
        whole=tuple(sorted(file.disk_id for file in whole)),
        marked_lsn=max((file.header.marked_lsn for file in replicas if file.header is not None), default=start),
    )


def _is_worth_reading(file: FoundSegment) -> bool:
    return file.has_frame or file.header is None or file.header.is_established


def _require_contiguous(links: Sequence[Link], applied_lsn: Lsn) -> None:
    """Everything from ``applied_lsn`` to the head's start must be in some link."""
    position = applied_lsn
    for link in links:
        end = links[-1].start if link.end is None else link.end
        if link.start <= position:
            position = max(position, end)
    if position < links[-1].start:
        raise LogDamaged(position, f"the log from LSN {position} on is on no disk that is up, and it was durable")
