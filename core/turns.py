"""Calls, counted by the turn in which they began: who hands a front-end over to another tree waits for the old ones."""

from __future__ import annotations

import trio


class Turn:
    """Calls that began with one tree. A context manager: of one call."""

    __slots__ = ("_ended", "_under_way")

    def __init__(self) -> None:
        self._under_way = 0
        self._ended: trio.Event | None = None

    def __enter__(self) -> None:
        self._under_way += 1

    def __exit__(self, *_: object) -> None:
        self._under_way -= 1
        if self._ended is not None and not self._under_way:
            self._ended.set()

    async def wait_over(self) -> None:
        """Return when no call of it is under way; none must begin any more."""
        self._ended = trio.Event()
        if self._under_way:
            await self._ended.wait()


class Turns:
    """``current``: the turn that calls begin in now."""

    def __init__(self) -> None:
        self.current = Turn()

    def turn_over(self) -> Turn:
        """Let calls begin in a new turn; the old one."""
        old, self.current = self.current, Turn()
        return old
