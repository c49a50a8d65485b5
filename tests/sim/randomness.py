"""Randomness from a seed."""

from __future__ import annotations

import random


class SimRandom:
    """The Random port from a seed: the same seed gives the same run."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._bits = self._random.getrandbits

    def bytes(self, count: int) -> bytes:
        """``count`` bytes."""
        return self._random.randbytes(count)

    def below(self, bound: int) -> int:
        """An integer in [0, bound)."""
        # As randrange does, and with the same outcome, in half the time: a crash draws one for each sector.
        size = bound.bit_length()
        drawn = self._bits(size)
        while drawn >= bound:
            drawn = self._bits(size)
        return drawn
