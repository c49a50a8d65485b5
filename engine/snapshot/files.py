"""Which snapshots there are, and on which disks: found, written, copied to other disks, dropped.

The files are all that is known: nothing about them is written anywhere else, so a restart finds what there is by
looking, and so does whoever has nothing but the disks. One that has its name is whole, since it got that last.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from siltstone.engine.format.snapshot import (
    SNAPSHOT_HEADER_BYTES,
    SNAPSHOT_PREFIX,
    Footer,
    SnapshotHeader,
    SnapshotKind,
    SnapshotName,
    frame_seed,
    is_unfinished,
    pack_body,
    pack_footer,
    pack_frame,
    pack_header,
    parse_header,
    parse_name,
    unfinished_name,
)
from siltstone.engine.pool import Pool
from siltstone.engine.replicas import ReplicasChecked
from siltstone.engine.snapshot.copies import CopyReader, Snapshot
from siltstone.errors import Corrupt, DiskError, NoSpace, TooFewDisks
from siltstone.limits import MIB
from siltstone.ports import DiskRead, DiskWrite, Lane, Random, Workers
from siltstone.types import DiskId, Lsn

WRITE_BYTES = 1 * MIB
"""Frames are gathered up to this, written and flushed together, so that nothing waits long behind them."""


class SnapshotFiles:
    """The snapshots of a volume on the disks of its pool. ``copies``: how many each should have; fewer than ``minimum``
    do not count."""

    def __init__(
        self, pool: Pool, random: Random, workers: Workers, *, volume_uuid: bytes, copies: int, minimum: int
    ) -> None:
        assert 1 <= minimum <= copies
        self._pool = pool
        self._random = random
        self._workers = workers
        self._volume_uuid = volume_uuid
        self.copies = copies
        self.minimum = minimum
        self._in_hand: set[str] = set()
        self._changing = trio.Lock()
        """Held while names come and go: a file is not taken for a stray between two steps."""
        self.snapshots: list[Snapshot] = []

    # --- what there is ---------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Find what is on the disks that are up, and delete what was being written when a process ended."""
        async with self._changing:
            for disk_id in self._pool.up():
                try:
                    await self._look_at(disk_id)
                except DiskError as error:
                    self._pool.report(error)

    async def _look_at(self, disk_id: DiskId) -> None:
        disk = self._pool.disk(disk_id)
        entries = {entry.name: entry for entry in await disk.list(SNAPSHOT_PREFIX)}
        known = {str(snapshot.name): snapshot for snapshot in self.snapshots}
        for snapshot in self.snapshots:
            if disk_id in snapshot.disks and str(snapshot.name) not in entries:
                snapshot.disks.remove(disk_id)
        for name, entry in entries.items():
            parsed = parse_name(name)
            if parsed is not None and name not in known:
                created_ns = await self._created_ns(disk_id, name)
                self.snapshots.append(Snapshot(parsed, entry.size, [disk_id], created_ns))
            elif parsed is not None and disk_id not in known[name].disks:
                known[name].disks.append(disk_id)
                known[name].is_verified = known[name].is_rotten = False
        self.snapshots = [snapshot for snapshot in self.snapshots if snapshot.disks]
        for name in entries:
            if is_unfinished(name) and name not in self._in_hand:
                await disk.delete(name)

    async def _created_ns(self, disk_id: DiskId, name: str) -> int:
        read = DiskRead(self._pool.disk(disk_id), name, 0, SNAPSHOT_HEADER_BYTES)
        (page,) = await self._pool.fanout.read([read], Lane.BULK)
        header = parse_header(page) if isinstance(page, bytes) else None
        return header.created_ns if header is not None and header.volume_uuid == self._volume_uuid else 0

    def is_safe(self, snapshot: Snapshot) -> bool:
        """Whether it is on as many disks that are up and stay as it must be at least, and not known to be rotten."""
        return not snapshot.is_rotten and sum(map(self._pool.is_placeable, snapshot.disks)) >= self.minimum

    def is_degraded(self, snapshot: Snapshot) -> bool:
        """Whether it has fewer copies on disks that are up and stay than it should have."""
        return sum(map(self._pool.is_placeable, snapshot.disks)) < self.copies

    # --- making one ------------------------------------------------------------------------------------------------

    async def begin(self, kind: SnapshotKind, start: Lsn, *, created_ns: int, size: int) -> SnapshotWriter:
        """Start a snapshot that will take ``size`` bytes, about. Raises TooFewDisks, NoSpace."""
        disks = self._with_room(size)
        header = SnapshotHeader(
            kind, int.from_bytes(self._random.bytes(4), "little"), self._volume_uuid, start, created_ns
        )
        writer = SnapshotWriter(self._pool, self._workers, header, disks, self.minimum)
        self._in_hand.add(writer.file)
        try:
            await writer.open()
        except BaseException:
            await self.give_up(writer)
            raise
        return writer

    async def finish(self, writer: SnapshotWriter, end: Lsn) -> Snapshot:
        """End it, read it back from every disk, and give it its name; it counts from here on.

        Raises TooFewDisks when it is not whole on enough disks; then it is gone.
        """
        try:
            await writer.close(end)
            snapshot = Snapshot(writer.name(end), writer.size, list(writer.disks), writer.created_ns, is_verified=True)
            await self._read_back(writer.file, snapshot)
            async with self._changing:
                await self._rename(writer.file, snapshot)
                self.snapshots.append(snapshot)
        except BaseException:
            await self.give_up(writer)
            raise
        self._in_hand.discard(writer.file)
        return snapshot

    async def give_up(self, writer: SnapshotWriter) -> None:
        """Take away what was written of one. Cut short, it is left to the next look at the disks."""
        self._in_hand.discard(writer.file)
        await self._delete(writer.file, writer.begun, writer.size)

    async def _read_back(self, file: str, snapshot: Snapshot) -> None:
        """Look at every copy of what was written; those that are not whole do not count. Raises TooFewDisks."""
        reader = CopyReader(self._pool, self._volume_uuid, snapshot, mend=True, file=file)
        try:
            while not (await reader.next_packed())[0].is_footer:
                pass
        except Corrupt as error:
            raise TooFewDisks(f"a snapshot cannot be read back: {error}") from error
        wrong = reader.checked.missing | reader.checked.unmended_bytes.keys()
        snapshot.disks = [disk_id for disk_id in snapshot.disks if disk_id not in wrong]
        self._require_safe(snapshot)

    async def _rename(self, file: str, snapshot: Snapshot) -> None:
        renamed: list[DiskId] = []
        with trio.CancelScope(shield=True):
            for disk_id in snapshot.disks:
                try:
                    await self._pool.disk(disk_id).rename(file, str(snapshot.name))
                    renamed.append(disk_id)
                except DiskError as error:
                    self._pool.report(error)
            snapshot.disks = renamed
            try:
                self._require_safe(snapshot)
            except TooFewDisks:
                await self._delete(str(snapshot.name), renamed, snapshot.size)
                raise

    def _require_safe(self, snapshot: Snapshot) -> None:
        if not self.is_safe(snapshot):
            raise TooFewDisks(
                f"a snapshot of the metadata is whole on {len(snapshot.disks)} disks, it must be on {self.minimum}"
            )

    def _with_room(self, size: int) -> list[DiskId]:
        placeable = self._pool.choose(len(self._pool.status()))
        if len(placeable) < self.minimum:
            raise TooFewDisks(f"a snapshot needs {self.minimum} disks that work, there are {len(placeable)}")
        fitting = [disk_id for disk_id in placeable if self._free_bytes(disk_id) >= size]
        if len(fitting) < self.minimum:
            raise NoSpace(f"{len(fitting)} disks have room for a snapshot of {size} bytes, it needs {self.minimum}")
        return fitting[: self.copies]

    def _free_bytes(self, disk_id: DiskId) -> int:
        status = self._pool.status_of(disk_id)
        return 0 if status.space is None else status.space.free_bytes - status.taken_bytes

    # --- keeping them ----------------------------------------------------------------------------------------------

    def reader(self, snapshot: Snapshot) -> CopyReader:
        """Read one from the beginning, each frame from any copy that has it whole."""
        return CopyReader(self._pool, self._volume_uuid, snapshot)

    async def read_through(self, snapshot: Snapshot) -> None:
        """Read one to its end; raises Corrupt when some frame is whole on no disk that is up."""
        reader = self.reader(snapshot)
        while await reader.next_frame() is not None:
            pass

    async def check(self, snapshot: Snapshot) -> ReplicasChecked:
        """Read every copy on disks that are up, and mend what differs. Raises Corrupt when no copy has some frame."""
        reader = CopyReader(self._pool, self._volume_uuid, snapshot, mend=True)
        try:
            while not (await reader.next_packed())[0].is_footer:
                pass
        except Corrupt:
            snapshot.is_rotten = True
            raise
        snapshot.is_rotten = False
        lacking = reader.checked.missing
        snapshot.disks = [disk_id for disk_id in snapshot.disks if disk_id not in lacking]
        up = {disk_id for disk_id in snapshot.disks if self._pool.is_up(disk_id)}
        snapshot.is_verified = (
            bool(up) and up <= reader.checked.read_bytes.keys() - reader.checked.unmended_bytes.keys()
        )
        return reader.checked

    async def drop(self, snapshots: Iterable[Snapshot]) -> None:
        """Delete some: nobody needs them any more. Copies on disks that are away are found when those return."""
        async with self._changing:
            for snapshot in list(snapshots):
                await self._delete(str(snapshot.name), snapshot.disks, snapshot.size)
                self.snapshots.remove(snapshot)

    async def heal(self) -> None:
        """Bring every snapshot to its number of copies on disks that stay, as far as there are some, and take it off
        those that do not."""
        for snapshot in list(self.snapshots):
            await self._replicate(snapshot)

    async def _replicate(self, snapshot: Snapshot) -> None:
        lacking = self.copies - sum(map(self._pool.is_placeable, snapshot.disks))
        if lacking > 0 and any(map(self._pool.is_up, snapshot.disks)):
            others = self._pool.choose(len(self._pool.status()), exclude=snapshot.disks)
            targets = [disk_id for disk_id in others if self._free_bytes(disk_id) >= snapshot.size]
            for target in targets[:lacking]:
                try:
                    await self._copy(snapshot, target)
                except DiskError as error:
                    self._pool.report(error)
                    return
                except Corrupt:
                    return  # scrubbing says so, and another is taken
        async with self._changing:
            staying = [disk_id for disk_id in snapshot.disks if self._pool.is_placeable(disk_id)]
            if len(staying) >= self.copies:
                # Copies too many, or on disks that leave or are away: those that return are looked at again.
                staying = staying[: self.copies]
                leaving = [disk_id for disk_id in snapshot.disks if disk_id not in staying]
                snapshot.disks = staying
                await self._delete(str(snapshot.name), leaving, snapshot.size)

    async def _copy(self, snapshot: Snapshot, target: DiskId) -> None:
        """Write a further copy, frame by frame from whichever has each whole; raises DiskError, Corrupt."""
        name, disk = snapshot.name, self._pool.disk(target)
        reader = self.reader(snapshot)
        packed = await reader.next_packed()
        header = SnapshotHeader(name.kind, name.serial, self._volume_uuid, name.start, snapshot.created_ns)
        writer = SnapshotWriter(self._pool, self._workers, header, [target], 1)
        self._in_hand.add(writer.file)
        try:
            await writer.open()
            while not packed[0].is_footer:
                await writer.add_packed(packed[1])
                packed = await reader.next_packed()
            await writer.close_packed(packed[1])
            async with self._changing:
                if snapshot in self.snapshots:
                    await disk.rename(writer.file, str(name))
                    snapshot.disks.append(target)
        except TooFewDisks as error:
            raise DiskError(target, "write", writer.file, str(error)) from error
        finally:
            if target not in snapshot.disks:
                await self.give_up(writer)
            self._in_hand.discard(writer.file)

    async def _delete(self, name: str, disks: Iterable[DiskId], size: int) -> None:
        for disk_id in disks:
            if self._pool.is_up(disk_id):
                try:
                    await self._pool.disk(disk_id).delete(name)
                    self._pool.note_taken(disk_id, -size)
                except DiskError as error:
                    self._pool.report(error)


