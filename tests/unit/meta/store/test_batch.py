"""The body of a batch's frame: what goes in comes out, and nothing else passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siltstone.errors import FormatInvalid
from siltstone.meta.store.batch import decode_batch, encode_batch

BATCHES = st.dictionaries(st.binary(min_size=1, max_size=600), st.one_of(st.none(), st.binary(max_size=300)))


@given(BATCHES)
def test_a_batch_comes_back_as_it_was_in_order(writes: dict[bytes, bytes | None]) -> None:
    assert list(decode_batch(memoryview(encode_batch(writes))).items()) == list(writes.items())


def test_an_empty_value_is_not_a_delete() -> None:
    assert decode_batch(encode_batch({b"a": b"", b"b": None})) == {b"a": b"", b"b": None}


@given(BATCHES, st.data())
def test_a_body_that_is_cut_or_has_more_bytes_is_refused(
    writes: dict[bytes, bytes | None], data: st.DataObject
) -> None:
    body = encode_batch(writes)
    with pytest.raises(FormatInvalid):
        decode_batch(body[: data.draw(st.integers(0, len(body) - 1))])
    with pytest.raises(FormatInvalid):
        decode_batch(body + data.draw(st.binary(min_size=1, max_size=9)))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_invalid(body: bytes) -> None:
    try:
        writes = decode_batch(body)
    except FormatInvalid:
        return
    assert encode_batch(writes) == body


def test_the_layout_is_the_documented_one() -> None:
    assert encode_batch({b"ab": b"xyz", b"c": None}) == bytes.fromhex(
        "02000000 0200 0100 03000000 ffffffff 6162 63 78797a"
    )
