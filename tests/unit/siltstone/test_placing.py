"""Which partition goes where: evenly when somebody says so, and away from a busy shard."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from siltstone.limits import PARTITION_COUNT
from siltstone.meta.shards.map import PartitionMap, Placement
from siltstone.placing import BUSY_SHARE, ShardLoad, plan_count, plan_even, plan_relief
from siltstone.types import PartitionId, ShardId


@given(
    owners=st.lists(st.integers(0, 4), min_size=PARTITION_COUNT, max_size=PARTITION_COUNT),
    count=st.integers(1, 5),
)
def test_what_is_spread_is_even_and_no_more_goes_than_must(owners: list[int], count: int) -> None:
    before = PartitionMap(5, tuple(owners))
    moves = plan_even(before, count)
    after = before.moved(Placement(move.partition, move.to, 1) for move in moves)
    sizes = [len(after.partitions_of(ShardId(shard))) for shard in range(5)]
    assert max(sizes[:count]) - min(sizes[:count]) <= 1
    assert not any(sizes[count:])
    assert len({move.partition for move in moves}) == len(moves)
    gained = sum(max(0, sizes[shard] - len(before.partitions_of(ShardId(shard)))) for shard in range(5))
    assert len(moves) == gained, "some go that could have stayed"


SHARES = st.floats(0.0, 1.0)
CALLS = st.dictionaries(st.integers(0, 9).map(PartitionId), st.floats(0.0, 1000.0), max_size=6)


@given(
    loads=st.dictionaries(st.integers(0, 3).map(ShardId), st.builds(ShardLoad, SHARES, CALLS), max_size=4),
    resting=st.lists(st.integers(0, 9).map(PartitionId), max_size=3),
)
def test_a_busy_shard_is_relieved_and_the_other_does_not_become_the_busier_one(
    loads: dict[ShardId, ShardLoad], resting: list[PartitionId]
) -> None:
    planned = plan_relief(loads, resting)
    if planned is None:
        return
    move, why = planned
    giver = max(loads, key=lambda shard: loads[shard].processor_share)
    busy, idle = loads[giver], loads[move.to]
    assert busy.processor_share >= BUSY_SHARE and move.partition not in resting
    taken = busy.processor_share * busy.calls[move.partition] / sum(busy.calls.values())
    assert idle.processor_share + taken <= busy.processor_share - taken + 1e-9
    assert f"shard {giver}" in why and f"partition {move.partition}" in why


def test_one_partition_that_is_all_the_load_stays() -> None:
    calls = {PartitionId(7): 100.0}
    loads = {ShardId(0): ShardLoad(0.9, calls), ShardId(1): ShardLoad(0.1, {})}
    assert plan_relief(loads, []) is None
    loads[ShardId(0)] = ShardLoad(0.9, calls | {PartitionId(8): 60.0})
    planned = plan_relief(loads, [])
    assert planned is not None and planned[0] == (8, 1)


@given(
    shares=st.lists(st.floats(0.0, 1.2), min_size=1, max_size=6), limit=st.integers(1, 8), processors=st.integers(1, 8)
)
def test_shards_are_added_for_load_and_given_back_and_not_both_for_the_same(
    shares: list[float], limit: int, processors: int
) -> None:
    loads = {ShardId(shard): ShardLoad(share, {}) for shard, share in enumerate(shares)}
    shares_of = {"grow_share": 0.8, "shrink_share": 0.4}
    count, why = plan_count(loads, limit=limit, processors=processors, **shares_of)
    assert 1 <= count <= max(len(loads), min(limit, processors)) and abs(count - len(loads)) <= 1
    assert bool(why) == (count != len(loads))
    if count < len(loads):
        # What was just given back is not wanted again, were the same work spread evenly.
        share = sum(shares) / count
        again, _ = plan_count(
            {ShardId(n): ShardLoad(share, {}) for n in range(count)}, limit=8, processors=8, **shares_of
        )
        assert again <= count
