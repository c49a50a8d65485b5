"""The pace of moves: side by side while nobody else is there, one at a time and with rests while somebody is."""

from __future__ import annotations

import trio

from siltstone.core.pace import BUSY_SECONDS, FLUSH_BYTES_ALONE, FLUSH_BYTES_BUSY, REST, WINDOWS_ALONE, Pace
from siltstone.core.volume import Volume
from siltstone.limits import MIB
from siltstone.types import ROOT_INO
from sim.clock import autojump
from sim.volume import SimVolume, small_config

WORK_SECONDS = 0.125


class Windows:
    """Windows that were worked on: when each began, and how many were at it at once."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.moves: list[int] = []
        self.at_once = self.most_at_once = 0

    async def work(self, move: int, count: int = 1) -> None:
        for _ in range(count):
            async with self.pace.window(move):
                self.moves.append(move)
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                await trio.sleep(WORK_SECONDS)
                self.at_once -= 1


async def write_now_and_then(volume: Volume) -> None:
    ino = (await volume.create(ROOT_INO, b"busy", mode=0o100644, uid=0, gid=0)).ino
    while True:
        await volume.write(ino, 0, b"x")
        await volume.fsync(ino)
        await trio.sleep(BUSY_SECONDS / 10)


def run(body, *, bytes_per_second: int = 0) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        sim = SimVolume(small_config())
        await sim.create()
        async with sim.opened() as volume:
            await trio.sleep(5)
            pace = Pace(volume.ledger, bytes_per_second=bytes_per_second)
            await body(volume, pace, Windows(pace))

    trio.run(main, clock=autojump())


def test_alone_windows_run_side_by_side_without_rests() -> None:
    async def body(volume: Volume, pace: Pace, windows: Windows) -> None:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(2 * WINDOWS_ALONE):
                nursery.start_soon(windows.work, 1)
        assert windows.most_at_once == WINDOWS_ALONE
        assert trio.current_time() - began == 2 * WORK_SECONDS
        assert not pace.is_busy and pace.flush_bytes == FLUSH_BYTES_ALONE

    run(body)


def test_what_users_did_before_a_move_began_does_not_slow_it() -> None:
    async def body(volume: Volume, pace: Pace, windows: Windows) -> None:
        await windows.work(1)
        await volume.create(ROOT_INO, b"long ago", mode=0o100644, uid=0, gid=0)
        await volume.sync()
        await trio.sleep(60)
        await windows.work(1)
        assert not pace.is_busy

    run(body)


def test_beside_users_there_is_one_window_and_a_rest_longer_than_the_work() -> None:
    async def body(volume: Volume, pace: Pace, windows: Windows) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_now_and_then, volume)
            await trio.sleep(1)
            await windows.work(1)  # this one notices them
            assert pace.is_busy and pace.flush_bytes == FLUSH_BYTES_BUSY
            windows.most_at_once = 0
            began = trio.current_time()
            async with trio.open_nursery() as working:
                for move in (1, 2):
                    working.start_soon(windows.work, move, 4)
            assert windows.most_at_once == 1
            assert trio.current_time() - began >= 8 * WORK_SECONDS * (1 + REST)
            nursery.cancel_scope.cancel()
        await trio.sleep(2 * BUSY_SECONDS)
        assert not pace.is_busy

    run(body)


def test_the_older_move_comes_first() -> None:
    async def body(volume: Volume, pace: Pace, windows: Windows) -> None:
        async with trio.open_nursery() as nursery:
            for move in (2, 1):
                for _ in range(WINDOWS_ALONE):
                    nursery.start_soon(windows.work, move, 20)
        # The other one gets what is left over: a start, and a turn when nobody of the first is waiting for one.
        until_the_first_is_done = windows.moves[: len(windows.moves) - windows.moves[::-1].index(1)]
        assert until_the_first_is_done.count(1) == 20 * WINDOWS_ALONE
        assert until_the_first_is_done.count(2) < 10 * WINDOWS_ALONE

    run(body)


def test_what_moves_itself_is_not_taken_for_a_user() -> None:
    async def body(volume: Volume, pace: Pace, windows: Windows) -> None:
        for _ in range(3):
            volume.ledger.fence.leave(pace.enter_fence())
            transaction = volume.ledger.begin()
            transaction.put(b"sz", b"")
            transaction.delete(b"sz")
            volume.ledger.commit(transaction)
            pace.note_own_commit()
            await windows.work(1)
            assert not pace.is_busy

    run(body)


def test_whoever_is_cancelled_takes_no_turn_from_others() -> None:
    async def body(volume: Volume, pace: Pace, windows: Windows) -> None:
        for timeout in (WORK_SECONDS / 2, WORK_SECONDS, 2 * WORK_SECONDS):
            with trio.move_on_after(timeout):
                async with trio.open_nursery() as nursery:
                    for _ in range(3 * WINDOWS_ALONE):
                        nursery.start_soon(windows.work, 1)
            windows.at_once = windows.most_at_once = 0
            async with trio.open_nursery() as nursery:
                for _ in range(2 * WINDOWS_ALONE):
                    nursery.start_soon(windows.work, 1)
            assert windows.most_at_once == WINDOWS_ALONE

    run(body)


def test_a_limit_of_bytes_a_second_holds_over_time() -> None:
    async def body(volume: Volume, pace: Pace, windows: Windows) -> None:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(pace.wait_for_budget, MIB)
        assert trio.current_time() - began >= 9.9

    run(body, bytes_per_second=2 * MIB)
