"""Clients that write to a volume until it is killed under them, and note each promise it makes.

Every client has a directory of its own, or a bucket. A full pool is no failure: the client deletes something.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from kills.promises import Promises
from sim.model import ModelFile

KIB = 1024
MIB = 1024 * KIB

PATTERN = random.Random(0).randbytes(16 * MIB)
"""Contents are cut out of this, each at another place, so that bytes of something else are seen."""

FULL_STATUSES = (503, 507)
"""HTTP statuses by which S3 says that there is no room, or that it cannot be had now."""


class Stop(threading.Event):
    """Set right before the daemon is killed: from then on an error is no news."""


class Client:
    """Does one thing after the other, in a thread; ``failure`` is what nobody should ever meet."""

    def __init__(self, promises: Promises, directory: str, seed: int, stop: Stop) -> None:
        self.promises = promises
        self.directory = directory
        self.random = random.Random(seed)
        self.stop = stop
        self.failure: BaseException | None = None
        self.operations = 0
        self.full = 0
        self._thread = threading.Thread(target=self._run, name=f"client {directory}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Wait until the client has noticed that the volume is gone; whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self.stop.is_set():
                self.step()
                self.operations += 1
        except BaseException as error:
            if not (self.stop.is_set() and isinstance(error, (OSError, BotoCoreError, ClientError))):
                self.failure = error
        finally:
            self.close()

    def close(self) -> None:
        """Let go of what the client has open."""

    def step(self) -> None:
        """One operation."""
        raise NotImplementedError

    def data(self, size: int) -> bytes:
        """Bytes that are hardly those of another file."""
        start = self.random.randrange(len(PATTERN) - size + 1)
        return PATTERN[start : start + size]

    def new_path(self) -> str:
        """A path that nothing was at."""
        return f"{self.directory}/{self.random.getrandbits(48):012x}"


class FileClient(Client):
    """A program on the mount: all that programs do to files, each followed by the fsync that makes it safe."""

    def __init__(self, root: Path, promises: Promises, directory: str, seed: int, stop: Stop, files_max: int) -> None:
        super().__init__(promises, directory, seed, stop)
        self.root = root
        self.files_max = files_max

    def step(self) -> None:
        """One operation, chosen by chance; something is deleted where there is no room for it."""
        files = self.promises.files(self.directory)
        path = self.random.choice(files) if files else self.new_path()
        if not files or (self.random.random() < 0.35 and len(files) < self.files_max):
            path = self.new_path()
            self._attempt(path, self._create)
        elif len(files) >= self.files_max:
            self._unlink(path)
        else:
            operations = [self._overwrite, self._append, self._truncate, self._unlink, self._rename, self._write_twice]
            weights = [4, 2, 1, 2, 2, 1]
            self._attempt(path, self.random.choices(operations, weights)[0])

    def _attempt(self, path: str, operation: Any) -> None:
        try:
            operation(path)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self.full += 1
            # What is in the file now is anybody's guess, so it goes; a delete is never refused for want of room.
            for uncertain in {path, *self.promises.is_refused(self.directory)}:
                if os.path.lexists(self.root / uncertain):
                    self._unlink(uncertain)
            files = self.promises.files(self.directory)
            for victim in self.random.sample(files, k=min(2, len(files))):
                self._unlink(victim)

    def _size(self) -> int:
        return self.random.choice((100, 3000, 5000, 20_000, 60_000, 150_000, 300_000, 2 * MIB, 5 * MIB))

    def _open(self, path: str, flags: int = 0) -> int:
        return os.open(self.root / path, os.O_RDWR | os.O_CLOEXEC | flags, 0o644)

    def _sync_directory(self) -> None:
        descriptor = os.open(self.root / self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _write_all(self, descriptor: int, file: ModelFile, offset: int, data: bytes) -> None:
        file.write(offset, data)
        view = memoryview(data)
        while view:
            count = os.pwrite(descriptor, view[:MIB], offset)
            view, offset = view[count:], offset + count

    def _create(self, path: str) -> None:
        file = ModelFile()
        self.promises.may_be(path, file)
        descriptor = self._open(path, os.O_CREAT | os.O_EXCL)
        try:
            self._write_all(descriptor, file, 0, self.data(self._size()))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.promises.is_now(path, file)

    def _change(self, path: str, offset: int, size: int, *, is_sync: bool) -> None:
        file = self.promises.file(path)
        descriptor = self._open(path, os.O_DSYNC if is_sync else 0)
        try:
            self._write_all(descriptor, file, offset, self.data(size))
            if not is_sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.promises.is_now(path, file)

    def _overwrite(self, path: str) -> None:
        size = len(self.promises.file(path).data)
        offset = self.random.randrange(size) if size else 0
        length = self.random.choice((1, 4096, 30_000, 700_000))
        self._change(path, offset, max(1, min(length, size - offset)), is_sync=length <= 4096)

    def _append(self, path: str) -> None:
        length = self.random.choice((10, 4000, 100_000))
        self._change(path, len(self.promises.file(path).data), length, is_sync=False)

    def _write_twice(self, path: str) -> None:
        """Two writes, perhaps seconds apart, under one fsync."""
        file = self.promises.file(path)
        descriptor = self._open(path)
        try:
            for _ in range(2):
                self._write_all(descriptor, file, self.random.randrange(len(file.data) + 1), self.data(5000))
                self.stop.wait(self.random.choice((0, 0, 0.7)))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.promises.is_now(path, file)

    def _truncate(self, path: str) -> None:
        file = self.promises.file(path)
        size = self.random.randrange(len(file.data) * 5 // 4 + 1)
        file.truncate(size)
        descriptor = self._open(path)
        try:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.promises.is_now(path, file)

    def _unlink(self, path: str) -> None:
        self.promises.may_be(path, None)
        os.unlink(self.root / path)
        self._sync_directory()
        self.promises.is_now(path, None)

    def _rename(self, path: str) -> None:
        """As editors save: a temporary file, fsync, rename over the old one, fsync of the directory."""
        source = self.new_path()
        self._create(source)
        self.promises.may_be_renamed(source, path)
        os.rename(self.root / source, self.root / path)
        self._sync_directory()
        self.promises.is_renamed(source, path)


class ObjectClient(Client):
    """A program that uses S3: PUT, overwriting too, multipart uploads, copies, DELETE."""

    def __init__(self, s3: Any, promises: Promises, bucket: str, seed: int, stop: Stop, keys_max: int) -> None:
        super().__init__(promises, bucket, seed, stop)
        self.s3 = s3
        self.keys_max = keys_max

    def close(self) -> None:
        """Let go of the connections."""
        self.s3.close()

    def step(self) -> None:
        """One request, chosen by chance."""
        files = self.promises.files(self.directory)
        is_old = files and self.random.random() < 0.5
        path = self.random.choice(files) if is_old else self.new_path()
        try:
            if len(files) >= self.keys_max or (files and self.random.random() < 0.25):
                self._delete(self.random.choice(files))
            elif files and self.random.random() < 0.15:
                self._copy(self.random.choice(files), self.new_path())
            elif self.random.random() < 0.05:
                self._multipart(path)
            else:
                self._put(path)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in FULL_STATUSES:
                raise
            self.full += 1
            for victim in self.random.sample(files, k=min(2, len(files))):
                self._delete(victim)

    def _key(self, path: str) -> str:
        return path.partition("/")[2]

    def _put(self, path: str) -> None:
        file = ModelFile(self.data(self.random.choice((10, 4000, 30_000, 200_000, 300_000, 3 * MIB))))
        self.promises.may_be(path, file)
        self.s3.put_object(Bucket=self.directory, Key=self._key(path), Body=file.data)
        self.promises.is_now(path, file)

    def _copy(self, source: str, path: str) -> None:
        file = ModelFile(self.promises.file(source).data)
        self.promises.may_be(path, file)
        place = {"Bucket": self.directory, "Key": self._key(source)}
        self.s3.copy_object(Bucket=self.directory, Key=self._key(path), CopySource=place)
        self.promises.is_now(path, file)

    def _multipart(self, path: str) -> None:
        parts = [self.data(5 * MIB), self.data(100_000)]
        file = ModelFile(b"".join(parts))
        self.promises.may_be(path, file)
        place = {"Bucket": self.directory, "Key": self._key(path)}
        upload = self.s3.create_multipart_upload(**place)["UploadId"]
        done: list[dict[str, Any]] = []
        for number, part in enumerate(parts, 1):
            answer = self.s3.upload_part(**place, UploadId=upload, PartNumber=number, Body=part)
            done.append({"PartNumber": number, "ETag": answer["ETag"]})
        self.s3.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": done})
        self.promises.is_now(path, file)

    def _delete(self, path: str) -> None:
        self.promises.may_be(path, None)
        self.s3.delete_object(Bucket=self.directory, Key=self._key(path))
        self.promises.is_now(path, None)


class BallastClient(FileClient):
    """Keeps the pool as full as it is told, with large files and small ones, and wears what it has filled."""

    def __init__(self, root: Path, promises: Promises, directory: str, seed: int, stop: Stop) -> None:
        super().__init__(root, promises, directory, seed, stop, files_max=100_000)
        self.free_share = 0.5
        """Goal: the part of the pool that is free for users."""

    def fill(self) -> None:
        """Write, or delete, until the goal is reached or the pool refuses more."""
        while not self.full and self._free() > self.free_share:
            self._attempt(self.new_path(), self._create)
        while self._free() < self.free_share * 0.5 and (files := self.promises.files(self.directory)):
            for path in self.random.sample(files, k=1 + len(files) // 10):
                self._unlink(path)

    def _free(self) -> float:
        state = os.statvfs(self.root)
        return state.f_bavail / state.f_blocks

    def step(self) -> None:
        """Fill, or make room; near the goal, replace small files by others."""
        free = self._free()
        files = self.promises.files(self.directory)
        if free > self.free_share:
            path = self.new_path()
            self._attempt(path, self._create)
        elif files and (free < self.free_share * 0.7 or self.random.random() < 0.5):
            self._unlink(self.random.choice(files))
        else:
            self.stop.wait(0.01)

    def _size(self) -> int:
        return self.random.choice((4 * MIB, 1 * MIB, *[20_000] * 6, *[3000] * 6))
