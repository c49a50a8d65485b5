"""Randomness from a seed."""

from __future__ import annotations

import random


class SimRandom:
    """The Random port from a seed: the same seed gives the same run."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def bytes(self, count: int) -> bytes:
        """``count`` bytes."""
        return self._random.randbytes(count)

    def below(self, bound: int) -> int:
        """An integer in [0, bound)."""
        return self._random.randrange(bound)
