"""Cloning a tree, or one file, from path to path: the same over one process and over shards.

All is built below a directory without a name, which is held meanwhile; a crash, an error or a cancellation leaves that
to be purged. The last batch gives it the name. With that all is durable: what other shards have of it is before.
"""

from __future__ import annotations

import stat
from collections import deque
from contextlib import suppress
from typing import Any, Protocol

import msgspec
import trio

from siltstone.core.clones import Clones
from siltstone.core.tree import Tree
from siltstone.core.types import Attributes, Progress, ProgressListener
from siltstone.core.volume import Volume
from siltstone.errors import AlreadyExists, InvalidArgument, NotADirectory, NotFound
from siltstone.meta.clones import Apart, ClonedFile, Page, Subdirectory
from siltstone.meta.names import check_name
from siltstone.types import ROOT_INO, Ino

WORKERS_OVER_SHARDS = 16
"""Directories that are cloned side by side where each step waits for other processes."""


class CloneReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a clone has: entries (files, directories and all else), and bytes of files, which it shares."""

    entries: int
    bytes: int


class CloneMaker(Protocol):
    """Whoever makes the batches of a clone: see ``Clones``."""

    workers: int
    """Directories that are worth being cloned side by side."""

    def let_go(self, clone: Ino) -> None:
        """What ``begin_clone`` returned is not needed any more."""

    def check_room(self, source: Ino, parent: Ino) -> None:
        """Raise QuotaExceeded if a clone of a directory is too large for another: before all the work is done."""

    async def begin_clone(self, source: Ino) -> Ino: ...
    async def clone_entries(self, source: Ino, target: Ino, after: bytes | None) -> Page: ...
    async def clone_file(self, source: Ino, parent: Ino, name: bytes, is_last: bool) -> ClonedFile: ...
    async def link_clone(self, clone: Ino, parent: Ino, name: bytes) -> None: ...
    async def name_clone(self, clone: Ino, source: Ino, parent: Ino, name: bytes, subdirectories: int) -> None: ...
    async def wait_done(self) -> None:
        """Return when all that was done is durable, and front-ends show it."""


class ClonesHere(Clones):
    """A volume in this process."""

    workers = 1

    def __init__(self, volume: Volume) -> None:
        super().__init__(volume)
        self.let_go = volume.orphans.let_go
        self.wait_done = volume.wait_done
        self._usage = volume.ledger.usage

    def check_room(self, source: Ino, parent: Ino) -> None:
        """See CloneMaker."""
        self._usage.check_room(parent, self._usage.usage(source))


class ClonesOverShards:
    """Shards, asked through a front-end's ``call``. Holds what is under way (a Holder)."""

    workers = WORKERS_OVER_SHARDS

    def __init__(self, call: Any, tree: Tree) -> None:
        self._call = call
        self._tree = tree
        self._held: set[Ino] = set()
        tree.register_holder(self)

    def holds(self, ino: Ino) -> bool:
        """See Holder."""
        return ino in self._held

    def let_go(self, clone: Ino) -> None:
        """See CloneMaker."""
        self._held.discard(clone)
        self._tree.released(clone)

    def check_room(self, source: Ino, parent: Ino) -> None:
        """There are no quotas over shards."""

    async def begin_clone(self, source: Ino) -> Ino:
        """See Clones."""
        clone: Ino = await self._call("begin_clone", source)
        self._held.add(clone)
        return clone

    async def clone_entries(self, source: Ino, target: Ino, after: bytes | None) -> Page:
        """See Clones."""
        page: Page = await self._call("clone_entries", source, target, after)
        return page

    async def clone_file(self, source: Ino, parent: Ino, name: bytes, is_last: bool) -> ClonedFile:
        """See Clones."""
        clone: ClonedFile = await self._call("clone_file", source, parent, name, is_last)
        return clone

    async def link_clone(self, clone: Ino, parent: Ino, name: bytes) -> None:
        """See Clones."""
        await self._call("link_clone", clone, parent, name)

    async def name_clone(self, clone: Ino, source: Ino, parent: Ino, name: bytes, subdirectories: int) -> None:
        """See Clones."""
        await self._call("name_clone", clone, source, parent, name, subdirectories)

    async def wait_done(self) -> None:
        """Each call was durable when it was answered."""


async def clone_path(
    tree: Tree, maker: CloneMaker, source: bytes, target: bytes, progress: ProgressListener | None = None
) -> CloneReport:
    """Let ``target`` be a clone of ``source``; both are paths from the root of the volume, and no link is followed.

    Raises NotFound, NotADirectory, AlreadyExists, InvalidArgument (a tree into itself), NameTooLong, NoSpace,
    QuotaExceeded; then nothing is there that was not before.
    """
    source_names, target_names = path_names(source), path_names(target)
    if not target_names:
        raise AlreadyExists("the root of the volume is there already")
    found = await _walk(tree, source_names, source)
    parent = (await _walk(tree, target_names[:-1], target)).ino
    name = target_names[-1]
    check_name(name)
    if not stat.S_ISDIR((await tree.attributes(parent)).mode):
        raise NotADirectory(f"{_shown(target)}: not in a directory")
    with suppress(NotFound):
        await tree.lookup(parent, name)
        raise AlreadyExists(f"{_shown(target)} is there already")
    if not stat.S_ISDIR(found.mode):
        clone = await maker.clone_file(found.ino, parent, name, True)
        await maker.wait_done()
        return CloneReport(entries=1, bytes=clone.size if stat.S_ISREG(found.mode) else 0)
    if await _is_below(tree, parent, found.ino):
        raise InvalidArgument(f"{_shown(source)} cannot be cloned into itself: {_shown(target)} is in it")
    maker.check_room(found.ino, parent)
    return await _TreeClone(maker, found.ino, progress).run(found.size, parent, name)


