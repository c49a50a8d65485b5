"""Bringing over the bytes of files whose partition has come from another shard, into stripes of this one.

They are read where they are, through the same way as by users, and moved as settling moves what is in the log; half of
the time is left to others. See docs/decisions/0016.
"""

from __future__ import annotations

from itertools import islice

from siltstone.core.carrier import MOVE_REFERENCES, Carrier, chunks_of
from siltstone.core.ledger import Ledger
from siltstone.core.packing import Movable, in_order_of_locality
from siltstone.engine.stripe.store import Tier
from siltstone.errors import Corrupt
from siltstone.meta import keys
from siltstone.meta.keys import Reference
from siltstone.meta.records import Place
from siltstone.meta.shards.handover import get_lender
from siltstone.types import Ino, PartitionId


class Bringer:
    """See the module."""

    def __init__(self, ledger: Ledger, carrier: Carrier) -> None:
        self._ledger = ledger
        self._carrier = carrier

    async def bring(self, partition: PartitionId, lent_ino: Ino) -> None:
        """Bring over all bytes of an inode that another shard still has; on return nobody reads them there.

        Raises NoSpace, Unavailable, and what reading and writing stripes raises.
        """
        while chunk := self._referred(partition, lent_ino):
            before = self._ledger.store.last_lsn
            for some in chunks_of(in_order_of_locality(chunk)):
                await self._carry(some)
            if self._ledger.store.last_lsn == before:
                raise Corrupt(f"references to bytes of inode {lent_ino} in another shard have no extent; run fsck")
        # Whoever has looked an extent up before it was moved may be about to ask for its bytes.
        await self._ledger.fence.wait_past(self._ledger.fence.advance(), leased=False)

    async def _carry(self, chunk: list[Movable]) -> None:
        clock = self._ledger.clock
        began_ns = clock.monotonic_ns()
        await self._ledger.admit(sum(movable.length for movable in chunk), logged=0)
        carried = await self._carrier.carry(chunk, Place.REMOTE, Tier.SETTLE)
        if carried.unreadable:
            raise next(iter(carried.unreadable.values()))
        await clock.sleep((clock.monotonic_ns() - began_ns) / 1e9)

    def _referred(self, partition: PartitionId, lent_ino: Ino) -> list[Movable]:
        lender = get_lender(self._ledger.store, partition)
        if lender is None:
            return []
        found = self._ledger.store.scan(*keys.prefix_range(keys.borrowed_of(partition, lent_ino)))
        chunk: list[Movable] = []
        for key, value in islice(found, MOVE_REFERENCES):
            borrowed = keys.parse_borrowed(key)
            reference = Reference(lender.owner, borrowed.lent_offset, borrowed.ino, borrowed.offset)
            chunk.append(Movable(reference, keys.decode_length(value)))
        return chunk
