"""Read frames out of the images of a segment's replicas. Pure.

An image is a window of a replica's file as bytes, or None where it could not be read. A frame counts when any replica
has it whole; the replicas that have it differently are to be mended with its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from siltstone.engine.format.frame import (
    FRAME_ALIGN_BYTES,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    Frame,
    FrameHeader,
    contents_are_sound,
    parse_header,
)
from siltstone.types import Lsn


class Window(NamedTuple):
    """The same range of log positions, from ``lsn`` on, as each replica has it."""

    lsn: Lsn
    images: Sequence[bytes | None]


class Place(NamedTuple):
    """What a sound frame in this place must say of itself. It must end at or before ``end``."""

    epoch: int
    end: Lsn
    seed: int


class Mend(NamedTuple):
    """Bytes that the replica with this index must get at ``lsn``."""

    replica: int
    lsn: Lsn
    data: bytes


class Scan(NamedTuple):
    """What a window holds: frames without a gap, up to ``end``.

    ``wanted_bytes``: a sound header at ``end`` asks for this many bytes, more than the window has; 0 if there is none.
    """

    frames: list[Frame]
    end: Lsn
    wanted_bytes: int
    mends: list[Mend]


def scan_window(window: Window, place: Place) -> Scan:
    """The longest run of frames that starts at the window's start, each from any replica that has it whole."""
    distinct = list(dict.fromkeys(image for image in window.images if image is not None))
    all_equal = len(distinct) == 1 and None not in window.images
    frames: list[Frame] = []
    mends: list[Mend] = []
    position = wanted_bytes = 0
    while True:
        found = _frame_at(distinct, position, window.lsn, place)
        if found is None:
            wanted_bytes = _bytes_wanted(distinct, position, window.lsn, place)
            break
        image, header = found
        end = position + header.size
        frames.append(_frame(image, position, header))
        if not all_equal:
            good = image[position:end]
            for replica, other in enumerate(window.images):
                if other is None or other[position:end] != good:
                    mends.append(Mend(replica, header.lsn, good))
        position = end
    return Scan(frames, Lsn(window.lsn + position), wanted_bytes, _merged(mends))


def durable_lsn_noted_in(window: Window, place: Place) -> Lsn:
    """The highest durable LSN that any sound header in the window, at whatever position, bears witness to; else 0.

    Tells a torn tail (frames that nobody was promised) from damage to what was durable.
    """
    highest = Lsn(0)
    for image in window.images:
        position = -1 if image is None else image.find(FRAME_MAGIC)
        while image is not None and position >= 0:
            if _is_aligned(window, position):
                header = _header_at(image, position, window.lsn, place)
                if header is not None:
                    highest = max(highest, header.durable_lsn)
            position = image.find(FRAME_MAGIC, position + 1)
    return highest


def next_header(window: Window, lsn: Lsn, place: Place) -> FrameHeader | None:
    """The first sound frame header at or behind ``lsn`` on any replica: where to go on behind a frame that is nowhere
    whole."""
    found: list[FrameHeader] = []
    for image in window.images:
        position = -1 if image is None else image.find(FRAME_MAGIC, lsn - window.lsn)
        while image is not None and position >= 0:
            header = _header_at(image, position, window.lsn, place) if _is_aligned(window, position) else None
            if header is not None:
                found.append(header)
                break
            position = image.find(FRAME_MAGIC, position + 1)
    return min(found, key=lambda header: header.lsn, default=None)


def _is_aligned(window: Window, position: int) -> bool:
    return (window.lsn + position) % FRAME_ALIGN_BYTES == 0


def _header_at(image: bytes, position: int, base: Lsn, place: Place) -> FrameHeader | None:
    header = parse_header(image, position, place.seed)
    if header is None or header.lsn != base + position or header.epoch != place.epoch:
        return None
    return header if header.lsn + header.size <= place.end else None


def _frame_at(images: Sequence[bytes], position: int, base: Lsn, place: Place) -> tuple[bytes, FrameHeader] | None:
    for image in images:
        header = _header_at(image, position, base, place)
        if header is None or len(image) - position < header.size:
            continue
        if contents_are_sound(header, image, position, place.seed):
            return image, header
    return None


def _bytes_wanted(images: Sequence[bytes], position: int, base: Lsn, place: Place) -> int:
    wanted = 0
    for image in images:
        header = _header_at(image, position, base, place)
        if header is not None and len(image) - position < header.size:
            wanted = max(wanted, header.size)
        elif header is None and len(image) - position < FRAME_HEADER_BYTES <= place.end - base - position:
            wanted = max(wanted, FRAME_HEADER_BYTES)
    return wanted


def _frame(image: bytes, position: int, header: FrameHeader) -> Frame:
    payload_start = position + FRAME_HEADER_BYTES
    body_start = payload_start + header.payload_bytes
    return Frame(
        lsn=header.lsn,
        end_lsn=Lsn(header.lsn + header.size),
        kind=header.kind,
        payload_lsn=Lsn(header.lsn + FRAME_HEADER_BYTES),
        payload_bytes=header.payload_bytes,
        body=image[body_start : body_start + header.body_bytes],
    )


def _merged(mends: Sequence[Mend]) -> list[Mend]:
    """The same mends with neighbours on one replica put together."""
    runs: list[tuple[int, Lsn, list[bytes]]] = []
    ends: dict[int, tuple[Lsn, list[bytes]]] = {}
    for mend in mends:
        end, run = ends.get(mend.replica, (None, []))
        if end != mend.lsn:
            run = []
            runs.append((mend.replica, mend.lsn, run))
        run.append(mend.data)
        ends[mend.replica] = (Lsn(mend.lsn + len(mend.data)), run)
    return [Mend(replica, lsn, b"".join(run)) for replica, lsn, run in runs]
