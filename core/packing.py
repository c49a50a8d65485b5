"""Which extents share a stripe, and where in it. Pure.

A small extent should die with its stripe, since then its rows come back at once and nobody has to clean. So stripes
are as short as the code allows: a run of bytes of one file has stripes to itself for all its whole rows, and what is
left of it (a tail, or a small file whole) shares one row of every data unit with a few others. Rows are filled best fit
decreasing (D. S. Johnson, "Near-optimal bin packing algorithms", 1973); a gap of SPLIT_BYTES_MIN or more takes the
first part of an extent that goes on in another row, so that rows are full at the price of some extents in two parts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from siltstone.limits import SLOT_BYTES
from siltstone.meta.keys import Reference

SPLIT_BYTES_MIN = 1024
"""A gap at the end of a row that is worth splitting an extent for."""

PADDING_SHARE = 32
"""A run keeps its tail in its own stripe when that pads the stripe by at most one part in so many."""


class Movable(NamedTuple):
    """A live extent: who refers to it, and its length."""

    reference: Reference
    length: int


class Part(NamedTuple):
    """Bytes [start, start + length) of the extent number ``extent``, at ``position`` of a stripe's data."""

    extent: int
    start: int
    length: int
    position: int


class StripePlan(NamedTuple):
    """The parts of one stripe, in the order of their positions, and the bytes that it has with its slots."""

    parts: list[Part]
    size: int


class Packing(NamedTuple):
    """Stripes for some extents. ``same_as``: for extents whose bytes another one brings (clones), which one that is."""

    plans: list[StripePlan]
    same_as: dict[int, int]


class _Piece(NamedTuple):
    """Bytes of one extent that follow those of the piece before."""

    extent: int
    start: int
    length: int


def in_order_of_locality(found: Sequence[Movable]) -> list[Movable]:
    """By directory (its partition), file and offset: what is likely to be read, and to die, together."""
    return sorted(
        found, key=lambda extent: (extent.reference.ino & 0xFF, extent.reference.ino, extent.reference.offset)
    )


def pack(extents: Sequence[Movable], *, row_bytes: int, stripe_bytes: int) -> Packing:
    """Pack extents, in the order of locality, into stripes whose rows hold ``row_bytes`` of data.

    Extents that follow each other in a file follow each other without a gap; any other starts on a slot.
    """
    plans: list[StripePlan] = []
    small: list[list[_Piece]] = []
    same_as: dict[int, int] = {}
    for run in _runs(extents, same_as):
        size = sum(piece.length for piece in run)
        tail = size % row_bytes
        if size > row_bytes and (row_bytes - tail) * PADDING_SHARE <= size:
            tail = 0
        elif size < row_bytes:
            tail = size
        body, rest = _cut(run, size - tail)
        while body:
            stripe, body = _cut(body, stripe_bytes)
            plans.append(_plan([stripe]))
        if rest:
            small.append(rest)
    plans.extend(_fill_rows(small, row_bytes))
    return Packing(plans, same_as)


def short_runs(extents: Sequence[Movable], bytes_max: int) -> list[list[int]]:
    """The runs up to ``bytes_max``, as numbers of extents; bytes that several extents have are left out."""
    same_as: dict[int, int] = {}
    runs = [[piece.extent for piece in run] for run in _runs(extents, same_as)]
    shared = {*same_as, *same_as.values()}
    return [
        run for run in runs if sum(extents[index].length for index in run) <= bytes_max and not shared.intersection(run)
    ]


def _runs(extents: Sequence[Movable], same_as: dict[int, int]) -> Iterator[list[_Piece]]:
    """The extents as runs without a gap in their file, clones of one payload once."""
    brings: dict[tuple[int, int, int], int] = {}
    run: list[_Piece] = []
    previous: Movable | None = None
    for index, extent in enumerate(extents):
        reference, length = extent
        assert length > 0
        first = brings.setdefault((reference.address, reference.skip, length), index)
        if first != index:
            same_as[index] = first
            previous = None
            continue
        if run and not _continues(previous, extent):
            yield run
            run = []
        run.append(_Piece(index, 0, length))
        previous = extent
    if run:
        yield run


def _continues(previous: Movable | None, extent: Movable) -> bool:
    if previous is None:
        return False
    before, after = previous.reference, extent.reference
    return before.ino == after.ino and before.offset + previous.length == after.offset


def _cut(run: Sequence[_Piece], size: int) -> tuple[list[_Piece], list[_Piece]]:
    """The first ``size`` bytes of a run, and the rest."""
    head: list[_Piece] = []
    rest: list[_Piece] = []
    for extent, start, length in run:
        taken = min(size, length)
        if taken:
            head.append(_Piece(extent, start, taken))
        if taken < length:
            rest.append(_Piece(extent, start + taken, length - taken))
        size -= taken
    return head, rest


def _slots(run: Sequence[_Piece]) -> int:
    return -(-sum(piece.length for piece in run) // SLOT_BYTES)


def _plan(runs: Sequence[Sequence[_Piece]]) -> StripePlan:
    parts: list[Part] = []
    end = 0
    for run in runs:
        position = -(-end // SLOT_BYTES) * SLOT_BYTES
        for extent, start, length in run:
            parts.append(Part(extent, start, length, position))
            position += length
        end = position
    return StripePlan(parts, end)


def _fill_rows(runs: Sequence[list[_Piece]], row_bytes: int) -> Iterator[StripePlan]:
    """One row for each plan."""
    waiting = sorted(((_slots(run), run) for run in runs), key=lambda item: item[0])
    while waiting:
        gap = row_bytes // SLOT_BYTES
        row: list[list[_Piece]] = []
        while waiting and gap:
            index = bisect_right(waiting, gap, key=lambda item: item[0]) - 1
            if index >= 0:
                slots, run = waiting.pop(index)
                row.append(run)
                gap -= slots
                continue
            if gap * SLOT_BYTES < SPLIT_BYTES_MIN:
                break
            _, run = waiting.pop()
            head, rest = _cut(run, gap * SLOT_BYTES)
            row.append(head)
            gap = 0
            slots = _slots(rest)
            waiting.insert(bisect_right(waiting, slots, key=lambda item: item[0]), (slots, rest))
        yield _plan(row)
