"""Where a worn long stripe is cut, so that what is dead in it can be used without moving what lives. Pure.

Some rows of all units are a stripe by themselves, so a long stripe can be made several shorter ones by its records
alone (engine/stripe/layout.py). Rows in which nothing lives are cut out and come free. Groups of rows with dead places
become short stripes, whose dead places take new bytes at the price of parity for just these rows (core/fill.py).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from siltstone.core.fill_plan import fill_bytes_min
from siltstone.core.packing import SPLIT_BYTES_MIN
from siltstone.engine.stripe.layout import GROUP_ROWS, Stripe, unit_ranges
from siltstone.limits import CHECKSUM_BLOCK_BYTES, ROW_BYTES


class GroupKind(enum.Enum):
    """What is in GROUP_ROWS rows of all data units."""

    DEAD = "dead"
    HOLEY = "holey"
    LIVING = "living"


class Group(NamedTuple):
    """Some rows of all data units: what they are, how many of their bytes are dead, and how many of these are in places
    long enough for a part of an extent (SPLIT_BYTES_MIN)."""

    kind: GroupKind
    dead_bytes: int
    hole_bytes: int


def groups_of(stripe: Stripe, data_units: int, dead: Sequence[tuple[int, int]]) -> list[Group]:
    """Each group of rows of a stripe, in order. ``dead``: ranges [start, end) of the stripe's data.

    A group is holey if a fill may put enough into it to be worth its parity where room is cramped. What nothing fits
    does not count for that.
    """
    count = -(-stripe.rows // GROUP_ROWS)
    dead_bytes, hole_bytes = [0] * count, [0] * count
    for start, end in dead:
        for _, offset, size in unit_ranges(stripe, start, end - start):
            stop = offset + size
            while offset < stop:
                group = offset // CHECKSUM_BLOCK_BYTES
                step = min(stop, (group + 1) * CHECKSUM_BLOCK_BYTES) - offset
                dead_bytes[group] += step
                hole_bytes[group] += step if end - start >= SPLIT_BYTES_MIN else 0
                offset += step
    groups: list[Group] = []
    for group, size in enumerate(dead_bytes):
        unit_bytes = min(GROUP_ROWS, stripe.rows - group * GROUP_ROWS) * ROW_BYTES
        if size == unit_bytes * data_units:
            kind = GroupKind.DEAD
        else:
            is_holey = hole_bytes[group] >= fill_bytes_min(unit_bytes, is_cramped=True)
            kind = GroupKind.HOLEY if is_holey else GroupKind.LIVING
        groups.append(Group(kind, size, hole_bytes[group]))
    return groups


def plan_cuts(groups: Sequence[Group], *, groups_max: int) -> list[int]:
    """Before which rows to cut: around runs of dead groups, and around each of the first ``groups_max`` holey ones."""
    cuts: list[int] = []
    holey = 0
    for index, (before, kind) in enumerate(pairwise(group.kind for group in groups), start=1):
        is_apart = GroupKind.HOLEY in (before, kind) and holey < groups_max
        holey += before is GroupKind.HOLEY
        if is_apart or (before is GroupKind.DEAD) != (kind is GroupKind.DEAD):
            cuts.append(index * GROUP_ROWS)
    return cuts
