"""Segments and names correspond one to one, in order, and no name leaves its directory."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from siltstone.core.key_names import FINAL, MORE, SELF, decode_name, encode_path, encode_segment, looks_odd, needs_code
from siltstone.meta.zero_free import escape, unescape

pieces = st.sampled_from(
    [b"", b".", b"..", b"a", b"\0", b"\1", b"\2", b"\xff", b"n" * 120, b"n" * 255, FINAL, MORE, SELF]
)
segments = st.lists(pieces, max_size=5).map(b"".join)


def decoded(path: bytes) -> bytes:
    """The segment of a path of names."""
    *more, last = path.split(b"/")
    if not more:
        found = decode_name(last)
        return last if found is None else found
    assert all(name.startswith(MORE) for name in more) and last.startswith(FINAL)
    parts = [unescape(name[len(FINAL) :]) for name in (*more, last)]
    return b"".join(part for part in parts if part is not None)


@given(segments)
@example(b"n" * 255)
@example(b"n" * 256)
@example(FINAL * 60)
def test_a_segment_is_read_again_from_its_names(segment: bytes) -> None:
    path = encode_segment(segment)
    assert decoded(path) == segment
    for name in path.split(b"/"):
        assert 0 < len(name) <= 255 and b"\0" not in name and name not in (b".", b"..") and name != SELF
    assert (path != segment) == needs_code(segment)


@given(segments, segments)
def test_no_two_segments_have_the_same_names(one: bytes, other: bytes) -> None:
    assert (encode_segment(one) == encode_segment(other)) == (one == other)


@given(segments.filter(lambda name: 0 < len(name) <= 255 and b"\0" not in name and name not in (b".", b"..", SELF)))
def test_every_name_is_that_of_a_segment_but_the_beginnings_of_long_ones(name: bytes) -> None:
    if not name.startswith(MORE):
        segment = decode_name(name)
        if segment is not None or not needs_code(name):
            assert encode_segment(name if segment is None else segment) == name
        else:
            assert len(name) == 255 or escape(name) != name


@given(segments, segments)
def test_the_code_keeps_the_order(one: bytes, other: bytes) -> None:
    assert (escape(one) < escape(other)) == (one < other)
    assert unescape(escape(one)) == one


@given(st.lists(segments, min_size=1, max_size=4).map(b"/".join))
def test_a_path_that_does_not_look_odd_is_its_own(path: bytes) -> None:
    names = b"/".join(map(encode_segment, path.split(b"/")))
    assert encode_path(path) == names
    if not looks_odd(path):
        assert names == path
