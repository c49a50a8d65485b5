"""What a shard keeps of each front-end in another process: which changes it has still to hear of, and what it may hold.

A front-end polls: a poll is answered when there is news, or after a while. Changes are kept until the front-end says
that it has taken them in, so an answer that is lost is given again. An inode that loses its last name is purged when no
front-end holds it; they are only asked then, and answer at once or when they let go. A front-end that does not poll for
LEASE_SECONDS is taken for dead. A shard that has just begun purges nothing for GRACE_SECONDS: front-ends that held
something in its last life are to come back first.
"""

from __future__ import annotations

from collections import deque

import trio

from siltstone.core.calls import Nameless, News, Poll, Spread
from siltstone.core.types import Change
from siltstone.core.volume import Volume
from siltstone.types import Ino

POLL_SECONDS = 5.0
"""How long a poll waits for news."""

LEASE_SECONDS = 30.0
GRACE_SECONDS = 10.0

ITEMS_MAX = 1 << 16
"""What is kept for a front-end; one that has more to hear of begins a new session, and forgets all that it cached."""

TOLD_SECONDS = 0.02
"""How often it is looked whether all front-ends have heard."""

SEEN_SECONDS = 1.0
"""How long is waited for a front-end to take in changes before somebody else's request is answered."""


class _Session:
    """One front-end. A Holder and a Listener of the volume."""

    def __init__(self, number: int, client: bytes, now_ns: int, *, hears: bool) -> None:
        self.number = number
        self.polled_ns = now_ns
        self.polls = 0
        """Under way."""
        self._client = client
        self._hears = hears
        self._items: deque[Change | Nameless | Spread] = deque()
        self._last = 0
        """The number of the last item."""
        self._asked: set[Ino] = set()
        self._let_go: dict[Ino, None] = {}
        """Inodes that it does not hold as far as is known, in the order in which it said so."""
        self._news = trio.Event()
        self._progress = trio.Event()

    @property
    def is_behind(self) -> bool:
        """Whether there is more to hear of than is kept."""
        return len(self._items) > ITEMS_MAX

    def hear(self, origin: object, change: Change) -> None:
        """See Listener. Its own changes the front-end knows."""
        self._let_go.pop(change.ino, None)  # it may have a name again, and somebody may hold it by that
        if self._hears and origin != self._client:
            self._add(change)

    def holds(self, ino: Ino) -> bool:
        """See Holder: it may, until it has said otherwise."""
        if ino in self._let_go:
            return False
        if ino not in self._asked:
            self._asked.add(ino)
            self._add(Nameless(ino))
        return True

    def take(self, poll: Poll) -> list[Ino]:
        """What the front-end says; returns the inodes that it has let go of."""
        while self._items and self._last - len(self._items) < poll.seen:
            self._items.popleft()
        self._progress.set()
        self._progress = trio.Event()
        freed = [ino for ino in poll.let_go if ino in self._asked]
        self._asked.difference_update(freed)
        self._let_go.update((ino, None) for ino in freed)
        while len(self._let_go) > ITEMS_MAX:
            del self._let_go[next(iter(self._let_go))]
        return freed

    async def wait_news(self) -> News:
        """What there is to hear; perhaps nothing, after POLL_SECONDS or when the front-end polls again.

        One that polls again has given the poll before up. That ends at once: it would be told what is new in vain, and
        those that wait would fill the connection. If it is the later one that has come first, its end has the
        front-end ask once more.
        """
        self._news.set()
        if not self._items:
            self._news = trio.Event()
            with trio.move_on_after(POLL_SECONDS):
                await self._news.wait()
        return News(self.number, self._last, list(self._items))

    async def wait_seen(self) -> None:
        """Return when the front-end has taken in everything so far, or after SEEN_SECONDS."""
        target = self._last
        with trio.move_on_after(SEEN_SECONDS):
            while self._last - len(self._items) < target:
                await self._progress.wait()

    @property
    def is_told(self) -> bool:
        """Whether it has taken in everything so far."""
        return not self._items

    def tell(self, spread: Spread) -> None:
        """How many shards there are."""
        self._add(spread)

    def _add(self, item: Change | Nameless | Spread) -> None:
        self._items.append(item)
        self._last += 1
        self._news.set()


class Sessions:
    """The front-ends of a shard."""

    def __init__(self, volume: Volume, spread: Spread | None = None) -> None:
        """``spread``: what front-ends are told of how many shards there are; only the first shard tells."""
        self._volume = volume
        self._spread = spread
        self._clock = volume.ledger.clock
        self._sessions: dict[bytes, _Session] = {}
        self._is_young = True
        volume.register_holder(self)

    def holds(self, ino: Ino) -> bool:
        """See Holder: in the beginning somebody may who has not come back yet."""
        return self._is_young

    async def poll(self, poll: Poll) -> News:
        """Answer a front-end that wants to hear of what has changed."""
        session = self._sessions.get(poll.client)
        if session is None or session.is_behind or session.number != poll.session:
            # Answered at once: from now on nothing is missed, and the front-end may be waiting to know.
            return News(self._open(poll).number, 0, [])
        for ino in session.take(poll):
            self._volume.released(ino)
        session.polls += 1
        try:
            return await session.wait_news()
        finally:
            session.polls -= 1
            session.polled_ns = self._clock.monotonic_ns()

    @property
    def clients(self) -> list[bytes]:
        """The front-ends that listen."""
        return [*self._sessions]

    def announce(self, spread: Spread) -> None:
        """Tell all front-ends, and those that come, how many shards there are from now on."""
        self._spread = spread
        for session in self._sessions.values():
            session.tell(spread)

    async def wait_told(self) -> None:
        """Return when every front-end has taken in everything so far, or is gone."""
        while any(not session.is_told for session in self._sessions.values()):
            await self._clock.sleep(TOLD_SECONDS)

    async def run(self) -> None:
        """End the grace, and the sessions of front-ends that are gone, for ever."""
        await self._clock.sleep(GRACE_SECONDS)
        self._is_young = False
        self._volume.unregister_holder(self)
        while True:
            await self._clock.sleep(LEASE_SECONDS / 4)
            limit = self._clock.monotonic_ns() - round(LEASE_SECONDS * 1e9)
            for client, session in list(self._sessions.items()):
                if not session.polls and session.polled_ns < limit:
                    self._close(client, session)

    def _open(self, poll: Poll) -> _Session:
        client = poll.client
        old = self._sessions.get(client)
        number = self._volume.ledger.random.below(1 << 62) + 1
        session = self._sessions[client] = _Session(number, client, self._clock.monotonic_ns(), hears=poll.hears)
        self._volume.subscribe(session.hear, wait_seen=session.wait_seen if poll.hears else None)
        self._volume.register_holder(session)
        if self._spread is not None:
            session.tell(self._spread)
        if old is not None:
            self._end(old)
        return session

    def _close(self, client: bytes, session: _Session) -> None:
        del self._sessions[client]
        self._end(session)

    def _end(self, session: _Session) -> None:
        self._volume.unsubscribe(session.hear)
        self._volume.unregister_holder(session)
