"""Memory for bodies under way, shared among all connections: many bodies get smaller pieces, none has to wait.

A queue for memory would let a few slow clients stop everybody; smaller pieces only cost them some speed.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
BODIES_BYTES = 256 * MIB
"""What all bodies together may hold while there are fewer than BODIES_BYTES / PIECES_PER_BODY / PIECE_BYTES_MIN."""

PIECE_BYTES_MAX = 1 * MIB
PIECE_BYTES_MIN = 64 * KIB
PIECES_PER_BODY = 2
"""One piece is received (or read) while the one before it is written (or sent)."""

assert PIECE_BYTES_MIN <= PIECE_BYTES_MAX <= BODIES_BYTES


class Budget:
    """Counts the large bodies that are under way."""

    def __init__(self) -> None:
        self.bodies = 0

    def enter(self) -> None:
        """A body begins; ``leave`` must follow."""
        self.bodies += 1

    def leave(self) -> None:
        """A body has ended."""
        assert self.bodies > 0
        self.bodies -= 1

    @property
    def piece_bytes(self) -> int:
        """How long the next piece of a body may be."""
        share = BODIES_BYTES // (PIECES_PER_BODY * max(1, self.bodies))
        return max(PIECE_BYTES_MIN, min(PIECE_BYTES_MAX, share))
