"""Listings: pages join up to the whole, in both versions, with any delimiter."""

from __future__ import annotations

from urllib.parse import quote, unquote_to_bytes

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.core.object_types import Conditions, PutAttributes
from siltstone.s3gw.xml import Node
from sim.s3 import Client, Door, open_door

parts = st.sampled_from(("a", "b", "a b", "ü", "/", "//", "-", "%", "+", "\x01"))
keys = st.lists(parts, min_size=1, max_size=4).map("".join)


def encoded(text: str) -> str:
    return quote(text, safe="-_.~")


def decoded(node: Node, name: str) -> bytes:
    return unquote_to_bytes(node.text_of(name) or "")


async def pages(client: Client, version: int, prefix: str, delimiter: str, limit: int) -> list[Node]:
    """All pages of a listing."""
    found: list[Node] = []
    token = ""
    while True:
        query = f"delimiter={encoded(delimiter)}&encoding-type=url&max-keys={limit}&prefix={encoded(prefix)}"
        query += "&list-type=2" if version == 2 else ""
        if token:
            query += f"&continuation-token={encoded(token)}" if version == 2 else f"&marker={token}"
        document = (await client.request("GET", "/bucket", "&".join(sorted(query.split("&"))))).xml
        found.append(document)
        if document.text_of("IsTruncated") != "true":
            return found
        if version == 2:
            token = document.text_of("NextContinuationToken") or ""
        else:
            last = document.all("Contents")[-1].text_of("Key") if document.all("Contents") else ""
            token = encoded(unquote_to_bytes(document.text_of("NextMarker") or last or "").decode())
        assert token


@settings(max_examples=40, deadline=None)
@given(
    st.sets(keys, max_size=12),
    st.sampled_from((1, 2)),
    st.sampled_from(("", "a", "a/", "ü")),
    st.sampled_from(("", "/", "b", " ")),
    st.integers(1, 5),
)
def test_pages_join_up_to_what_is_there(names: set[str], version: int, prefix: str, delimiter: str, limit: int) -> None:
    expected_keys: list[bytes] = []
    expected_prefixes: list[bytes] = []
    for name in sorted(name.encode() for name in names):
        if name.startswith(prefix.encode()):
            at = name.find(delimiter.encode(), len(prefix.encode())) if delimiter else -1
            if at < 0:
                expected_keys.append(name)
            elif (folded := name[: at + len(delimiter.encode())]) not in expected_prefixes:
                expected_prefixes.append(folded)

    async def main() -> None:
        async with open_door() as (door, client):
            for name in names:
                door.memory.put("bucket", name.encode(), b"", PutAttributes(etag="e"), Conditions())
            found = await pages(client, version, prefix, delimiter, limit)
            contents = [node for page in found for node in page.all("Contents")]
            assert [decoded(node, "Key") for node in contents] == expected_keys
            folded = [decoded(node, "Prefix") for page in found for node in page.all("CommonPrefixes")]
            assert folded == expected_prefixes
            assert all(len(page.all("Contents")) + len(page.all("CommonPrefixes")) <= limit for page in found)

    trio.run(main)


async def fill(door: Door, *names: str) -> None:
    for name in names:
        door.memory.put("bucket", name.encode(), b"abc", PutAttributes(etag="e", owner="main-id"), Conditions())


def test_a_listing_says_what_was_asked_and_what_was_found() -> None:
    async def main() -> None:
        async with open_door() as (door, client):
            await fill(door, "a/1", "a/2", "b")
            query = "delimiter=%2F&fetch-owner=true&list-type=2&max-keys=1000&start-after=A"
            document = (await client.request("GET", "/bucket", query)).xml
            assert {node.name: node.text for node in document.children if not node.children} == {
                "Name": "bucket",
                "Prefix": "",
                "MaxKeys": "1000",
                "KeyCount": "2",
                "Delimiter": "/",
                "StartAfter": "A",
                "IsTruncated": "false",
            }
            (entry,) = document.all("Contents")
            owner = entry.child("Owner")
            assert entry.text_of("Size") == "3" and entry.text_of("StorageClass") == "STANDARD"
            assert owner is not None and owner.text_of("DisplayName") == "Main"
            document = (await client.request("GET", "/bucket", "max-keys=0")).xml
            assert document.text_of("IsTruncated") == "false" and not document.all("Contents")
            document = (await client.request("GET", "/bucket", "max-keys=5000")).xml
            assert document.text_of("MaxKeys") == "1000" and len(document.all("Contents")) == 3

    trio.run(main)


def test_listing_parameters_are_checked() -> None:
    async def main() -> None:
        async with open_door() as (_, client):
            for query in (
                "max-keys=x",
                "max-keys=-1",
                "encoding-type=base64",
                "continuation-token=nonsense&list-type=2",
            ):
                assert (await client.request("GET", "/bucket", query)).code == "InvalidArgument", query
            assert (await client.request("GET", "/nowhere")).code == "NoSuchBucket"
            await client.put("/bucket/k", b"")
            begun = (await client.request("GET", "/bucket", "continuation-token=&list-type=2")).xml
            assert begun.text_of("ContinuationToken") == "" and len(begun.all("Contents")) == 1

    trio.run(main)
