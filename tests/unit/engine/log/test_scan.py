"""Frames out of replicas: the longest run that any of them can show, and what the others lack."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from siltstone.engine.format.frame import body_checksum, frame_bytes, pack_header, payload_checksum, volume_seed
from siltstone.engine.log.scan import Place, Window, durable_lsn_noted_in, scan_window
from siltstone.types import Lsn

SEED = volume_seed(bytes(16))
BASE = Lsn(4096)
EPOCH = 3
PLACE = Place(EPOCH, Lsn(BASE + 65536), SEED)

contents = st.lists(st.tuples(st.binary(max_size=60), st.binary(max_size=60)), max_size=6)


def frames_of(
    parts: list[tuple[bytes, bytes]], *, base: int = BASE, epoch: int = EPOCH, durable: int = 0
) -> list[bytes]:
    frames: list[bytes] = []
    lsn = base
    for payload, body in parts:
        header = pack_header(
            kind=1,
            epoch=epoch,
            payload_bytes=len(payload),
            body_bytes=len(body),
            lsn=Lsn(lsn),
            durable_lsn=Lsn(durable),
            payload_checksum=payload_checksum([payload], SEED),
            body_checksum=body_checksum(body, SEED),
            seed=SEED,
        )
        frames.append((header + payload + body).ljust(frame_bytes(len(payload), len(body)), b"\0"))
        lsn += len(frames[-1])
    return frames


def damage(image: bytes, offset: int, size: int) -> bytes:
    return image[:offset] + bytes(byte ^ 0xFF for byte in image[offset : offset + size]) + image[offset + size :]


@given(contents, st.binary(max_size=100))
def test_all_frames_are_found_and_nothing_after_them(parts: list[tuple[bytes, bytes]], tail: bytes) -> None:
    frames = frames_of(parts)
    scan = scan_window(Window(BASE, [b"".join(frames) + tail]), PLACE)
    assert [frame.body for frame in scan.frames] == [body for _, body in parts]
    assert [frame.payload_bytes for frame in scan.frames] == [len(payload) for payload, _ in parts]
    assert scan.end == BASE + sum(map(len, frames))
    assert not scan.mends


@given(contents.filter(bool), st.data())
def test_damage_costs_nothing_while_one_replica_of_each_frame_is_sound(
    parts: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    """Each frame may be damaged on any two of three replicas; mending makes all three whole again."""
    frames = frames_of(parts)
    whole = b"".join(frames)
    images = [whole, whole, whole]
    position = 0
    for frame in frames:
        for replica in data.draw(st.sets(st.integers(0, 2), max_size=2)):
            offset = position + data.draw(st.integers(0, len(frame) - 1))
            images[replica] = damage(images[replica], offset, min(7, position + len(frame) - offset))
        position += len(frame)
    scan = scan_window(Window(BASE, images), PLACE)
    assert [frame.body for frame in scan.frames] == [body for _, body in parts]
    for mend in scan.mends:
        at = mend.lsn - BASE
        images[mend.replica] = images[mend.replica][:at] + mend.data + images[mend.replica][at + len(mend.data) :]
    assert images == [whole, whole, whole]


@given(contents.filter(bool), st.data())
def test_the_run_ends_at_the_first_frame_that_no_replica_has(
    parts: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    frames = frames_of(parts)
    victim = data.draw(st.integers(0, len(frames) - 1))
    start = sum(map(len, frames[:victim]))
    offsets = [start + data.draw(st.integers(0, len(frames[victim]) - 1)) for _ in range(2)]
    images = [damage(b"".join(frames), offset, 1) for offset in offsets]
    scan = scan_window(Window(BASE, images), PLACE)
    assert scan.end == BASE + start
    assert len(scan.frames) == victim


@given(contents.filter(bool), st.data())
def test_a_frame_that_the_window_cuts_is_asked_for_whole(parts: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    frames = frames_of(parts)
    whole = b"".join(frames)
    size = data.draw(st.integers(0, len(whole) - 1))
    scan = scan_window(Window(BASE, [whole[:size], None]), PLACE)
    rest = scan_window(Window(scan.end, [whole[scan.end - BASE :][: scan.wanted_bytes]]), PLACE)
    assert scan.wanted_bytes > size - (scan.end - BASE)
    assert rest.frames or rest.wanted_bytes > scan.wanted_bytes


def test_frames_of_another_epoch_or_another_place_are_not_the_logs() -> None:
    parts = [(b"payload", b"body")]
    for image in (b"".join(frames_of(parts, epoch=EPOCH - 1)), b"".join(frames_of(parts, base=BASE + 8))):
        scan = scan_window(Window(BASE, [image]), PLACE)
        assert (scan.frames, scan.wanted_bytes) == ([], 0)


def test_a_frame_that_would_pass_the_end_of_its_segment_is_none() -> None:
    image = b"".join(frames_of([(b"p" * 100, b"b")]))
    assert not scan_window(Window(BASE, [image]), PLACE._replace(end=Lsn(BASE + len(image) - 8))).frames


@given(contents.filter(bool), st.integers(0, 40), st.integers(0, BASE))
def test_a_later_frame_bears_witness_of_what_was_durable(
    parts: list[tuple[bytes, bytes]], gap: int, durable: int
) -> None:
    image = b"\xee" * (8 * gap) + b"".join(frames_of(parts, base=BASE + 8 * gap, durable=durable))
    assert durable_lsn_noted_in(Window(BASE, [None, image]), PLACE) == durable
    assert durable_lsn_noted_in(Window(BASE, [image]), PLACE._replace(epoch=EPOCH + 1)) == 0
