"""What happened at a door, counted: for `status`."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Counters:
    """Since the door was opened; ``connections`` and ``log_bytes_waiting`` are of now."""

    connections: int = 0
    connections_taken: int = 0
    connections_refused: int = 0
    """For want of file descriptors or memory: they waited."""
    requests: int = 0
    heads_refused: int = 0
    """That were no HTTP, too long, or not there in time."""
    bodies_broken: int = 0
    """Requests whose client left, fell silent, or sent another body than it had announced."""
    replies_broken: int = 0
    """That could not be sent to their end: the client left or fell silent, or the object could not be read on."""
    log_objects: int = 0
    """Access logs that were delivered to their buckets."""
    log_records_lost: int = 0
    log_bytes_waiting: int = 0

    def shown(self) -> dict[str, int]:
        """As JSON has it."""
        return dataclasses.asdict(self)
