"""HOME: the directory that holds what belongs to a volume and not to its disks, and the lock that gives it one owner.

``volume.json`` settings, ``keys.json`` access keys, ``secret.key`` what their secrets are encrypted under (both 0600),
``lock`` flock and pid of the owner, ``control.sock`` where the owner listens (0600), ``daemon.log``, ``meta/`` LMDB,
``disks/`` the disks of a volume that was made without --disk,
``shards/N/`` of a shard: ``socket`` where it listens (0600), and unless it is shard 0 its ``lock`` and its ``meta/``.
``importing`` is there while an import fills HOME: without ``volume.json``, what is there is the rest of one that was
killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from siltstone.config import VolumeConfig
from siltstone.errors import ConfigInvalid, Unavailable, VolumeBusy
from siltstone.types import ShardId


class Ownership:
    """That this process owns a volume."""

    def __init__(self) -> None:
        self.ends_with_process = False

    def keep(self) -> None:
        """Own the volume until the process is gone, with all its threads: something may still be written by one."""
        self.ends_with_process = True


class Home:
    """The paths in a HOME. Making one touches nothing; ``path`` becomes absolute."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.abspath(path))
        self.volume_file = self.path / "volume.json"
        self.keys_file = self.path / "keys.json"
        self.secret_file = self.path / "secret.key"
        self.lock_file = self.path / "lock"
        self.control_socket = self.path / "control.sock"
        self.log_file = self.path / "daemon.log"
        self.meta = self.path / "meta"
        self.disks = self.path / "disks"
        self.importing = self.path / "importing"
        self.shards = self.path / "shards"

    @property
    def made_by_import(self) -> list[Path]:
        """What an import makes, in the order in which it is to be taken away; some of it may not be there."""
        return [
            self.volume_file,
            self.meta,
            self.shards,
            self.control_socket,
            self.keys_file,
            self.secret_file,
            *map(_partial, (self.keys_file, self.secret_file, self.volume_file)),
            self.importing,
        ]

    def shard(self, shard: ShardId) -> Path:
        """The directory of a shard, which may not be there."""
        return self.shards / str(shard)

    def shard_meta(self, shard: ShardId) -> Path:
        """Where a shard's LMDB is."""
        return self.shard(shard) / "meta" if shard else self.meta

    def shard_socket(self, shard: ShardId) -> Path:
        """Where a shard listens."""
        return self.shard(shard) / "socket"

    def load_config(self) -> VolumeConfig:
        """The settings of the volume. Raises ConfigInvalid when there are none or they are wrong."""
        try:
            text = self.volume_file.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            what = "is not a directory" if self.path.exists() and not self.path.is_dir() else "holds no volume"
            what = what if self.path.exists() else "does not exist"
            raise ConfigInvalid(f"{self.path} {what}; make a volume there with: siltstone init {self.path}") from error
        except OSError as error:
            raise Unavailable(f"cannot read {self.volume_file}: {error.strerror}") from error
        try:
            config = msgspec.json.decode(text, type=VolumeConfig)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigInvalid(f"{self.volume_file} is not a volume's settings: {error}") from error
        config.check()
        return config

    def save_config(self, config: VolumeConfig) -> None:
        """Write the settings; after a crash the old or the new ones are there. Durable on return."""
        config.check()
        write_whole(self.volume_file, msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")

    @contextlib.contextmanager
    def owned(self) -> Iterator[Ownership]:
        """Own the volume for the length of a with block, or longer, if the block says so.

        Raises VolumeBusy, naming the owner, when another process does. The kernel lets go of the lock when the owner
        dies, so a stale file means nothing.
        """
        ownership = Ownership()
        try:
            lock = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(f"cannot open {self.lock_file}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self.busy() from None
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            yield ownership
            if not ownership.ends_with_process:
                os.ftruncate(lock, 0)
        finally:
            if not ownership.ends_with_process:
                os.close(lock)

    def busy(self) -> VolumeBusy:
        """The error that says who owns the volume."""
        try:
            pid = int(self.lock_file.read_text())
        except (OSError, ValueError):
            pid = 0
        return VolumeBusy(f"volume {self.path} is in use by process {pid or 'unknown'}", pid)


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file: after a crash it is the old or the new one. Durable on return. Raises Unavailable."""
    partial = _partial(path)
    try:
        partial.unlink(missing_ok=True)
        file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            assert os.write(file, data) == len(data), "a short write of a small file"
            os.fsync(file)
        finally:
            os.close(file)
        partial.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise Unavailable(f"cannot write {path}: {error.strerror}") from error


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
