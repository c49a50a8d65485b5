"""Workers that run inline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


class SimWorkers:
    """The Workers port in the calling task, with a checkpoint on both sides so that others come in between.

    Like a thread, a function that has begun is not cancelled.
    """

    def __init__(self) -> None:
        self.runs = 0

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run ``function(*args)``."""
        await trio.lowlevel.checkpoint()
        self.runs += 1
        try:
            return function(*args)
        finally:
            await trio.lowlevel.cancel_shielded_checkpoint()
