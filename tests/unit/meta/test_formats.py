"""Keys and records against the golden file: what was written once is read for ever, and written the same today."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siltstone.engine.stripe.layout import SAME_ROWS, Slab, Stripe
from siltstone.meta import keys
from siltstone.meta.keys import Reference
from siltstone.meta.notes import encode_note
from siltstone.meta.records import (
    AwayRecord,
    Bucket,
    Counters,
    Dentry,
    Extent,
    Fill,
    Inode,
    Object,
    Part,
    Place,
    Quota,
    ScrubRecord,
    ScrubTally,
    Trashed,
    TreeSnapshot,
    Upload,
    Usage,
    Version,
    decode,
    encode,
)
from siltstone.types import DiskId, Ino, PartitionId, SlabId, StripeId

GOLDEN = Path(__file__).parents[2] / "golden" / "metadata-1.json"

UPLOAD_ID = bytes(range(16))
HEADERS = {"content-type": "text/plain"}

EXAMPLES: dict[str, tuple[bytes, Any]] = {
    "counters": (keys.counters(PartitionId(0xA1)), Counters(3, 8192, 77)),
    "dentry": (keys.dentry(Ino(0x7A1), b"na\xffme"), Dentry(0x8A1, 0o100000)),
    "extent inline": (keys.extent(Ino(0x8A1), 0), Extent(5, Place.INLINE, blob=b"bytes")),
    "extent log": (keys.extent(Ino(0x8A1), 5), Extent(4000, Place.LOG, 0x123456, 96, 4096, b"\x01" * 8)),
    "extent stripe": (keys.extent(Ino(0x8A1), 1 << 40), Extent(1 << 20, Place.STRIPE, 0x2A0010, 512)),
    "inode file": (
        keys.inode(Ino(0x8A1)),
        Inode(0o100644, 1, 1000, 1001, 4005, 0, 10**18, -1, 10**18 + 1, 4005, 9, 0x7A1, 6, b"", b"na\xffme", 0x7A1),
    ),
    "inode directory": (keys.inode(Ino(0x7A1)), Inode(0o40755, 2, 0, 0, 1, 0, 1, 2, 3, 0, 0, 1, 1, name=b"d")),
    "inode link": (keys.inode(Ino(0x9A1)), Inode(0o120777, 1, 0, 0, 6, 0, 1, 2, 3, 0, 0, 1, 0, b"target", b"l", 1)),
    "bucket": (keys.bucket(Ino(0x7A1)), Bucket("main", 10**18, "us-east-1", 3)),
    "bucket document": (keys.bucket_document(Ino(0x7A1), b"policy"), b"any\x00bytes"),
    "upload": (
        keys.upload(Ino(0x7A1), b"a/key", UPLOAD_ID),
        Upload(
            "main",
            10**18,
            HEADERS,
            {"k": "v"},
            "CRC32",
            "COMPOSITE",
            True,
            ["READ id:a"],
            {"mode": "SSE-C"},
            {"t": "v"},
            "GOVERNANCE",
            10**18,
            True,
        ),
    ),
    "part": (keys.part(PartitionId(0xA1), UPLOAD_ID, 10_000), Part(0x8A1, 4005, "etag", 10**18, {"CRC32": "AAAAAA=="})),
    "home": (keys.home(Ino(0x8A1), Ino(0x7A2)), keys.encode_length(2)),
    "usage": (keys.usage(Ino(0x7A1)), Usage(1 << 40, 300, 4)),
    "usage state": (keys.USAGE_STATE, b""),
    "quota": (keys.quota(Ino(0x7A1)), Quota(1 << 40, 1000, 1 << 20, 1 << 19, 50)),
    "orphan": (keys.orphan(Ino(0x8A1)), b""),
    "object": (
        keys.object_(Ino(0x8A1)),
        Object(
            "md5-2",
            "main",
            HEADERS,
            {"k": "v"},
            {"CRC32": "AAAAAA=="},
            "COMPOSITE",
            [4000, 5],
            [1, 3],
            ["READ id:a"],
            {"mode": "SSE-C"},
            f"{10**18:016x}{0x8A1:016x}",
            {"t": "v"},
            "COMPLIANCE",
            10**18,
            True,
            ["AAAAAA==", "AAAAAQ=="],
        ),
    ),
    "version": (keys.version(Ino(0x7A1), b"na\xffme", 10**18), Version(0x8A1, "", 10**18 - 1, "main")),
    "null version": (keys.null_version(Ino(0x7A1), b"na\xffme"), (10**18).to_bytes(8, "big")),
    "snapshot of a tree": (keys.tree_snapshot(Ino(0x7A1)), TreeSnapshot(0x123456, 10**18, 12, 1 << 33)),
    "xattr": (keys.xattr(Ino(0x8A1), b"user.name"), b"any\x00bytes"),
    "slab": (keys.slab(SlabId(0x2A)), Slab(2, 1, 64 << 20, (DiskId(0), DiskId(1), DiskId(300)), 64)),
    "stripe": (keys.stripe(StripeId(0x2A0010)), Stripe(4096, 8000, 0x3F, 1_790_000_000)),
    "fill": (
        keys.fill(StripeId(0x2A0010)),
        Fill([(512, Extent(4000, Place.LOG, 0x123456, 96, 4096, b"\x01" * 8))]),
    ),
    "checksums": (keys.stripe_checksums(StripeId(0x2A0010)), bytes(range(24))),
    "note": (
        keys.NOTE,
        encode_note(
            {keys.dentry(Ino(0x7A1), b"n"): None, keys.inode(Ino(0x8A1)): b"new"}, {keys.inode(Ino(0x8A1)): b"old"}, 1
        )
        or b"",
    ),
    "trashed": (keys.trash(Ino(0x8A1), 10**18), Trashed(4096, True)),
    "away": (keys.AWAY, AwayRecord([(2, 10**18), (300, 10**18 + 5)])),
    "scrub": (
        keys.SCRUB,
        ScrubRecord(10**18, 10**18 + 5, 0x2A0010, [ScrubTally(3, *range(1, 12))], ["inode 1: lost"], 2),
    ),
    "reference to the log": (keys.log_reference(Reference(0x123456, 96, Ino(0x8A1), 5)), keys.encode_length(4000)),
    "reference to a stripe": (
        keys.stripe_reference(Reference(0x2A0010, 512, Ino(0x8A1), 1 << 40)),
        keys.encode_length(1 << 20),
    ),
}
"""One of every key and record, with no field at its default where that can be."""


def golden() -> dict[str, dict[str, str]]:
    """name -> {"key": hex, "value": hex}"""
    found: dict[str, dict[str, str]] = json.loads(GOLDEN.read_text())
    return found


def value_bytes(value: Any) -> bytes:
    """A record, or a raw value, as the store holds it."""
    return value if isinstance(value, bytes) else encode(value)


def test_records_without_the_fields_of_today_are_read() -> None:
    assert decode(Slab, bytes.fromhex("95010201ce04000000930001cd012c")) == Slab(
        2, 1, 64 << 20, (DiskId(0), DiskId(1), DiskId(300)), spare_rows=0
    )
    assert decode(Inode, bytes.fromhex("9f01cd41ed020000010001020300000101c400")) == Inode(
        0o40755, 2, 0, 0, 1, 0, 1, 2, 3, 0, 0, 1, 1, name=b""
    )
    assert decode(Bucket, bytes.fromhex("9401a46d61696ecf0de0b6b3a7640000a975732d656173742d31")) == Bucket(
        "main", 10**18, "us-east-1", serial=0
    )
    assert decode(Object, bytes.fromhex("9701a46d64352da46d61696e808080a0")) == Object("md5-", "main")
    assert decode(Upload, bytes.fromhex("9301a46d61696e05")) == Upload("main", 5)
    assert decode(Stripe, bytes.fromhex("9301cd1000cd1f40")) == Stripe(4096, 8000, SAME_ROWS, written=0)


def test_the_golden_file_has_every_example() -> None:
    assert golden().keys() == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_keys_and_records_are_written_as_they_were(name: str) -> None:
    key, value = EXAMPLES[name]
    assert (key.hex(), value_bytes(value).hex()) == (golden()[name]["key"], golden()[name]["value"])


@pytest.mark.parametrize("name", [name for name, (_, value) in EXAMPLES.items() if not isinstance(value, bytes)])
def test_records_are_read_as_they_were(name: str) -> None:
    value = EXAMPLES[name][1]
    assert decode(type(value), bytes.fromhex(golden()[name]["value"])) == value


def test_a_record_that_is_another_or_cut_off_is_not_read() -> None:
    whole = encode(Inode(0o100644, 1, 0, 0, 0, 0, 1, 2, 3))
    with pytest.raises(msgspec.DecodeError):
        decode(Inode, whole[:-1])
    with pytest.raises(msgspec.ValidationError):
        decode(Inode, encode(Dentry(1, 2)))


def test_what_a_key_was_made_of_is_read_from_it() -> None:
    assert keys.inode_ino(EXAMPLES["inode file"][0]) == 0x8A1
    assert keys.inode_ino(EXAMPLES["dentry"][0]) == 0x7A1
    assert keys.dentry_name(EXAMPLES["dentry"][0]) == b"na\xffme"
    assert keys.extent_offset(EXAMPLES["extent stripe"][0]) == 1 << 40
    assert keys.orphan_ino(EXAMPLES["orphan"][0]) == 0x8A1
    assert keys.xattr_name(EXAMPLES["xattr"][0]) == b"user.name"
    assert keys.upload_parts(EXAMPLES["upload"][0]) == (b"a/key", UPLOAD_ID)
    assert keys.part_number(EXAMPLES["part"][0]) == 10_000
    assert keys.slab_id(EXAMPLES["slab"][0]) == 0x2A
    assert keys.stripe_id(EXAMPLES["stripe"][0]) == keys.stripe_id(EXAMPLES["checksums"][0]) == 0x2A0010
    assert keys.parse_reference(EXAMPLES["reference to the log"][0]) == Reference(0x123456, 96, Ino(0x8A1), 5)
    assert keys.decode_length(EXAMPLES["reference to the log"][1]) == 4000
    assert keys.key_partition(EXAMPLES["extent log"][0]) == 0xA1


inos = st.integers(0, 2**62).map(Ino)
numbers = st.integers(0, 2**63 - 1)


@given(inos, numbers, numbers)
def test_extents_of_a_file_sort_by_offset(ino: Ino, first: int, second: int) -> None:
    assert (keys.extent(ino, first) < keys.extent(ino, second)) == (first < second)
    start, end = keys.prefix_range(keys.extents(ino))
    assert start <= keys.extent(ino, first) < end


@given(
    st.tuples(numbers, st.integers(0, 2**32 - 1), inos, numbers), st.tuples(numbers, st.integers(0, 9), inos, numbers)
)
def test_references_sort_by_address_then_skip(
    first: tuple[int, int, Ino, int], second: tuple[int, int, Ino, int]
) -> None:
    for key in (keys.log_reference, keys.stripe_reference):
        one, other = Reference(*first), Reference(*second)
        assert (key(one) < key(other)) == (one < other)
        assert keys.parse_reference(key(one)) == one
    assert keys.log_references_from(first[0]) <= keys.log_reference(Reference(*first))
    assert keys.log_reference(Reference(*first)) < keys.log_references_from(first[0] + 1)


@given(inos, inos, st.binary(max_size=20))
def test_a_prefix_holds_the_keys_of_its_inode_and_of_no_other(ino: Ino, other: Ino, name: bytes) -> None:
    makers: tuple[tuple[Callable[[Ino, bytes], bytes], Callable[[Ino], bytes]], ...] = (
        (keys.dentry, keys.dentries),
        (keys.xattr, keys.xattrs),
    )
    for make, prefix in makers:
        start, end = keys.prefix_range(prefix(ino))
        assert (start <= make(other, name) < end) == (ino == other)


@given(st.binary(min_size=1, max_size=6), st.binary(max_size=6))
def test_after_is_behind_every_key_with_the_prefix(prefix: bytes, rest: bytes) -> None:
    if prefix.strip(b"\xff"):
        assert prefix + rest < keys.after(prefix)
        assert not keys.after(prefix).startswith(prefix)
