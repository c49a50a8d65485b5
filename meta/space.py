"""Records of the pool's space: slabs, stripes with their checksums, and who refers to a stripe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from siltstone.engine.stripe.layout import Slab, Stripe, units_in
from siltstone.meta import keys
from siltstone.meta.keys import Reference
from siltstone.meta.records import AwayRecord, Fill, decode, encode
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Transaction
from siltstone.meta.totals import SpaceTotals
from siltstone.types import DiskId, SlabId, StripeId, slab_of

COUNTED_TOGETHER = 4096


def put_slab(transaction: Transaction, slab_id: SlabId, slab: Slab) -> None:
    """Record a slab. It goes in the batch that first points at one of its stripes, or before."""
    transaction.put(keys.slab(slab_id), encode(slab))


def delete_slab(transaction: Transaction, slab_id: SlabId) -> None:
    """Forget a slab; no stripe record may name it."""
    start, end = keys.stripe(StripeId(slab_id << 16)), keys.stripe(StripeId((slab_id + 1) << 16))
    assert next(iter(transaction.scan(start, end)), None) is None, f"slab {slab_id} still has stripes"
    transaction.delete(keys.slab(slab_id))


def get_slab(reader: Reader, slab_id: SlabId) -> Slab | None:
    """The slab, or None."""
    value = reader.get(keys.slab(slab_id))
    return None if value is None else decode(Slab, value)


def slabs(reader: Reader) -> Iterator[tuple[SlabId, Slab]]:
    """Every slab, in the order of their ids."""
    for key, value in reader.scan(*keys.prefix_range(keys.SLABS)):
        yield keys.slab_id(key), decode(Slab, value)


def put_stripe(transaction: Transaction, stripe_id: StripeId, stripe: Stripe, checksums: bytes) -> None:
    """Record a stripe and the checksums of its units, in the batch that first refers to it, or anew."""
    _uncount_stripe(transaction, stripe_id)
    transaction.put(keys.stripe(stripe_id), encode(stripe))
    transaction.put(keys.stripe_checksums(stripe_id), checksums)
    transaction.totals.count_stripe(stripe, units_in(checksums, stripe))


def _uncount_stripe(transaction: Transaction, stripe_id: StripeId) -> Stripe | None:
    """Count a stripe that has a record no more; returns what that is."""
    stripe, checksums = get_stripe(transaction, stripe_id), get_checksums(transaction, stripe_id)
    if stripe is not None and checksums is not None:
        transaction.totals.count_stripe(stripe, units_in(checksums, stripe), -1)
    return stripe


def get_stripe(reader: Reader, stripe_id: StripeId) -> Stripe | None:
    """The stripe, or None."""
    value = reader.get(keys.stripe(stripe_id))
    return None if value is None else decode(Stripe, value)


def get_checksums(reader: Reader, stripe_id: StripeId) -> bytes | None:
    """The checksums of a stripe's units, or None."""
    return reader.get(keys.stripe_checksums(stripe_id))


def delete_stripe(transaction: Transaction, stripe_id: StripeId) -> Stripe:
    """Forget a stripe that nothing refers to any more; returns what its record was."""
    stripe = _uncount_stripe(transaction, stripe_id)
    assert stripe is not None, f"stripe {stripe_id:x} was referred to and has no record"
    transaction.delete(keys.stripe(stripe_id))
    transaction.delete(keys.stripe_checksums(stripe_id))
    if transaction.get(keys.fill(stripe_id)) is not None:
        delete_fill(transaction, stripe_id)
    return stripe


def put_fill(transaction: Transaction, stripe_id: StripeId, fill: Fill) -> None:
    """Record what is on its way to a stripe, in the batch with its new parity and checksums."""
    transaction.put(keys.fill(stripe_id), encode(fill))


def delete_fill(transaction: Transaction, stripe_id: StripeId) -> None:
    """The bytes are in place, or the stripe is gone."""
    transaction.delete(keys.fill(stripe_id))


def has_fill(reader: Reader, stripe_id: StripeId) -> bool:
    """Whether bytes are on their way to a stripe."""
    return reader.get(keys.fill(stripe_id)) is not None


def fills(reader: Reader) -> Iterator[tuple[StripeId, Fill]]:
    """Every stripe to which bytes are on their way, in the order of their ids."""
    for key, value in reader.scan(*keys.prefix_range(keys.FILLS)):
        yield keys.stripe_id(key), decode(Fill, value)


def put_away(transaction: Transaction, since_ns: Mapping[DiskId, int]) -> None:
    """Record since when disks are away; no record where none is."""
    if since_ns:
        transaction.put(keys.AWAY, encode(AwayRecord(list(since_ns.items()))))
    else:
        transaction.delete(keys.AWAY)


def get_away(reader: Reader) -> dict[DiskId, int]:
    """Since when disks are away, as it was recorded last."""
    value = reader.get(keys.AWAY)
    return {} if value is None else {DiskId(disk_id): since_ns for disk_id, since_ns in decode(AwayRecord, value).disks}


def stripes(reader: Reader) -> Iterator[tuple[StripeId, Stripe]]:
    """Every stripe, in the order of their ids: by slab, then by row."""
    return stripes_from(reader, StripeId(0))


def stripes_from(reader: Reader, stripe_id: StripeId) -> Iterator[tuple[StripeId, Stripe]]:
    """Every stripe from an id on, in the order of their ids."""
    for key, value in reader.scan(keys.stripe(stripe_id), keys.after(keys.STRIPES)):
        yield keys.stripe_id(key), decode(Stripe, value)


def counted(
    totals: SpaceTotals, slabs: Mapping[SlabId, Slab], found: Iterable[tuple[StripeId, Stripe]]
) -> Iterator[tuple[StripeId, Stripe]]:
    """Pass stripes on and count them."""
    for stripe_id, stripe in found:
        slab = slabs.get(slab_of(stripe_id))
        if slab is not None:
            totals.count_stripe(stripe, len(slab.disks))
        yield stripe_id, stripe


def log_live_bytes(reader: Reader) -> int:
    """Sum of the extents in the log; looks at each, some thousand at a time: an opening waits for this."""
    total = 0
    values = (value for _, value in reader.scan(*keys.prefix_range(keys.LOG_REFERENCES)))
    while some := list(islice(values, COUNTED_TOGETHER)):
        total += keys.sum_of_lengths(some)
    return total


def checksums_of_slab(reader: Reader, slab_id: SlabId) -> Iterator[bytes]:
    """The checksum records of a slab's stripes."""
    start, end = StripeId(slab_id << 16), StripeId((slab_id + 1) << 16)
    for _, value in reader.scan(keys.stripe_checksums(start), keys.stripe_checksums(end)):
        yield value


def stripe_references(reader: Reader, stripe_id: StripeId) -> Iterator[tuple[Reference, int]]:
    """Every extent that lies in a stripe, with its length, in the order of where it starts there."""
    for key, value in reader.scan(*keys.prefix_range(keys.references_of_stripe(stripe_id))):
        yield keys.parse_reference(key), keys.decode_length(value)


def is_referenced(reader: Reader, stripe_id: StripeId) -> bool:
    """Whether any extent lies in the stripe."""
    return next(iter(stripe_references(reader, stripe_id)), None) is not None
