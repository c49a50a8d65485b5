"""What clients may send, twisted: the seeds in tests/corpus with bytes and pieces changed, cut, doubled and moved.

Whatever comes of it, an answer is no failure of ours. What was once found goes into the corpus. SILTSTONE_FUZZ=N has N
examples of each tried.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.policy import Question, parse_bucket_policy, parse_key_policy
from sim.s3 import MAIN, Client, Door, run_in_memory

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
EXAMPLES = int(os.environ.get("SILTSTONE_FUZZ", "15"))

PIECES = (
    b"\0",
    b"\r\n",
    b"\xff\xfe",
    b"%",
    b"<a>",
    b"</",
    b"&#0;",
    b"-1",
    b"9" * 25,
    b'"',
    b"{",
    b"[]",
    b"null",
    b"*" * 30,
    b"${a}",
    b"2012-99-99",
    b" " * 5,
)


def seeds(kind: str) -> list[tuple[str, bytes]]:
    found = [(path.stem, path.read_bytes()) for path in sorted((CORPUS / kind).iterdir())]
    assert found, f"no corpus of {kind}"
    return found


@st.composite
def twisted(draw: st.DrawFn, kind: str) -> tuple[str, bytes]:
    """One of the corpus, changed in a few places."""
    name, data = draw(st.sampled_from(seeds(kind)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        match draw(st.sampled_from(("cut", "double", "put", "replace", "flip", "move"))):
            case "cut":
                data = data[:start] + data[end:]
            case "double":
                data = data[:end] + data[start:]
            case "put":
                data = data[:start] + draw(st.sampled_from(PIECES)) + data[start:]
            case "replace":
                data = data[:start] + draw(st.sampled_from(PIECES)) + data[end:]
            case "flip" if start < len(data):
                data = data[:start] + bytes([data[start] ^ (1 << draw(st.integers(0, 7)))]) + data[start + 1 :]
            case _:
                data = data[end:] + data[start:end] + data[:start]
    return name, data


fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@fuzz
@given(twisted("requests"))
def test_no_bytes_on_a_connection_are_our_failure(seed: tuple[str, bytes]) -> None:
    async def body(door: Door, client: Client) -> None:
        await client.send(seed[1])
        await client.stream.send_eof()
        received = b""
        with trio.fail_after(60):
            while more := await client.stream.receive_some():
                received += more
        assert b"HTTP/1.1 500" not in received

    run_in_memory(body)


@fuzz
@given(twisted("documents"))
def test_no_document_is_our_failure(seed: tuple[str, bytes]) -> None:
    name, document = seed
    method, _, query = name.partition(" ")

    async def body(door: Door, client: Client) -> None:
        answer = await client.request(method, "/bucket", query, body=document)
        assert answer.status < 500 or answer.code == "NotImplemented"
        again = await client.request("GET", "/bucket", query)
        assert again.status < 500 or again.code == "NotImplemented", "what was taken can be shown"
        assert (await client.request("HEAD", "/bucket")).status == 200

    run_in_memory(body)


@fuzz
@given(twisted("policies"))
def test_no_policy_is_our_failure(seed: tuple[str, bytes]) -> None:
    for parse in (lambda text: parse_bucket_policy(text, "bucket"), parse_key_policy):
        try:
            policy = parse(seed[1])
        except S3Error as error:
            assert error.code == "MalformedPolicy"
            continue
        question = Question(MAIN.owner, "s3:GetObject", "arn:aws:s3:::bucket/a/b", lambda key: ("a", "10.1.1.1"))
        policy.decide(question)
        assert policy.is_public in (True, False)


@pytest.mark.parametrize("kind", ["requests", "documents", "policies"])
def test_the_corpus_is_there(kind: str) -> None:
    assert len(seeds(kind)) > 3
