"""What programs do with files, by one or several processes at the same time. Each has a directory of its own.

The workloads of a run go in the order of WORKLOADS, as some use what others left. A rate is what all processes did
together over the time from their common start to the end of the last.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

KIB, MIB = 1024, 1024 * 1024
BLOCK_BYTES = 4 * KIB
BLOCK = random.Random(1).randbytes(BLOCK_BYTES)
CHUNK = random.Random(2).randbytes(MIB)
RANDOM_FILE_MIB = 64
TREE_FILES_PER_DIRECTORY = 50

_context = multiprocessing.get_context("fork")


class Sizes(NamedTuple):
    """How much each process does."""

    files: int
    synced: int
    """Operations with fsync."""
    listed: int
    """Entries of the directory that is listed; always one process's directory each."""
    tree: int
    """Files of the archive."""
    stream_mib: int


QUICK = Sizes(files=300, synced=60, listed=1_000, tree=200, stream_mib=64)
FULL = Sizes(files=2_000, synced=400, listed=10_000, tree=5_000, stream_mib=512)


class Job(NamedTuple):
    """What one process is told."""

    place: Path
    sizes: Sizes
    archive: Path


class Workload(NamedTuple):
    """``run`` does ``count(sizes)`` things; ``prepare`` is not timed. ``cold``: nothing is in any cache before."""

    name: str
    run: Callable[[Job], None]
    count: Callable[[Sizes], int]
    cold: bool = False
    prepare: Callable[[Job], None] = lambda job: None