class _TreeClone:
    """One clone of a tree under way."""

    def __init__(self, maker: CloneMaker, source: Ino, progress: ProgressListener | None) -> None:
        self._maker = maker
        self._source = source
        self._progress = progress
        self._todo: deque[Subdirectory] = deque()
        self._idle = 0
        self._more = trio.Event()
        self._links: dict[Ino, Ino] = {}
        """The clones of what was cloned apart, which may have further names."""
        self._linking = trio.Lock()
        self._entries = self._size = self._subdirectories = 0
        self._total = 1

    async def run(self, entries: int, parent: Ino, name: bytes) -> CloneReport:
        """Clone it, and give it its name."""
        root = await self._maker.begin_clone(self._source)
        try:
            self._root = root
            self._entries = 1
            self._total += entries
            self._todo.append(Subdirectory(self._source, root, entries))
            await self._work_all()
            await self._maker.name_clone(root, self._source, parent, name, self._subdirectories)
        finally:
            self._maker.let_go(root)
        await self._maker.wait_done()
        return CloneReport(entries=self._entries, bytes=self._size)

    async def _work_all(self) -> None:
        workers = self._maker.workers
        if workers == 1:
            while self._todo:
                await self._clone_directory(self._todo.popleft())
            return
        failures: list[Exception] = []
        async with trio.open_nursery() as nursery:

            async def work() -> None:
                try:
                    await self._work(workers)
                except Exception as error:
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            for _ in range(workers):
                nursery.start_soon(work)
        if failures:
            raise failures[0]

    async def _work(self, workers: int) -> None:
        """Clone directories until there are none left, and nobody is at one that may hold others."""
        while True:
            while self._todo:
                await self._clone_directory(self._todo.popleft())
            self._idle += 1
            if self._idle == workers:
                self._wake()
                return
            await self._more.wait()
            if self._idle == workers:
                return
            self._idle -= 1

    def _wake(self) -> None:
        self._more.set()
        if self._idle < self._maker.workers:
            self._more = trio.Event()

    async def _clone_directory(self, directory: Subdirectory) -> None:
        after: bytes | None = None
        while True:
            page = await self._maker.clone_entries(directory.source, directory.target, after)
            self._entries += page.entries
            self._size += page.size
            if directory.target == self._root:
                self._subdirectories += len(page.subdirectories)
            if page.subdirectories:
                self._todo.extend(page.subdirectories)
                self._total += sum(found.entries for found in page.subdirectories)
                self._wake()
            for entry in page.apart:
                await self._clone_apart(directory.target, entry)
            self._tell()
            await trio.lowlevel.checkpoint()  # in one process nothing else need wait
            if page.after is None:
                return
            after = page.after

    async def _clone_apart(self, parent: Ino, entry: Apart) -> None:
        async with self._linking:  # of two names of a file, one must find the clone that the other has made
            known = self._links.get(entry.source)
            if known is not None:
                await self._maker.link_clone(known, parent, entry.name)
            else:
                try:
                    clone = await self._maker.clone_file(entry.source, parent, entry.name, False)
                except NotFound:
                    return  # it has been deleted since it was listed
                self._links[entry.source] = clone.ino
                self._size += clone.size
        self._entries += 1

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(Progress(self._entries, max(self._total, self._entries), "files"))


async def find_path(tree: Tree, path: bytes) -> Attributes:
    """What is at a path from the root of the volume; no link is followed. Raises NotFound, NotADirectory,
    InvalidArgument."""
    return await _walk(tree, path_names(path), path)


def path_names(path: bytes) -> list[bytes]:
    """The names of a path from the root on. Raises InvalidArgument for one with ``..``."""
    found = [name for name in path.split(b"/") if name not in (b"", b".")]
    if b".." in found:
        raise InvalidArgument(f"{_shown(path)}: want a path from the root of the volume, without ..")
    return found


async def _walk(tree: Tree, names: list[bytes], path: bytes) -> Attributes:
    """What is behind names, from the root on."""
    found = await tree.attributes(ROOT_INO)
    for name in names:
        try:
            found = await tree.lookup(found.ino, name)
        except (NotFound, NotADirectory) as error:
            raise type(error)(f"{_shown(path)}: {error}") from None
    return found


async def _is_below(tree: Tree, directory: Ino, above: Ino) -> bool:
    """Whether a directory is ``above``, or lies below it."""
    while directory != above:
        if directory == ROOT_INO:
            return False
        directory = await tree.parent_of(directory)
    return True


def _shown(path: bytes) -> str:
    return repr(path.decode(errors="replace"))
