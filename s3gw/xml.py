"""The XML of S3, both ways. Pure.

Parsing takes what clients send: small documents of plain elements. Anything else (a document type, entities of one's
own, processing instructions, too deep, too many elements) is refused as malformed before it can cost anything.
Rendering takes nested tuples. Keys and prefixes go through ``encode_key`` when the client asked for
``encoding-type=url``, because XML 1.0 cannot say every byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote_from_bytes
from xml.parsers import expat

from siltstone.errors import Refused

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
DEPTH_MAX = 16
ELEMENTS_MAX = 100_000
"""More than 10,000 parts with nine elements each."""

Element = tuple[str, str | int | bool | Sequence["Element"]]
"""A name with its text, or with its children in order; attributes may stand behind the name of one with children."""


class Markup(str):
    """Text of an element that is XML already."""

    __slots__ = ()


class XmlInvalid(Refused):
    """The document is not the well-formed, plain XML that S3 takes."""


class Node:
    """An element that was parsed: its name without namespace, its text, its children in order."""

    __slots__ = ("children", "name", "text")

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = ""
        self.children: list[Node] = []

    def child(self, name: str) -> Node | None:
        """The first child of that name."""
        for node in self.children:
            if node.name == name:
                return node
        return None

    def all(self, name: str) -> list[Node]:
        """All children of that name."""
        return [node for node in self.children if node.name == name]

    def text_of(self, name: str) -> str | None:
        """The text of the first child of that name, None without one."""
        node = self.child(name)
        return None if node is None else node.text


def parse(document: bytes) -> Node:
    """The root element of a document. Raises XmlInvalid, and nothing else, for whatever is not as it should be."""
    parser = expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True
    builder = _Builder()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    parser.StartDoctypeDeclHandler = builder.refuse_doctype
    parser.ProcessingInstructionHandler = builder.refuse_instruction
    try:
        parser.Parse(document, True)
    except expat.ExpatError as error:
        raise XmlInvalid(f"not well-formed: {error}") from None
    except (LookupError, ValueError) as error:  # an encoding that Python does not know or cannot map
        raise XmlInvalid(f"the encoding is not supported: {error}") from None
    assert builder.root is not None
    return builder.root


class _Builder:
    """What expat calls."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[Node] = []
        self._texts: list[list[str]] = []
        self._count = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if len(self._open) >= DEPTH_MAX:
            raise XmlInvalid(f"elements nest deeper than {DEPTH_MAX}")
        if self._count > ELEMENTS_MAX:
            raise XmlInvalid(f"more than {ELEMENTS_MAX} elements")
        node = Node(name.rpartition("}")[2])
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node
        self._open.append(node)
        self._texts.append([])

    def end(self, name: str) -> None:
        node = self._open.pop()
        node.text = "".join(self._texts.pop())

    def text(self, text: str) -> None:
        self._texts[-1].append(text)

    def refuse_doctype(self, name: str, system: str | None, public: str | None, has_subset: bool) -> None:
        raise XmlInvalid("a document type declaration is not allowed")

    def refuse_instruction(self, target: str, data: str) -> None:
        raise XmlInvalid("a processing instruction is not allowed")


# --- rendering -----------------------------------------------------------------------------------------------------

_UNSAFE = re.compile('[&<>"\x00-\x1f\x7f\ufffe\uffff\ud800-\udfff]')
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "\t", "\n": "\n"}


def render(name: str, children: Iterable[Element], *, namespace: bool = True) -> bytes:
    """A whole document."""
    parts = ['<?xml version="1.0" encoding="UTF-8"?>\n<', name]
    parts.append(f' xmlns="{NAMESPACE}">' if namespace else ">")
    _append(parts, children)
    parts.append(f"</{name}>")
    return "".join(parts).encode()


def markup(children: Iterable[Element]) -> Markup:
    """Elements on their own, to be put into a document later."""
    parts: list[str] = []
    _append(parts, children)
    return Markup("".join(parts))


def _append(parts: list[str], children: Iterable[Element]) -> None:
    for name, value in children:
        if isinstance(value, str):
            parts.append(f"<{name}>{value if isinstance(value, Markup) else escape(value)}</{name}>")
        elif value is True or value is False:
            parts.append(f"<{name}>{'true' if value else 'false'}</{name}>")
        elif isinstance(value, int):
            parts.append(f"<{name}>{value}</{name}>")
        elif value:
            parts.append(f"<{name}>")
            _append(parts, value)
            parts.append(f"</{name.partition(' ')[0]}>")
        else:
            parts.append(f"<{name}/>")


def escape(text: str) -> str:
    """Text as character data. A control character becomes a numeric reference, as S3 does it, though XML 1.0 parsers
    stop at most of those: a client that has such keys asks for ``encoding-type=url``."""
    if _UNSAFE.search(text) is None:
        return text
    return _UNSAFE.sub(_escape_one, text)


def _escape_one(match: re.Match[str]) -> str:
    character = match.group()
    known = _ESCAPES.get(character)
    if known is not None:
        return known
    if "\ud800" <= character <= "\udfff" or character in "\x00\ufffe\uffff":
        return "\ufffd"
    return f"&#x{ord(character):X};"


_PLAIN_KEY = re.compile(rb"[A-Za-z0-9/_.~-]*")
"""Most keys: the same in every encoding."""


def encode_key(key: bytes, *, url: bool) -> str:
    """A key or prefix as text of a listing: percent-encoded (a space is %20, slashes stay) when asked for."""
    if _PLAIN_KEY.fullmatch(key):
        return key.decode("ascii")
    return quote_from_bytes(key, safe="/") if url else key.decode("utf-8", "replace")
