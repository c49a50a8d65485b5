"""Which runs of bytes go to which dead places of which stripes. Pure.

Filling a stripe costs its new parity, whatever is filled: (m * unit + filled) / filled bytes written for each byte. So
a stripe is filled with a cell (one unit's worth) at least, which bounds that at m + 1, or not at all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from siltstone.limits import SLOT_BYTES
from siltstone.types import StripeId


class Candidate(NamedTuple):
    """A stripe with dead places: ranges [start, end) of its data, whole slots."""

    stripe_id: StripeId
    unit_bytes: int
    dead: Sequence[tuple[int, int]]


class StripeFill(NamedTuple):
    """What goes to one stripe: (number of the run, where in the stripe's data it starts)."""

    stripe_id: StripeId
    places: list[tuple[int, int]]


def plan_fills(sizes: Sequence[int], candidates: Iterable[Candidate], *, stripes_max: int) -> list[StripeFill]:
    """Give runs of these sizes places in the candidates, best candidate first, longest run first.

    Looks at no more candidates than it needs. Runs that got no place are left for new stripes.
    """
    waiting = sorted((size, run) for run, size in enumerate(sizes))
    fills: list[StripeFill] = []
    for candidate in candidates:
        if len(fills) == stripes_max:
            break
        left = list(waiting)
        places: list[tuple[int, int]] = []
        for start, end in sorted(candidate.dead, key=lambda place: place[0] - place[1]):
            at = start
            while (index := bisect_right(left, (end - at, len(sizes))) - 1) >= 0:
                size, run = left.pop(index)
                places.append((run, at))
                at += -(-size // SLOT_BYTES) * SLOT_BYTES
        if sum(sizes[run] for run, _ in places) >= candidate.unit_bytes:
            waiting = left
            fills.append(StripeFill(candidate.stripe_id, places))
            if not waiting:
                break
    return fills
