"""Looking at a path that may hang."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from siltstone.errors import Unavailable

T = TypeVar("T")


async def in_time(path: str, limit_seconds: float, function: Callable[..., T], *args: object) -> T:
    """Run what looks at a path in a thread, which is left to itself when there is no answer within the limit.

    Raises Unavailable then. The function may still take effect later.
    """
    with trio.move_on_after(limit_seconds):
        return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True)
    raise Unavailable(f"{path}: no answer for {limit_seconds:g} s; does the disk hang?")
