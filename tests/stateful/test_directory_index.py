"""The directory index against the plain walk: whatever is made, moved, exchanged, removed, made again, both agree."""

from __future__ import annotations

import stat

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from siltstone.errors import Refused
from siltstone.meta import names
from siltstone.meta.directories import DirectoryIndex, find_directory
from siltstone.meta.rename import rename
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Transaction
from siltstone.types import ROOT_INO, Ino
from sim.metadata import open_metadata

NAMES = [b"a", b"b"]
name = st.sampled_from(NAMES)
number = st.integers(0, 1 << 16)
PATHS = [b""]
for shorter in PATHS:
    PATHS += [shorter + b"/" * bool(shorter) + each for each in NAMES if shorter.count(b"/") < 3]


def walk(reader: Reader, top: Ino, path: bytes) -> tuple[Ino, bytes]:
    """What ``find_directory`` must answer, an entry at a time."""
    rest = path.split(b"/") if path else []
    while rest:
        entry = names.get_dentry(reader, top, rest[0])
        if entry is None or not stat.S_ISDIR(entry.kind):
            break
        top = Ino(entry.ino)
        rest = rest[1:]
    return top, b"/".join(rest)


class DirectoryIndexMachine(RuleBasedStateMachine):
    """Directories of one store, looked up through an index that holds few of them or many.

    ``looks`` are bits that say which of all short paths are looked up below a top: before a batch is committed, and
    after it. What an index got wrong shows only for what it knew before, so most rules look up a part.
    """

    def __init__(self) -> None:
        super().__init__()
        self.store = open_metadata()
        self.tops = [ROOT_INO]
        self.index = DirectoryIndex()

    @initialize(directories_max=st.sampled_from([1, 2, 3, 5, 8, 13, 1000]))
    def set_up(self, directories_max: int) -> None:
        self.index = DirectoryIndex(directories_max)
        self.store.watch(self.index.forget)
        transaction = self.store.begin()
        for path in PATHS[1:15]:
            holder, last = walk(transaction, ROOT_INO, path)
            made, _ = names.mkdir(transaction, holder, last, mode=0o755, uid=0, gid=0, now_ns=1)
            if len(path) == 1:
                self.tops.append(made)
        transaction.commit()

    def any_directory(self, number: int) -> Ino:
        """One that can be reached now."""
        found = [ROOT_INO]
        for ino in found:
            listed = names.list_directory(self.store, ino, limit=9)
            found += [Ino(entry.ino) for _, entry in listed if stat.S_ISDIR(entry.kind)]
        return found[number % len(found)]

    @rule(top=st.integers(0, 2), looks=number)
    def look_up(self, top: int, looks: int) -> None:
        top_ino = self.tops[top]
        for bit, path in enumerate(PATHS):
            if looks >> bit % 16 & 1:
                assert find_directory(self.store, self.index, top_ino, path) == walk(self.store, top_ino, path), path

    def end(self, transaction: Transaction, commits: bool, looks: int) -> None:
        """Commit or drop it; what is written and not committed shows nowhere, what is committed at once."""
        self.look_up(looks % 3, looks)
        if commits:
            transaction.commit()
        self.look_up(looks % 3, looks >> 8)

    @rule(parent=number, name=name, is_file=st.booleans(), commits=st.booleans(), looks=number)
    def make(self, parent: int, name: bytes, is_file: bool, commits: bool, looks: int) -> None:
        transaction = self.store.begin()
        make = names.create if is_file else names.mkdir
        try:
            make(transaction, self.any_directory(parent), name, mode=0o755, uid=0, gid=0, now_ns=1)
        except Refused:
            return
        self.end(transaction, commits, looks)

    @rule(parent=number, name=name, commits=st.booleans(), looks=number)
    def remove(self, parent: int, name: bytes, commits: bool, looks: int) -> None:
        transaction = self.store.begin()
        holder = self.any_directory(parent)
        entry = names.get_dentry(transaction, holder, name)
        take = names.rmdir if entry is not None and stat.S_ISDIR(entry.kind) else names.unlink
        try:
            take(transaction, holder, name, now_ns=1)
        except Refused:
            return
        self.end(transaction, commits, looks)

    @rule(
        source=number, name=name, goal=number, new_name=name,
        exchange=st.booleans(), commits=st.sampled_from([True, True, False]), looks=number,
    )  # fmt: skip
    def move(
        self, source: int, name: bytes, goal: int, new_name: bytes, exchange: bool, commits: bool, looks: int
    ) -> None:
        transaction = self.store.begin()
        try:
            rename(
                transaction, self.any_directory(source), name, self.any_directory(goal), new_name,
                exchange=exchange, now_ns=1,
            )  # fmt: skip
        except Refused:
            return
        self.end(transaction, commits, looks)

    @invariant()
    def it_is_bounded_and_whole(self) -> None:
        index = self.index
        assert len(index._by_path) == len(index._by_dentry) <= len(index._clock) <= index._directories_max
        for found in index._by_path.values():
            below = [each for each in index._by_path.values() if each.above is found]
            assert found.below_count == len(below)

    def teardown(self) -> None:
        for top in range(3):
            self.look_up(top, 0xFFFF)


TestDirectoryIndex = DirectoryIndexMachine.TestCase
TestDirectoryIndex.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
