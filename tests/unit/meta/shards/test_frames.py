"""Frames come out as they went in, however the stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siltstone.errors import FormatInvalid
from siltstone.meta.shards.frames import PAYLOAD_BYTES_MAX, Splitter, pack_header


@given(payloads=st.lists(st.binary(max_size=40), max_size=8), cuts=st.lists(st.integers(1, 30)))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pack_header(len(payload), number) + payload for number, payload in enumerate(payloads))
    splitter = Splitter()
    found: list[tuple[int, bytes]] = []
    for cut in [*cuts, len(stream) + 1]:
        piece, stream = stream[:cut], stream[cut:]
        found += splitter.feed(piece)
    assert found == list(enumerate(payloads))


def test_a_frame_that_is_too_long_is_refused_before_it_is_kept() -> None:
    splitter = Splitter()
    assert splitter.feed(pack_header(PAYLOAD_BYTES_MAX, 1)) == []
    with pytest.raises(FormatInvalid, match="a frame of"):
        Splitter().feed(pack_header(PAYLOAD_BYTES_MAX + 1, 1))
