"""Worn stripes: which living stripes have dead bytes, and how many.

Nobody scans for them while the volume works: a batch that takes a part of a stripe reports it, and what was worn before
this life is found by one walk over the references, in slices, after opening. A stripe is looked at again whenever it
is reported, at once by who is about to use it, otherwise some at a time; entries cost about 250 bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import islice
from typing import NamedTuple

import trio

from siltstone.core.split_plan import GroupKind, groups_of
from siltstone.limits import CHECKSUM_BLOCK_BYTES, SLOT_BYTES
from siltstone.meta import space
from siltstone.meta.keys import Reference
from siltstone.meta.store.port import Reader
from siltstone.types import StripeId, slab_of

DEAD_BYTES_MIN = 1024
"""Stripes with less that is dead are not worn: nothing worth the work fits there."""

CLASSES = 16
"""Worn stripes are kept apart by the share that is dead, in so many steps."""

DEAD_SHARE_MIN = 8
"""A stripe is worth moving when at least one part in so many of it is dead."""

SLICE_STRIPES = 128
"""Stripes that the walk looks at between two checkpoints: about two milliseconds."""

BRIEF_REFERENCES = 256
"""After so many references a brief look ends; the stripe at which that happens is looked at whole."""


assert CLASSES % DEAD_SHARE_MIN == 0, "a class is worth moving as a whole, or not at all"


class Worn(NamedTuple):
    """A worn stripe. Bytes are of data units. ``written``: seconds since the epoch, 0 if nobody knows."""

    stripe_id: StripeId
    capacity: int
    dead_bytes: int
    written: int
    unit_bytes: int
    hole_bytes: int
    """Of what is dead, what can be filled, once it is split if it is long."""
    has_dead_rows: bool
    """Some rows of all units are dead: they come free by splitting it."""

    @property
    def is_short(self) -> bool:
        """Whether its dead places can be filled: new parity for it is at most one checksum block of each unit."""
        return self.unit_bytes <= CHECKSUM_BLOCK_BYTES


class StripeUse(NamedTuple):
    """What refers to a stripe, and which slots of its data are free of that."""

    references: list[tuple[Reference, int]]
    dead: list[tuple[int, int]]
    """Ranges [start, end) of the stripe's data, whole slots, in order."""


