"""A request is carried out once, however often it is sent."""

from __future__ import annotations

import pytest
import trio

from siltstone.errors import InvalidArgument, NotFound
from siltstone.meta import keys
from siltstone.meta.shards.answers import FORGET_STEP, Request, Requests, once
from siltstone.meta.store.transaction import Transaction
from siltstone.types import ROOT_INO, PartitionId
from sim.metadata import open_metadata

CLIENT = b"c" * 16
PARTITION = PartitionId(7)


def count(transaction: Transaction) -> int:
    """Something that is not the same twice."""
    key = keys.xattr(ROOT_INO, b"count")
    number = int(transaction.get(key) or b"0") + 1
    transaction.put(key, b"%d" % number)
    return number


def test_a_request_that_is_sent_again_has_the_first_answer_and_no_further_effect() -> None:
    store = open_metadata()
    for _ in range(3):
        transaction = store.begin()
        assert once(count, Request(CLIENT, 1, 1), PARTITION, int)(transaction) == 1
        transaction.commit()
    transaction = store.begin()
    assert once(count, Request(CLIENT, 2, 2), PARTITION, int)(transaction) == 2
    assert once(count, Request(b"d" * 16, 1, 1), PARTITION, int)(transaction) == 3


def test_answers_that_the_client_has_are_forgotten_and_their_requests_refused() -> None:
    store = open_metadata()
    for number in range(1, 3 * FORGET_STEP):
        transaction = store.begin()
        once(count, Request(CLIENT, number, number), PARTITION, int)(transaction)
        transaction.commit()
    kept = list(store.scan(*keys.prefix_range(keys.all_of(keys.ANSWER, PARTITION))))
    assert len(kept) <= FORGET_STEP + 1
    with pytest.raises(InvalidArgument, match="was answered"):
        once(count, Request(CLIENT, 3, 3), PARTITION, int)(store.begin())


def test_a_sending_that_is_under_way_is_joined_and_one_that_failed_is_not_tried_again() -> None:
    async def main() -> None:
        requests = Requests()
        calls: list[int] = []
        go = trio.Event()

        async def work() -> int:
            calls.append(1)
            await go.wait()
            raise NotFound("not there")

        async def send() -> None:
            with pytest.raises(NotFound):
                await requests.carry_out(Request(CLIENT, 1, 1), work)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            go.set()
        await send()
        assert len(calls) == 1
        with pytest.raises(InvalidArgument):
            await requests.carry_out(Request(CLIENT, 2, 3), work)

    trio.run(main)


def test_a_client_that_is_new_to_the_shard_may_have_any_number() -> None:
    async def main() -> None:
        requests = Requests()

        async def work() -> int:
            return 7

        assert await requests.carry_out(Request(CLIENT, 3, 1), work) == 7
        number = 1 << 62
        assert await requests.carry_out(Request(CLIENT, number, number), work) == 7
        with pytest.raises(InvalidArgument):
            await requests.carry_out(Request(CLIENT, 3, number), work)

    trio.run(main)


def test_a_sending_that_was_cancelled_is_carried_out_by_the_next() -> None:
    async def main() -> None:
        requests = Requests()

        async def hang() -> int:
            await trio.sleep_forever()
            return 0

        async def work() -> int:
            return 5

        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()

            async def send() -> None:
                with first:
                    await requests.carry_out(Request(CLIENT, 1, 1), hang)

            async def send_again() -> None:
                assert await requests.carry_out(Request(CLIENT, 1, 1), work) == 5

            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(send_again)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()

    trio.run(main)