class SnapshotWriter:
    """One snapshot while it is written, side by side on its disks. A disk that fails is left out."""

    def __init__(self, pool: Pool, workers: Workers, header: SnapshotHeader, disks: list[DiskId], minimum: int) -> None:
        self._pool = pool
        self._workers = workers
        self._header = header
        self._seed = frame_seed(header)
        self._minimum = minimum
        self.file = unfinished_name(header.serial)
        self.begun = list(disks)
        self.disks = list(disks)
        self.size = 0
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._frames = self._items = self._raw_bytes = 0

    @property
    def created_ns(self) -> int:
        """When it was begun."""
        return self._header.created_ns

    def name(self, end: Lsn) -> SnapshotName:
        """Its name, once it is whole."""
        return SnapshotName(self._header.kind, self._header.start, end, self._header.serial)

    async def open(self) -> None:
        """Make the files. Raises TooFewDisks."""
        for disk_id in list(self.disks):
            try:
                await self._pool.disk(disk_id).create(self.file, SNAPSHOT_HEADER_BYTES)
            except DiskError as error:
                self._leave_out(disk_id, error)
        self._check_disks()
        self._gather(pack_header(self._header))

    async def add(self, body: bytes, items: int) -> None:
        """Add a frame of so many keys or batches. Raises TooFewDisks when too many disks have failed."""
        codec, stored = await self._workers.run(pack_body, body)
        frame = pack_frame(self._frames, items, len(body), codec, stored, self._seed)
        self._frames += 1
        self._items += items
        self._raw_bytes += len(body)
        await self.add_packed(frame)

    async def close(self, end: Lsn) -> None:
        """Add the footer; all of it is durable on return. Raises TooFewDisks."""
        footer = Footer(self._frames, self._items, self._raw_bytes, self._header.start, end)
        await self.close_packed(pack_footer(footer, self._seed))

    async def add_packed(self, frame: bytes) -> None:
        """Add a frame as it stands in another copy."""
        self._gather(frame)
        if self._gathered_bytes >= WRITE_BYTES:
            await self._write()

    async def close_packed(self, footer: bytes) -> None:
        """Add the footer as it stands in another copy; all is durable on return."""
        self._gather(footer)
        await self._write()

    def _gather(self, data: bytes) -> None:
        self._gathered.append(data)
        self._gathered_bytes += len(data)

    async def _write(self) -> None:
        buffers, self._gathered = self._gathered, []
        up = [disk_id for disk_id in self.disks if self._pool.is_up(disk_id)]
        writes = [DiskWrite(self._pool.disk(disk_id), self.file, self.size, buffers) for disk_id in up]
        errors = dict(zip(up, await self._pool.write_durable(writes), strict=True))
        for disk_id in list(self.disks):
            if disk_id not in errors or errors[disk_id] is not None:
                self.disks.remove(disk_id)
            else:
                self._pool.note_taken(disk_id, self._gathered_bytes)
        self.size += self._gathered_bytes
        self._gathered_bytes = 0
        self._check_disks()

    def _leave_out(self, disk_id: DiskId, error: DiskError) -> None:
        self._pool.report(error)
        self.disks.remove(disk_id)

    def _check_disks(self) -> None:
        if len(self.disks) < self._minimum:
            raise TooFewDisks(f"a snapshot must be on {self._minimum} disks, it can be written on {len(self.disks)}")
