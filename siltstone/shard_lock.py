"""One life of a shard at a time: its process has a lock until it is gone with all its threads. Blocking."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable

from siltstone.errors import VolumeBusy
from siltstone.home import Home
from siltstone.types import ShardId

PATIENCE_SECONDS = 60.0
"""How long the end of an earlier life is waited for."""

LOOK_SECONDS = 0.01


def hold_shard(home: Home, shard: ShardId) -> None:
    """Own the shard until this process is gone. Raises VolumeBusy."""
    lock = _wait(home, shard)
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)


def wait_shards_free(home: Home, shards: Iterable[int]) -> None:
    """Return when no process has one of the shards: those of an owner that was killed are about to end. Raises
    VolumeBusy."""
    for shard in map(ShardId, shards):
        if home.shard(shard).is_dir():  # of one that has just been made, or is gone, there may be none
            os.close(_wait(home, shard))


def _wait(home: Home, shard: ShardId) -> int:
    """The locked file, to be closed by the caller."""
    lock = os.open(home.shard(shard) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                pid = int(os.pread(lock, 20, 0) or b"0")
                os.close(lock)
                raise VolumeBusy(
                    f"shard {shard} of {home.path} is still held by process {pid}: does a disk hang? Wait until that "
                    "process is gone",
                    pid,
                ) from None
            time.sleep(LOOK_SECONDS)
        else:
            return lock
