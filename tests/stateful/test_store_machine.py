"""The metadata store against a dict: transactions, conflicts, applies that finish whenever they like, and crashes.

The model is the list of all states that commits made, each with the LSN that ends its frame. After a crash the store
must be one of them: what the backing held, with the durable rest of the log replayed over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

import trio
import trio.testing
from hypothesis import event, given, settings
from hypothesis import strategies as st

from siltstone.errors import Conflict
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Store, Transaction
from siltstone.types import Lsn
from sim.backing import SimBacking
from sim.fake_log import FakeLog

State = dict[bytes, bytes]
MEMTABLE_BYTES_MAX = 2_000
"""Some nine entries, so that batches overflow it."""

KEYS = st.integers(0, 70).map(lambda number: b"%02d" % number)
VALUES = st.one_of(st.none(), st.binary(max_size=4))
WRITES = st.one_of(
    st.dictionaries(KEYS, VALUES, max_size=4),
    st.dictionaries(KEYS, VALUES, max_size=60),
    st.sampled_from([b"x", None]).map(lambda value: {b"%02d" % number: value for number in range(0, 70, 2)}),
)
RANGES = st.tuples(KEYS, KEYS, st.booleans())


@dataclass(frozen=True)
class Commit:
    """A transaction of its own, which reads while it writes."""

    writes: Mapping[bytes, bytes | None]
    ranges: list[tuple[bytes, bytes, bool]]
    payload: list[bytes]


@dataclass(frozen=True)
class Begin:
    """A transaction that is left open; ``taken``: how many entries of the scan it takes."""

    keys: list[bytes]
    range: tuple[bytes, bytes, bool]
    taken: int
    writes: Mapping[bytes, bytes | None]


@dataclass(frozen=True)
class Finish:
    """Commit the oldest open transaction."""


@dataclass(frozen=True)
class Flush:
    """Make the log durable up to the end of one of its last frames."""

    back: int


@dataclass(frozen=True)
class Checkpoint:
    """Start to apply, if that is not under way."""


@dataclass(frozen=True)
class OpenGate:
    """Let an apply finish."""


@dataclass(frozen=True)
class CancelCheckpoint:
    """Whoever waits for the checkpoint gives up."""


@dataclass(frozen=True)
class Crash:
    """The process dies; ``survivors`` frames that were not durable are on the disks all the same."""

    survivors: int


Step = Commit | Begin | Finish | Flush | Checkpoint | OpenGate | CancelCheckpoint | Crash
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.builds(Commit, WRITES, st.lists(RANGES, max_size=2), st.lists(st.binary(max_size=9), max_size=2)),
    st.builds(Commit, WRITES, st.just([]), st.just([])),
    st.builds(Begin, st.lists(KEYS, max_size=2), RANGES, st.integers(0, 40), st.dictionaries(KEYS, VALUES, max_size=3)),
    st.just(Finish()),
    st.builds(Flush, st.integers(0, 4)),
    st.just(Checkpoint()),
    st.just(OpenGate()),
    st.just(CancelCheckpoint()),
    st.builds(Crash, st.integers(0, 3)),
)


def merged(state: State, writes: Mapping[bytes, bytes | None]) -> State:
    return {key: value for key, value in (state | dict(writes)).items() if value is not None}


def inside(state: State, start: bytes, end: bytes, reverse: bool) -> list[tuple[bytes, bytes]]:
    return [(key, state[key]) for key in sorted(state, reverse=reverse) if start <= key < end]


def check_reads(reader: Reader, state: State) -> None:
    for reverse in (False, True):
        assert list(reader.scan(b"", b"\xff", reverse=reverse)) == inside(state, b"", b"\xff", reverse)
    for number in range(0, 71, 7):
        assert reader.get(b"%02d" % number) == state.get(b"%02d" % number)


@dataclass
class OpenTransaction:
    """A transaction that waits for its commit, and what it has read."""

    transaction: Transaction
    writes: Mapping[bytes, bytes | None]
    values: dict[bytes, bytes | None]
    range: tuple[bytes, bytes, bool]
    entries: list[tuple[bytes, bytes]]

    whole_range: list[tuple[bytes, bytes]]

    def values_hold(self, state: State) -> bool:
        """Whether what was read by key reads the same in this state."""
        return all(state.get(key) == value for key, value in self.values.items())

    def holds(self, state: State) -> bool:
        """Whether everything that was read reads the same in this state."""
        return self.values_hold(state) and inside(state, *self.range)[: len(self.entries)] == self.entries


@dataclass
class Machine:
    """The store and the model."""

    nursery: trio.Nursery
    backing: SimBacking = field(default_factory=lambda: SimBacking(gated=True))
    log: FakeLog = field(default_factory=lambda: FakeLog(automatic=False))
    history: list[tuple[Lsn, State]] = field(default_factory=lambda: [(Lsn(0), {})])
    open_transactions: list[OpenTransaction] = field(default_factory=list)
    checkpoint: trio.CancelScope | None = None

    def __post_init__(self) -> None:
        self.store = self.open_store()

    def open_store(self) -> Store:
        store = Store(self.backing, memtable_bytes_max=MEMTABLE_BYTES_MAX)
        for frame in self.log.frames:
            store.replay(frame.end_lsn, frame.body)
        store.connect(self.log)
        return store

    @property
    def state(self) -> State:
        return self.history[-1][1]

    def state_at(self, lsn: Lsn) -> State:
        return [state for end_lsn, state in self.history if end_lsn <= lsn][-1]

    def check(self) -> None:
        check_reads(self.store, self.state)
        assert self.store.applied_lsn == self.backing.applied_lsn <= self.log.durable_lsn
        assert self.backing.holds == self.state_at(self.store.applied_lsn)
        assert self.store.pressure <= (self.store.memtable_bytes >= MEMTABLE_BYTES_MAX)

    async def take(self, step: Step) -> None:
        match step:
            case Commit():
                self.commit(step)
            case Begin():
                self.begin(step)
            case Finish():
                self.finish()
            case Flush(back):
                frames = self.log.frames[: max(0, len(self.log.frames) - back)]
                if frames:
                    self.log.make_durable(frames[-1].end_lsn)
            case Checkpoint():
                if self.checkpoint is None:
                    self.nursery.start_soon(self.run_checkpoint, self.store)
            case OpenGate():
                self.backing.open_gate()
            case CancelCheckpoint():
                if self.checkpoint is not None:
                    self.checkpoint.cancel()
            case Crash(survivors):
                await self.crash(survivors)
        await trio.testing.wait_all_tasks_blocked()

    def commit(self, step: Commit) -> None:
        transaction, written = self.store.begin(), dict[bytes, bytes | None]()
        for key, value in step.writes.items():
            assert transaction.get(key) == merged(self.state, written).get(key)
            written[key] = value
            if value is None:
                transaction.delete(key)
            else:
                transaction.put(key, value)
        expected = merged(self.state, written)
        for start, end, reverse in step.ranges:
            assert list(transaction.scan(start, end, reverse=reverse)) == inside(expected, start, end, reverse)
        check_reads(transaction, expected)
        addresses = [transaction.attach(data) for data in step.payload]
        lsn = transaction.commit()
        for address, data in zip(addresses, step.payload, strict=True):
            assert self.log.payload(address, len(data)) == data
        self.committed(lsn, written)

    def committed(self, lsn: Lsn, written: Mapping[bytes, bytes | None]) -> None:
        assert lsn == self.store.last_lsn <= self.log.next_lsn
        self.history.append((lsn, merged(self.state, written)))

    def begin(self, step: Begin) -> None:
        transaction = self.store.begin()
        values = {key: transaction.get(key) for key in step.keys}
        start, end, reverse = step.range
        scan = transaction.scan(start, end, reverse=reverse)
        entries, whole_range = list(islice(scan, step.taken)), inside(self.state, *step.range)
        assert entries == whole_range[: step.taken]
        for key, value in step.writes.items():
            if value is None:
                transaction.delete(key)
            else:
                transaction.put(key, value)
        opened = OpenTransaction(transaction, step.writes, values, step.range, entries, whole_range)
        self.open_transactions.append(opened)

    def finish(self) -> None:
        if not self.open_transactions:
            return
        opened = self.open_transactions.pop(0)
        next_lsn = self.log.next_lsn
        try:
            lsn = opened.transaction.commit()
        except Conflict:
            event("conflict")
            assert self.log.next_lsn == next_lsn
            # A scan reads ahead, so a change behind the entries that were taken of it may count, too.
            assert not opened.values_hold(self.state) or inside(self.state, *opened.range) != opened.whole_range
            return
        assert opened.holds(self.state)
        self.committed(lsn, opened.writes)

    async def run_checkpoint(self, store: Store) -> None:
        with trio.CancelScope() as self.checkpoint:
            await store.checkpoint()
        self.checkpoint = None

    async def crash(self, survivors: int) -> None:
        event("crash while applying" if self.checkpoint is not None else "crash")
        old_backing, old_log = self.backing, self.log
        self.backing, self.log = old_backing.crash(), old_log.crash(survivors)
        if self.checkpoint is not None:
            self.checkpoint.cancel()
            old_backing.open_gate()
            await trio.testing.wait_all_tasks_blocked()
        self.open_transactions.clear()
        promised = old_log.durable_lsn
        self.history = [entry for entry in self.history if entry[0] <= self.log.durable_lsn]
        assert self.log.durable_lsn >= promised
        self.store = self.open_store()

    async def end(self) -> None:
        """Stop the faults; everything heals."""
        self.log.automatic = True
        self.log.make_durable(self.log.next_lsn)
        self.backing.gated = False
        self.backing.open_gate()
        await self.store.checkpoint()
        self.check()
        assert self.backing.holds == self.state


@settings(max_examples=250)
@given(steps=st.lists(STEPS, min_size=12, max_size=40), randomness=st.random_module())
def test_the_store_is_a_dict_whatever_happens(steps: list[Step], randomness: object) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                machine = Machine(nursery)
                for step in steps:
                    await machine.take(step)
                    machine.check()
                await machine.end()

    trio.run(main)
