"""Bytes without zeros, in the order of the bytes that they stand for. Pure."""

from __future__ import annotations


def escape(text: bytes) -> bytes:
    """Without zero bytes, in the same order."""
    if b"\0" not in text and b"\1" not in text:
        return text
    return text.replace(b"\1", b"\1\2").replace(b"\0", b"\1\1")


def unescape(code: bytes) -> bytes | None:
    """What was escaped; None for what no text becomes."""
    if b"\1" not in code:
        return code
    text = code.replace(b"\1\1", b"\0").replace(b"\1\2", b"\1")
    return text if escape(text) == code else None
