"""Totals of what lies where: counted once when a volume is opened, then by what each batch changes.

Functions that put or delete a stripe record or a reference to the log count that in the transaction; whoever commits it
adds it up (core/ledger.py). So status and metrics read four numbers instead of every record. Nothing of this is stored:
after a crash it is counted anew. fsck compares (invariant I6).
"""

from __future__ import annotations

from siltstone.engine.stripe.layout import Stripe


class SpaceTotals:
    """Sums over records, or how a batch changes them. Bytes."""

    __slots__ = ("log_live_bytes", "stripe_data_bytes", "stripe_raw_bytes", "stripes")

    def __init__(self) -> None:
        self.log_live_bytes = 0
        """Extents in the log."""
        self.stripes = 0
        self.stripe_data_bytes = 0
        """Data in stripes, dead parts of living ones included."""
        self.stripe_raw_bytes = 0
        """Units of stripes: data, padding and parity."""

    def count_stripe(self, stripe: Stripe, units: int, sign: int = 1) -> None:
        """Count a stripe of so many units; with ``sign`` -1 do not count it any more."""
        self.stripes += sign
        self.stripe_data_bytes += sign * stripe.data_bytes
        self.stripe_raw_bytes += sign * stripe.unit_bytes * units

    def add(self, change: SpaceTotals) -> None:
        """Add what a batch changed."""
        self.log_live_bytes += change.log_live_bytes
        self.stripes += change.stripes
        self.stripe_data_bytes += change.stripe_data_bytes
        self.stripe_raw_bytes += change.stripe_raw_bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpaceTotals) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    def __repr__(self) -> str:
        return ", ".join(f"{name} {getattr(self, name)}" for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]
