"""Clients of a namespace that do things at random, and keep a history of what they saw."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from itertools import count

from siltstone.types import ROOT_INO, Ino
from sim.linear import Operation
from sim.tree_model import Action, Answer

NAMES = [b"a", b"b", b"c"]
KINDS = ["create", "mkdir", "mkdir", "link", "unlink", "rmdir", "rename", "rename", "lookup", "list", "stat"]
READS = {"lookup", "list", "stat"}

History = list[Operation[Action, Answer]]


class Seen:
    """What all clients share: the history of what they did, and the files and directories that they made."""

    def __init__(self) -> None:
        self.history: History = []
        self.known: dict[Ino, str] = {}
        self._ticks = count()

    def tick(self) -> float:
        """A time of its own for each call and return, in the order of these: where nothing takes time, a clock would
        say that all was at once."""
        return next(self._ticks)


class Client:
    """Does one thing after the other."""

    def __init__(self, chance: random.Random, ask: Callable[[Action], Awaitable[Answer]], seen: Seen) -> None:
        self._chance = chance
        self._ask = ask
        self._seen = seen

    async def run(self, count: int) -> None:
        """Do so many things."""
        for _ in range(count):
            action = self._choose()
            called = self._seen.tick()
            answer = await self._ask(action)
            self._seen.history.append(Operation(called, self._seen.tick(), action, answer))
            if action.kind in ("create", "mkdir") and isinstance(answer, list):
                self._seen.known[Ino(answer[0])] = action.kind

    def _choose(self) -> Action:
        chance = self._chance
        known = self._seen.known.items()
        directories = [ROOT_INO, *sorted(ino for ino, kind in known if kind == "mkdir")]
        files = sorted(ino for ino, kind in known if kind == "create")
        kind = chance.choice(KINDS)
        if kind == "link" and not files:
            kind = "create"
        return Action(
            kind,
            chance.choice(directories),
            chance.choice(NAMES),
            chance.choice(directories),
            chance.choice(NAMES),
            chance.choice(files) if kind == "link" else chance.choice(directories + files),
            chance.random() < 0.2,
        )


def explain(history: History) -> str:
    """A history that has no order, to be read."""
    return "\n".join(
        f"{op.called:5} {op.returned:5} {op.action.kind} {op.action.parent} {op.action.name!r} "
        f"-> {op.action.new_parent} {op.action.new_name!r} ino {op.action.ino} {op.action.exchange}: {op.result}"
        for op in sorted(history, key=lambda op: op.called)
    )
