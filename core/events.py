"""Who hears of changes: front-ends that cache what the volume tells them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from siltstone.core.types import Change, Listener

WaitSeen = Callable[[], Awaitable[None]]
"""Returns when a listener has passed on every change it was told of; bounded in time."""


class Subscribers:
    """Listeners, called in the order of the changes."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._waits: dict[Listener, WaitSeen] = {}

    def subscribe(self, listener: Listener, *, wait_seen: WaitSeen | None = None) -> None:
        """Call ``listener(origin, change)`` after each change from now on.

        ``wait_seen``: how to wait for a listener that needs time to act on what it hears.
        """
        self._listeners.append(listener)
        if wait_seen is not None:
            self._waits[listener] = wait_seen

    def unsubscribe(self, listener: Listener) -> None:
        """Stop calling it."""
        self._listeners.remove(listener)
        self._waits.pop(listener, None)

    async def wait_seen(self) -> None:
        """Return when every front-end shows the changes published so far: before a change is answered as done."""
        for wait_seen in list(self._waits.values()):
            await wait_seen()

    def publish(self, origin: object, change: Change) -> None:
        """Tell everybody. ``origin`` is the front-end that made the change, None for the volume itself."""
        for listener in self._listeners:
            listener(origin, change)
