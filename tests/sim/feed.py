"""A tree that is kept by the change feed alone, to be compared with the one that is there."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import trio

from siltstone.core.types import DirEntry
from siltstone.core.volume import Volume
from siltstone.errors import NotADirectory, NotFound
from siltstone.types import ROOT_INO, Ino, Lsn


class ListSink:
    """Takes everything, up to ``room`` bytes without waiting."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.data = bytearray()
        self.arrived = trio.Event()
        """Something has come since ``take``."""

    def send_nowait(self, data: bytes) -> int:
        """See core/feed.py: Sink."""
        taken = min(self.room, len(data))
        self.data += data[:taken]
        self.arrived.set()
        return taken

    async def send_all(self, data: bytes) -> None:
        """See core/feed.py: Sink."""
        self.data += data
        self.arrived.set()

    def take(self) -> list[dict[str, Any]]:
        """The events that have come since, marks too."""
        lines = bytes(self.data).splitlines()
        self.data.clear()
        self.arrived = trio.Event()
        return [json.loads(line) for line in lines]


async def events_since(volume: Volume, after: Lsn | None, path: bytes = b"") -> list[dict[str, Any]]:
    """What the feed tells up to now, without marks."""
    sink = ListSink()
    await volume.feed.watch(path, after, sink, follow=False)
    return [event for event in sink.take() if event["event"] != "mark"]


def path_in(event: dict[str, Any], field: str) -> bytes:
    """A path of an event, without the slash before it."""
    found = event.get(field + "_hex")
    path: bytes = bytes.fromhex(found) if found else event[field].encode()
    return path[1:]


class FeedReplica:
    """Paths and their inodes, without a slash before them, and what the feed said of the sizes of files."""

    def __init__(self) -> None:
        self.names: dict[bytes, int] = {}
        self.sizes: dict[int, int] = {}
        self.position: Lsn | None = None
        self._listed: set[bytes] = set()
        """What was listed while events were applied, clones: it may be newer than the next events."""

    async def begin(self, volume: Volume) -> None:
        """Take the tree as it is, and go on from here."""
        sink = ListSink()
        await volume.feed.watch(b"", None, sink, follow=False)
        self.position = Lsn(sink.take()[0]["lsn"])
        self.names = await walk_below(volume, ROOT_INO, b"")
        self.sizes = {}

    async def follow(self, volume: Volume) -> None:
        """Apply what has happened since. Raises what ``Feed.watch`` raises."""
        sink = ListSink()
        self._listed.clear()
        await volume.feed.watch(b"", self.position, sink, follow=False)
        for event in sink.take():
            assert event["lsn"] >= (self.position or 0), "the feed goes backwards"
            self.position = Lsn(event["lsn"])
            if event["event"] != "mark":
                await self._apply(volume, event)

    async def _apply(self, volume: Volume, event: dict[str, Any]) -> None:
        path, ino = path_in(event, "path"), event["ino"]
        if "size" in event:
            self.sizes[ino] = event["size"]
        match event["event"]:
            case "create" | "mkdir" | "put" | "link":
                self.names[path] = ino
            case "clone":
                await self._list(volume, path, ino)
            case "unlink" | "rmdir" | "delete":
                if not self._is(path, ino) and "is_marker" not in event:
                    return
                self.names.pop(path, None)
            case "rename":
                target = path_in(event, "to")
                self._is(target, event.get("replaced"))
                if not self._is(path, ino):
                    await self._list(volume, target, ino)
                    return
                below = [name for name in self.names if is_below(name, path)]
                self.names |= {target + name[len(path) :]: self.names.pop(name) for name in below}
            case "exchange":
                target, other = path_in(event, "to"), event["replaced"]
                if self._is(path, ino) and self._is(target, other):
                    self._exchange(path, target)
                else:
                    await self._list(volume, target, ino)
                    await self._list(volume, path, other)
            case "write" | "attributes":
                self._is(path, ino)
            case other:
                assert other in ("version", "delete_version"), other

    def _is(self, path: bytes, ino: int | None) -> bool:
        """Whether that has a name. It must, but where something was listed since, which may be newer than the event."""
        is_so = self.names.get(path) == ino
        assert is_so or any(is_below(path, top) for top in self._listed), f"{path!r} was another than {ino}"
        return is_so

    async def _list(self, volume: Volume, path: bytes, ino: int) -> None:
        """Take something as it is now."""
        self._listed.add(path)
        for name in [name for name in self.names if is_below(name, path)]:
            del self.names[name]
        self.names[path] = ino
        with suppress(NotFound, NotADirectory):
            self.names |= await walk_below(volume, Ino(ino), path + b"/")

    def _exchange(self, path: bytes, other: bytes) -> None:
        swapped: dict[bytes, int] = {}
        for source, target in ((path, other), (other, path)):
            for name in [name for name in self.names if is_below(name, source)]:
                swapped[target + name[len(source) :]] = self.names.pop(name)
        self.names |= swapped


def is_below(name: bytes, top: bytes) -> bool:
    """Whether a path is another, or leads through it."""
    return name == top or name.startswith(top + b"/")


async def walk_below(volume: Volume, directory: Ino, prefix: bytes) -> dict[bytes, int]:
    """All paths below a directory that is there; nothing where it has gone."""
    names: dict[bytes, int] = {}
    todo = [(prefix, directory)]
    while todo:
        above, ino = todo.pop()
        entries: list[DirEntry] = []
        with suppress(NotFound):
            entries = await volume.list_directory(ino, after=None, limit=1000)
        for name, found, attributes in entries:
            names[above + name] = found
            if attributes.mode & 0o170000 == 0o040000:
                todo.append((above + name + b"/", found))
    return names
