"""Several processes that serve S3 at one port: started, kept, and ended in order with the door."""

from __future__ import annotations

from typing import Any

import msgspec
import trio

from siltstone.home import Home
from siltstone.ports import Clock
from siltstone.s3_options import S3Options
from siltstone.s3gw.server import reserve
from siltstone.supervisor import KeptProcess


class S3Workers:
    """The workers of one door."""

    def __init__(self, home: Home, options: S3Options, clock: Clock) -> None:
        self._home = home
        self._options = options
        self._clock = clock
        self._processes: list[KeptProcess] = []

    async def serve(self, *, task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; reports (host, port) when all of them take connections.

        Raises Refused when the address is not to be had, Unavailable when a worker does not start.
        """
        kept = await reserve(self._options.host, self._options.port)
        try:
            address = kept[0].getsockname()
            options = msgspec.structs.replace(self._options, port=address[1])
            arguments = [str(self._home.path), options.json()]
            self._processes = [
                KeptProcess(f"s3 worker {number}", "siltstone.s3_worker", arguments, self._home, self._clock)
                for number in range(1, options.workers + 1)
            ]
            async with trio.open_nursery() as nursery:
                try:
                    async with trio.open_nursery() as starting:
                        for process in self._processes:
                            starting.start_soon(nursery.start, process.keep)
                    task_status.started((address[0], address[1]))
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        async with trio.open_nursery() as stopping:
                            for process in self._processes:
                                stopping.start_soon(process.stop)
        finally:
            for process in self._processes:
                process.kill()
            for reserved in kept:
                reserved.close()

    async def reload(self) -> None:
        """Have all of them read the certificate again."""
        for process in self._processes:
            await process.tell("reload")

    def status(self) -> list[dict[str, Any]]:
        """As JSON has it."""
        return [
            {
                "pid": process.pid,
                "state": process.state.value,
                "reason": process.reason,
                "restarts": process.restarts,
            }
            for process in self._processes
        ]
