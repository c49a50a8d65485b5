"""What the kernel is told of changes made elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from siltstone.core.types import AttributesChanged, Change, DataChanged, EntryChanged
from siltstone.fuse import invalidate
from siltstone.fuse.invalidate import Invalidator
from siltstone.types import ROOT_INO, Ino

MOUNT, S3 = "the mount", "s3"
KNOWN = {Ino(2), Ino(3)}


class FakeKernel:
    """Writes down what it is told; ``gate`` holds it up, ``missing`` are inodes that it does not have yet."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []
        self.missing: set[Ino] = set()
        self.gate = threading.Event()
        self.gate.set()

    def invalidate_entry(self, parent: Ino, name: bytes) -> bool:
        self.gate.wait()
        self.told.append(("entry", (parent, name)))
        return True

    def invalidate_attributes(self, ino: Ino) -> bool:
        return self._inode("attributes", ino)

    def invalidate_data(self, ino: Ino) -> bool:
        return self._inode("data", ino)

    def forget_names(self) -> bool:
        self.told.append(("names", None))
        return True

    def _inode(self, what: str, ino: Ino) -> bool:
        self.gate.wait()
        self.told.append((what, ino))
        if ino in self.missing:
            self.missing.discard(ino)
            return False
        return True


def told_after(*changes: tuple[object, Change]) -> list[tuple[str, object]]:
    """What the kernel hears when the volume tells of ``changes`` at once."""
    kernel = FakeKernel()

    async def main() -> None:
        invalidator = Invalidator(MOUNT, KNOWN.__contains__, kernel)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(invalidator.run)
            for origin, change in changes:
                invalidator.hear(origin, change)
            await invalidator.wait_seen()
            nursery.cancel_scope.cancel()

    trio.run(main)
    return kernel.told


def test_a_name_from_elsewhere_is_invalidated_with_its_directory_and_its_inode() -> None:
    told = told_after((S3, EntryChanged(Ino(2), b"a", Ino(3), True)))
    assert told == [("attributes", 2), ("attributes", 3), ("entry", (2, b"a"))]


def test_the_root_is_always_known() -> None:
    told = told_after((S3, EntryChanged(ROOT_INO, b"bucket", Ino(77), False)))
    assert told == [("attributes", 1), ("entry", (1, b"bucket"))]


def test_changes_of_the_mount_itself_are_not_told() -> None:
    assert told_after((MOUNT, EntryChanged(Ino(2), b"a", Ino(3), False)), (MOUNT, DataChanged(Ino(3), 0, 1))) == []


def test_changes_of_what_the_kernel_never_saw_are_not_told() -> None:
    changes = (EntryChanged(Ino(50), b"a", Ino(51), False), DataChanged(Ino(51), 0, 1), AttributesChanged(Ino(51)))
    assert told_after(*((None, change) for change in changes)) == []


def test_a_thing_that_changes_often_is_told_once() -> None:
    changes = [(S3, DataChanged(Ino(3), offset, 10)) for offset in range(100)]
    assert told_after(*changes, (S3, AttributesChanged(Ino(3)))) == [("data", 3)]


def test_an_inode_that_the_kernel_is_just_taking_in_is_told_once_more() -> None:
    kernel = FakeKernel()
    kernel.missing.add(Ino(3))

    async def main() -> None:
        invalidator = Invalidator(MOUNT, KNOWN.__contains__, kernel)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(invalidator.run)
            invalidator.hear(S3, DataChanged(Ino(3), 0, 1))
            await trio.testing.wait_all_tasks_blocked(invalidate.RETRY_SECONDS * 3)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert kernel.told == [("data", 3), ("data", 3)]


def test_when_changes_were_missed_all_that_the_kernel_knows_is_taken_for_changed() -> None:
    async def body(invalidator: Invalidator) -> None:
        invalidator.miss(sorted(KNOWN))

    known = [("data", ino) for ino in sorted(KNOWN)]
    assert while_blocked(body) == [("names", None), ("attributes", 2), *known]


def while_blocked(body: Callable[[Invalidator], Awaitable[None]]) -> list[tuple[str, object]]:
    """Run ``body`` while the kernel is held up in its first invalidation."""
    kernel = FakeKernel()

    async def main() -> None:
        invalidator = Invalidator(MOUNT, KNOWN.__contains__, kernel)
        async with trio.open_nursery() as nursery:
            kernel.gate.clear()
            invalidator.hear(S3, AttributesChanged(Ino(2)))
            nursery.start_soon(invalidator.run)
            await trio.testing.wait_all_tasks_blocked()
            await body(invalidator)
            kernel.gate.set()
            await invalidator.wait_seen()
            nursery.cancel_scope.cancel()

    trio.run(main)
    return kernel.told


def test_a_kernel_that_holds_a_lock_does_not_hold_up_the_volume() -> None:
    async def body(invalidator: Invalidator) -> None:
        for _ in range(10):
            invalidator.hear(S3, DataChanged(Ino(3), 0, 1))

    assert while_blocked(body) == [("attributes", 2), ("data", 3)]


def test_what_piles_up_is_bounded_and_its_loss_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(invalidate, "PENDING_MAX", 10)

    async def body(invalidator: Invalidator) -> None:
        for number in range(10):
            invalidator.hear(S3, EntryChanged(Ino(2), b"%d" % number, Ino(50), False))
        assert invalidator.lost == 11
        invalidator.hear(S3, AttributesChanged(Ino(3)))

    assert while_blocked(body) == [("attributes", 2), ("attributes", 3)]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
