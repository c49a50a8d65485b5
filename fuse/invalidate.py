"""Tells the kernel what has changed behind its back: names, attributes and pages that it caches.

A change made through the mount itself needs no word. Every other one is noted by ``hear``, in the step that made it,
and carried out in a worker thread: the kernel takes the lock of the directory or page first, and whoever holds that may
be waiting for an answer from our loop. That lock also makes the order right: an answer that was on its way when the
change came is in the kernel's cache before it is invalidated there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

import trio

from siltstone.core.types import AttributesChanged, Change, DataChanged, EntryChanged
from siltstone.types import ROOT_INO, Ino

PENDING_MAX = 1 << 17
"""Notes kept. More pile up only while the kernel holds a lock and others go on changing hundreds of thousands of names;
what is lost then stays in its cache until it times out."""

RETRY_SECONDS = 0.02
"""How long after a miss an inode is tried again: its lookup may have been answered and not yet taken in."""

PATIENCE_SECONDS = 1.0
"""How long an answer to another front-end's client waits for a kernel that is held up."""

logger = logging.getLogger("siltstone.fuse")


class Kernel(Protocol):
    """The kernel's side. Methods block, but for ``forget_names``, and are called in a worker thread; False: it does not
    have such a thing."""

    def invalidate_entry(self, parent: Ino, name: bytes) -> bool:
        """Forget a name, or that there is none."""

    def invalidate_attributes(self, ino: Ino) -> bool:
        """Forget the attributes of an inode."""

    def invalidate_data(self, ino: Ino) -> bool:
        """Forget the attributes and all pages of an inode."""

    def forget_names(self) -> bool:
        """Ask anew what names lead to, and whether they lead anywhere, before it says so again. False: this kernel
        cannot be told."""


class Notes:
    """What is to be invalidated; a thing that changed several times stands once. Sets that keep their order."""

    __slots__ = ("attributes", "data", "entries")

    def __init__(self) -> None:
        self.entries: dict[tuple[Ino, bytes], None] = {}
        self.attributes: dict[Ino, None] = {}
        self.data: dict[Ino, None] = {}

    def __len__(self) -> int:
        return len(self.entries) + len(self.attributes) + len(self.data)


def carry_out(notes: Notes, kernel: Kernel) -> Notes:
    """Invalidate what is noted. Returns the inodes that the kernel did not have. Blocks."""
    missed = Notes()
    for ino in notes.data:
        if not kernel.invalidate_data(ino):
            missed.data[ino] = None
    for ino in notes.attributes:
        if ino not in notes.data and not kernel.invalidate_attributes(ino):
            missed.attributes[ino] = None
    # Names last: with its name an inode may leave the kernel, and would be missed.
    for parent, name in notes.entries:
        kernel.invalidate_entry(parent, name)
    return missed


class Invalidator:
    """Listens to the volume on behalf of one mount.

    ``origin`` is what the mount's own changes carry; ``knows`` says whether the kernel may have an inode in its cache.
    """

    def __init__(self, origin: object, knows: Callable[[Ino], bool], kernel: Kernel) -> None:
        self._origin = origin
        self._knows = knows
        self._kernel = kernel
        self._pending = Notes()
        self._heard = 0
        """Notes taken so far."""
        self._told = 0
        """How many of them the kernel has taken in."""
        self._wakeup = trio.Event()
        self._progress = trio.Event()
        self.lost = 0
        """Changes that found no room; an error in the log names the first of a row."""

    def hear(self, origin: object, change: Change) -> None:
        """Note a change. This is the volume's Listener."""
        if origin is self._origin:
            return
        pending, knows = self._pending, self._known
        match change:
            case EntryChanged(parent, name, ino):
                if knows(parent):
                    pending.entries[parent, name] = None
                    pending.attributes[parent] = None
                if knows(ino):
                    pending.attributes[ino] = None
            case DataChanged(ino):
                if knows(ino):
                    pending.data[ino] = None
            case AttributesChanged(ino):
                if knows(ino):
                    pending.attributes[ino] = None
        if pending:
            if len(pending) > PENDING_MAX:
                self._drop()
            self._heard += 1
            self._wakeup.set()

    def miss(self, known: Iterable[Ino]) -> None:
        """Changes were missed: any of the inodes that the kernel knows may have changed, and any name. A kernel that
        cannot be told of all names lets them time out, soon where changes can be missed."""
        self._kernel.forget_names()
        for ino in known:
            self.hear(None, DataChanged(ino, 0, 0))

    async def wait_seen(self) -> None:
        """Return when the kernel has taken in every change heard of so far, or after PATIENCE_SECONDS.

        A front-end waits here before it answers, so that who has the answer finds its change in the mount.
        """
        target = self._heard
        with trio.move_on_after(PATIENCE_SECONDS) as scope:
            while self._told < target:
                await self._progress.wait()
        if scope.cancelled_caught:
            logger.warning(
                "the kernel has not taken in a change after %g s: a file of the mount is busy", PATIENCE_SECONDS
            )

    async def run(self) -> None:
        """Carry out what is noted, for ever. A thread that is at work when this is cancelled is waited for."""
        while True:
            await self._wakeup.wait()
            self._wakeup = trio.Event()
            notes, self._pending, heard = self._pending, Notes(), self._heard
            missed = self._still_known(await trio.to_thread.run_sync(carry_out, notes, self._kernel))
            self._told = heard
            self._progress.set()
            self._progress = trio.Event()
            if missed:
                await trio.sleep(RETRY_SECONDS)
                await trio.to_thread.run_sync(carry_out, missed, self._kernel)

    def _known(self, ino: Ino) -> bool:
        return ino == ROOT_INO or self._knows(ino)

    def _still_known(self, missed: Notes) -> Notes:
        still = Notes()
        still.attributes.update((ino, None) for ino in missed.attributes if self._known(ino))
        still.data.update((ino, None) for ino in missed.data if self._known(ino))
        return still

    def _drop(self) -> None:
        count = len(self._pending)
        if not self.lost:
            logger.error(
                "the kernel takes no invalidations: %d dropped, the mount may show old names for a while", count
            )
        self.lost += count
        self._pending = Notes()
