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
        self._missed: dict[Listener, Callable[[], None]] = {}

    def subscribe(
        self, listener: Listener, *, wait_seen: WaitSeen | None = None, on_missed: Callable[[], None] | None = None
    ) -> None:
        """Call ``listener(origin, change)`` after each change from now on.

        ``wait_seen``: how to wait for a listener that needs time to act on what it hears. ``on_missed``: called when
        changes were missed, so that whatever was cached may be old; must not block.
        """
        self._listeners.append(listener)
        if on_missed is not None:
            self._missed[listener] = on_missed
        if wait_seen is not None:
            self._waits[listener] = wait_seen

    def unsubscribe(self, listener: Listener) -> None:
        """Stop calling it."""
        self._listeners.remove(listener)
        self._waits.pop(listener, None)
        self._missed.pop(listener, None)

    async def wait_seen(self) -> None:
        """Return when every front-end shows the changes published so far: before a change is answered as done."""
        for wait_seen in list(self._waits.values()):
            await wait_seen()

    def missed(self) -> None:
        """Changes were lost on their way here: tell everybody."""
        for on_missed in self._missed.values():
            on_missed()

    def publish(self, origin: object, change: Change) -> None:
        """Tell everybody. ``origin`` is the front-end that made the change, None for the volume itself."""
        for listener in self._listeners:
            listener(origin, change)
