"""What is rendered parses back; what is not plain XML raises our error and nothing else."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siltstone.s3gw.xml import DEPTH_MAX, ELEMENTS_MAX, Element, Node, XmlInvalid, encode_key, parse, render

names = st.sampled_from(("Key", "Name", "Part", "A"))
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn")), max_size=20)
trees: st.SearchStrategy[list[tuple[str, object]]] = st.recursive(
    st.lists(st.tuples(names, texts), max_size=4),
    lambda children: st.lists(st.tuples(names, st.one_of(texts, children)), max_size=4),
    max_leaves=12,
)


def as_tree(node: Node) -> object:
    return [(child.name, as_tree(child)) for child in node.children] or node.text


def normal(tree: object) -> object:
    if isinstance(tree, str) or not tree:
        return tree or ""
    assert isinstance(tree, list)
    return [(name, normal(value)) for name, value in tree]


@given(trees, st.booleans())
def test_what_is_rendered_parses_back(tree: list[Element], namespace: bool) -> None:
    root = parse(render("Root", tree, namespace=namespace))
    assert root.name == "Root"
    assert as_tree(root) == normal(tree)


@given(st.one_of(st.binary(max_size=80), st.text(max_size=40).map(lambda text: f"<A>{text}</A>".encode())))
def test_parsing_raises_nothing_but_our_error(document: bytes) -> None:
    with contextlib.suppress(XmlInvalid):
        parse(document)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<A>",
        b"<A></B>",
        b"plain",
        b'<!DOCTYPE a [<!ENTITY b "c">]><A>&b;</A>',
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><A/>',
        b"<A>&unknown;</A>",
        b"<?php x?><A/>",
        b'<?xml version="1.0" encoding="no-such-encoding"?><A/>',
        b'<?xml version="1.0" encoding="base64"?><A/>',
        b"<A>" * (DEPTH_MAX + 1) + b"</A>" * (DEPTH_MAX + 1),
        b"<A>" + b"<b/>" * ELEMENTS_MAX + b"</A>",
        b"<A/><B/>",
    ],
)
def test_everything_but_plain_elements_is_refused(document: bytes) -> None:
    with pytest.raises(XmlInvalid):
        parse(document)


def test_values_are_rendered_by_their_kind() -> None:
    document = render("R", [("A", True), ("B", False), ("C", 12), ("D", []), ("E", [("F", "<&>")])], namespace=False)
    assert document.endswith(b"<R><A>true</A><B>false</B><C>12</C><D/><E><F>&lt;&amp;&gt;</F></E></R>")


def test_any_text_can_be_rendered() -> None:
    assert b"&#x1;" in render("R", [("A", "\x01")])
    assert "\ufffd".encode() in render("R", [("A", "\ud800")])


@given(st.binary(max_size=30))
def test_an_encoded_key_is_plain_ascii_without_blanks_or_plus(key: bytes) -> None:
    text = encode_key(key, url=True)
    assert text.isascii() and text.isprintable() and " " not in text and "+" not in text
    assert encode_key(b"a b/c+", url=True) == "a%20b/c%2B"
