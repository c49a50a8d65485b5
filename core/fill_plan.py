"""Which bytes of which runs go to which dead places of which stripes. Pure.

Filling a stripe costs its new parity, whatever is filled: (m * unit + filled) / filled bytes written for each byte. So
the most dead stripes come first, and none is filled with less than half a unit's worth, which bounds that at 2 m + 1.
Where relocation would have to make rows a quarter will do: 4 m + 1 is still less than emptying a stripe that is so
full, and what is left dead in every stripe adds up.

A dead place is seldom as long as a run. Runs that fit go there whole, longest first; what is left of the place takes
the first part of one that does not, whose rest goes to the next place. So places are filled to the end, at the price of
some extents in two parts.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from siltstone.core.packing import SPLIT_BYTES_MIN
from siltstone.limits import SLOT_BYTES
from siltstone.types import StripeId


class Candidate(NamedTuple):
    """A stripe with dead places: ranges [start, end) of its data, whole slots."""

    stripe_id: StripeId
    unit_bytes: int
    dead: Sequence[tuple[int, int]]


class FillPart(NamedTuple):
    """Bytes [start, start + length) of the run number ``run``, at ``position`` of a stripe's data."""

    run: int
    start: int
    length: int
    position: int


class StripeFill(NamedTuple):
    """What goes to one stripe."""

    stripe_id: StripeId
    parts: list[FillPart]


class _Waiting(NamedTuple):
    """Bytes [start, start + length) of a run that have no place yet. Sorts by length."""

    length: int
    run: int
    start: int


def fill_bytes_min(unit_bytes: int, *, is_cramped: bool) -> int:
    """A stripe that would get less than this is left alone. ``is_cramped``: there are no rows to write to instead."""
    return unit_bytes // (4 if is_cramped else 2)


def plan_fills(
    sizes: Sequence[int], candidates: Iterable[Candidate], *, stripes_max: int, is_cramped: bool = False
) -> list[StripeFill]:
    """Give runs of these sizes places in the candidates, best candidate first; a run gets places for all of its bytes,
    or none.

    Looks at no more candidates than it needs. Runs that got no place are left for new stripes.
    """
    waiting = sorted(_Waiting(size, run, 0) for run, size in enumerate(sizes))
    fills: list[StripeFill] = []
    for candidate in candidates:
        if len(fills) == stripes_max or not waiting:
            break
        left = list(waiting)
        parts = _fill(candidate, left)
        if sum(part.length for part in parts) >= fill_bytes_min(candidate.unit_bytes, is_cramped=is_cramped):
            waiting = left
            fills.append(StripeFill(candidate.stripe_id, parts))
    unfinished = {item.run for item in waiting}
    whole = (StripeFill(fill.stripe_id, [part for part in fill.parts if part.run not in unfinished]) for fill in fills)
    return [fill for fill in whole if fill.parts]


def _fill(candidate: Candidate, left: list[_Waiting]) -> list[FillPart]:
    """Take what one stripe gets from ``left``."""
    parts: list[FillPart] = []
    for start, end in sorted(candidate.dead, key=lambda place: place[0] - place[1]):
        at = start
        while left and end - at >= SLOT_BYTES:
            gap = end - at
            index = bisect_right(left, gap, key=lambda item: item.length) - 1
            if index >= 0:
                taken = left.pop(index)
            elif gap >= SPLIT_BYTES_MIN:
                # One that was begun before, if there is any: at the end only few may be unfinished.
                index = next((i for i, item in enumerate(left) if item.start), len(left) - 1)
                length, run, first = left.pop(index)
                insort(left, _Waiting(length - gap, run, first + gap))
                taken = _Waiting(gap, run, first)
            else:
                break
            parts.append(FillPart(taken.run, taken.start, taken.length, at))
            at += -(-taken.length // SLOT_BYTES) * SLOT_BYTES
    return parts
