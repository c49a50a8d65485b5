"""The namespace as a plain value: what each operation may answer, and what it leaves."""

from __future__ import annotations

from typing import NamedTuple

from siltstone.types import ROOT_INO, Ino

ROOT = int(ROOT_INO)


class Tree(NamedTuple):
    """``entries``: (directory, name, inode). ``directories`` and ``files``: every inode that was ever made."""

    entries: frozenset[tuple[int, bytes, int]]
    directories: frozenset[int]
    files: frozenset[int]

    def find(self, directory: int, name: bytes) -> int | None:
        """The inode of an entry."""
        return next((ino for holder, held, ino in self.entries if (holder, held) == (directory, name)), None)

    def children(self, directory: int) -> list[tuple[bytes, int]]:
        """The entries of a directory, by name."""
        return sorted((name, ino) for holder, name, ino in self.entries if holder == directory)

    def parent(self, directory: int) -> int | None:
        """The directory that holds a directory; None when nothing does."""
        return next((holder for holder, _, ino in self.entries if ino == directory), None)

    def is_alive(self, directory: int) -> bool:
        """Whether a directory has a name."""
        return directory == ROOT or self.parent(directory) is not None

    def nlink(self, ino: int) -> int:
        """As stat shows it."""
        if ino in self.files:
            return sum(1 for _, _, held in self.entries if held == ino)
        return 2 + sum(1 for _, held in self.children(ino) if held in self.directories) if self.is_alive(ino) else 0

    def is_below(self, directory: int, above: int) -> bool:
        """Whether a directory is ``above`` or lies below it."""
        step: int | None = directory
        while step is not None and step != above:
            step = self.parent(step)
        return step == above


EMPTY_TREE = Tree(frozenset(), frozenset({ROOT}), frozenset())


class Action(NamedTuple):
    """One operation. ``ino``: what link gives a name, or stat looks at."""

    kind: str
    parent: Ino = ROOT_INO
    name: bytes = b""
    new_parent: Ino = ROOT_INO
    new_name: bytes = b""
    ino: Ino = ROOT_INO
    exchange: bool = False


Answer = list[int] | str
"""Numbers, or the name of an error; ``GONE`` where the inode that lost its name is not told."""

GONE = "gone"


def step(tree: Tree, action: Action, answer: Answer) -> Tree | None:
    """The tree after an action that was answered so, None where that is not what it answers."""
    expected, after = _act(tree, action, answer)
    if answer == GONE:
        return after if isinstance(expected, list) else None
    return after if expected == answer else None


def _act(tree: Tree, action: Action, answer: Answer) -> tuple[Answer, Tree]:
    kind, parent, name = action.kind, int(action.parent), action.name
    if kind == "stat":
        return _stat(tree, int(action.ino)), tree
    if kind == "lookup":
        found = tree.find(parent, name)
        return "NotFound" if found is None else _stat(tree, found), tree
    if kind == "list":
        return [ino for _, ino in tree.children(parent)], tree
    if kind == "rename":
        return _rename(tree, action)
    found = tree.find(parent, name)
    if kind in ("create", "mkdir", "link"):
        if not tree.is_alive(parent):
            return "NotFound", tree
        if found is not None:
            return "AlreadyExists", tree
        if kind == "link":
            ino = int(action.ino)
            return [], tree._replace(entries=tree.entries | {(parent, name, ino)})
        if not isinstance(answer, list) or answer[0] in tree.files | tree.directories:
            return "an inode of its own", tree
        made = frozenset({answer[0]})
        entries = tree.entries | {(parent, name, answer[0])}
        if kind == "mkdir":
            return answer, tree._replace(entries=entries, directories=tree.directories | made)
        return answer, tree._replace(entries=entries, files=tree.files | made)
    if found is None:
        return "NotFound", tree
    gone = tree._replace(entries=tree.entries - {(parent, name, found)})
    if kind == "unlink":
        return ("IsADirectory", tree) if found in tree.directories else ([found], gone)
    assert kind == "rmdir"
    if found in tree.files:
        return "NotADirectory", tree
    return ("DirectoryNotEmpty", tree) if tree.children(found) else ([found], gone)


def _stat(tree: Tree, ino: int) -> Answer:
    if ino in tree.directories:
        return [ino, tree.nlink(ino), len(tree.children(ino))]
    return [ino, tree.nlink(ino), 0] if ino in tree.files else "NotFound"


def _rename(tree: Tree, action: Action) -> tuple[Answer, Tree]:
    parent, name, new_parent, new_name = int(action.parent), action.name, int(action.new_parent), action.new_name
    if new_parent != parent and not tree.is_alive(new_parent):
        return "NotFound", tree
    moved, other = tree.find(parent, name), tree.find(new_parent, new_name)
    if moved is None or (action.exchange and other is None):
        return "NotFound", tree
    if parent != new_parent:
        if moved in tree.directories and tree.is_below(new_parent, moved):
            return "InvalidArgument", tree
        if action.exchange and other in tree.directories and tree.is_below(parent, other):
            return "InvalidArgument", tree
    if moved == other:
        return [], tree
    entries = tree.entries - {(parent, name, moved)}
    if other is not None:
        entries -= {(new_parent, new_name, other)}
        if action.exchange:
            entries |= {(parent, name, other)}
        elif moved in tree.directories and other not in tree.directories:
            return "NotADirectory", tree
        elif moved not in tree.directories and other in tree.directories:
            return "IsADirectory", tree
        elif tree.children(other):
            return "DirectoryNotEmpty", tree
    return [], tree._replace(entries=entries | {(new_parent, new_name, moved)})
