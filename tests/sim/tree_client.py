"""Clients of a namespace that do things at random, and keep a history of what they saw."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import trio

from siltstone.types import ROOT_INO, Ino
from sim.linear import Operation
from sim.tree_model import Action, Answer

NAMES = [b"a", b"b", b"c"]
KINDS = ["create", "mkdir", "mkdir", "link", "unlink", "rmdir", "rename", "rename", "lookup", "list", "stat"]
READS = {"lookup", "list", "stat"}

History = list[Operation[Action, Answer]]


class Client:
    """Does one thing after the other. ``known``: files and directories that some client has made."""

    def __init__(
        self,
        chance: random.Random,
        ask: Callable[[Action], Awaitable[Answer]],
        known: dict[Ino, str],
        history: History,
    ) -> None:
        self._chance = chance
        self._ask = ask
        self._known = known
        self._history = history

    async def run(self, count: int) -> None:
        """Do so many things."""
        for _ in range(count):
            action = self._choose()
            called = trio.current_time()
            answer = await self._ask(action)
            self._history.append(Operation(called, trio.current_time(), action, answer))
            if action.kind in ("create", "mkdir") and isinstance(answer, list):
                self._known[Ino(answer[0])] = action.kind

    def _choose(self) -> Action:
        chance = self._chance
        directories = [ROOT_INO, *sorted(ino for ino, kind in self._known.items() if kind == "mkdir")]
        files = sorted(ino for ino, kind in self._known.items() if kind == "create")
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
        f"{op.called:9.4f} {op.returned:9.4f} {op.action.kind} {op.action.parent} {op.action.name!r} "
        f"-> {op.action.new_parent} {op.action.new_name!r} ino {op.action.ino} {op.action.exchange}: {op.result}"
        for op in sorted(history, key=lambda op: op.called)
    )
