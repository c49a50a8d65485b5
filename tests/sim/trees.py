"""A tree of all that there is; and a whole tree as a plain value, to be compared with another."""

from __future__ import annotations

import stat
from random import Random
from typing import NamedTuple

from siltstone.core.tree import Tree
from siltstone.core.types import SetAttributes
from siltstone.core.volume import Volume
from siltstone.types import ROOT_INO, Ino

DATA = Random(3).randbytes(700_000)


async def make_file(volume: Volume, parent: Ino, name: bytes, data: bytes = b"") -> Ino:
    """A file with these bytes, dirty ones."""
    ino = (await volume.create(parent, name, mode=0o100640, uid=7, gid=8)).ino
    if data:
        await volume.write(ino, 0, data)
    return ino


async def make_directory(volume: Volume, parent: Ino, name: bytes) -> Ino:
    """A directory."""
    return (await volume.mkdir(parent, name, mode=0o750, uid=5, gid=6)).ino


async def make_tree(volume: Volume) -> Ino:
    """A tree of all that there is, at /source."""
    source = await make_directory(volume, ROOT_INO, b"source")
    inner = await make_directory(volume, source, b"inner")
    deep = await make_directory(volume, inner, b"deep")
    await make_directory(volume, source, b"empty")
    await make_file(volume, source, b"nothing")
    await make_file(volume, source, b"inline", b"few bytes")
    await make_file(volume, inner, b"logged", DATA[:20_000])
    large = await make_file(volume, deep, b"striped", DATA)
    await volume.flush(large)
    await volume.write(large, 1_000_000, b"behind a hole")
    await volume.link(large, source, b"linked")
    await volume.write(large, 5, b"dirty, and of several names")
    await volume.symlink(inner, b"symlink", b"../nothing", uid=1, gid=2)
    await volume.create(inner, b"fifo", mode=stat.S_IFIFO | 0o600, uid=3, gid=4)
    await volume.set_xattr(inner, b"user.note", b"of a directory")
    await volume.set_xattr(large, b"user.note", b"of a file")
    await volume.set_attributes(large, SetAttributes(mode=0o4755, mtime_ns=12345, atime_ns=54321))
    await volume.set_attributes(deep, SetAttributes(mtime_ns=777))
    return source


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
