"""How the owner of a volume has the shards in other processes carry out the methods of Administration, by name.

An order may take hours. Whoever gave it asks now and then how far it has come, and by that says that he is still
there: one that is not asked after for LEASE_SECONDS is given up. A shard that dies loses what it was at; what may be
done twice is ordered again when it is back.
"""

from __future__ import annotations

import itertools
import logging

import msgspec
import trio

from siltstone.core.administration import Administration
from siltstone.core.calls import Answered, Method, encode_result, error_of, method_of
from siltstone.core.types import Progress, ProgressListener
from siltstone.errors import InvalidArgument, SiltstoneError
from siltstone.meta.shards.link import Link
from siltstone.meta.shards.messages import Failed, PeerLost
from siltstone.ports import Clock

LOOK_SECONDS = 0.5
"""How often who gave an order asks after it,"""

LEASE_SECONDS = 30.0
"""and how long it goes on without that."""

PATIENCE_SECONDS = 60.0
"""How long a shard may be away before an order to it fails."""

GIVE_UP_SECONDS = 1.0
"""How long it may take to tell a shard that an order is not wanted any more."""

UNKNOWN_MAX = 1024
"""Numbers of orders that are remembered because they may have been given up before they arrived."""

logger = logging.getLogger("siltstone.shards")


class Order(msgspec.Struct, array_like=True, tag="order", frozen=True):
    """Carry out a method of Administration. ``number``: whatever tells it from others of who gives it."""

    number: int
    method: str
    arguments: msgspec.Raw


class AskHow(msgspec.Struct, array_like=True, tag="ask-how", frozen=True):
    """How far has an order come?"""

    number: int


class GiveUp(msgspec.Struct, array_like=True, tag="give-up", frozen=True):
    """An order is not wanted any more."""

    number: int


class How(msgspec.Struct, array_like=True, tag="how", frozen=True):
    """How far an order has come; None if nothing is known of that."""

    progress: Progress | None


_AGAIN = (
    "give",
    "placements",
    "note_shards",
    "front_ends",
    "needs_of",
    "remains",
    "status",
    "chunk_files",
    "follow_disks",
    "level_disks",
    "disks_up",
    "stand",
    "drain",
    "release_disk",
    "settle",
    "scrub",
    "rebuild",
    "scrub_snapshots",
    "sync",
    "wait_transactions",
)
"""What a shard that died meanwhile is simply asked for again."""

_ONCE = (
    "hold_check",
    "wait_check_held",
    "check_open_operations",
    "check_transactions",
    "check_names",
    "check_take_names",
    "check",
    "check_bytes",
)

ORDERS = {name: method_of(Administration, name) for name in _AGAIN} | {
    name: method_of(Administration, name, is_once=True) for name in _ONCE
}

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Answered | How | Failed).decode


class _Work:
    """An order that is being carried out."""

    __slots__ = ("heard_ns", "progress", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.progress: Progress | None = None
        self.heard_ns = 0
        """When it was asked after last; 0 until the lease looks for the first time."""

    def note(self, progress: Progress) -> None:
        """How far it has come."""
        self.progress = progress


class Orders:
    """The orders that a shard carries out."""

    def __init__(self, administration: Administration) -> None:
        self._administration = administration
        self._works: dict[int, _Work] = {}
        self._unknown: dict[int, None] = {}
        """Orders that were given up and are not here: they are over, or still on their way."""

    async def carry_out(self, order: Order) -> Answered | Failed:
        """Do it and answer. Raises what it raises."""
        method = ORDERS.get(order.method)
        if method is None:
            raise InvalidArgument(f"this shard has no order {order.method!r}")
        arguments = msgspec.structs.astuple(_decoded(method, order.arguments))
        work = self._works[order.number] = _Work()
        if order.number in self._unknown:
            work.scope.cancel()
        try:
            with work.scope:
                result = await self._administration.ask(order.method, *arguments, progress=work.note)
                return Answered(encode_result(result))
        except SiltstoneError:
            raise
        except Exception as error:
            logger.exception("%s failed", order.method)
            return Failed("Unavailable", f"internal error, please report it: {type(error).__name__}: {error}")
        finally:
            del self._works[order.number]
        return Failed("Unavailable", f"{order.method} was given up")

    def how(self, request: AskHow | GiveUp) -> How:
        """How far an order has come, or that it is given up."""
        work = self._works.get(request.number)
        if work is None:
            if isinstance(request, GiveUp):
                self._unknown[request.number] = None
                if len(self._unknown) > UNKNOWN_MAX:
                    del self._unknown[next(iter(self._unknown))]
            return How(None)
        work.heard_ns = 0
        if isinstance(request, GiveUp):
            work.scope.cancel()
        return How(work.progress)

    async def run(self, clock: Clock) -> None:
        """Give up what nobody asks after, for ever."""
        while True:
            await clock.sleep(LEASE_SECONDS / 4)
            now_ns = clock.monotonic_ns()
            for work in self._works.values():
                work.heard_ns = work.heard_ns or now_ns
                if now_ns - work.heard_ns > LEASE_SECONDS * 1e9:
                    work.scope.cancel()


def _decoded(method: Method, arguments: msgspec.Raw) -> msgspec.Struct:
    try:
        decoded: msgspec.Struct = method.decode_arguments(arguments)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"arguments of {method.name}: {error}") from error
    return decoded


class FarShard:
    """A shard in another process, to which orders are given over a connection, which the caller keeps."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        # Others than those of who gave orders before: the shard may still remember some.
        self._numbers = itertools.count(clock.monotonic_ns())

    async def ask(
        self,
        method: str,
        *arguments: object,
        progress: ProgressListener | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> object:
        """See AskedShard. Raises PeerLost when the shard is away for ``patience_seconds``, or dies while it is at what
        must not be done twice."""
        known = ORDERS[method]
        while True:
            with trio.move_on_after(patience_seconds):
                await self._link.wait_connected()
            try:
                return known.decode_result(await self._give(known, arguments, progress))
            except PeerLost:
                if known.is_once or not await self._is_back(patience_seconds):
                    raise

    async def _is_back(self, patience_seconds: float) -> bool:
        """Wait for a shard that was lost; whether it came back."""
        with trio.move_on_after(patience_seconds):
            await self._clock.sleep(0.01)
            await self._link.wait_connected()
            return True
        return False

    async def _give(
        self, method: Method, arguments: tuple[object, ...], progress: ProgressListener | None
    ) -> msgspec.Raw:
        number = next(self._numbers)
        order = _encode(Order(number, method.name, method.encode_arguments(*arguments)))
        answer: Answered | How | Failed | PeerLost | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, number, progress)
            try:
                answer = _decode(await self._link.call(order))
            except PeerLost as error:
                answer = error  # raised out here it does not arrive in a group
            except trio.Cancelled:
                with trio.CancelScope(shield=True), trio.move_on_after(GIVE_UP_SECONDS):
                    await self._try_call(GiveUp(number))
                raise
            nursery.cancel_scope.cancel()
        if isinstance(answer, PeerLost):
            raise answer
        if isinstance(answer, Failed):
            raise error_of(answer)
        assert isinstance(answer, Answered)
        return answer.result

    async def _follow(self, number: int, progress: ProgressListener | None) -> None:
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            how = await self._try_call(AskHow(number))
            if progress is not None and how is not None and how.progress is not None:
                progress(how.progress)

    async def _try_call(self, message: AskHow | GiveUp) -> How | None:
        try:
            how = _decode(await self._link.call(_encode(message)))
        except PeerLost:
            return None
        return how if isinstance(how, How) else None
