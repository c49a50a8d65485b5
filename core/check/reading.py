"""Reading everything that one shard has on the disks (I10, and what I13 counts on); nothing is mended."""

from __future__ import annotations

from itertools import islice

from siltstone.core.check.findings import Findings
from siltstone.core.scrub import fill_is_sound, log_extent_is_sound
from siltstone.core.types import Progress, ProgressListener
from siltstone.core.volume import Volume
from siltstone.core.windows import claimed_window
from siltstone.engine.stripe.scrub import DamageKind
from siltstone.errors import Corrupt
from siltstone.meta import extents, keys, space
from siltstone.meta.keys import Reference
from siltstone.meta.records import Place
from siltstone.types import StripeId

REFERENCES_TOGETHER = 256
"""References to the log that are taken from the store together: what dies meanwhile is left out."""


class Reading:
    """Reads every unit, payload and snapshot of a volume in use."""

    def __init__(self, volume: Volume, findings: Findings, progress: ProgressListener | None) -> None:
        self._ledger = volume.ledger
        self._volume = volume
        self._files = volume.snapshots.files
        self._findings = findings
        self._progress = progress
        self._done = 0
        self._total = self._ledger.stripes.space().raw_used_bytes + self._ledger.totals.log_live_bytes

    async def read(self) -> None:
        """Read all of it."""
        await self._read_snapshots()
        await self._read_stripes()
        await self._read_log()
        await self._read_fills()

    async def _read_snapshots(self) -> None:
        for snapshot in list(self._files.snapshots):
            try:
                await self._files.read_through(snapshot)
            except Corrupt as error:
                if snapshot in self._files.snapshots and snapshot not in self._volume.snapshots.plan().droppable:
                    message = f"it cannot be read from the disks that are up: {error}"
                    self._findings.report("I13", str(snapshot.name), message)

    async def _read_stripes(self) -> None:
        cursor = StripeId(0)
        while True:
            async with claimed_window(self._ledger, cursor) as window:
                if window is None:
                    return
                checked = await self._ledger.stripes.check(window.addresses, mend=False, digests=frozenset)
            cursor = window.cursor
            for stripe_id in window.broken:
                self._findings.report("I8", f"stripe {stripe_id:x}", "its records do not fit together")
            for damage in checked.damages:
                for unit in damage.units:
                    if unit.kind is DamageKind.ABSENT:
                        continue
                    message = f"unit {unit.unit} on disk {unit.disk_id} is not what was written: {unit.kind.value}"
                    self._findings.report("I10", f"stripe {damage.stripe_id:x}", message)
            self._tell(sum(checked.read_bytes.values()))

    async def _read_log(self) -> None:
        start = keys.log_references_from(0)
        while True:
            found = self._ledger.store.scan(start, keys.after(keys.LOG_REFERENCES))
            some = [(key, keys.decode_length(value)) for key, value in islice(found, REFERENCES_TOGETHER)]
            if not some:
                return
            for key, length in some:
                await self._read_payload(keys.parse_reference(key))
                self._tell(length)
            start = some[-1][0] + b"\0"

    async def _read_payload(self, reference: Reference) -> None:
        era = self._ledger.fence.enter()
        try:
            ino, offset = reference.ino, reference.offset
            extent = extents.get_extent(self._ledger.store, ino, offset)
            if extent is None or (extent.place, extent.address, extent.skip) != (Place.LOG, *reference[:2]):
                return  # it died, or has moved
            if not await log_extent_is_sound(self._ledger, ino, offset, extent):
                self._findings.report("I10", f"inode {ino}", f"the extent at {offset} cannot be read from the log")
        finally:
            self._ledger.fence.leave(era)

    async def _read_fills(self) -> None:
        pieces = [(key, extent) for key, record in space.fills(self._ledger.store) for _, extent in record.pieces]
        for stripe_id, extent in pieces:
            era = self._ledger.fence.enter()
            try:
                if not await fill_is_sound(self._ledger, stripe_id, extent):
                    message = "what it is to be filled with cannot be read from the log"
                    self._findings.report("I10", f"stripe {stripe_id:x}", message)
            finally:
                self._ledger.fence.leave(era)

    def _tell(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(Progress(min(self._done, self._total), self._total, "bytes"))
