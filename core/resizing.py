"""How a volume gets shards, and gives them back, while it is in use: in which order, so that a crash ends on one side.

What is done on this machine - folders, processes, doors - is behind ``Ground``; which steps those are, and what each
may rely on, is here. See docs/decisions/0019.
"""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec
import trio

from siltstone.config import VolumeConfig
from siltstone.core.all_shards import AllShards
from siltstone.errors import InvalidArgument, SiltstoneError, Unavailable
from siltstone.limits import SHARDS_MAX
from siltstone.meta.shards.map import MapView, Placement
from siltstone.ports import Clock
from siltstone.types import ShardId

FIRST = ShardId(0)

LISTENING_SECONDS = 0.02
"""How often it is looked whether all front-ends listen to a new shard."""

logger = logging.getLogger("siltstone.shards")


class Ground(Protocol):
    """What there is on this machine."""

    @property
    def config(self) -> VolumeConfig:
        """The settings, as they are in HOME."""

    async def save(self, **changes: Any) -> None:
        """Change settings, durably in HOME, and on the disks that are up."""

    def still_disks(self) -> AbstractAsyncContextManager[None]:
        """A context in which no disk comes or goes."""

    async def check_room(self, shards: int) -> None:
        """Raises Refused where disks are too small, or too full, for so many shards, or something is under way to which
        none may come."""

    async def share_disks(self, *, are_shared: bool) -> None:
        """Let other processes use parts of the disks, or no more. Knows what is so already."""

    async def wipe(self, shard: ShardId) -> None:
        """Take away what there is of a shard, from HOME and from every disk; durable on return.

        Raises Unavailable when a disk is away that may have something.
        """

    async def lay(self, config: VolumeConfig, shard: ShardId) -> None:
        """Make an empty shard, durably."""

    async def join(self) -> None:
        """Have the first shard be one among others, and answer them. Knows whether it is."""

    async def start(self, shard: ShardId) -> None:
        """Have a shard's process running, and asked with the others; returns when it serves. Knows whether it is.
        Raises Unavailable."""

    async def stop(self, shard: ShardId) -> None:
        """End it for good."""

    async def follow_shards(self) -> None:
        """Have the front-ends in this process listen to all shards that there are; returns when all have answered."""

    async def use_shards(self) -> None:
        """Have the front-ends in this process ask all shards; returns when what began otherwise has ended."""

    async def use_volume(self) -> None:
        """Have them ask the first shard's volume alone; returns when what began otherwise has ended."""


