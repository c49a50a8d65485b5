"""Random use of one file through the mount, as fsx does it: every way to change or read it, against a bytearray.

Now and then the volume moves what is in its log into stripes meanwhile. A failure names the last operations; the seed
is the test's number. SILTSTONE_FSX_STEPS and SILTSTONE_FSX_SEEDS make it longer.
"""

from __future__ import annotations

import mmap
import os
import random
import subprocess
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.mounted import SILTSTONE, MountedVolume, mounted

STEPS = int(os.environ.get("SILTSTONE_FSX_STEPS", "2500"))
SEEDS = int(os.environ.get("SILTSTONE_FSX_SEEDS", "3"))
KIB, MIB = 1024, 1024 * 1024
PAGE_BYTES = mmap.PAGESIZE
SIZE_MAX = 9 * MIB
"""Two full stripes and a bit more."""

EDGES = (PAGE_BYTES, 128 * KIB, 256 * KIB, MIB, 4 * MIB, 8 * MIB)
"""Where the kernel cuts requests and the volume goes from inline to log to stripe to the next stripe."""


class Exercise:
    """One file that is open three times (one of them for appending, one past the cache) and mapped once."""

    def __init__(self, volume: MountedVolume, path: Path, seed: int) -> None:
        self.volume = volume
        self.settling: subprocess.Popen[bytes] | None = None
        self.rng = random.Random(seed)
        self.path = path
        self.model = bytearray()
        self.done: deque[str] = deque(maxlen=30)
        self.descriptor = self.appending = self.direct = -1
        self.mapping: mmap.mmap | None = None
        self.aligned = mmap.mmap(-1, 256 * KIB)
        path.touch()
        self.open()

    def run(self, steps: int) -> None:
        """Do random things; what is read must agree with the model after each."""
        often = (self.write, self.write, self.read, self.read, self.mapped_write, self.mapped_read, self.append)
        seldom = (self.truncate, self.truncate, self.direct_write, self.direct_read, self.copy_range, self.sync)
        rarely = (self.reopen, self.map, self.allocate, self.empty, self.rename, self.compare, self.settle)
        try:
            for _ in range(steps):
                (steps_of_a_kind,) = self.rng.choices((often, seldom, rarely), (80, 18, 2))
                self.rng.choice(steps_of_a_kind)()
                assert os.fstat(self.descriptor).st_size == len(self.model)
            self.reopen()
            self.finish_settling()
        except BaseException as error:
            error.add_note("last operations: " + ", ".join(self.done))
            raise
        finally:
            self.close()

    # --- what is chosen --------------------------------------------------------------------------------------------

    def span(self, limit: int, size_max: int = 600 * KIB) -> tuple[int, int]:
        """A random offset and size within ``limit``: of any magnitude, and often at an edge or just beside it."""
        size = min(int(2 ** self.rng.uniform(0, 20)), size_max, limit)
        offset = self.rng.randrange(limit - size + 1)
        if self.rng.random() < 0.3:
            offset = self.rng.choice((0, len(self.model), len(self.model) - size, *EDGES)) + self.rng.randint(-1, 1)
            offset = max(0, min(offset, limit - size))
        return offset, size

    def note(self, what: str, offset: int, size: int) -> None:
        self.done.append(f"{what}({offset}, {size})")

    def expect(self, data: bytes, offset: int) -> None:
        """Compare what was read with the model, naming the first byte that differs."""
        wanted = self.model[offset : offset + len(data)]
        if data != wanted:
            assert len(data) == len(wanted), f"{len(data)} bytes at {offset} instead of {len(wanted)}"
            first = next(index for index, pair in enumerate(zip(data, wanted, strict=True)) if pair[0] != pair[1])
            count = sum(one != other for one, other in zip(data, wanted, strict=True))
            where = f"{count} of {len(data)} bytes at {offset} differ"
            raise AssertionError(f"byte {offset + first}: {data[first]} instead of {wanted[first]}; {where}")

    def expect_written(self, offset: int, data: bytes) -> None:
        self.model.extend(bytes(max(0, offset - len(self.model))))
        self.model[offset : offset + len(data)] = data

    # --- bytes -----------------------------------------------------------------------------------------------------

    def write(self) -> None:
        offset, size = self.span(min(SIZE_MAX, len(self.model) + MIB))
        self.note("write", offset, size)
        data = self.rng.randbytes(size)
        assert os.pwrite(self.descriptor, data, offset) == size
        self.expect_written(offset, data)

    def append(self) -> None:
        data = self.rng.randbytes(int(2 ** self.rng.uniform(0, 17)))
        if len(self.model) + len(data) <= SIZE_MAX:
            self.note("append", len(self.model), len(data))
            assert os.write(self.appending, data) == len(data)
            self.model += data

    def read(self) -> None:
        offset, size = self.span(SIZE_MAX)
        self.note("read", offset, size)
        data = os.pread(self.descriptor, size, offset)
        assert len(data) == max(0, min(size, len(self.model) - offset))
        self.expect(data, offset)

    def mapped_write(self) -> None:
        if self.mapping is not None and self.model:
            offset, size = self.span(min(len(self.model), len(self.mapping)))
            self.note("mapped_write", offset, size)
            data = self.rng.randbytes(size)
            self.mapping[offset : offset + size] = data
            self.expect_written(offset, data)

    def mapped_read(self) -> None:
        if self.mapping is not None and self.model:
            offset, size = self.span(min(len(self.model), len(self.mapping)))
            self.note("mapped_read", offset, size)
            self.expect(self.mapping[offset : offset + size], offset)

    def direct_write(self) -> None:
        """Past the page cache, in whole pages, below the end."""
        offset, size = self.span(len(self.model) // PAGE_BYTES + 1, len(self.aligned) // PAGE_BYTES)
        offset, size = offset * PAGE_BYTES, size * PAGE_BYTES
        if size:
            self.note("direct_write", offset, size)
            data = self.rng.randbytes(size)
            self.aligned[:size] = data
            assert os.pwritev(self.direct, [memoryview(self.aligned)[:size]], offset) == size
            self.expect_written(offset, data)

    def direct_read(self) -> None:
        offset, size = self.span(len(self.model) // PAGE_BYTES + 1, len(self.aligned) // PAGE_BYTES)
        offset, size = offset * PAGE_BYTES, size * PAGE_BYTES
        self.note("direct_read", offset, size)
        count = os.preadv(self.direct, [memoryview(self.aligned)[:size]], offset)
        assert count == max(0, min(size, len(self.model) - offset))
        self.expect(self.aligned[:count], offset)

    def copy_range(self) -> None:
        source, size = self.span(len(self.model))
        target = self.rng.randrange(min(len(self.model) + MIB, SIZE_MAX - size) + 1)
        if size and (source + size <= target or target + size <= source):
            self.note(f"copy_range to {target}", source, size)
            count = os.copy_file_range(self.descriptor, self.descriptor, size, source, target)
            assert count > 0
            self.expect_written(target, bytes(self.model[source : source + count]))

    # --- sizes -----------------------------------------------------------------------------------------------------

    def truncate(self) -> None:
        size = sum(self.span(SIZE_MAX)) if self.rng.random() < 0.5 else self.rng.randrange(len(self.model) + 1)
        self.note("truncate", len(self.model), size)
        if self.rng.random() < 0.5:
            os.truncate(self.path, size)
        else:
            os.ftruncate(self.descriptor, size)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    def allocate(self) -> None:
        """The C library writes into every block, as the mount has no fallocate."""
        offset, size = self.span(min(SIZE_MAX, len(self.model) + MIB))
        self.note("allocate", offset, size)
        os.posix_fallocate(self.descriptor, offset, size)
        self.model.extend(bytes(max(0, offset + size - len(self.model))))

    def empty(self) -> None:
        self.note("empty", len(self.model), 0)
        os.close(os.open(self.path, os.O_WRONLY | os.O_TRUNC))
        self.model.clear()

    # --- everything else -------------------------------------------------------------------------------------------

    def sync(self) -> None:
        self.note("sync", 0, 0)
        step = self.rng.choice((os.fsync, os.fdatasync, None))
        if step is not None:
            step(self.descriptor)
        elif self.mapping is not None:
            self.mapping.flush()

    def map(self) -> None:
        """Map the file as it is now; what is beyond the end becomes visible when the file grows."""
        if self.mapping is not None:
            self.mapping.close()
            self.mapping = None
        if self.model:
            self.note("map", 0, len(self.model))
            self.mapping = mmap.mmap(self.descriptor, len(self.model))

    def rename(self) -> None:
        self.note("rename", 0, 0)
        target = self.path.with_name(f"file-{self.rng.randrange(10)}")
        self.path.rename(target)
        self.path = target

    def compare(self) -> None:
        self.note("compare", 0, len(self.model))
        self.expect(os.pread(self.descriptor, SIZE_MAX * 2, 0), 0)

    def settle(self) -> None:
        """Have the volume move from its log to stripes while the exercise goes on."""
        if self.settling is None or self.settling.poll() is not None:
            self.finish_settling()
            self.note("settle", 0, 0)
            command = [*SILTSTONE, "settle", str(self.volume.home)]
            self.settling = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def finish_settling(self) -> None:
        if self.settling is not None:
            assert self.settling.wait() == 0
            self.settling = None

    def reopen(self) -> None:
        """Close, and have the kernel forget what it has cached."""
        self.note("reopen", 0, len(self.model))
        self.close()
        descriptor = os.open(self.path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
        self.open()
        self.compare()

    def open(self) -> None:
        self.descriptor = os.open(self.path, os.O_RDWR)
        self.appending = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self.direct = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        self.map()

    def close(self) -> None:
        if self.mapping is not None:
            self.mapping.close()
            self.mapping = None
        for descriptor in (self.descriptor, self.appending, self.direct):
            os.close(descriptor)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedVolume]:
    with mounted(tmp_path_factory.mktemp("fsx")) as volume:
        yield volume


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_use_of_a_file_agrees_with_a_model(volume: MountedVolume, seed: int) -> None:
    directory = volume.directory / f"seed-{seed}"
    directory.mkdir()
    Exercise(volume, directory / "file", seed).run(STEPS)
    fsck = subprocess.run([*SILTSTONE, "fsck", "--deep", str(volume.home)], capture_output=True, text=True)
    assert fsck.returncode == 0, fsck.stdout + fsck.stderr
