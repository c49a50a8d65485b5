"""What a check found, and how it goes on: findings are noted up to a limit, and others run now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
import trio

from siltstone.core.types import Progress, ProgressListener

R = TypeVar("R")

WALK_STEP = 50
"""Records and ranges looked at between two checkpoints."""

FINDINGS_MAX = 10_000
"""Of what is wrong so much is named, of each shard; the rest is counted."""


class Finding(msgspec.Struct, frozen=True):
    """One broken invariant: its number in docs/invariants.md, what it concerns, and what is wrong."""

    invariant: str
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.subject}: {self.message}"


class Findings:
    """Collects what is wrong with one shard, and tells how many records were looked at."""

    def __init__(self) -> None:
        self.progress: ProgressListener | None = None
        self._found: list[Finding] = []
        self._unnamed = 0
        self._steps = 0

    def report(self, invariant: str, subject: str, message: str) -> None:
        """Note a broken invariant."""
        if len(self._found) < FINDINGS_MAX:
            self._found.append(Finding(invariant, subject, message))
        else:
            self._unnamed += 1

    def parsed(self, key: bytes, value: bytes, decode: Callable[[bytes], R]) -> R | None:
        """A record, or None if it does not parse, which is noted."""
        try:
            return decode(value)
        except (msgspec.MsgspecError, ValueError) as error:
            self.report("I1", f"key {key.hex()}", f"the record does not parse: {error}")
            return None

    async def step(self) -> None:
        """Let others run now and then."""
        self._steps += 1
        if self._steps % WALK_STEP == 0:
            if self.progress is not None:
                self.progress(Progress(self._steps, self._steps, "records"))
            await trio.lowlevel.checkpoint()

    def all(self) -> list[Finding]:
        """What was noted."""
        if not self._unnamed:
            return list(self._found)
        return [*self._found, Finding("...", "fsck", f"{self._unnamed} further findings are not named")]
