"""A shard among others, as its process serves it: the volume's part, its side in transactions, and front-ends' calls.

A call that changes the namespace is answered when that is durable, since the front-end lives on when this process
dies. It has a number, and its batch a mark: sent again, it is not carried out again. What it returned is not kept, only
that it was done: most return nothing, and attributes are looked up anew.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import msgspec
import trio

from siltstone.core.administration import Administration
from siltstone.core.bringing import Bringer
from siltstone.core.calls import (
    METHODS,
    Answered,
    AskLoad,
    Call,
    EndReads,
    Load,
    Method,
    News,
    Poll,
    Spread,
    encode_result,
    failed,
    subject_of,
)
from siltstone.core.gates import Gates
from siltstone.core.orders import AskHow, GiveUp, How, Order, Orders
from siltstone.core.read_plans import ReadPlan, ReadPlans
from siltstone.core.readings import Readings
from siltstone.core.sessions import Sessions
from siltstone.core.shard_clones import ShardClones
from siltstone.core.shard_objects import ShardObjects
from siltstone.core.volume import Volume
from siltstone.errors import InvalidArgument, SiltstoneError, Unavailable
from siltstone.meta import counters
from siltstone.meta.shards.answers import Request, is_carried_out, once
from siltstone.meta.shards.handover import HandoverFailed, placements_of
from siltstone.meta.shards.map import MapView, Placement
from siltstone.meta.shards.messages import Failed, Message, NotMine, Peers, Reply
from siltstone.meta.shards.node import Node
from siltstone.meta.shards.service import Handler
from siltstone.meta.store.port import Reader
from siltstone.meta.store.transaction import Transaction
from siltstone.types import Ino, PartitionId, ShardId, make_ino, partition_of

T = TypeVar("T")

_Function = Callable[..., Awaitable[object]]
"""A method of the volume."""

_encode = msgspec.msgpack.Encoder().encode
_Request = Message | Call | EndReads | Poll | AskLoad | Order | AskHow | GiveUp
_Answer = Reply | Answered | News | Load | How | Failed

_decode = msgspec.msgpack.Decoder(_Request).decode

_NOTHING = Answered(encode_result(None))

logger = logging.getLogger("siltstone.shards")


class CarriedOutBefore(Exception):
    """The call was carried out by an earlier sending of it. No SiltstoneError: it never leaves the shard."""


class _Mark:
    """Of a call that is carried out once, and where that is noted."""

    __slots__ = ("is_used", "partition", "request")

    def __init__(self, request: Request, partition: PartitionId) -> None:
        self.request = request
        self.partition = partition
        self.is_used = False


_mark: ContextVar[_Mark | None] = ContextVar("the call that this task carries out", default=None)


class MarkedOperations:
    """Operations of the namespace over all shards (``Ledger.spread``); those of calls leave a mark in their batch."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def is_alone(self) -> bool:
        """See SpreadOperations."""
        return self._node.is_alone and _mark.get() is None

    async def perform(self, change: Callable[[Transaction], T], committed: Callable[[T], None]) -> T:
        """See Ledger.perform. Raises CarriedOutBefore."""
        mark = _mark.get()
        if mark is None:
            return await self._node.perform(change, committed)
        # One batch for each call: after the first the mark would say that all of it was done.
        assert not mark.is_used
        result: list[T] = []
        marked = once(lambda transaction: result.append(change(transaction)), mark.request, mark.partition, type(None))

        def attempt(transaction: Transaction) -> None:
            result.clear()
            marked(transaction)

        def done(_: None) -> None:
            if result:
                committed(result[0])

        await self._node.perform(attempt, done)
        mark.is_used = True
        if not result:
            raise CarriedOutBefore
        return result[0]

    async def look(
        self,
        question: Callable[[Reader], T],
        *,
        remembered: dict[bytes, bytes | None] | None = None,
        is_loose: bool = False,
    ) -> T:
        """See Ledger.look."""
        return await self._node.look(question, remembered=remembered, is_loose=is_loose)

    def owns(self, ino: Ino) -> bool:
        """See Ledger.owns."""
        return self._node.owns(ino)

    async def wait_unclaimed(self, ino: Ino) -> None:
        """See Ledger.wait_unclaimed."""
        await self._node.wait_unclaimed(ino)