class Resizer:
    """Adds and removes shards. ``partitions``: what this process knows of where partitions are."""

    def __init__(self, ground: Ground, shards: AllShards, partitions: MapView, clock: Clock) -> None:
        self._ground = ground
        self._shards = shards
        self._partitions = partitions
        self._clock = clock
        self.turn = trio.Lock()
        """One step at a time; doors are opened in between."""
        self.state = ""
        """What is waited for, if something is."""

    async def grow(self, count: int) -> None:
        """Have at least so many shards, of which so many are wanted; on return each may be given partitions.

        Raises InvalidArgument, Refused, Unavailable; the volume has then as many as before, or all of them.
        """
        if not 1 <= count <= SHARDS_MAX:
            raise InvalidArgument(f"{count} shards: want 1 to {SHARDS_MAX}")
        async with self.turn, self._ground.still_disks(), self._shards.steady():
            if count > self._ground.config.shards:
                await self._lay(count)
            if count != self._ground.config.shards_wanted:
                await self._ground.save(shards_wanted=count)
            if self._ground.config.shards > 1:
                await self._bring_up()

    async def retire(self) -> str:
        """Let the last shard go if there are more than are wanted and nobody needs it; why not, else empty."""
        async with self.turn, self._ground.still_disks():
            config = self._ground.config
            last = ShardId(config.shards - 1)
            self.state = ""
            if last >= (config.shards_wanted or config.shards):
                if self._shards.is_busy:
                    self.state = "work over all shards is under way"
                else:
                    async with self._shards.steady():
                        self.state = await self._retire(last)
            if not self.state and self._ground.config.shards_void:
                self.state = await self._clear()
            return self.state

    async def look(self) -> list[Placement]:
        """Learn where partitions are, from the shards themselves."""
        found: dict[int, Placement] = {}
        for asked in list(self._shards.shards.values()):
            for placement in await asked.ask("placements"):
                known = found.get(placement.partition)
                if known is None or placement.generation > known.generation:
                    found[placement.partition] = placement
        self._partitions.learn(found.values())
        return list(found.values())

    # --- more ------------------------------------------------------------------------------------------------------

    async def _lay(self, count: int) -> None:
        ground = self._ground
        before = ground.config
        if left := await self._clear():
            raise Unavailable(left)
        await ground.check_room(count)
        try:
            await ground.share_disks(are_shared=True)
            await ground.save(shards_void=count)
            laid = msgspec.structs.replace(
                ground.config, shards=count, shards_void=0, shards_sized=before.shards_sized or before.shards
            )
            for shard in map(ShardId, range(before.shards, count)):
                await ground.lay(laid, shard)
            await self._shards.shards[FIRST].ask("forget_usage")
            # From here on they are shards.
            await ground.save(shards=count, shards_void=0, shards_sized=laid.shards_sized)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._give_up()
            raise

    async def _give_up(self) -> None:
        """What was begun is not to be; what cannot be taken away now is before the next attempt."""
        try:
            if left := await self._clear():
                logger.warning("%s", left)
        except SiltstoneError as error:
            logger.warning("shards that were being made are left on the disks: %s", error)

    async def _bring_up(self) -> None:
        """Have all shards known to everybody. Does nothing that has been done already."""
        ground, count = self._ground, self._ground.config.shards
        await ground.join()
        self._partitions.resize(count)
        for shard in map(ShardId, range(1, count)):
            await ground.start(shard)
        known = await self.look()
        for asked in list(self._shards.shards.values()):
            await asked.ask("note_shards", count, known)
        await ground.follow_shards()
        await self._shards.shards[FIRST].ask("announce", count, known)
        for shard in map(ShardId, range(1, count)):
            await self._wait_listened_to(shard)
        await ground.use_shards()

    async def _wait_listened_to(self, shard: ShardId) -> None:
        """Return when every front-end that listens to the first shard listens to this one; who is gone ends there by
        itself after a while."""
        while True:
            wanted = set(await self._shards.shards[FIRST].ask("front_ends"))
            if wanted <= set(await self._shards.shards[shard].ask("front_ends")):
                return
            await self._clock.sleep(LISTENING_SECONDS)

    # --- fewer -----------------------------------------------------------------------------------------------------

    async def _retire(self, last: ShardId) -> str:
        shards = self._shards.shards
        reason: str = await shards[last].ask("remains")
        if reason:
            return f"shard {last} stays: {reason}"
        others = [shard for shard in shards if shard != last]
        for shard in others:
            if reason := await shards[shard].ask("needs_of", last):
                return f"shard {last} stays, which shard {shard} needs: {reason}"
        count = int(last)
        known = await self.look()
        for shard in others:
            await shards[shard].ask("note_shards", count, known)
        self._partitions.resize(count)
        await self._ground.follow_shards()
        await shards[FIRST].ask("announce", count, known)
        if count == 1:
            await self._ground.use_volume()
        await self._ground.save(
            shards=count,
            shards_void=max(count + 1, self._ground.config.shards_void),
            shards_sized=self._ground.config.shards_sized or self._ground.config.shards,
            **self._partitions().settings,
        )
        # From here on it is none.
        await self._ground.stop(last)
        logger.info("shard %d has ended; there are %d", last, count)
        return ""

    async def _clear(self) -> str:
        """Wipe what is worth nothing; why not all of it, else empty."""
        config = self._ground.config
        try:
            for shard in map(ShardId, range(config.shards, config.shards_void)):
                await self._ground.wipe(shard)
        except Unavailable as error:
            return f"what shards had that are gone is not taken away: {error}"
        if config.shards_void:
            await self._ground.save(shards_void=0)
        if config.shards == 1:
            await self._ground.share_disks(are_shared=False)
        return ""
