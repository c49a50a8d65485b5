"""The namespace against a tree of plain values: same results, same errors, and metadata that agrees with itself.

Each step runs in a transaction of its own. Some are dropped instead of committed, and must leave no trace.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from siltstone.errors import (
    AlreadyExists,
    DirectoryNotEmpty,
    InvalidArgument,
    IsADirectory,
    NoSuchAttribute,
    NotADirectory,
    NotFound,
    NotPermitted,
    Refused,
)
from siltstone.meta import attributes, inodes, names, xattrs
from siltstone.meta.counters import read_totals
from siltstone.meta.rename import rename
from siltstone.meta.store.store import Transaction
from siltstone.types import ROOT_INO, Ino
from sim.metadata import check_metadata, open_metadata, resolve

NAMES = st.sampled_from([b"a", b"b", b"\xff"])
PATHS = st.lists(NAMES, max_size=3)
MODES = st.sampled_from([0o644, 0o4755, 0o2775])


@dataclass(eq=False)
class Node:
    """An inode of the model: a directory has entries, anything else None."""

    ino: Ino
    mode: int
    gid: int
    names: int = 0
    entries: dict[bytes, Node] | None = None
    parent: Node | None = None
    removed: bool = False
    ctime_ns: int = 0
    mtime_ns: int = 0
    attributes: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def nlink(self) -> int:
        """As stat shows it."""
        if self.entries is None:
            return self.names
        return 0 if self.removed else 2 + sum(child.entries is not None for child in self.entries.values())

    def touch(self, now_ns: int) -> None:
        """Its entries changed."""
        self.mtime_ns = self.ctime_ns = now_ns


class NamespaceMachine(RuleBasedStateMachine):
    """Rules act on the store and on the model."""

    def __init__(self) -> None:
        super().__init__()
        self.store = open_metadata(now_ns=1)
        self.now_ns = 1
        self.drop = False
        self.root = Node(ROOT_INO, stat.S_IFDIR | 0o755, 0, entries={}, ctime_ns=1, mtime_ns=1)
        self.root.parent = self.root
        self.nodes = [self.root]
        """Every node that was not purged, nameless ones included."""

    # --- the two sides ---------------------------------------------------------------------------------------------

    def walk(self, path: list[bytes]) -> Node:
        """The model's lookup, the order of errors included."""
        node = self.root
        for name in path:
            if node.entries is None:
                raise NotADirectory
            if name not in node.entries:
                raise NotFound
            node = node.entries[name]
        return node

    def any_node(self, index: int) -> Node:
        return self.nodes[index % len(self.nodes)]

    def holder(self, index: int) -> Node:
        """Mostly a directory: with anything else most steps would only try errors."""
        if index % 8 == 7:
            return self.any_node(index // 8)
        directories = [node for node in self.nodes if node.entries is not None]
        return directories[index % len(directories)]

    def attempt(self, real: Callable[[Transaction], object], model: Callable[[], Callable[[], None]]) -> None:
        """Run both: the model raises what the real one must raise, or returns what to do when that succeeds."""
        self.now_ns += 1
        transaction = self.store.begin()
        try:
            effect = model()
        except Refused as expected:
            try:
                real(transaction)
            except Refused as error:
                assert type(error) is type(expected), f"{error!r} instead of {expected!r}"
                return
            raise AssertionError(f"no {expected!r}") from expected
        real(transaction)
        if self.drop:
            self.drop = False
            return
        transaction.commit()
        effect()

    @staticmethod
    def entries_for_change(directory: Node) -> dict[bytes, Node]:
        if directory.entries is None:
            raise NotADirectory
        if directory.removed:
            raise NotFound
        return directory.entries

    def lose_name(self, node: Node) -> None:
        node.names -= 1
        node.ctime_ns = self.now_ns
        if node.entries is not None:
            node.removed = True

    # --- rules -----------------------------------------------------------------------------------------------------

    @rule()
    def drop_the_next_transaction(self) -> None:
        self.drop = True

    @rule(
        parent=st.integers(0, 100), name=NAMES, mode=MODES, gid=st.integers(0, 3),
        kind=st.sampled_from([stat.S_IFREG, stat.S_IFIFO, stat.S_IFLNK, stat.S_IFDIR, stat.S_IFDIR]),
    )  # fmt: skip
    def make(self, parent: int, name: bytes, mode: int, gid: int, kind: int) -> None:
        directory = self.holder(parent)
        node = Node(Ino(0), kind | mode, gid, names=1, ctime_ns=self.now_ns + 1, mtime_ns=self.now_ns + 1)

        def model() -> Callable[[], None]:
            entries = self.entries_for_change(directory)
            if name in entries:
                raise AlreadyExists

            def effect() -> None:
                if directory.mode & stat.S_ISGID:
                    node.gid = directory.gid
                    node.mode |= stat.S_ISGID if kind == stat.S_IFDIR else 0
                if kind == stat.S_IFDIR:
                    node.entries, node.parent = {}, directory
                entries[name] = node
                directory.touch(self.now_ns)
                self.nodes.append(node)

            return effect

        def real(transaction: Transaction) -> None:
            if kind == stat.S_IFDIR:
                made = names.mkdir(transaction, directory.ino, name, mode=mode, uid=7, gid=gid, now_ns=self.now_ns)
            else:
                target = b"there" if kind == stat.S_IFLNK else b""
                made = names.create(
                    transaction, directory.ino, name,
                    mode=kind | mode, uid=7, gid=gid, target=target, now_ns=self.now_ns,
                )  # fmt: skip
            node.ino = made[0]

        self.attempt(real, model)

    @rule(near=st.integers(0, 100))
    def make_anonymous(self, near: int) -> None:
        node = Node(Ino(0), stat.S_IFREG | 0o600, 5, ctime_ns=self.now_ns + 1, mtime_ns=self.now_ns + 1)

        def real(transaction: Transaction) -> None:
            node.ino, _ = inodes.create_anonymous(
                transaction, self.any_node(near).ino, mode=0o600, uid=7, gid=5, now_ns=self.now_ns
            )

        self.attempt(real, lambda: lambda: self.nodes.append(node))

    @rule(index=st.integers(0, 100), parent=st.integers(0, 100), name=NAMES)
    def link(self, index: int, parent: int, name: bytes) -> None:
        node, directory = self.any_node(index), self.holder(parent)

        def model() -> Callable[[], None]:
            entries = self.entries_for_change(directory)
            if name in entries:
                raise AlreadyExists
            if node.entries is not None:
                raise NotPermitted

            def effect() -> None:
                entries[name] = node
                node.names += 1
                node.ctime_ns = self.now_ns
                directory.touch(self.now_ns)

            return effect

        self.attempt(lambda tx: names.link(tx, node.ino, directory.ino, name, now_ns=self.now_ns), model)

    @rule(parent=st.integers(0, 100), name=NAMES, as_directory=st.booleans())
    def remove(self, parent: int, name: bytes, as_directory: bool) -> None:
        directory = self.holder(parent)

        def model() -> Callable[[], None]:
            if directory.entries is None:
                raise NotADirectory
            if name not in directory.entries:
                raise NotFound
            node = directory.entries[name]
            if as_directory:
                if node.entries is None:
                    raise NotADirectory
                if node.entries:
                    raise DirectoryNotEmpty
            elif node.entries is not None:
                raise IsADirectory

            def effect() -> None:
                assert directory.entries is not None
                del directory.entries[name]
                self.lose_name(node)
                directory.touch(self.now_ns)

            return effect

        take = names.rmdir if as_directory else names.unlink
        self.attempt(lambda tx: take(tx, directory.ino, name, now_ns=self.now_ns), model)

    @rule(
        parent=st.integers(0, 100), name=NAMES, new_parent=st.integers(0, 100), new_name=NAMES,
        how=st.sampled_from(["replace", "replace", "exchange", "no_replace"]),
    )  # fmt: skip
    def move(self, parent: int, name: bytes, new_parent: int, new_name: bytes, how: str) -> None:
        source, target = self.holder(parent), self.holder(new_parent)

        def below(node: Node | None, ancestor: Node) -> bool:
            while node is not None and node is not self.root:
                if node is ancestor:
                    return True
                node = node.parent
            return False

        def model() -> Callable[[], None]:
            if source.entries is None:
                raise NotADirectory
            if target is not source:
                self.entries_for_change(target)
            assert target.entries is not None
            if name not in source.entries:
                raise NotFound
            node, other = source.entries[name], target.entries.get(new_name)
            if how == "no_replace" and other is not None:
                raise AlreadyExists
            if how == "exchange" and other is None:
                raise NotFound
            if below(target, node) or (how == "exchange" and other is not None and below(source, other)):
                raise InvalidArgument
            if node is other:
                return lambda: None
            if how != "exchange" and other is not None:
                if node.entries is None and other.entries is not None:
                    raise IsADirectory
                if node.entries is not None and other.entries is None:
                    raise NotADirectory
                if other.entries:
                    raise DirectoryNotEmpty
            return lambda: self.apply_move(source, name, target, new_name, how == "exchange")

        self.attempt(
            lambda tx: rename(
                tx, source.ino, name, target.ino, new_name,
                exchange=how == "exchange", no_replace=how == "no_replace", now_ns=self.now_ns,
            ),
            model,
        )  # fmt: skip

    def apply_move(self, source: Node, name: bytes, target: Node, new_name: bytes, exchange: bool) -> None:
        assert source.entries is not None and target.entries is not None
        node, other = source.entries.pop(name), target.entries.pop(new_name, None)
        target.entries[new_name] = node
        node.ctime_ns = self.now_ns
        node.parent = target if node.entries is not None else None
        if other is not None and exchange:
            source.entries[name] = other
            other.parent = source if other.entries is not None else None
            other.ctime_ns = self.now_ns
        elif other is not None:
            self.lose_name(other)
        source.touch(self.now_ns)
        target.touch(self.now_ns)

    @rule(index=st.integers(0, 100), mode=MODES, gid=st.integers(0, 3))
    def change_owner_or_mode(self, index: int, mode: int, gid: int) -> None:
        node = self.any_node(index)

        def effect() -> None:
            node.mode = stat.S_IFMT(node.mode) | mode
            node.gid = gid
            node.ctime_ns = self.now_ns

        self.attempt(
            lambda tx: attributes.set_attributes(tx, node.ino, mode=mode, gid=gid, now_ns=self.now_ns),
            lambda: effect,
        )

    @rule(index=st.integers(0, 100), name=NAMES, value=st.binary(max_size=4), how=st.sampled_from(["", "c", "r", "-"]))
    def change_xattr(self, index: int, name: bytes, value: bytes, how: str) -> None:
        node = self.any_node(index)
        full = b"user." + name

        def model() -> Callable[[], None]:
            if not (node.entries is not None or stat.S_ISREG(node.mode)):
                raise NotPermitted
            if how == "c" and full in node.attributes:
                raise AlreadyExists
            if how in ("r", "-") and full not in node.attributes:
                raise NoSuchAttribute

            def effect() -> None:
                node.ctime_ns = self.now_ns
                if how == "-":
                    del node.attributes[full]
                else:
                    node.attributes[full] = value

            return effect

        def real(transaction: Transaction) -> None:
            if how == "-":
                xattrs.remove_xattr(transaction, node.ino, full, now_ns=self.now_ns)
            else:
                xattrs.set_xattr(
                    transaction, node.ino, full, value, create=how == "c", replace=how == "r", now_ns=self.now_ns
                )

        self.attempt(real, model)

    @rule()
    def purge_the_nameless(self) -> None:
        nameless = [node for node in self.nodes if node.nlink == 0]
        assert sorted(inodes.orphans(self.store)) == sorted(node.ino for node in nameless)

        def real(transaction: Transaction) -> None:
            for node in nameless:
                inodes.remove_inode(transaction, node.ino)

        def effect() -> None:
            self.nodes = [node for node in self.nodes if node not in nameless]

        self.attempt(real, lambda: effect)

    @rule(path=PATHS)
    def resolve(self, path: list[bytes]) -> None:
        try:
            expected = self.walk(path)
        except Refused as refusal:
            try:
                resolve(self.store, b"/".join(path))
            except Refused as error:
                assert type(error) is type(refusal)
                return
            raise AssertionError(f"no {refusal!r}") from refusal
        assert resolve(self.store, b"/" + b"//".join(path))[0] == expected.ino

    # --- what holds after each step --------------------------------------------------------------------------------

    @invariant()
    def every_inode_is_as_the_model_has_it(self) -> None:
        for node in self.nodes:
            inode = inodes.get_inode(self.store, node.ino)
            assert inode.mode == node.mode and inode.gid == node.gid
            assert inode.nlink == node.nlink
            assert inode.ctime_ns == node.ctime_ns and inode.mtime_ns == node.mtime_ns
            assert {name: xattrs.get_xattr(self.store, node.ino, name) for name in node.attributes} == node.attributes
            assert xattrs.list_xattrs(self.store, node.ino) == sorted(node.attributes)
            if node.entries is not None:
                listed = names.list_directory(self.store, node.ino, limit=100)
                assert [name for name, _ in listed] == sorted(node.entries)
                assert [entry.ino for _, entry in listed] == [node.entries[name].ino for name, _ in listed]
                if listed:
                    after = listed[0][0]
                    assert names.list_directory(self.store, node.ino, after=after, limit=1) == listed[1:2]
                assert node.parent is not None
                assert node.removed or inode.parent == node.parent.ino

    @invariant()
    def the_metadata_agrees_with_itself(self) -> None:
        assert list(check_metadata(self.store)) == []
        assert read_totals(self.store).inodes == len(self.nodes)


TestNamespace = NamespaceMachine.TestCase
TestNamespace.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
