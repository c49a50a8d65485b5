"""The Range header. Pure. Source: RFC 9110, section 14; S3 serves a single range and ignores what it cannot read."""

from __future__ import annotations

import re
from typing import NamedTuple

from siltstone.s3gw.errors import S3Error

_RANGE = re.compile(r"bytes=[ \t]*(\d{0,20})[ \t]*-[ \t]*(\d{0,20})[ \t]*", re.ASCII | re.IGNORECASE)
_COPY_RANGE = re.compile(r"bytes=(\d{1,20})-(\d{1,20})", re.ASCII)


class ByteRange(NamedTuple):
    """[start, end) of a body, never empty."""

    start: int
    end: int


def parse_range(text: str, size: int) -> ByteRange | None:
    """The bytes that a Range header asks for of an object of ``size`` bytes; None when it is to be ignored (another
    unit, several ranges, nonsense). Raises InvalidRange when no byte of the object is in it."""
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        return None
    first, last = match.groups()
    if first:
        start = int(first)
        end = min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    elif last:
        start, end = max(0, size - int(last)), size
    else:
        return None
    if start >= end:
        raise S3Error(
            "InvalidRange",
            headers=(("Content-Range", f"bytes */{size}"),),
            RangeRequested=text,
            ActualObjectSize=str(size),
        )
    return ByteRange(start, end)


def parse_copy_range(text: str, size: int) -> ByteRange:
    """The bytes of a source of ``size`` bytes that x-amz-copy-source-range asks for. Raises S3Error otherwise."""
    match = _COPY_RANGE.fullmatch(text.strip())
    if match is None or int(match.group(2)) < int(match.group(1)):
        raise S3Error(
            "InvalidArgument",
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the "
            "zero-based offsets of the first and last bytes to copy",
        )
    start, end = int(match.group(1)), int(match.group(2)) + 1
    if end > size:
        raise S3Error("InvalidRange", f"Range specified is not valid for source object of size: {size}")
    return ByteRange(start, end)
