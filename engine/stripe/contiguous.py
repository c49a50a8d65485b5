"""Writes that follow each other in a file, as one."""

from __future__ import annotations

from collections.abc import Sequence

from siltstone.types import Buffer

WRITE_BUFFERS_MAX = 512
"""Buffers in one write; the kernel takes 1,024."""


def neighbours(pieces: Sequence[tuple[int, Buffer]]) -> list[tuple[int, list[Buffer]]]:
    """Writes of one file, by offset; those that follow each other without a gap joined into one."""
    joined: list[tuple[int, list[Buffer]]] = []
    end = -1
    for offset, data in sorted(pieces, key=lambda piece: piece[0]):
        if offset == end and len(joined[-1][1]) < WRITE_BUFFERS_MAX:
            joined[-1][1].append(data)
        else:
            joined.append((offset, [data]))
        end = offset + len(data)
    return joined
