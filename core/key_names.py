"""Segments of keys as names in the tree, one to one, in an order-keeping code where a file cannot be called so. Pure.

See docs/decisions/0022-keys-on-a-tree.md. A segment is what is between two slashes of a key.
"""

from __future__ import annotations

from siltstone.limits import NAME_BYTES_MAX
from siltstone.meta.zero_free import escape, unescape

WORD = b".s3"
"""Every name with a meaning begins with it."""

FINAL = WORD + b"~"
"""Before the code of a segment, or of its rest. Alone: the empty segment."""

MORE = WORD + b"+"
"""Before the first part of a long one, which goes on in this directory."""

SELF = WORD + b"="
"""In a directory: the object whose key is the directory's path."""

CODE_BYTES_MAX = NAME_BYTES_MAX - len(FINAL)
CHUNK_BYTES_MIN = CODE_BYTES_MAX // 2
"""A first part has at least so many bytes of the segment."""

assert len(FINAL) == len(MORE)


def encode_segment(segment: bytes) -> bytes:
    """The name of a segment; of a long one a path of names."""
    if not needs_code(segment):
        return segment
    names: list[bytes] = []
    while len(code := escape(segment)) > CODE_BYTES_MAX:
        length = _chunk_length(segment)
        names.append(MORE + escape(segment[:length]))
        segment = segment[length:]
    names.append(FINAL + code)
    return b"/".join(names)


def encode_path(path: bytes) -> bytes:
    """The path of names of a key, or of some of its segments."""
    if not looks_odd(path):
        return path
    return b"/".join(map(encode_segment, path.split(b"/")))


def looks_odd(path: bytes) -> bool:
    """Whether a path may have a segment that is not its own name; looked at as a whole, as it is on the way of every
    request."""
    framed = b"/%b/" % path
    if b"/." in framed and (b"/./" in framed or b"/../" in framed or b"/" + WORD in framed):
        return True
    if b"//" in framed or b"\0" in path:
        return True
    return len(path) > NAME_BYTES_MAX and max(map(len, path.split(b"/"))) > NAME_BYTES_MAX


def needs_code(segment: bytes) -> bool:
    """Whether a segment cannot be its own name."""
    if segment in (b"", b".", b"..") or len(segment) > NAME_BYTES_MAX or b"\0" in segment:
        return True
    if not segment.startswith(WORD):
        return False
    return segment == SELF or segment.startswith(MORE) or decode_name(segment) is not None


def decode_name(name: bytes) -> bytes | None:
    """The segment that a name is the whole code of; None for any other name."""
    if not name.startswith(FINAL):
        return None
    segment = unescape(name[len(FINAL) :])
    return segment if segment is not None and needs_code(segment) else None


def _chunk_length(segment: bytes) -> int:
    """How many bytes of a long segment go into the first name."""
    length = CHUNK_BYTES_MIN
    size = len(escape(segment[:length]))
    while size + (cost := 2 if segment[length] < 2 else 1) <= CODE_BYTES_MAX:
        size += cost
        length += 1
    return length