class Shard:
    """The answering side. Made while ``volume`` is opened (``open_volume``'s ``join``), in the nursery in which it
    lives."""

    def __init__(
        self,
        shard: ShardId,
        volume: Volume,
        partitions: MapView,
        peers: Peers,
        nursery: trio.Nursery,
        *,
        forget_peer: Callable[[ShardId], object] = lambda shard: None,
    ) -> None:
        """``partitions``: made for this shard. ``forget_peer``: another shard is gone for good."""
        ledger = volume.ledger
        self._volume = volume
        self._shard = shard
        self.partitions = partitions
        readings = Readings(volume.write_back, ledger.store, ledger.clock)
        self._objects = ShardObjects(volume, readings)
        self._forget_peer = forget_peer
        self._gates = Gates(volume, self._objects.forget_places)
        self._bringer = Bringer(ledger, volume.carrier)
        self._node = Node(
            shard,
            ledger.store,
            partitions,
            peers,
            ledger.clock,
            ledger.random,
            nursery,
            self._gates,
            read=volume.reader.read,
            admit=ledger.admit,
            bring=self._bringer.bring,
            commit=partial(ledger.commit, is_limited=True),
            on_applied=volume.applied,
        )
        volume.reader.borrow = self._node.borrowing.read
        ledger.spread(MarkedOperations(self._node))
        nursery.start_soon(self._objects.run)
        self._plans = ReadPlans(volume, shard, readings)
        nursery.start_soon(self._plans.run)
        nursery.start_soon(self._plans.leases.run)
        self._offers = {
            Volume: volume,
            ShardObjects: self._objects,
            ReadPlans: self._plans,
            ShardClones: ShardClones(volume, self._objects.hand),
        }
        spread = None if shard else Spread(partitions().count, partitions().placements())
        self._sessions = Sessions(volume, spread)
        nursery.start_soon(self._sessions.run)
        self.administration = Administration(volume, self)
        self._orders = Orders(self.administration)
        nursery.start_soon(self._orders.run, ledger.clock)
        self._calls = self._messages = self._under_way = 0

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Handler]:
        """What carries out the requests that come by one connection, which lasts as long as the context; what its
        front-end has been given for reading ends with it."""
        clients: set[bytes] = set()

        async def handle(payload: bytes) -> bytes:
            return await self.handle(payload, clients)

        try:
            yield handle
        finally:
            for client in clients:
                self._plans.leases.end_of(client)

    async def handle(self, payload: bytes, clients: set[bytes] | None = None) -> bytes:
        """Carry out a request of a shard or of a front-end; the answer. ``clients`` gets who has asked for what ends
        with its connection."""
        try:
            request = _decode(payload)
        except msgspec.DecodeError as error:
            return _encode(failed(InvalidArgument(f"shard {self._shard}: not a request: {error}")))
        if clients is not None and isinstance(request, Call):
            clients.add(request.client)
        self._under_way += 1
        try:
            return _encode(await self._answer(request))
        finally:
            self._under_way -= 1

    def load(self) -> Load:
        """What it has done, and is at."""
        ledger, coordinator = self._volume.ledger, self._node.coordinator
        return Load(
            calls=self._calls,
            messages=self._messages,
            under_way=self._under_way,
            retries=coordinator.retries,
            prepared=len(self._node.participant),
            unsettled=coordinator.unsettled,
            inodes=counters.read_totals(ledger.store, ledger.owned_partitions()).inodes,
            log_bytes=ledger.log.kept_bytes,
            partition_calls={int(partition): count for partition, count in self._gates.counts.items()},
            leases=len(self._plans.leases),
        )

    async def give(self, partition: PartitionId, to: ShardId) -> Placement:
        """Make a partition another shard's; durable on return, which says where it is. One that is another's already
        stays there. Raises HandoverFailed."""
        if self._volume.ledger.is_holding_changes:
            raise HandoverFailed("the volume is being checked; partitions stay where they are meanwhile")
        if self._node.owns(make_ino(0, partition)):
            await self._node.give(partition, to)
        return self.partitions().placement(partition)

    def placements(self) -> list[Placement]:
        """See Among."""
        return placements_of(self._volume.ledger.store)

    def note_shards(self, count: int, placements: list[Placement]) -> None:
        """See Among."""
        before = self.partitions().count
        self.partitions.learn(placements)
        self.partitions.resize(count)
        self._volume.share_room(count)
        for gone in range(count, before):
            self._forget_peer(ShardId(gone))

    def front_ends(self) -> list[bytes]:
        """See Among."""
        return self._sessions.clients

    async def announce(self, count: int, placements: list[Placement]) -> None:
        """See Among."""
        self._sessions.announce(Spread(count, placements))
        await self._sessions.wait_told()

    def needs_of(self, other: ShardId) -> str:
        """See Among."""
        return self._node.needs_of(other)

    async def remains(self) -> str:
        """See Among."""
        remains = self._node.remains
        if not remains:
            await self._sessions.wait_told()
        return remains

    def owns(self, ino: Ino) -> bool:
        """Whether an inode is one of this shard's."""
        return self._node.owns(ino)

    async def call_here(self, method: Method, arguments: dict[str, Any], client: bytes) -> object:
        """Carry out a call of a front-end in this process, about an inode; NotMine when that is another shard's.

        Unlike calls that come from elsewhere it has no mark, and what changes only names and attributes is not waited
        for: the front-end ends with this process.
        """
        subject = subject_of(list(arguments.values()))
        assert subject is not None, f"{method.name} is about no inode"
        partition = partition_of(subject)
        if method.has_origin:
            arguments["origin"] = client
        self._calls += 1
        async with self._gates.passing(partition):
            if not self._node.owns(subject):
                return NotMine([self.partitions().placement(partition)])
            if method.owner is ReadPlans:
                read = (subject, arguments["offset"], arguments["size"], arguments["reading"])
                data = await self._plans.read_object(*read)
                return ReadPlan(data) if method.name == "plan_read" else data  # the bytes are as near as a plan
            if method.owner is not ShardObjects:
                return await getattr(self._volume, method.name)(**arguments)
            result = await getattr(self._objects, method.name)(**arguments)
        if method.is_once:
            await self._volume.ledger.sync()
        return result

    @property
    def moving(self) -> int:
        """Partitions that are on their way here or from here, or have left more behind than what they lend."""
        return self._node.moving

    def open_transactions(self) -> int:
        """See Among."""
        coordinator = self._node.coordinator
        return len(self._node.participant) + coordinator.undecided + coordinator.unsettled + self.moving

    async def _answer(self, request: _Request) -> _Answer:
        if isinstance(request, AskLoad):
            return self.load()
        if isinstance(request, AskHow | GiveUp):
            return self._orders.how(request)
        if isinstance(request, Poll):
            return await self._sessions.poll(request)
        if isinstance(request, EndReads):
            self._plans.leases.end(request.client, request.leases)
            return _NOTHING
        try:
            if isinstance(request, Order):
                return await self._orders.carry_out(request)
            if isinstance(request, Call):
                self._calls += 1
                return await self._carry_out(request)
            self._messages += 1
            return await self._node.answer(request)
        except SiltstoneError as error:
            return failed(error)

    async def _carry_out(self, call: Call) -> Answered | NotMine | Failed:
        method = METHODS.get(call.method)
        if method is None:
            raise InvalidArgument(f"shard {self._shard} has no method {call.method!r}")
        try:
            arguments = msgspec.structs.asdict(method.decode_arguments(call.arguments))
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"arguments of {call.method}: {error}") from error
        subject = subject_of(list(arguments.values()))
        if method.has_origin:
            arguments["origin"] = call.client
        if subject is None:
            return await self._run(call, method, arguments, None)
        partition = partition_of(subject)
        async with self._gates.passing(partition):
            if not self._node.owns(subject):
                return NotMine([self.partitions().placement(partition)])
            return await self._run(call, method, arguments, partition)

    async def _run(
        self, call: Call, method: Method, arguments: dict[str, Any], partition: PartitionId | None
    ) -> Answered | Failed:
        function: _Function = getattr(self._offers[method.owner], call.method)
        try:
            if not method.is_once or partition is None:
                return Answered(encode_result(await function(**arguments)))
            request = Request(call.client, call.number, call.answered_below)

            async def work() -> object:
                return await self._change(function, arguments, _Mark(request, partition))

            return Answered(encode_result(await self._node.requests.carry_out(request, work)))
        except SiltstoneError:
            raise
        except Exception as error:
            # As the doors do: what a bug breaks is this call, and it shows in the log output.
            logger.exception("shard %d: %s failed", self._shard, call.method)
            return Failed("Unavailable", f"internal error, please report it: {type(error).__name__}: {error}")

    async def _change(self, function: _Function, arguments: dict[str, Any], mark: _Mark) -> object:
        token = _mark.set(mark)
        try:
            # Looked for here, too: a method may look before its batch, and find what it did itself in an earlier life.
            if is_carried_out(self._volume.ledger.store, mark.request, mark.partition):
                raise CarriedOutBefore
            result = await function(**arguments)
        except CarriedOutBefore:
            result = await self._result_of(function.__name__, arguments)
        finally:
            _mark.reset(token)
        await self._volume.ledger.sync()
        return result

    async def _result_of(self, method: str, arguments: dict[str, Any]) -> object:
        """What a call returns that was carried out in an earlier life."""
        if METHODS[method].owner is ShardClones:
            raise Unavailable("a shard was started anew while it cloned: clone again")
        if METHODS[method].owner is ShardObjects:
            return await self._objects.result_of(method, arguments)
        if method in ("create", "mkdir", "symlink"):
            return await self._volume.lookup(arguments["parent"], arguments["name"])
        if method in ("link", "set_attributes"):
            return await self._volume.attributes(arguments["ino"])
        return None
