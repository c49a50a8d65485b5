"""A whole tree as a plain value, to be compared with another."""

from __future__ import annotations

import stat
from typing import NamedTuple

from siltstone.core.tree import Tree
from siltstone.types import ROOT_INO, Ino


class Node(NamedTuple):
    """One entry, as whoever looks at it sees it, but for inode numbers and ctime. ``links``: all its names."""

    mode: int
    uid: int
    gid: int
    size: int
    rdev: int
    mtime_ns: int
    atime_ns: int
    target: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    data: bytes
    links: frozenset[bytes]


async def read_tree(volume: Tree, path: bytes) -> dict[bytes, Node]:
    """What is at a path and below it, by the path from there."""
    ino = ROOT_INO
    for name in filter(None, path.split(b"/")):
        ino = (await volume.lookup(ino, name)).ino
    inos: dict[bytes, Ino] = {b"": ino}
    found: dict[bytes, Node] = {}
    todo = [b""]
    while todo:
        at = todo.pop()
        node = await _read_node(volume, inos[at])
        found[at] = node
        after: bytes | None = None
        while stat.S_ISDIR(node.mode):
            entries = await volume.list_directory(inos[at], after=after, limit=100)
            if not entries:
                break
            after = entries[-1].name
            for entry in entries:
                inner = at + b"/" + entry.name if at else entry.name
                inos[inner] = entry.ino
                todo.append(inner)
    names: dict[Ino, set[bytes]] = {}
    for at, ino in inos.items():
        names.setdefault(ino, set()).add(at)
    return {at: node._replace(links=frozenset(names[inos[at]])) for at, node in found.items()}


async def _read_node(volume: Tree, ino: Ino) -> Node:
    seen = await volume.attributes(ino)
    pieces: list[bytes] = []
    while stat.S_ISREG(seen.mode) and (piece := await volume.read(ino, sum(map(len, pieces)), 1 << 20)):
        pieces.append(piece)
    xattrs = [(name, await volume.get_xattr(ino, name)) for name in await volume.list_xattrs(ino)]
    return Node(
        seen.mode,
        seen.uid,
        seen.gid,
        seen.size,
        seen.rdev,
        seen.mtime_ns,
        seen.atime_ns,
        seen.target,
        tuple(sorted(xattrs)),
        b"".join(pieces),
        frozenset(),
    )
