"""The decoder gives back what was encoded however the bytes are cut, and refuses everything that was tampered with."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siltstone.s3gw.chunked import LINE_BYTES_MAX, ChunkedDecoder
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.policy import Policy
from siltstone.s3gw.sigv4 import STREAMING_SIGNED, Verified, sign_chunk, sign_trailer, signing_key

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@dataclass(frozen=True)
class Key:
    access: str = "AKIAIOSFODNN7EXAMPLE"
    secret: str = SECRET
    owner: str = "owner"
    display_name: str = "Owner"
    policy: Policy | None = None


def verified(seed: str) -> Verified:
    key = signing_key(SECRET, "20130524", "us-east-1")
    return Verified(Key(), STREAMING_SIGNED, seed, key, "20130524T000000Z", "20130524/us-east-1/s3/aws4_request")


SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
TRAILER_SEED = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"


def decode(decoder: ChunkedDecoder, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """(payload, what lies behind the end)."""
    payload, rest = bytearray(), bytearray()
    for piece in pieces:
        views, used = decoder.feed(memoryview(piece))
        for view in views:
            payload += view
        assert used == len(piece) or decoder.complete
        rest += piece[used:]
    return bytes(payload), bytes(rest)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def encode(chunks: list[bytes], trailers: dict[str, str], signer: Verified | None, with_trailer: bool) -> bytes:
    out, previous = bytearray(), signer.signature if signer else ""
    for chunk in [*chunks, b""]:
        out += f"{len(chunk):x}".encode()
        if signer:
            previous = sign_chunk(signer, previous, hashlib.sha256(chunk).hexdigest())
            out += f";chunk-signature={previous}".encode()
        out += b"\r\n" + (chunk + b"\r\n" if chunk else b"")
    for name, value in trailers.items():
        out += f"{name}:{value}\r\n".encode()
    if signer and with_trailer:
        text = "".join(f"{name}:{value}\n" for name, value in trailers.items())
        signature = sign_trailer(signer, previous, hashlib.sha256(text.encode()).hexdigest())
        out += f"x-amz-trailer-signature:{signature}\r\n".encode()
    return bytes(out + b"\r\n")


def test_the_published_example_of_signed_chunks_is_accepted() -> None:
    body = (
        b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n"
        + b"a" * 65536
        + b"\r\n400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n"
        + b"a" * 1024
        + b"\r\n0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n"
    )
    decoder = ChunkedDecoder(verified(SEED), with_trailer=False)
    assert decode(decoder, [body]) == (b"a" * 66560, b"")
    assert decoder.complete


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n\r\n"])
def test_the_published_example_of_signed_trailers_is_accepted(line_end: bytes) -> None:
    body = (
        b"10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n"
        + b"a" * 65536
        + b"\r\n400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n"
        + b"a" * 1024
        + b"\r\n0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n"
        + b"x-amz-checksum-crc32c:sOO8/Q=="
        + line_end
        + b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
    )
    decoder = ChunkedDecoder(verified(TRAILER_SEED), with_trailer=True)
    assert decode(decoder, [body]) == (b"a" * 66560, b"")
    assert decoder.complete and decoder.trailers == {"x-amz-checksum-crc32c": "sOO8/Q=="}


chunk_lists = st.lists(st.binary(min_size=1, max_size=40), max_size=5)
trailer_dicts = st.dictionaries(st.sampled_from(("x-amz-checksum-crc32", "x-a", "b")), st.just("dGVzdA=="), max_size=3)
forms = st.sampled_from(((True, False), (True, True), (False, True)))


@given(chunk_lists, trailer_dicts, forms, st.lists(st.integers(0, 10_000), max_size=12), st.binary(max_size=10))
def test_cutting_the_stream_anywhere_changes_nothing(
    chunks: list[bytes], trailers: dict[str, str], form: tuple[bool, bool], places: list[int], rest: bytes
) -> None:
    is_signed, with_trailer = form
    signer = verified(SEED) if is_signed else None
    trailers = trailers if with_trailer else {}
    body = encode(chunks, trailers, signer, with_trailer)
    decoder = ChunkedDecoder(signer, with_trailer=with_trailer)
    assert decode(decoder, cut(body + rest, places)) == (b"".join(chunks), rest)
    assert decoder.complete and decoder.trailers == trailers


@given(chunk_lists, st.booleans(), st.data())
def test_a_signed_stream_with_one_bit_changed_is_never_complete(
    chunks: list[bytes], with_trailer: bool, data: st.DataObject
) -> None:
    trailers = {"x-amz-checksum-crc32": "dGVzdA=="} if with_trailer else {}
    body = bytearray(encode(chunks, trailers, verified(SEED), with_trailer))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= 1 << data.draw(st.integers(0, 7))
    decoder = ChunkedDecoder(verified(SEED), with_trailer=with_trailer)
    try:
        payload, _ = decode(decoder, [bytes(body)])
    except S3Error:
        return
    # spellings that mean the same (hex digits and header names in the other case) change nothing that is signed
    assert not decoder.complete or (payload == b"".join(chunks) and decoder.trailers == trailers)


@given(st.lists(st.binary(max_size=60), max_size=6), st.booleans())
def test_nonsense_raises_nothing_but_our_error(pieces: list[bytes], is_signed: bool) -> None:
    decoder = ChunkedDecoder(verified(SEED) if is_signed else None, with_trailer=True)
    try:
        decode(decoder, pieces)
    except S3Error as error:
        assert error.status in (400, 403)


@pytest.mark.parametrize("start", [b"", b"5;", b"0\r\nname: ", b"0\r\na:b\n"])
def test_a_line_without_end_is_refused_at_the_limit(start: bytes) -> None:
    decoder = ChunkedDecoder(None, with_trailer=True)
    with pytest.raises(S3Error) as caught:
        decode(decoder, [start, *([b"1"] * (LINE_BYTES_MAX + 2))])
    assert caught.value.code == "MalformedTrailerError"


def test_payload_may_be_received_straight_into_its_place() -> None:
    decoder = ChunkedDecoder(None, with_trailer=True)
    assert decode(decoder, [b"8\r\nab"]) == (b"ab", b"")
    assert decoder.data_pending == 6
    decoder.feed_data(memoryview(b"cdefgh"))
    assert decode(decoder, [b"\r\n0\r\n\r\n"]) == (b"", b"")
    assert decoder.complete


def test_a_chunk_longer_than_it_says_and_a_trailer_twice_are_refused() -> None:
    for body in (b"1\r\nab\r\n", b"0\r\na: 1\r\nA: 2\r\n\r\n", b"0\r\nno colon\r\n\r\n"):
        with pytest.raises(S3Error):
            decode(ChunkedDecoder(None, with_trailer=True), [body])
