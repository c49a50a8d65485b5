"""What every Backing promises: LMDB and the simulated one run the same tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.errors import NoSpace
from siltstone.meta.store.lmdb_backing import LmdbBacking
from siltstone.meta.store.port import Backing
from siltstone.types import Lsn
from sim.backing import SimBacking

BYTES_MAX = 1 << 24

Writes = Mapping[bytes, bytes | None]


class Case:
    """An implementation: how to open one, and how to find it again after the process is gone."""

    def __init__(self, open_new: Callable[[int], Backing], reopen: Callable[[Backing], Backing]) -> None:
        self.open_new = open_new
        self.reopen = reopen


@contextmanager
def lmdb_case() -> Iterator[Case]:
    opened: list[Backing] = []

    def keep(backing: Backing) -> Backing:
        opened.append(backing)
        return backing

    def reopen(backing: Backing) -> Backing:
        opened.pop().close()
        return keep(LmdbBacking(path, bytes_max=BYTES_MAX, create=False))

    with tempfile.TemporaryDirectory() as path:
        yield Case(lambda bytes_max: keep(LmdbBacking(path, bytes_max=bytes_max, create=True)), reopen)
        opened.pop().close()


@contextmanager
def sim_case() -> Iterator[Case]:
    def reopen(backing: Backing) -> Backing:
        assert isinstance(backing, SimBacking)
        return backing.crash()

    yield Case(lambda bytes_max: SimBacking(bytes_max=bytes_max), reopen)


CaseOf = Callable[[], AbstractContextManager[Case]]
on_all = pytest.mark.parametrize("case_of", [lmdb_case, sim_case], ids=["lmdb", "sim"])

PREFIX = b"k" * 505
LONG_KEYS = st.builds(
    lambda middle, tail: PREFIX + middle + tail,
    st.sampled_from([b"", b"aaaa", b"aaaaa", b"aaaab", b"\xff\xff\xff\xff\xff"]),
    st.binary(max_size=3),
)
KEYS = st.one_of(st.binary(min_size=1, max_size=3), LONG_KEYS)
BATCHES = st.lists(st.dictionaries(KEYS, st.one_of(st.none(), st.binary(max_size=20)), max_size=12), max_size=4)


def apply(backing: Backing, writes: Writes, applied_lsn: int) -> None:
    trio.run(backing.apply, sorted(writes.items()), Lsn(applied_lsn))


def now_and_reopened(case: Case, backing: Backing) -> Iterator[Backing]:
    yield backing
    yield case.reopen(backing)


def merge(model: dict[bytes, bytes], writes: Writes) -> None:
    for key, value in writes.items():
        if value is None:
            model.pop(key, None)
        else:
            model[key] = value


@on_all
@settings(max_examples=100)
@given(batches=BATCHES, ranges=st.lists(st.tuples(KEYS, KEYS), max_size=8), limit=st.integers(1, 40))
def test_it_holds_what_was_applied(
    case_of: CaseOf, batches: list[Writes], ranges: list[tuple[bytes, bytes]], limit: int
) -> None:
    model: dict[bytes, bytes] = {}
    with case_of() as case:
        backing = case.open_new(BYTES_MAX)
        for number, writes in enumerate(batches, start=1):
            apply(backing, writes, number)
            merge(model, writes)
            assert backing.applied_lsn == number
        for found_again in now_and_reopened(case, backing):
            assert found_again.applied_lsn == len(batches)
            for key in [key for writes in batches for key in writes] + [start for start, _ in ranges]:
                assert found_again.get(key) == model.get(key)
            for start, end in [*ranges, (b"", b"\xff" * 600)]:
                inside = [(key, model[key]) for key in sorted(model) if start <= key < end]
                for reverse in (False, True):
                    found = found_again.scan(start, end, reverse=reverse, limit=limit)
                    wanted = inside[::-1] if reverse else inside
                    assert len(found) >= min(limit, len(wanted))
                    assert found == wanted[: len(found)]


@on_all
def test_an_apply_without_room_leaves_the_old_state(case_of: CaseOf) -> None:
    with case_of() as case:
        backing = case.open_new(1 << 20)
        apply(backing, {b"a": b"1", b"b": b"2"}, 10)
        with pytest.raises(NoSpace):
            apply(backing, {b"a": None, **{b"key %d" % number: bytes(1000) for number in range(2000)}}, 20)
        for found_again in now_and_reopened(case, backing):
            assert found_again.applied_lsn == 10
            assert found_again.scan(b"", b"\xff", reverse=False, limit=10) == [(b"a", b"1"), (b"b", b"2")]
        apply(found_again, {b"a": None}, 20)
        assert found_again.scan(b"", b"\xff", reverse=False, limit=10) == [(b"b", b"2")]


@on_all
def test_reads_see_the_old_state_until_an_apply_returns_and_the_new_one_then(case_of: CaseOf) -> None:
    async def main(backing: Backing) -> None:
        seen: set[tuple[bytes | None, int]] = set()
        finished = False

        async def look() -> None:
            while not finished:
                seen.add((backing.get(b"a"), len(backing.scan(b"", b"\xff", reverse=False, limit=10**6))))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await backing.apply(
                [(b"a", b"new"), *((b"b%06d" % number, b"") for number in range(5000))], backing.applied_lsn
            )
            finished = True
            assert backing.get(b"a") == b"new"
            assert len(backing.scan(b"", b"\xff", reverse=True, limit=10**6)) == 5001
        assert seen <= {(b"old", 1)}

    with case_of() as case:
        backing = case.open_new(BYTES_MAX)
        apply(backing, {b"a": b"old"}, 10)
        trio.run(main, backing)


@on_all
def test_space_grows_with_what_it_holds_and_shrinks_again(case_of: CaseOf) -> None:
    with case_of() as case:
        backing = case.open_new(BYTES_MAX)
        empty = backing.space()
        assert empty.max_bytes == BYTES_MAX
        apply(backing, {b"key %d" % number: bytes(1000) for number in range(1000)}, 1)
        assert 1_000_000 < backing.space().used_bytes < 3_000_000
        apply(backing, {b"key %d" % number: None for number in range(1000)}, 2)
        assert backing.space().used_bytes == empty.used_bytes
