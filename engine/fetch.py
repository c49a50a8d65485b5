"""Some reads that belong together, of units of a stripe or of a replica of the log: what is there, what is to come."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from siltstone.engine.pool import Pool
from siltstone.errors import DiskError
from siltstone.ports import DiskRead, Lane, Reading
from siltstone.types import DiskId


class Fetch:
    """``count`` outcomes. Each is had from the start, or wanted and read, or neither, and then it never comes.

    A context: when it ends, nobody waits any more, and answers that are still to come are told to pace and pool only.
    """

    def __init__(self, pool: Pool, count: int) -> None:
        self._pool = pool
        self._outcomes: list[bytes | DiskError | None] = [None] * count
        self._wanted: list[int] = []
        self._disks: list[DiskId] = []
        self._pending: set[int] = set()
        self._reading: Reading | None = None

    def __enter__(self) -> Fetch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._pending:
            return
        self._note()
        if self._pending and self._reading is not None:
            self._reading.leave(self._note_one)
            self._note()  # what came between the last look and the leave

    def have(self, index: int, outcome: bytes | DiskError) -> None:
        """An outcome that needs no read."""
        self._outcomes[index] = outcome

    def want(self, index: int) -> None:
        """The next of the reads is for this outcome."""
        self._wanted.append(index)

    def begin(self, reads: Sequence[DiskRead]) -> None:
        """Begin the reads, one for each that is wanted."""
        assert len(reads) == len(self._wanted)
        if not reads:
            return
        self._disks = [read.disk.disk_id for read in reads]
        self._reading = self._pool.fanout.start_read(reads, Lane.BULK)
        self._pending = set(range(len(reads)))
        for disk_id in self._disks:
            self._pool.pace.note_begun(disk_id)

    @property
    def is_whole(self) -> bool:
        """Whether every outcome is there."""
        if self._pending:
            self._note()
        return None not in self._outcomes

    def outcome(self, index: int) -> bytes | DiskError | None:
        """The bytes or the error; None if there is no answer yet, or it was not asked for."""
        if self._pending:
            self._note()
        return self._outcomes[index]

    def was_read(self, index: int) -> bool:
        """Whether the outcome comes from a read."""
        return index in self._wanted

    async def wait(self) -> None:
        """Return when all that was begun has an answer. May be cancelled, and called again."""
        if self._reading is not None and self._pending:
            await self._reading.wait(len(self._wanted))
            self._note()
            assert not self._pending

    def _note(self) -> None:
        for at in list(self._pending):
            self._note_one(at)

    def _note_one(self, at: int) -> None:
        """Take note of an answer, if it is there and was not noted."""
        assert self._reading is not None
        result = self._reading.result(at) if at in self._pending else None
        if result is None:
            return
        self._pending.discard(at)
        self._outcomes[self._wanted[at]] = result
        self._pool.pace.note_answer(self._disks[at], self._reading.seconds(at))
        if isinstance(result, DiskError):
            self._pool.report(result)
