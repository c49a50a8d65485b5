"""The labels of a pool: what HOME holds besides the metadata, kept on every disk that is up.

A change counts once it is on all disks that are up, so that whoever finds all but m of them finds it. Disks that were
away have an older one, and get the newest when they return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

import trio

from siltstone.engine.format.label import LABEL_NAME, Label, pack_label, parse_label
from siltstone.engine.pool import Pool
from siltstone.errors import DiskError, FormatInvalid, TooFewDisks
from siltstone.ports import Clock, Disk
from siltstone.types import DiskId

LOOK_SECONDS = 1.0
"""How often it is looked whether something has to be written."""


Split = Callable[[Sequence[DiskId], int], Mapping[DiskId, bytes]]
"""The shares of some disks, of which so many get theirs at once; the others when they return."""


async def read_label(disk: Disk) -> Label | None:
    """The label of a disk; None if there is none, or none that is sound. Raises DiskError if the disk fails."""
    entries = [entry for entry in await disk.list(LABEL_NAME) if entry.name == LABEL_NAME]
    if not entries:
        return None
    try:
        return parse_label(await disk.read(LABEL_NAME, 0, entries[0].size))
    except FormatInvalid:
        return None


def newest_label(labels: Iterable[Label | None]) -> Label | None:
    """The one that counts."""
    return max((label for label in labels if label is not None), key=lambda label: label.serial, default=None)


def _no_shares(disks: Sequence[DiskId], reached: int) -> Mapping[DiskId, bytes]:
    return {}


class Labels:
    """Keeps one label on all disks of a pool."""

    def __init__(self, pool: Pool, *, minimum: int) -> None:
        self._pool = pool
        self._minimum = minimum
        self._label: Label | None = None
        self._shares: Mapping[DiskId, bytes] = {}
        self._split: Split = _no_shares
        self._serial = -1
        self._lacking: set[DiskId] = set()
        self._writing = trio.Lock()
        self._current_serial: Callable[[], int] = lambda: self._serial
        self._current: Callable[[], Label] | None = None
        pool.subscribe(self._note_disk)

    def split_by(self, split: Split) -> None:
        """From now on each disk gets a share of something in its label, too."""
        self._split = split

    def follow(self, serial: Callable[[], int], label: Callable[[], Label]) -> None:
        """From now on ``run`` publishes whatever ``label`` says when ``serial`` is another."""
        self._current_serial, self._current = serial, label

    async def find(self) -> Label | None:
        """The newest on the disks that are up; those that fail are reported."""
        found: list[Label | None] = []

        async def look(disk_id: DiskId) -> None:
            try:
                found.append(await read_label(self._pool.disk(disk_id)))
            except DiskError as error:
                self._pool.report(error)

        async with trio.open_nursery() as nursery:
            for disk_id in self._pool.up():
                nursery.start_soon(look, disk_id)
        return newest_label(found)

    async def publish(self, label: Label) -> None:
        """Have it on every disk that is up, durably. Raises TooFewDisks if it is on too few to count."""
        async with self._writing:
            if label.serial < self._serial:
                return
            self._label, self._serial = label, label.serial
            disks = [status.disk_id for status in self._pool.status()]
            reached = len(self._pool.up())
            while True:
                self._shares = self._split(disks, reached)
                self._lacking = set(disks)
                await self._write()
                written = len(self._pool.up()) - len(self._lacking.intersection(self._pool.up()))
                if written < self._minimum:
                    raise TooFewDisks(f"the settings are on {written} disks, they must be on {self._minimum}")
                if written >= reached or not self._shares:
                    return
                reached = written  # fewer have a share than were counted on

    async def run(self, clock: Clock) -> None:
        """Write it to disks that return or come, and what is new to all, for ever."""
        while True:
            await clock.sleep(LOOK_SECONDS)
            if self._current is not None and self._current_serial() > self._serial:
                with suppress(TooFewDisks):  # tried again as disks return
                    await self.publish(self._current())
            elif self._lacking.intersection(self._pool.up()):
                async with self._writing:
                    await self._write()

    async def _write(self) -> None:
        if self._label is None:
            return
        async with trio.open_nursery() as nursery:
            for disk_id in sorted(self._lacking.intersection(self._pool.up())):
                nursery.start_soon(self._write_to, disk_id)

    async def _write_to(self, disk_id: DiskId) -> None:
        try:
            assert self._label is not None
            own = self._label._replace(share=self._shares.get(disk_id, b""))
            await self._pool.disk(disk_id).replace(LABEL_NAME, pack_label(own))
            self._lacking.discard(disk_id)
        except DiskError as error:
            self._pool.report(error)

    def _note_disk(self, disk_id: DiskId, _is_up: bool) -> None:
        self._lacking.add(disk_id)
