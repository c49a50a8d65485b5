"""A snapshot on the disks, and reading it from whichever copy has each frame whole.

Copies are the same byte by byte, so a frame that one lacks can be written to it from another at the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from siltstone.engine.format.snapshot import (
    FRAME_HEADER_BYTES,
    SNAPSHOT_HEADER_BYTES,
    Footer,
    FrameHeader,
    SnapshotHeader,
    SnapshotName,
    frame_seed,
    is_sound,
    pack_header,
    parse_footer,
    parse_frame_header,
    parse_header,
    unpack_body,
)
from siltstone.engine.pool import Pool
from siltstone.engine.replicas import ReplicasChecked
from siltstone.errors import Corrupt, DiskError, FileMissing, FormatInvalid
from siltstone.ports import DiskRead, DiskWrite, Lane
from siltstone.types import DiskId


@dataclass(eq=False)
class Snapshot:
    """One snapshot. ``disks``: where a copy is, disks that are away included. ``created_ns``: 0 if no header tells.

    ``is_verified``: every frame of every copy was read and found sound since the volume was opened; ``is_rotten``: some
    frame was found sound on no disk that was up.
    """

    name: SnapshotName
    size: int
    disks: list[DiskId]
    created_ns: int = 0
    is_verified: bool = False
    is_rotten: bool = False


class SnapshotFrame(NamedTuple):
    """One frame: so many keys or batches, packed into ``body``."""

    items: int
    body: bytes


class CopyReader:
    """Reads a snapshot from its copies on disks that are up.

    Without ``mend`` the first copy that has a frame whole is enough; with it every copy is read, what differs from the
    sound ones is written anew and read again, and ``checked`` tells.
    """

    def __init__(
        self, pool: Pool, volume_uuid: bytes, snapshot: Snapshot, *, mend: bool = False, file: str = ""
    ) -> None:
        """``file``: the name that it has now, if that is not its own."""
        self._pool = pool
        self._volume_uuid = volume_uuid
        self._snapshot = snapshot
        self._file = file or str(snapshot.name)
        self._mend = mend
        self._seed = 0
        self.position = 0
        """Where the next frame is in the file."""
        self._number = 0
        self._items = self._raw_bytes = 0
        self.checked = ReplicasChecked()

    async def next_frame(self) -> SnapshotFrame | None:
        """The next frame; None behind the last. Raises Corrupt if it is whole on no disk that is up."""
        header, frame = await self.next_packed()
        return None if header.is_footer else SnapshotFrame(header.items, unpack_body(header, frame))

    async def next_packed(self) -> tuple[FrameHeader, bytes]:
        """The next frame as it stands on the disks, the footer at last; raises Corrupt."""
        if not self.position:
            await self._read_header()
        header, frame = await self._read_frame()
        self.position += header.size
        if header.is_footer:
            self._check_footer(parse_footer(frame))
        self._number += 1
        self._items += header.items
        self._raw_bytes += header.raw_bytes
        return header, frame

    def _check_footer(self, footer: Footer) -> None:
        name = self._snapshot.name
        expected = Footer(self._number, self._items, self._raw_bytes, name.start, name.end)
        if footer != expected:
            raise FormatInvalid(f"{self._file} does not hold what its footer says")

    async def _read_header(self) -> None:
        pages = await self._read(self._disks(), 0, SNAPSHOT_HEADER_BYTES)
        name, sound = self._snapshot.name, None
        for page in pages.values():
            header = parse_header(page) if page is not None else None
            if header is not None and self._is_ours(header):
                sound = header
        if sound is None:
            raise Corrupt(f"{self._file}: no disk that is up has its header")
        self._snapshot.created_ns = sound.created_ns
        self._seed = frame_seed(SnapshotHeader(name.kind, name.serial, self._volume_uuid, name.start, sound.created_ns))
        self.position = SNAPSHOT_HEADER_BYTES
        if self._mend:
            await self._mend_copies(pages, 0, pack_header(sound))

    def _is_ours(self, header: SnapshotHeader) -> bool:
        name = self._snapshot.name
        expected = (name.kind, name.serial, self._volume_uuid, name.start)
        return (header.kind, header.serial, header.volume_uuid, header.start) == expected

    async def _read_frame(self) -> tuple[FrameHeader, bytes]:
        disks = self._disks()
        if not self._mend:
            for disk_id in disks:
                found = await self._read_frame_from([disk_id])
                if found is not None:
                    return found[0], found[1]
        else:
            found = await self._read_frame_from(disks)
            if found is not None:
                header, frame, images = found
                await self._mend_copies(images, self.position, frame)
                return header, frame
        raise Corrupt(f"{self._file}: frame {self._number} is whole on no disk that is up")

    async def _read_frame_from(
        self, disks: list[DiskId]
    ) -> tuple[FrameHeader, bytes, dict[DiskId, bytes | None]] | None:
        """The frame from any of these disks, and what each of them has in its place."""
        heads = await self._read(disks, self.position, FRAME_HEADER_BYTES)
        candidates = {
            header
            for head in heads.values()
            if head is not None and (header := parse_frame_header(head, self._number)) is not None
        }
        for candidate in sorted(candidates):
            images = await self._read(disks, self.position, candidate.size)
            for image in images.values():
                if image is not None and is_sound(candidate, image, self._seed):
                    return candidate, image, images
        return None

    async def _mend_copies(self, images: dict[DiskId, bytes | None], offset: int, sound: bytes) -> None:
        wrong = [disk_id for disk_id, image in images.items() if image != sound and disk_id not in self.checked.missing]
        for disk_id in images:
            self.checked.read_bytes[disk_id] = self.checked.read_bytes.get(disk_id, 0) + len(sound)
        if not wrong:
            return
        up = [disk_id for disk_id in wrong if self._pool.is_up(disk_id)]
        await self._pool.write_durable(
            [DiskWrite(self._pool.disk(disk_id), self._file, offset, [sound]) for disk_id in up]
        )
        again = await self._read(up, offset, len(sound))
        for disk_id in wrong:
            is_mended = again.get(disk_id) == sound
            counts = self.checked.mended_bytes if is_mended else self.checked.unmended_bytes
            counts[disk_id] = counts.get(disk_id, 0) + len(sound)

    def _disks(self) -> list[DiskId]:
        return [disk_id for disk_id in self._snapshot.disks if self._pool.is_up(disk_id)]

    async def _read(self, disks: list[DiskId], offset: int, size: int) -> dict[DiskId, bytes | None]:
        """The same range of each copy, None where it cannot be read."""
        up = [disk_id for disk_id in disks if self._pool.is_up(disk_id)]
        reads = [DiskRead(self._pool.disk(disk_id), self._file, offset, size) for disk_id in up]
        results = await self._pool.fanout.read(reads, Lane.BULK) if reads else []
        images: dict[DiskId, bytes | None] = dict.fromkeys(disks)
        for disk_id, result in zip(up, results, strict=True):
            if isinstance(result, DiskError):
                self._pool.report(result)
                if isinstance(result, FileMissing):
                    self.checked.missing.add(disk_id)
            else:
                images[disk_id] = result
        return images
