"""Transactions over several shards, by the records that they leave: none is half done (I14). Pure but for the reading.

Where nothing changes and all have heard of all, there are no intents and no decisions, but perhaps marks. An intent
without its decision would be ended by nobody, one with it was not carried out; a decision without an intent or a mark
of each that has a part in it may be the half of something.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import msgspec

from siltstone.core.check.findings import Finding
from siltstone.meta import keys
from siltstone.meta.shards.coordinator import participants_of
from siltstone.meta.shards.participant import coordinator_of
from siltstone.meta.store.port import Reader
from siltstone.types import ShardId, TransactionId

RECORDS_MAX = 100_000
"""Of each kind so many are looked at: there are more than a few only if something is badly wrong."""


class TransactionRecords(msgspec.Struct, frozen=True, array_like=True):
    """What a shard has of transactions. ``intents``: whose changes wait for their end; ``marks``: whose changes were
    made; ``decisions``: that it has committed, with the shards that have a part in them."""

    intents: list[bytes]
    marks: list[bytes]
    decisions: dict[bytes, list[int]]


def read_transactions(reader: Reader) -> TransactionRecords:
    """The records of one shard. Raises msgspec.DecodeError if one does not parse."""
    found = islice(reader.scan(*keys.prefix_range(keys.INTENTS)), RECORDS_MAX)
    parts = [(keys.transaction_id(key), bool(value)) for key, value in found]
    decided = islice(reader.scan(*keys.prefix_range(keys.DECISIONS)), RECORDS_MAX)
    return TransactionRecords(
        [transaction for transaction, is_open in parts if is_open],
        [transaction for transaction, is_open in parts if not is_open],
        {keys.transaction_id(key): participants_of(value) for key, value in decided},
    )


def check_transactions(found: Mapping[ShardId, TransactionRecords]) -> Iterator[tuple[ShardId, Finding]]:
    """What is wrong with the records of all shards together, and with whom."""
    parts = {shard: {*records.intents, *records.marks} for shard, records in found.items()}
    for shard, records in found.items():
        for transaction in records.intents:
            coordinator = coordinator_of(TransactionId(transaction))
            if coordinator not in found:
                message = f"an intent waits for its end by shard {coordinator}, which the volume does not have"
            elif shard in found[coordinator].decisions.get(transaction, ()):
                message = f"shard {coordinator} has committed it, and it is not carried out here"
            else:
                message = f"an intent waits for its end, and shard {coordinator} has no decision on it"
            yield shard, Finding("I14", f"transaction {transaction.hex()}", message)
        for transaction, participants in records.decisions.items():
            for other in participants:
                if transaction not in parts.get(ShardId(other), ()):
                    message = f"it is committed here, and shard {other} has neither an intent nor a mark of its part"
                    yield shard, Finding("I14", f"transaction {transaction.hex()}", message)
