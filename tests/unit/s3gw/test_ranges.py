"""A range is what the standard says, compared with a slow reading of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.ranges import parse_copy_range, parse_range


@given(st.one_of(st.none(), st.integers(0, 40)), st.one_of(st.none(), st.integers(0, 40)), st.integers(0, 30))
def test_a_single_range_selects_what_the_standard_says(first: int | None, last: int | None, size: int) -> None:
    text = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    body = list(range(size))
    if (first is None and last is None) or (first is not None and last is not None and last < first):
        assert parse_range(text, size) is None
        return
    if first is None:
        assert last is not None
        wanted = body[max(0, size - last) :] if last else []
    else:
        wanted = [place for place in body if first <= place and (last is None or place <= last)]
    if not wanted:
        with pytest.raises(S3Error) as caught:
            parse_range(text, size)
        assert (caught.value.code, caught.value.status) == ("InvalidRange", 416)
        return
    found = parse_range(text, size)
    assert found is not None and body[found.start : found.end] == wanted


@given(st.text(max_size=30), st.integers(0, 2**62))
def test_nonsense_is_ignored_or_refused(text: str, size: int) -> None:
    for candidate in (text, "bytes=" + text):
        try:
            found = parse_range(candidate, size)
        except S3Error:
            continue
        assert found is None or 0 <= found.start < found.end <= size


def test_several_ranges_and_other_units_are_ignored() -> None:
    assert parse_range("bytes=0-1,3-4", 10) is None
    assert parse_range("lines=0-1", 10) is None


def test_a_copy_range_must_lie_inside_its_source() -> None:
    assert parse_copy_range("bytes=2-9", 10) == (2, 10)
    for text in ("bytes=2-10", "bytes=3-2", "bytes=-2", "0-1", "bytes=1-"):
        with pytest.raises(S3Error) as caught:
            parse_copy_range(text, 10)
        assert caught.value.code == ("InvalidRange" if text == "bytes=2-10" else "InvalidArgument")
