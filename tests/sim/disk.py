"""A deterministic disk in memory that is as bad as the Disk port allows.

A write is durable only by a flush that began after it; at ``crash`` each unflushed 512-byte sector survives or not on
its own, a delete may be undone, and a create, rename or replace that had not returned happened or not. Every async
method is a checkpoint before and after its effect; an effect that has begun is not cancelled, as with threads.
Faults are injected by methods that return a Fault, which counts how often it struck.

An operation that hangs waits until ``release``. When that takes longer than the disk's limit, the disk has hung: all
that waits fails, and so does everything else until nothing is stuck any more and a probe finds the disk. What was stuck
may still happen then, late.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import trio

from siltstone.engine.format.superblock import SUPERBLOCK_NAME, is_rotten, parse_superblock
from siltstone.errors import DiskError, DiskFull, DiskHung, DiskMissing, FileMissing, FormatInvalid
from siltstone.limits import DISK_TIMEOUT_SECONDS
from siltstone.ports import DiskSpace, FileEntry, Random
from siltstone.types import Buffer, DiskId
from sim.faults import Fault, FaultKind
from sim.file import BLOCK_BYTES, SECTOR_BYTES, SimFile

CAPACITY_BYTES_DEFAULT = 256 * 1024 * 1024

NameChange = dict[str, SimFile | None]
"""What names mean after a change of the directory: a file, or nothing. Happens as a whole or not at all."""


LateEffect = Callable[[Random | None], None]
"""What an operation that hung does when it is let go of; a torn write is torn by the randomness, if there is any."""

Operation = Callable[["SimDisk", str, str], None]
"""Called with the disk, the operation and the name of the file."""


class SimDisk:
    """The Disk port in memory. ``cache_random`` makes ``read_nowait`` miss every second time, by its seed."""

    def __init__(
        self,
        disk_id: DiskId,
        *,
        capacity_bytes: int = CAPACITY_BYTES_DEFAULT,
        device: int | None = None,
        cache_random: Random | None = None,
        limit_seconds: float = DISK_TIMEOUT_SECONDS,
    ) -> None:
        self._disk_id = disk_id
        self.limit_seconds = limit_seconds
        self.late_effects = 0
        """What took effect after its caller had been told that there was no answer."""
        self.hangs = 0
        """How often it was given up."""
        self.capacity_bytes = capacity_bytes
        self.faults: list[Fault] = []
        self.operations = 0
        """Operations begun so far: what a sweep over the N-th counts."""
        self.on_operation: Operation | None = None
        """Called right before an operation has its effect; may turn the power off or add a fault that strikes it."""
        self._device = disk_id if device is None else device
        self._cache_random = cache_random
        self._files: dict[str, SimFile] = {}
        self._durable_names: dict[str, SimFile] = {}
        self._pending_names: list[NameChange] = []
        self._away = ""
        self._uuid = b""
        self._lost = ""
        self._life = 0
        self.is_in_memory = False
        self.is_shared = False
        """Several processes have it: that one closes it means nothing to the others."""
        self._closed = False
        self._stuck: list[_Stuck] = []
        self._hung = ""

    @property
    def disk_id(self) -> DiskId:
        """The slot of this disk in its volume."""
        return self._disk_id

    # --- the port ---------------------------------------------------------------------------------------------------

    async def create(self, name: str, size: int) -> None:
        """Make a file of zeros; durable on return."""

        def late(_random: Random | None) -> None:
            if name not in self._files:
                self._change_late({name: SimFile(bytes(size))})

        await self._begin("create", name, late=late)
        if name in self._files:
            raise DiskError(self.disk_id, "create", name, "exists")
        self._need_room(size, "create", name)
        await self._change_names({name: SimFile(bytes(size))}, "create", name)

    async def delete(self, name: str) -> None:
        """Remove a file; after a crash it may be back."""

        def late(_random: Random | None) -> None:
            if name in self._files:
                self._change_late({name: None})

        await self._begin("delete", name, late=late)
        self._file(name, "delete")
        del self._files[name]
        self._pending_names.append({name: None})
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def rename(self, source: str, target: str) -> None:
        """Give a file another name; durable on return."""

        def late(_random: Random | None) -> None:
            if source in self._files and source != target:
                self._change_late({source: None, target: self._files[source]})

        await self._begin("rename", source, late=late)
        _check_name(target)
        file = self._file(source, "rename")
        if source != target:
            await self._change_names({source: None, target: file}, "rename", source)

    async def list(self, prefix: str) -> list[FileEntry]:
        """Files whose name starts so, sorted."""
        await self._begin("list", prefix, is_name=False)
        entries = [FileEntry(name, len(file.data)) for name, file in self._files.items() if name.startswith(prefix)]
        await trio.lowlevel.cancel_shielded_checkpoint()
        return sorted(entries)

    def read_nowait(self, name: str, offset: int, size: int) -> bytes | None:
        """The bytes, unless the cache misses, something is wrong or a read fault waits."""
        _check_name(name)
        file = self._files.get(name)
        if self._away or self._lost or self._closed or self._hung or file is None or offset + size > len(file.data):
            return None
        if self._cache_random is not None and self._cache_random.below(2):
            return None
        if any(fault.would_strike("read", name) for fault in self.faults):
            return None
        return bytes(file.data[offset : offset + size])

    async def read(self, name: str, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        await self._begin("read", name)
        file = self._file(name, "read")
        if offset + size > len(file.data):
            raise DiskError(self.disk_id, "read", name, f"short file: {len(file.data)} bytes, want {offset}+{size}")
        data = bytes(file.data[offset : offset + size])
        await trio.lowlevel.cancel_shielded_checkpoint()
        return data

    async def write(self, name: str, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one after the other. Not durable yet."""
        opened = self._files.get(name)

        def late(random: Random | None) -> None:
            # The file is the one that was open, whatever its name means now; the buffers are as they are now.
            data = b"".join(buffers)
            if random is not None and random.below(3) == 0:
                data = data[: random.below(len(data) // SECTOR_BYTES + 1) * SECTOR_BYTES]
            if opened is not None:
                opened.write(offset, [data])

        fault = await self._begin("write", name, late=late)
        file = self._file(name, "write")
        size = sum(len(buffer) for buffer in buffers)
        if fault is not None and fault.kind is FaultKind.MISDIRECTED:
            offset = max(0, offset + fault.offset)
        if fault is None or fault.kind is not FaultKind.LOST:
            self._need_room(file.bytes_to_allocate(offset, size), "write", name)
            file.write(offset, buffers)
        await trio.lowlevel.cancel_shielded_checkpoint()
        self._still_there("write", name)

    async def flush(self, name: str) -> None:
        """Make durable what was written before this call began to act."""
        await self._begin("flush", name)
        file = self._file(name, "flush")
        covered = file.begin_flush()
        life = self._life
        await trio.lowlevel.cancel_shielded_checkpoint()
        self._still_there("flush", name, life)
        file.end_flush(covered)

    async def punch(self, name: str, offset: int, size: int) -> None:
        """Give back the space of a range; it reads as zeros. Not durable before a flush."""
        opened = self._files.get(name)

        def late(_random: Random | None) -> None:
            if opened is not None:
                opened.punch(offset, size)

        await self._begin("punch", name, late=late)
        self._file(name, "punch").punch(offset, size)
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def replace(self, name: str, data: Buffer) -> None:
        """Write a small file whole, durably."""

        def late(_random: Random | None) -> None:
            self._change_late({name: SimFile(data)})

        await self._begin("replace", name, late=late)
        self._need_room(len(data), "replace", name)
        await self._change_names({name: SimFile(data)}, "replace", name)

    async def space(self) -> DiskSpace:
        """Room now."""
        await self._begin("space", "", is_name=False)
        space = DiskSpace(self.capacity_bytes, max(0, self.capacity_bytes - self.used_bytes), self._device)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return space

    async def probe(self) -> None:
        """Look whether the disk is there, and is the one that was formatted."""
        if not self._stuck:
            self._hung = ""  # all that was stuck has come back
        await self._begin("probe", "", is_name=False)
        if self._uuid:
            try:
                found = parse_superblock(self._files[SUPERBLOCK_NAME].data if SUPERBLOCK_NAME in self._files else b"")
                self._lost = "" if found.disk_uuid == self._uuid else "the superblock is of another disk"
            except FormatInvalid as error:
                self._lost = str(error)
        if self._lost:
            raise DiskMissing(self.disk_id, "probe", "", self._lost)

    async def restore_superblock(self, data: Buffer, witnesses: Sequence[str]) -> bool:
        """Write a superblock if there is none that is sound, and the witnesses are there."""
        await self._begin("restore", SUPERBLOCK_NAME)
        file = self._files.get(SUPERBLOCK_NAME)
        if file is not None and not is_rotten(bytes(file.data)):
            return False
        present = sum(name in self._files for name in witnesses)
        if not present or 2 * present < len(witnesses):
            raise DiskError(self.disk_id, "restore", SUPERBLOCK_NAME, "it is another directory")
        await self._change_names({SUPERBLOCK_NAME: SimFile(data)}, "restore", SUPERBLOCK_NAME)
        return True

    async def close(self) -> None:
        """No calls after that, until ``crash`` or ``reopen``."""
        self._closed = not self.is_shared
        await trio.lowlevel.checkpoint()

    # --- what a test does -------------------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """Room that the files take."""
        return sum(file.allocated_bytes for file in self._files.values())

    @property
    def held_bytes(self) -> int:
        """The same with what was deleted or punched and that a crash could bring back: no disk is smaller than this."""
        return sum(file.held_bytes for file in self._held_files())

    @property
    def names(self) -> tuple[str, ...]:
        """The files that are there, in order."""
        return tuple(sorted(self._files))

    @property
    def pending_writes(self) -> int:
        """Writes and punches that a crash could undo."""
        return sum(file.pending_writes for file in self._files.values())

    def contents(self, name: str) -> bytes:
        """What a reader of the whole file would see."""
        return bytes(self._files[name].data)

    def settle_freed(self) -> None:
        """What was deleted or punched does not come back: a filesystem gives away no room before that is durable."""
        while self._pending_names:
            _settle(self._durable_names, self._pending_names, self._pending_names[-1])
        for file in self._files.values():
            file.settle_punches()

    def format(self, superblock: bytes) -> None:
        """Make an empty disk the one that a superblock says; from now on ``probe`` looks at it."""
        self._uuid = parse_superblock(superblock).disk_uuid
        file = self._files[SUPERBLOCK_NAME] = self._durable_names[SUPERBLOCK_NAME] = SimFile(superblock)
        assert file.allocated_bytes

    def lose_file(self, name: str) -> None:
        """A file is gone, durably, behind everybody's back."""
        del self._files[name], self._durable_names[name]

    def cut_file(self, name: str, size: int) -> None:
        """The end of a file is gone, durably, behind everybody's back."""
        file = SimFile(bytes(self._files[name].data[:size]))
        self._files[name] = self._durable_names[name] = file

    def power_off(self) -> None:
        """From now on nothing has an effect, operations under way included; ``crash`` turns it on again."""
        self._away = self._away or "power is off"
        self._forget_stuck()

    def crash(self, random: Random) -> None:
        """Lose power and come back: what was not durable survives or not, as ``random`` decides.

        The caller sees to it that nobody who used the disk before goes on using it.
        """
        self._forget_stuck()
        for change in self._pending_names:
            if random.below(2):
                _apply(self._durable_names, change)
        self._pending_names.clear()
        self._files = dict(self._durable_names)
        for name in sorted(self._files):
            self._files[name].crash(random)
        self._away = ""
        self._closed = False

    def reopen(self) -> None:
        """Make a disk that was closed usable again, as a new process would; nothing is lost."""
        self._closed = False
        self._forget_stuck()

    def turn_on(self) -> None:
        """After ``power_off``, as if only the process had died: what was written is there, flushed or not."""
        self._away = ""

    def disappear(self) -> None:
        """The disk is pulled out: every operation raises DiskMissing. What was written stays as it is."""
        self._away = "disk is away"
        self._forget_stuck()

    def return_(self) -> None:
        """The disk is back as it was."""
        self._away = ""

    def wipe(self) -> None:
        """Another, empty disk is in its place."""
        self._forget_stuck()
        self._files.clear()
        self._durable_names.clear()
        self._pending_names.clear()

    def rot(self, name: str, offset: int, size: int = 1) -> None:
        """Invert stored bytes."""
        assert offset < len(self._files[name].data), "rot beyond the end of a file would not be seen"
        self._files[name].rot(offset, size)

    def fail(
        self, operation: str, prefix: str = "", *, skip: int = 0, count: int | None = 1, cause: str = "EIO"
    ) -> Fault:
        """Let operations fail without an effect."""
        return self._add(Fault(FaultKind.ERROR, operation, prefix, skip, count, cause))

    def fail_full(self, operation: str, prefix: str = "", *, skip: int = 0, count: int | None = 1) -> Fault:
        """Let operations fail with DiskFull, whatever room there is."""
        return self._add(Fault(FaultKind.FULL, operation, prefix, skip, count, "ENOSPC"))

    def lose_write(self, prefix: str = "", *, skip: int = 0, count: int | None = 1) -> Fault:
        """Let writes report success and do nothing."""
        return self._add(Fault(FaultKind.LOST, "write", prefix, skip, count))

    def misdirect_write(self, offset: int, prefix: str = "", *, skip: int = 0, count: int | None = 1) -> Fault:
        """Let writes land ``offset`` bytes from where they belong."""
        return self._add(Fault(FaultKind.MISDIRECTED, "write", prefix, skip, count, offset=offset))

    def slow(self, seconds: float, operation: str = "*", prefix: str = "", *, count: int | None = None) -> Fault:
        """Let operations take longer."""
        return self._add(Fault(FaultKind.SLOW, operation, prefix, 0, count, seconds=seconds))

    def hang(self, operation: str = "*", prefix: str = "", *, skip: int = 0, count: int | None = None) -> Fault:
        """Let operations give no answer, until ``release``."""
        return self._add(Fault(FaultKind.HANG, operation, prefix, skip, count))

    def release(self, random: Random | None = None) -> None:
        """Nothing hangs any more. What was given up takes effect now, in its order; with ``random`` in any order,
        whole, in part, or not at all. What is still waited for goes on."""
        self.faults[:] = [fault for fault in self.faults if fault.kind is not FaultKind.HANG]
        while self._hung and self._stuck:
            stuck = self._stuck.pop(0 if random is None else random.below(len(self._stuck)))
            if random is None or random.below(3):
                stuck.effect(random)
                self.late_effects += 1
        self._let_go()

    def heal(self) -> None:
        """No more faults, and nothing hangs. Damage that is done stays."""
        self.release()
        self.faults.clear()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _add(self, fault: Fault) -> Fault:
        self.faults.append(fault)
        return fault

    async def _begin(
        self, operation: str, name: str, *, is_name: bool = True, late: LateEffect | None = None
    ) -> Fault | None:
        """The checkpoint before an effect, and the faults; returns one that changes the effect. ``late`` is the effect
        that comes without the caller, if the operation hangs."""
        if is_name:
            _check_name(name)
        assert not self._closed, f"disk {self.disk_id}: {operation} {name} after close"
        life = self._life
        await trio.lowlevel.checkpoint()
        if self._hung:
            raise DiskHung(self.disk_id, operation, name, self._hung)
        self.operations += 1
        if self.on_operation is not None:
            self.on_operation(self, operation, name)
        changing: Fault | None = None
        for fault in list(self.faults):
            if not fault.strikes(operation, name):
                continue
            if fault.kind is FaultKind.ERROR:
                raise DiskError(self.disk_id, operation, name, fault.cause)
            if fault.kind is FaultKind.FULL:
                raise DiskFull(self.disk_id, operation, name, fault.cause)
            if fault.kind is FaultKind.SLOW:
                await trio.sleep(fault.seconds)
            elif fault.kind is FaultKind.HANG:
                await self._hang(operation, name, late or _nothing)
            else:
                changing = fault
        self._still_there(operation, name, life)
        if self._lost and operation not in ("probe", "restore"):
            raise DiskMissing(self.disk_id, operation, name, self._lost)
        return changing

    async def _hang(self, operation: str, name: str, late: LateEffect) -> None:
        """Return when the operation is let go of in time; raises DiskHung when the disk is given up."""
        stuck = _Stuck(late)
        self._stuck.append(stuck)
        with trio.move_on_after(self.limit_seconds, shield=True) as limit:
            await stuck.told.wait()
        if limit.cancelled_caught:
            self._hung = f"no answer to {f'{operation} {name}'.rstrip()} for {self.limit_seconds:g} s"
            self.hangs += 1
            self._life += 1  # what is under way elsewhere gets no answer either
            for other in self._stuck:
                other.is_given_up = True
                other.told.set()
        if stuck.is_given_up:
            raise DiskHung(self.disk_id, operation, name, self._hung)

    def _forget_stuck(self) -> None:
        """Nothing is stuck any more, and nothing of it happens."""
        self._life += 1
        self._hung = ""
        self._let_go()

    def _let_go(self) -> None:
        for stuck in self._stuck:
            stuck.told.set()
        self._stuck.clear()

    def _change_late(self, change: NameChange) -> None:
        _apply(self._files, change)
        self._pending_names.append(change)

    def _still_there(self, operation: str, name: str, life: int | None = None) -> None:
        if self._hung:
            raise DiskHung(self.disk_id, operation, name, self._hung)
        if self._away or self._closed:
            raise DiskMissing(self.disk_id, operation, name, self._away or "closed")
        if life is not None and life != self._life:
            raise DiskMissing(self.disk_id, operation, name, "disk went away during the operation")

    def _file(self, name: str, operation: str) -> SimFile:
        file = self._files.get(name)
        if file is None:
            raise FileMissing(self.disk_id, operation, name, "no such file")
        return file

    def _need_room(self, size: int, operation: str, name: str) -> None:
        needed = -(-size // BLOCK_BYTES) * BLOCK_BYTES
        if not needed or sum(len(file.data) for file in self._held_files()) + needed <= self.capacity_bytes:
            return
        if self.held_bytes + needed > self.capacity_bytes:
            self.settle_freed()
            if self.held_bytes + needed > self.capacity_bytes:
                raise DiskFull(self.disk_id, operation, name, f"capacity of {self.capacity_bytes} bytes is used up")

    def _held_files(self) -> Collection[SimFile]:
        """Files that are there, and those that a crash could bring back."""
        files = {id(file): file for file in (*self._files.values(), *self._durable_names.values())}
        for change in self._pending_names:
            files.update((id(file), file) for file in change.values() if file is not None)
        return files.values()

    async def _change_names(self, change: NameChange, operation: str, name: str) -> None:
        """Visible at once, durable after a checkpoint; a crash in between leaves one or the other."""
        life = self._life
        _apply(self._files, change)
        self._pending_names.append(change)
        await trio.lowlevel.cancel_shielded_checkpoint()
        self._still_there(operation, name, life)
        if any(pending is change for pending in self._pending_names):
            _settle(self._durable_names, self._pending_names, change)


class _Stuck:
    """An operation that hangs. Told when it is let go of, or when its disk is given up."""

    def __init__(self, effect: LateEffect) -> None:
        self.effect = effect
        self.told = trio.Event()
        self.is_given_up = False


def _nothing(_random: Random | None) -> None:
    """The late effect of what changes nothing."""


def _apply(names: dict[str, SimFile], change: NameChange) -> None:
    for name, file in change.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _settle(names: dict[str, SimFile], pending: list[NameChange], change: NameChange) -> None:
    """Make a change durable, after the earlier ones of the same names, which a journal keeps in order."""
    index = next(index for index, other in enumerate(pending) if other is change)
    touched = set(change)
    settled = [index]
    for earlier in range(index - 1, -1, -1):
        if touched & set(pending[earlier]):
            touched |= set(pending[earlier])
            settled.append(earlier)
    for at in reversed(settled):
        _apply(names, pending[at])
    for at in settled:
        del pending[at]


def _check_name(name: str) -> None:
    parts = name.split("/")
    assert all(part and not part.startswith(".") for part in parts) and "\0" not in name, f"invalid name {name!r}"
