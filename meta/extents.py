"""Extents: where the bytes of a file are. One file's extents never overlap, and none ends beyond the file's size.

A LOG, STRIPE or REMOTE extent has one back reference, in the same batch, always: (where, skip, ino, offset) -> length.
So a clip that moves an extent's start moves its reference too. A stripe whose last reference goes is forgotten in the
same batch and reported as freed: the caller may use its rows again when the batch is durable and no read looks at it.

Functions that take an ``inode`` change it (size, allocated_bytes, version) and leave it to the caller to put it, with
the times, once, with inodes.put_inode: the batch must hold that, or be dropped. Those that read before they change
expect the inode as it was before the batch or as an earlier call here left it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from siltstone.engine.stripe import layout
from siltstone.engine.stripe.layout import Slab, Stripe
from siltstone.errors import FileTooLarge, InvalidArgument
from siltstone.limits import FILE_BYTES_MAX
from siltstone.meta import counters, keys, space
from siltstone.meta.keys import Borrowed, Reference
from siltstone.meta.records import Extent, Inode, Place, decode_extent, encode
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Transaction
from siltstone.types import Ino, StripeId

Placed = tuple[int, Extent]
"""An extent and the file offset where it starts."""


class FreedStripe(NamedTuple):
    """A stripe that lost a part with the batch. ``stripe``: what its record was, if nothing refers to it any more once
    the batch is committed; None if it lives on."""

    stripe_id: StripeId
    stripe: Stripe | None


# --- reading -------------------------------------------------------------------------------------------------------


def find(reader: Reader, ino: Ino, start: int, end: int) -> list[Placed]:
    """Every extent that overlaps [start, end), whole, in order."""
    assert 0 <= start <= end
    if start == end:
        return []
    found: list[Placed] = []
    value = reader.get(keys.extent(ino, start))
    if value is not None:
        first: Extent = decode_extent(value)
        found.append((start, first))
        if start + first.length >= end:
            return found
        scan_from = start + first.length
    else:
        scan_from = start
        if start > 0:
            before = _last_before(reader, ino, start)
            if before is not None and before[0] + before[1].length > start:
                found.append(before)
                scan_from = before[0] + before[1].length
    if scan_from < end:
        found.extend(
            (keys.extent_offset(key), decode_extent(value))
            for key, value in reader.scan(keys.extent(ino, scan_from), keys.extent(ino, end))
        )
    return found


def _last_before(reader: Reader, ino: Ino, offset: int) -> Placed | None:
    for key, value in reader.scan(keys.extent(ino, 0), keys.extent(ino, offset), reverse=True):
        return keys.extent_offset(key), decode_extent(value)
    return None


def get_extent(reader: Reader, ino: Ino, offset: int) -> Extent | None:
    """The extent that starts at ``offset``, or None."""
    value = reader.get(keys.extent(ino, offset))
    return None if value is None else decode_extent(value)


def log_references(reader: Reader, start: int, end: int) -> Iterator[tuple[Reference, int]]:
    """Every extent whose payload starts at a log address in [start, end), with its length, in log order."""
    for key, value in reader.scan(keys.log_references_from(start), keys.log_references_from(end)):
        yield keys.parse_reference(key), keys.decode_length(value)


# --- writing -------------------------------------------------------------------------------------------------------


def replace_range(
    transaction: Transaction,
    ino: Ino,
    inode: Inode,
    start: int,
    end: int,
    new: Sequence[Placed],
    freed: list[FreedStripe],
    *,
    limit: int | None = None,
) -> int:
    """Let [start, end) of a file be ``new``: extents in order inside the range; what they leave out is a hole.

    What overlaps is clipped, split or dropped. The size grows to the end of the last new extent; growing it further
    or shrinking it is the caller's part, after this call. The records of stripes named in ``new`` must be put in the
    same batch or before.

    With ``limit`` (only without ``new``) at most so many extents are touched, from the end backwards; returns the
    offset behind which nothing is left, ``start`` when all is done. Raises FileTooLarge.
    """
    assert 0 <= start <= end
    assert limit is None or (limit > 0 and not new)
    if end > FILE_BYTES_MAX:
        raise FileTooLarge(f"a file can have {FILE_BYTES_MAX} bytes, not {end}")
    stopped = start
    # An append is told by the size: then nothing can be in the way, as no extent ends beyond it. Only for writes: a
    # caller that truncates and has set the size already must not leave extents behind.
    if inode.allocated_bytes == 0 or (new and start >= inode.size):
        old: list[Placed] = []
    elif limit is None:
        old = find(transaction, ino, start, end)
    else:
        old, stopped = _find_last(transaction, ino, start, end, limit)
    touched: set[StripeId] = set()
    delta = 0
    for offset, extent in old:
        delta -= _cut(transaction, ino, offset, extent, max(stopped, start), end, touched)
    position = start
    for offset, extent in new:
        assert position <= offset and offset + extent.length <= end, "new extents overlap or leave the range"
        position = offset + extent.length
        _put(transaction, ino, offset, extent)
        delta += extent.length
    inode.size = max(inode.size, position if new else 0)
    inode.allocated_bytes += delta
    assert inode.allocated_bytes >= 0, f"inode {ino} has fewer than no bytes of extents"
    inode.version += 1
    counters.add_bytes(transaction, ino, delta)
    if touched:
        _free_unreferenced(transaction, touched, freed)
    return stopped


def truncate(
    transaction: Transaction, ino: Ino, inode: Inode, size: int, freed: list[FreedStripe], *, limit: int | None = None
) -> bool:
    """Set a file's size, dropping what lies beyond; what is added is a hole. Returns whether it is done.

    With ``limit`` at most so many extents are touched: the file is then cut to an intermediate size, valid in itself,
    and the caller goes on in a further batch. Raises FileTooLarge.
    """
    assert size >= 0
    if size > FILE_BYTES_MAX:
        raise FileTooLarge(f"a file can have {FILE_BYTES_MAX} bytes, not {size}")
    if size > inode.size:
        inode.size = size
        inode.version += 1
    if size == inode.size:
        return True
    inode.size = replace_range(transaction, ino, inode, size, inode.size, (), freed, limit=limit)
    return inode.size == size


def _find_last(reader: Reader, ino: Ino, start: int, end: int, limit: int) -> tuple[list[Placed], int]:
    """The last ``limit`` extents that overlap [start, end), and the offset behind which these are all."""
    first = get_extent(reader, ino, 0)
    if first is not None and first.length >= end:
        return [(0, first)] if first.length > start else [], start  # most files: a scan takes ten times as long
    found: list[Placed] = []
    for key, value in reader.scan(keys.extent(ino, 0), keys.extent(ino, end), reverse=True):
        offset, extent = keys.extent_offset(key), decode_extent(value)
        if offset + extent.length <= start:
            break
        if len(found) == limit:
            return found, max(start, found[-1][0])
        found.append((offset, extent))
    return found, start


def _cut(
    transaction: Transaction, ino: Ino, offset: int, extent: Extent, start: int, end: int, touched: set[StripeId]
) -> int:
    """Take [start, end) out of an extent that overlaps it. Returns how many bytes went."""
    stop = offset + extent.length
    assert offset < end and stop > start
    if extent.place == Place.STRIPE:
        touched.add(StripeId(extent.address))
    if offset >= start:
        _delete(transaction, ino, offset, extent)
    else:
        # The start stays, and with it the key of the record and of the reference: both are overwritten.
        _count_log(transaction, extent, -1)
        _put(transaction, ino, offset, clip(extent, 0, start - offset))
    if stop > end:
        _put(transaction, ino, end, clip(extent, end - offset, stop - end))
    return min(stop, end) - max(offset, start)


def clip(extent: Extent, skip: int, length: int) -> Extent:
    """``length`` bytes of an extent from its byte ``skip`` on. A clipped LOG extent still names its whole payload."""
    assert skip >= 0 and length > 0 and skip + length <= extent.length
    if skip == 0 and length == extent.length:
        return extent
    if extent.place == Place.INLINE:
        return Extent(length, Place.INLINE, blob=extent.blob[skip : skip + length])
    return Extent(length, extent.place, extent.address, extent.skip + skip, extent.span, extent.blob)


def _put(transaction: Transaction, ino: Ino, offset: int, extent: Extent) -> None:
    assert extent.length > 0
    transaction.put(keys.extent(ino, offset), encode(extent))
    _refer(transaction, ino, offset, extent)


def _refer(transaction: Transaction, ino: Ino, offset: int, extent: Extent) -> None:
    """Put the back reference of an extent."""
    if extent.place == Place.LOG:
        assert extent.skip + extent.length <= extent.span, "an extent leaves the payload that it was logged with"
        key = keys.log_reference(Reference(extent.address, extent.skip, ino, offset))
        transaction.put(key, keys.encode_length(extent.length))
        _count_log(transaction, extent, 1)
    elif extent.place == Place.STRIPE:
        key = keys.stripe_reference(Reference(extent.address, extent.skip, ino, offset))
        transaction.put(key, keys.encode_length(extent.length))
    elif extent.place == Place.REMOTE:
        transaction.put(borrowed_key(ino, offset, extent), keys.encode_length(extent.length))
    else:
        assert len(extent.blob) == extent.length, "an inline extent's length is that of its bytes"


def _delete(transaction: Transaction, ino: Ino, offset: int, extent: Extent) -> None:
    transaction.delete(keys.extent(ino, offset))
    if extent.place == Place.LOG:
        transaction.delete(keys.log_reference(Reference(extent.address, extent.skip, ino, offset)))
        _count_log(transaction, extent, -1)
    elif extent.place == Place.STRIPE:
        transaction.delete(keys.stripe_reference(Reference(extent.address, extent.skip, ino, offset)))
    elif extent.place == Place.REMOTE:
        transaction.delete(borrowed_key(ino, offset, extent))


def borrowed_key(ino: Ino, offset: int, extent: Extent) -> bytes:
    """The back reference of a REMOTE extent."""
    return keys.borrowed_reference(Borrowed(Ino(extent.span), extent.skip, ino, offset))


def _count_log(transaction: Transaction, extent: Extent, sign: int) -> None:
    if extent.place == Place.LOG:
        transaction.totals.log_live_bytes += sign * extent.length


def _free_unreferenced(transaction: Transaction, touched: Iterable[StripeId], freed: list[FreedStripe]) -> None:
    """Report stripes that lost a part, in the order of their ids, and forget those that lost their last reference."""
    # All scans before the first delete: a transaction sorts its own writes anew for a scan that follows a write.
    living = {stripe_id: space.is_referenced(transaction, stripe_id) for stripe_id in sorted(touched)}
    for stripe_id, is_alive in living.items():
        freed.append(FreedStripe(stripe_id, None if is_alive else space.delete_stripe(transaction, stripe_id)))


# --- sharing and moving --------------------------------------------------------------------------------------------


def clone_range(
    transaction: Transaction,
    source: Ino,
    source_offset: int,
    length: int,
    target: Ino,
    target_inode: Inode,
    target_offset: int,
    freed: list[FreedStripe],
    *,
    limit: int | None = None,
) -> int:
    """Let ``length`` bytes of the target be those of the source, sharing them; holes stay holes. No data moves.

    Replaces what the target has there, and lets its size reach the end of the range. With ``limit`` at most so many
    extents are shared; returns how many bytes were done, ``length`` when all were. Ranges inside one file must not
    overlap (InvalidArgument). Raises FileTooLarge.
    """
    assert length >= 0 and source_offset >= 0 and target_offset >= 0
    assert limit is None or limit > 0
    if source == target and abs(source_offset - target_offset) < length:
        raise InvalidArgument("the source and the target of a clone overlap")
    if target_offset + length > FILE_BYTES_MAX:
        raise FileTooLarge(f"a file can have {FILE_BYTES_MAX} bytes, not {target_offset + length}")
    if length == 0:
        return 0
    found = find(transaction, source, source_offset, source_offset + length)
    if limit is not None and len(found) > limit:
        length = found[limit][0] - source_offset
        found = found[:limit]
    end = source_offset + length
    shift = target_offset - source_offset
    shared: list[Placed] = []
    for offset, extent in found:
        low, high = max(offset, source_offset), min(offset + extent.length, end)
        shared.append((low + shift, clip(extent, low - offset, high - low)))
    replace_range(transaction, target, target_inode, target_offset, target_offset + length, shared, freed)
    target_inode.size = max(target_inode.size, target_offset + length)
    return length


class Found(NamedTuple):
    """An extent as it is in the store."""

    offset: int
    extent: Extent
    value: bytes


def find_all(reader: Reader, ino: Ino, inode: Inode, limit: int) -> list[Found] | None:
    """Every extent of a file, whose inode this is; None if there are more than ``limit``."""
    if inode.allocated_bytes == 0:
        return []
    value = reader.get(keys.extent(ino, 0))
    if value is not None:
        first: Extent = decode_extent(value)
        if first.length == inode.allocated_bytes:
            return [Found(0, first, value)]  # most files: a scan takes ten times as long
    records = islice(reader.scan(*keys.prefix_range(keys.extents(ino))), limit + 1)
    found = [Found(keys.extent_offset(key), decode_extent(value), value) for key, value in records]
    return found if len(found) <= limit else None


def share(transaction: Transaction, target: Ino, found: Iterable[Found]) -> None:
    """Let a file that has no extents have these, which are another's in the same partition. No data moves.

    The caller gives the target the size and the ``allocated_bytes`` of the other, and counts these.
    """
    for offset, extent, value in found:
        transaction.put(keys.extent(target, offset), value)
        _refer(transaction, target, offset, extent)


def mirror(
    transaction: Transaction,
    source: Ino,
    target: Ino,
    offsets: Iterable[int],
    freed: list[FreedStripe],
    *,
    limit: int,
) -> tuple[int, list[int]]:
    """Let the extents that a copy has at some offsets be those of the source, sharing them. No data moves.

    At all other offsets both have the same. At most ``limit`` extents are touched; returns by how many bytes the copy
    has grown, and the offsets that are left. What goes, goes before anything comes: so no extents of the copy overlap
    at any time, whatever the source has become meanwhile. The caller counts the bytes.
    """
    stale: list[Placed] = []
    fresh: list[Found] = []
    for offset in sorted(offsets):
        old, new = transaction.get(keys.extent(target, offset)), transaction.get(keys.extent(source, offset))
        if old == new:
            continue
        if old is not None:
            stale.append((offset, decode_extent(old)))
        if new is not None:
            fresh.append(Found(offset, decode_extent(new), new))
    delta = 0
    touched: set[StripeId] = set()
    for offset, extent in stale[:limit]:
        if extent.place == Place.STRIPE:
            touched.add(StripeId(extent.address))
        _delete(transaction, target, offset, extent)
        delta -= extent.length
    room = max(0, limit - len(stale))
    coming = fresh[:room] if len(stale) <= limit else []
    share(transaction, target, coming)
    delta += sum(found.extent.length for found in coming)
    if touched:
        _free_unreferenced(transaction, touched, freed)
    left = {offset for offset, _ in stale[limit:]} | {found.offset for found in fresh[len(coming) :]}
    return delta, sorted(left)


def relocate(
    transaction: Transaction, ino: Ino, offset: int, old: Extent, new: Sequence[Extent], freed: list[FreedStripe]
) -> bool:
    """Let the same bytes lie elsewhere: put ``new``, one after the other, where ``old`` is, if it still is, and say
    whether.

    The content does not change, so neither the inode nor its version does. Both have the same length in all.
    """
    assert old.length == sum(extent.length for extent in new)
    if get_extent(transaction, ino, offset) != old:
        return False
    touched: set[StripeId] = set()
    if old.place == Place.STRIPE:
        touched.add(StripeId(old.address))
    _delete(transaction, ino, offset, old)
    for extent in new:
        _put(transaction, ino, offset, extent)
        offset += extent.length
    if touched:
        _free_unreferenced(transaction, touched, freed)
    return True


def join(transaction: Transaction, ino: Ino, pieces: Sequence[Placed]) -> None:
    """Turn extents that follow each other without a gap, in the file and in one stripe, into one extent."""
    first_offset, first = pieces[0]
    position = first_offset
    for offset, extent in pieces:
        assert (offset, extent.place, extent.address) == (position, Place.STRIPE, first.address)
        assert extent.skip == first.skip + offset - first_offset
        _delete(transaction, ino, offset, extent)
        position += extent.length
    _put(transaction, ino, first_offset, Extent(position - first_offset, Place.STRIPE, first.address, first.skip))


def split_stripe(
    transaction: Transaction, stripe_id: StripeId, slab: Slab, cuts: Sequence[int], freed: list[FreedStripe]
) -> list[StripeId]:
    """Make several stripes of one by cutting it before some of its rows (layout.split_stripe), with all that refers to
    it; nothing moves on the disks. Returns the parts that live; those that nothing refers to are reported as freed.

    The file of each extent is as it was, in more extents. Nothing may be on its way to the stripe (a fill).
    """
    stripe, checksums = space.get_stripe(transaction, stripe_id), space.get_checksums(transaction, stripe_id)
    assert stripe is not None and checksums is not None, f"stripe {stripe_id:x} has no record"
    references = list(space.stripe_references(transaction, stripe_id))
    parts = layout.split_stripe(slab, stripe_id, stripe, checksums, cuts)
    space.delete_stripe(transaction, stripe_id)
    used: set[int] = set()
    for reference, length in references:
        old = get_extent(transaction, reference.ino, reference.offset)
        assert old is not None and (old.address, old.length) == (stripe_id, length), "a reference without its extent"
        _delete(transaction, reference.ino, reference.offset, old)
        offset = reference.offset
        for piece in layout.split_range(stripe, cuts, old.skip, length):
            used.add(piece.part)
            extent = Extent(piece.size, Place.STRIPE, parts[piece.part].stripe_id, piece.offset)
            _put(transaction, reference.ino, offset, extent)
            offset += piece.size
    for index, part in enumerate(parts):
        if index in used:
            space.put_stripe(transaction, part.stripe_id, part.stripe, part.checksums)
        else:
            freed.append(FreedStripe(part.stripe_id, part.stripe))
    return [part.stripe_id for index, part in enumerate(parts) if index in used]
