"""Splitting: worn long stripes become several by their records alone, so that what is dead in them can be used.

Two things call for it. Rows in which nothing lives come free at once, whenever there are some. And where settling looks
for holes, groups of rows with dead places become short stripes that it can fill (core/split_plan.py says where to cut).
It costs no I/O but a batch of metadata, and more extents: those of a split stripe end where a group does.
"""

from __future__ import annotations

from itertools import islice

from siltstone.core.ledger import Ledger
from siltstone.core.split_plan import groups_of, plan_cuts
from siltstone.core.worn import use_of
from siltstone.meta import extents, space
from siltstone.meta.extents import FreedStripe
from siltstone.types import StripeId, slab_of

GROUPS_MAX = 16
"""Groups of rows that are cut out of one stripe in one batch: bounds its records."""

LOOKED_AT_MAX = 64

STRIPES_MAX = 4
"""Stripes that are split in one turn, about a millisecond each."""


class Splitter:
    """Splits worn stripes of a volume. Plain methods: between two calls every stripe is whole."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.split_stripes = 0
        """Stripes that became several since the volume was opened."""
        self.freed_bytes = 0
        """Of rows that came free by it, in data units."""

    def free_dead_rows(self) -> None:
        """Cut out of some stripes the rows in which nothing lives: they come free."""
        found = self._ledger.worn.with_dead_rows()[:STRIPES_MAX]
        for stripe_id in found:
            self._split(stripe_id, groups_max=0)
        if found:
            self._ledger.worn.look()

    def make_holes(self, wanted: int) -> None:
        """Split long stripes, most dead first, until about ``wanted`` bytes of dead places can be filled."""
        worn = self._ledger.worn
        with_holes = (item.stripe_id for item in islice(worn.long(), LOOKED_AT_MAX) if item.hole_bytes)
        done = 0
        for stripe_id in list(with_holes):
            if worn.short_hole_bytes >= wanted:
                return
            done += self._split(stripe_id, groups_max=GROUPS_MAX)
            worn.look()
            if done == STRIPES_MAX:
                return

    def _split(self, stripe_id: StripeId, *, groups_max: int) -> bool:
        ledger = self._ledger
        slab_id = slab_of(stripe_id)
        if space.has_fill(ledger.store, stripe_id) or not ledger.try_claim(slab_id):
            return False  # somebody works on the slab: there is another time
        try:
            stripe, slab = space.get_stripe(ledger.store, stripe_id), space.get_slab(ledger.store, slab_id)
            if stripe is None or slab is None:
                return False
            dead = use_of(ledger.store, stripe_id, slab.data_units * stripe.unit_bytes).dead
            cuts = plan_cuts(groups_of(stripe, slab.data_units, dead), groups_max=groups_max)
            if not cuts:
                return False
            transaction = ledger.begin()
            freed: list[FreedStripe] = []
            parts = extents.split_stripe(transaction, stripe_id, slab, cuts, freed)
            ledger.forget_stripe(stripe_id)
            ledger.commit(transaction, freed)
            # In this order: the first part has the id of the whole, which is not to be forgotten if that lives.
            for part in parts:
                ledger.worn.note(part)
            self.split_stripes += 1
            self.freed_bytes += sum(gone.unit_bytes * slab.data_units for _, gone in freed if gone is not None)
            return True
        finally:
            ledger.release_claim(slab_id)
