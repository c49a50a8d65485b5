"""Walking the stripes of a volume in windows: neighbours in one slab, a megabyte of each unit at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from siltstone.core.ledger import Ledger
from siltstone.engine.stripe.layout import Slab, checksums_bytes
from siltstone.engine.stripe.reader import StripeAddress
from siltstone.limits import MIB, ROW_BYTES
from siltstone.meta import space
from siltstone.meta.store.port import Reader
from siltstone.types import SlabId, StripeId, slab_of

WINDOW_ROWS = MIB // ROW_BYTES
"""Stripes are looked at together up to so many rows: a megabyte of each unit."""


class Window(NamedTuple):
    """Neighbouring stripes of one slab, with all it takes to check them. ``cursor``: where the next window begins.

    ``broken``: stripes whose records do not fit together, so that nobody knows what should be on the disks.
    """

    addresses: list[StripeAddress]
    broken: list[StripeId]
    cursor: StripeId


def window_from(reader: Reader, cursor: StripeId) -> Window:
    """The stripes from ``cursor`` on that are looked at together; an empty window when there are no more."""
    addresses: list[StripeAddress] = []
    broken: list[StripeId] = []
    rows = 0
    first_slab: SlabId | None = None
    slab: Slab | None = None
    for stripe_id, stripe in space.stripes_from(reader, cursor):
        if first_slab is None:
            first_slab = slab_of(stripe_id)
            slab = space.get_slab(reader, first_slab)
        elif slab_of(stripe_id) != first_slab or rows + stripe.rows > WINDOW_ROWS:
            break
        checksums = space.get_checksums(reader, stripe_id)
        if slab is not None and checksums is not None and len(checksums) == checksums_bytes(slab, stripe):
            addresses.append(StripeAddress(slab, stripe_id, stripe, checksums))
        else:
            broken.append(stripe_id)
        rows += stripe.rows
        cursor = StripeId(stripe_id + 1)
    return Window(addresses, broken, cursor)


@asynccontextmanager
async def claimed_window(ledger: Ledger, cursor: StripeId) -> AsyncIterator[Window | None]:
    """The stripes from ``cursor`` on that are looked at together, or None when there are no more.

    As long as the context lasts they are neither released, moved nor filled: it is in the read fence, and their slab is
    claimed, for which this waits.
    """
    while (first := next(space.stripes_from(ledger.store, cursor), None)) is not None:
        slab_id = slab_of(first[0])
        async with ledger.claimed(slab_id):
            era = ledger.fence.enter()
            try:
                window = window_from(ledger.store, first[0])
                # What was left of the slab may have gone while somebody else had the claim.
                if not window.addresses or slab_of(window.addresses[0].stripe_id) == slab_id:
                    yield window
                    return
            finally:
                ledger.fence.leave(era)
    yield None