def _create(job: Job) -> None:
    for number in range(job.sizes.files):
        os.close(os.open(f"{job.place}/empty-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def _stat(job: Job) -> None:
    for number in range(job.sizes.files):
        os.stat(f"{job.place}/empty-{number}")


def _rename(job: Job) -> None:
    for number in range(job.sizes.files):
        os.rename(f"{job.place}/empty-{number}", f"{job.place}/renamed-{number}")


def _unlink(job: Job) -> None:
    for number in range(job.sizes.files):
        os.unlink(f"{job.place}/renamed-{number}")


def _mkdir(job: Job) -> None:
    for number in range(job.sizes.files):
        os.mkdir(f"{job.place}/directory-{number}")


def _rmdir(job: Job) -> None:
    for number in range(job.sizes.files):
        os.rmdir(f"{job.place}/directory-{number}")


def _write(job: Job) -> None:
    for number in range(job.sizes.files):
        descriptor = os.open(f"{job.place}/small-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(descriptor, BLOCK)
        os.close(descriptor)


def _write_synced(job: Job) -> None:
    for number in range(job.sizes.synced):
        descriptor = os.open(f"{job.place}/synced-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(descriptor, BLOCK)
        os.fsync(descriptor)
        os.close(descriptor)


def _read(job: Job) -> None:
    for number in range(job.sizes.files):
        descriptor = os.open(f"{job.place}/small-{number}", os.O_RDONLY)
        assert os.read(descriptor, 2 * BLOCK_BYTES) == BLOCK
        os.close(descriptor)


def _fill_directory(job: Job) -> None:
    os.mkdir(job.place / "listed")
    for number in range(job.sizes.listed):
        os.close(os.open(f"{job.place}/listed/entry-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def _readdir(job: Job) -> None:
    assert len(os.listdir(job.place / "listed")) == job.sizes.listed


def _list_long(job: Job) -> None:
    with os.scandir(job.place / "listed") as entries:
        assert sum(entry.stat(follow_symlinks=False).st_size for entry in entries) == 0


def _fill_file(job: Job) -> None:
    shutil.rmtree(job.place / "listed")
    with open(job.place / "random", "wb", buffering=0) as file:
        for _ in range(RANDOM_FILE_MIB):
            file.write(CHUNK)
        os.fsync(file.fileno())


def _offsets(count: int) -> Iterator[int]:
    generator = random.Random(count)
    for _ in range(count):
        yield generator.randrange(RANDOM_FILE_MIB * MIB // BLOCK_BYTES) * BLOCK_BYTES


def _read_random(job: Job) -> None:
    descriptor = os.open(job.place / "random", os.O_RDONLY)
    # Otherwise what is measured is what the kernel reads ahead and nobody wants.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    for offset in _offsets(job.sizes.files):
        assert len(os.pread(descriptor, BLOCK_BYTES, offset)) == BLOCK_BYTES
    os.close(descriptor)


def _overwrite_synced(job: Job) -> None:
    descriptor = os.open(job.place / "random", os.O_WRONLY)
    for offset in _offsets(job.sizes.synced):
        os.pwrite(descriptor, BLOCK, offset)
        os.fsync(descriptor)
    os.close(descriptor)


def _stream_write(job: Job) -> None:
    with open(job.place / "stream", "wb", buffering=0) as file:
        for _ in range(job.sizes.stream_mib):
            file.write(CHUNK)
        os.fsync(file.fileno())


def _stream_read(job: Job) -> None:
    buffer = bytearray(MIB)
    with open(job.place / "stream", "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _remove_stream(job: Job) -> None:
    os.unlink(job.place / "stream")
    os.unlink(job.place / "random")


def _untar(job: Job) -> None:
    subprocess.run(["tar", "-xf", job.archive, "-C", job.place], check=True)


def _read_tree(job: Job) -> None:
    found = 0
    for folder, _, names in os.walk(job.place / "tree"):
        for name in names:
            with open(os.path.join(folder, name), "rb", buffering=0) as file:
                while file.read(64 * KIB):
                    pass
            found += 1
    assert found == job.sizes.tree


def _remove_tree(job: Job) -> None:
    subprocess.run(["rm", "-rf", job.place / "tree"], check=True)


WORKLOADS = (
    Workload("create", _create, lambda sizes: sizes.files),
    Workload("stat, cold", _stat, lambda sizes: sizes.files, cold=True),
    Workload("rename", _rename, lambda sizes: sizes.files),
    Workload("unlink", _unlink, lambda sizes: sizes.files),
    Workload("mkdir", _mkdir, lambda sizes: sizes.files),
    Workload("rmdir", _rmdir, lambda sizes: sizes.files),
    Workload("4 KiB write+close", _write, lambda sizes: sizes.files),
    Workload("4 KiB write+fsync", _write_synced, lambda sizes: sizes.synced),
    Workload("read 4 KiB files, cold", _read, lambda sizes: sizes.files, cold=True),
    Workload("readdir, cold", _readdir, lambda sizes: sizes.listed, cold=True, prepare=_fill_directory),
    Workload("ls -l, cold", _list_long, lambda sizes: sizes.listed, cold=True),
    Workload(
        "random 4 KiB read, cold",
        _read_random,
        lambda sizes: sizes.files,
        cold=True,
        prepare=_fill_file,
    ),
    Workload("random 4 KiB overwrite+fsync", _overwrite_synced, lambda sizes: sizes.synced),
    Workload("sequential write, MiB", _stream_write, lambda sizes: sizes.stream_mib),
    Workload("sequential read, MiB, cold", _stream_read, lambda sizes: sizes.stream_mib, cold=True),
    Workload("untar, files", _untar, lambda sizes: sizes.tree, prepare=_remove_stream),
    Workload("read back, files, cold", _read_tree, lambda sizes: sizes.tree, cold=True),
    Workload("rm -rf, files", _remove_tree, lambda sizes: sizes.tree),
)


def make_archive(file: Path, files: int) -> None:
    """A tar archive of ``files`` small files in directories, as sources are: half of them under 2 KiB."""
    generator = random.Random(3)
    with tarfile.open(file, "w") as archive:
        for number in range(files):
            if number % TREE_FILES_PER_DIRECTORY == 0:
                folder = tarfile.TarInfo(f"tree/{number // TREE_FILES_PER_DIRECTORY}")
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(folder)
            info = tarfile.TarInfo(f"tree/{number // TREE_FILES_PER_DIRECTORY}/file-{number}.c")
            info.size = min(int(generator.lognormvariate(7.6, 1.2)), 64 * KIB)
            archive.addfile(info, BytesIO(CHUNK[: info.size]))


def seconds_of(step: Callable[[Job], None], jobs: list[Job]) -> list[float]:
    """Run a step in one process for each job, started together; how long each took. Raises when one failed."""
    barrier = _context.Barrier(len(jobs))
    results = _context.SimpleQueue()

    def work(job: Job) -> None:
        barrier.wait()
        start = time.monotonic()
        step(job)
        results.put((start, time.monotonic()))

    processes = [_context.Process(target=work, args=(job,)) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"a process of the workload ended with {[process.exitcode for process in processes]}")
    spans = [results.get() for _ in jobs]
    first = min(start for start, _ in spans)
    return sorted(end - first for _, end in spans)


def rate(workload: Workload, jobs: list[Job]) -> float:
    """Things done in a second by all processes together."""
    return workload.count(jobs[0].sizes) * len(jobs) / seconds_of(workload.run, jobs)[-1]


def fairness(place: Path, processes: int, seconds: float) -> float:
    """What the slowest of many processes got done on one mount, creating small files, over what they did on average."""
    barrier = _context.Barrier(processes)
    results = _context.SimpleQueue()

    def work(number: int) -> None:
        folder = place / f"client-{number}"
        folder.mkdir()
        barrier.wait()
        done, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            descriptor = os.open(f"{folder}/{done}", os.O_WRONLY | os.O_CREAT)
            os.write(descriptor, BLOCK)
            os.close(descriptor)
            done += 1
        results.put(done)

    workers = [_context.Process(target=work, args=(number,)) for number in range(processes)]
    for worker in workers:
        worker.start()
    counts = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return float(min(counts) / statistics.mean(counts))
