"""Who hears of changes: front-ends that cache what the volume tells them."""

from __future__ import annotations

from siltstone.core.types import Change, Listener


class Subscribers:
    """Listeners, called in the order of the changes."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        """Call ``listener(origin, change)`` after each change from now on."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Stop calling it."""
        self._listeners.remove(listener)

    def publish(self, origin: object, change: Change) -> None:
        """Tell everybody. ``origin`` is the front-end that made the change, None for the volume itself."""
        for listener in self._listeners:
            listener(origin, change)