def use_of(reader: Reader, stripe_id: StripeId, capacity: int) -> StripeUse:
    """Look at one stripe. ``capacity``: bytes that its data units hold."""
    references = list(space.stripe_references(reader, stripe_id))
    dead: list[tuple[int, int]] = []
    end = 0
    for reference, length in references:  # in the order of where they start
        start = reference.skip // SLOT_BYTES * SLOT_BYTES
        if start > end:
            dead.append((end, start))
        end = max(end, -(-(reference.skip + length) // SLOT_BYTES) * SLOT_BYTES)
    if end < capacity:
        dead.append((end, capacity))
    return StripeUse(references, dead)


class WornStripes:
    """The index. ``note`` and ``forget`` are called with every commit; the rest is for those who reclaim."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._unseen: dict[StripeId, None] = {}
        self._worn: dict[StripeId, Worn] = {}
        self._classes: list[dict[StripeId, None]] = [{} for _ in range(2 * CLASSES)]
        self._with_dead_rows: dict[StripeId, None] = {}
        self.dead_bytes = 0
        """In worn stripes that were looked at."""
        self.hole_bytes = 0
        """Of these, what settling can fill,"""
        self.short_hole_bytes = 0
        """and without splitting anything."""

    def note(self, stripe_id: StripeId) -> None:
        """A stripe has lost a part, or was written with room left over."""
        self._unseen[stripe_id] = None

    def forget(self, stripe_id: StripeId) -> None:
        """A stripe is gone."""
        self._unseen.pop(stripe_id, None)
        self._drop(stripe_id)

    def look(self, *, briefly: bool = False) -> None:
        """Look at what was noted. Plain, and bounded by what wears out between two calls.

        ``briefly``: for some milliseconds at the most, while nobody needs to know exactly: a stripe that is overwritten
        at random places has a thousand references, and is noted with every write.
        """
        left = BRIEF_REFERENCES if briefly else sys.maxsize
        for stripe_id in list(islice(self._unseen, 4 * SLICE_STRIPES)):
            del self._unseen[stripe_id]
            left -= self._look_at(stripe_id)
            if left < 0:
                return

    async def complete(self) -> None:
        """Look at every stripe once."""
        cursor = StripeId(0)
        while found := list(islice(space.stripes_from(self._reader, cursor), SLICE_STRIPES)):
            for stripe_id, _ in found:
                self._look_at(stripe_id)
                cursor = StripeId(stripe_id + 1)
            await trio.lowlevel.checkpoint()

    def short(self) -> Iterator[Worn]:
        """Worn stripes whose dead places can be filled, most dead first. To be used up without an await, as
        ``victims``."""
        for found in reversed(self._classes[:CLASSES]):
            for stripe_id in found:
                yield self._worn[stripe_id]

    def long(self) -> Iterator[Worn]:
        """The others, most dead first: they can be split."""
        for found in reversed(self._classes[CLASSES:]):
            for stripe_id in found:
                yield self._worn[stripe_id]

    def with_dead_rows(self) -> list[StripeId]:
        """Long stripes in which some rows are dead."""
        return list(self._with_dead_rows)

    def victims(self, now: int) -> Iterator[Worn]:
        """Worn stripes in the order of what moving the rest gains: (1 - u) * age / (1 + u), u being the living share
        (M. Rosenblum, J. Ousterhout, "The design and implementation of a log-structured file system", 1992). Those of
        which less than one part in DEAD_SHARE_MIN is dead, very many in a full pool, are not looked at.

        Of each class of dead share the one that is worn longest stands for the others.
        """
        first = CLASSES // DEAD_SHARE_MIN
        queues = [iter(found) for found in (*self._classes[first:CLASSES], *self._classes[CLASSES + first :])]
        heads: list[tuple[float, int, Worn]] = []  # what is gained, negative; the queue; its first

        def push(index: int) -> None:
            stripe_id = next(queues[index], None)
            if stripe_id is not None:
                worn = self._worn[stripe_id]
                heappush(heads, (-_gain(worn, now), index, worn))

        for index in range(len(queues)):
            push(index)
        while heads:
            _, index, worn = heappop(heads)
            yield worn
            push(index)

    def _look_at(self, stripe_id: StripeId) -> int:
        """Look at one stripe; returns how many references it has."""
        self._drop(stripe_id)
        stripe = space.get_stripe(self._reader, stripe_id)
        slab = space.get_slab(self._reader, slab_of(stripe_id))
        if stripe is None or slab is None:
            return 0
        capacity = slab.data_units * stripe.unit_bytes
        use = use_of(self._reader, stripe_id, capacity)
        dead_bytes = sum(end - start for start, end in use.dead)
        if not use.references or dead_bytes < DEAD_BYTES_MIN:
            return len(use.references)
        groups = groups_of(stripe, slab.data_units, use.dead)
        holes = sum(group.hole_bytes for group in groups if group.kind is not GroupKind.LIVING)
        has_dead_rows = any(group.kind is GroupKind.DEAD for group in groups)
        worn = Worn(stripe_id, capacity, dead_bytes, stripe.written, stripe.unit_bytes, holes, has_dead_rows)
        self._worn[stripe_id] = worn
        self._classes[_class_of(worn)][stripe_id] = None
        if has_dead_rows:
            self._with_dead_rows[stripe_id] = None
        self._count(worn, 1)
        return len(use.references)

    def _drop(self, stripe_id: StripeId) -> None:
        worn = self._worn.pop(stripe_id, None)
        if worn is not None:
            del self._classes[_class_of(worn)][stripe_id]
            self._with_dead_rows.pop(stripe_id, None)
            self._count(worn, -1)

    def _count(self, worn: Worn, sign: int) -> None:
        self.dead_bytes += sign * worn.dead_bytes
        self.hole_bytes += sign * worn.hole_bytes
        if worn.is_short:
            self.short_hole_bytes += sign * worn.hole_bytes


def _class_of(worn: Worn) -> int:
    share = min(CLASSES - 1, worn.dead_bytes * CLASSES // worn.capacity)
    return share if worn.is_short else CLASSES + share


def _gain(worn: Worn, now: int) -> float:
    living = 1 - worn.dead_bytes / worn.capacity
    return (1 - living) * max(1, now - worn.written) / (1 + living)
