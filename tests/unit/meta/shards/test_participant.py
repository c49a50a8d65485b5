"""A shard's part: what it votes for, and that nothing is carried out twice."""

from __future__ import annotations

import stat

import trio

from siltstone.meta import keys
from siltstone.meta.inodes import get_inode
from siltstone.meta.records import Inode, encode
from siltstone.meta.shards.locks import LockTable
from siltstone.meta.shards.map import even_map
from siltstone.meta.shards.messages import (
    Ask,
    Change,
    Decide,
    Forget,
    Message,
    Prepare,
    Reply,
    Settle,
    Told,
    Verdict,
    Vote,
)
from siltstone.meta.shards.participant import Participant
from siltstone.meta.store.store import Store
from siltstone.meta.store.transaction import Transaction
from siltstone.types import Ino, ShardId, TransactionId
from sim.backing import SimBacking
from sim.clock import SimClock, autojump
from sim.fake_log import FakeLog

INO = Ino(257)
KEY = keys.inode(INO)
TRANSACTION = TransactionId(bytes((1,)) + bytes(15))


class Coordinator:
    """The other side, which says of every transaction the same."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self.asked = 0

    async def call(self, shard: ShardId, message: Message) -> Reply:
        assert isinstance(message, Ask) and shard == 1
        self.asked += 1
        await trio.lowlevel.checkpoint()
        return Told(self.verdict)


class Shard:
    """A participant and what it stands on; ``restarted`` is its next life."""

    def __init__(self, backing: SimBacking, log: FakeLog, verdict: Verdict = Verdict.OPEN) -> None:
        self.store = Store(backing)
        for frame in log.frames:
            self.store.replay(frame.end_lsn, frame.body)
        self.store.connect(log)
        self.backing, self.log = backing, log
        self.locks = LockTable()
        self.coordinator = Coordinator(verdict)
        self.applied: list[Change] = []
        self.participant = Participant(
            ShardId(0),
            self.store,
            self.locks,
            lambda: even_map(1),
            self.coordinator,
            SimClock(),
            commit=Transaction.commit,
            on_applied=self.applied.extend,
        )

    def restarted(self, verdict: Verdict) -> Shard:
        """What a new process finds, of all that was appended."""
        return Shard(self.backing.crash(), self.log.crash(len(self.log.frames)), verdict)

    async def votes(self, message: Prepare) -> bool:
        vote = await self.participant.prepare(message)
        assert isinstance(vote, Vote)
        return vote.prepared

    def put(self, inode: Inode) -> bytes:
        transaction = self.store.begin()
        transaction.put(KEY, encode(inode))
        transaction.commit()
        return encode(inode)


def file(nlink: int) -> Inode:
    return Inode(stat.S_IFREG | 0o644, nlink, 0, 0, 0, 0, 1, 1, 1)


def directory(nlink: int) -> Inode:
    return Inode(stat.S_IFDIR | 0o755, nlink, 0, 0, 0, 0, 1, 1, 1)


def preparation(old: bytes, new: bytes, transaction: bytes = TRANSACTION) -> Prepare:
    return Prepare(transaction, [(KEY, old)], [], [Change(KEY, old, new)], True)


def test_what_was_made_is_not_made_again_by_requests_that_come_twice() -> None:
    async def main() -> None:
        shard = Shard(SimBacking(), FakeLog())
        old = shard.put(file(1))
        message = preparation(old, encode(file(2)))
        assert await shard.votes(message)
        assert await shard.votes(message), "the same vote"
        for _ in range(2):
            shard.participant.decide(Decide(TRANSACTION, True))
        assert not await shard.votes(message), "it is over"
        shard.participant.decide(Decide(TRANSACTION, True))
        assert get_inode(shard.store, INO).nlink == 2
        assert len(shard.applied) == 1
        again = shard.restarted(Verdict.COMMITTED)
        assert not await again.votes(message), "in the next life, too"
        again.participant.decide(Decide(TRANSACTION, True))
        assert get_inode(again.store, INO).nlink == 2
        assert (await again.participant.settle(Settle([TRANSACTION]))).transactions == [TRANSACTION]
        again.participant.forget(Forget([TRANSACTION]))
        assert again.store.get(keys.intent(TRANSACTION)) is None

    trio.run(main, clock=autojump())


def test_two_that_would_each_take_one_of_the_last_names_are_not_both_prepared() -> None:
    async def main() -> None:
        shard = Shard(SimBacking(), FakeLog())
        old = shard.put(file(2))
        assert await shard.votes(preparation(old, encode(file(1))))
        other = bytes((2,)) + bytes(15)
        assert not await shard.votes(preparation(old, encode(file(1)), other))
        shard.participant.decide(Decide(TRANSACTION, True))
        assert not await shard.votes(preparation(old, encode(file(1)), other))
        assert get_inode(shard.store, INO).nlink == 1

    trio.run(main, clock=autojump())


def test_subdirectories_that_are_added_at_the_same_time_add_up_and_names_of_a_file_wait() -> None:
    """Where a file has its names is noted, so who adds one has to know of the others."""

    async def main() -> None:
        shard = Shard(SimBacking(), FakeLog())
        old = shard.put(directory(2))
        others = [bytes((number,)) + bytes(15) for number in range(1, 5)]
        for transaction in others:
            assert await shard.votes(preparation(old, encode(directory(3)), transaction))
        for transaction in others:
            shard.participant.decide(Decide(transaction, True))
        assert get_inode(shard.store, INO).nlink == 6
        old = shard.put(file(1))
        assert await shard.votes(preparation(old, encode(file(2)), b"a" * 16))
        shard.participant.decide(Decide(b"a" * 16, True))
        assert not await shard.votes(preparation(old, encode(file(2)), b"b" * 16))

    trio.run(main, clock=autojump())


def test_a_transaction_that_nobody_ends_is_asked_after_and_ends_as_its_coordinator_says() -> None:
    async def main() -> None:
        for verdict, nlink in ((Verdict.COMMITTED, 2), (Verdict.ABORTED, 1)):
            shard = Shard(SimBacking(), FakeLog())
            old = shard.put(file(1))
            assert await shard.votes(preparation(old, encode(file(2))))
            again = shard.restarted(verdict)
            assert len(again.locks) == 1, "it holds what it held"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(again.participant.run)
                await trio.sleep(3)
                nursery.cancel_scope.cancel()
            assert not again.locks
            assert get_inode(again.store, INO).nlink == nlink
            assert again.coordinator.asked == 1

    trio.run(main, clock=autojump())
