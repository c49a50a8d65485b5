"""A real mount for system tests: served by a child process, so that it can be killed, and taken away whatever happens.

``disks`` is a volume of six directories, made by ``siltstone init`` and served by ``siltstone serve``; ``shards`` the
same with its metadata in three processes. ``memory``
serves sim.memory_volume by this file as a program (``python tests/sim/mounted.py DIRECTORY``), to try the mount alone.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import trio

END_SECONDS = 60.0
SHARDS = 3
KIND = os.environ.get("SILTSTONE_MOUNT", "disks")
"""What tests mount that do not say."""

KINDS = [KIND] if "SILTSTONE_MOUNT" in os.environ else ["disks", "shards"]
"""What tests mount that are about what programs see."""

TESTS = Path(__file__).resolve().parent.parent
SILTSTONE = [sys.executable, "-P", "-m", "siltstone"]


class MountFailed(Exception):
    """The child did not become ready; the message is what it said."""


class MountedVolume:
    """A volume in a directory and its mount. ``directory`` is where the files are."""

    def __init__(self, home: Path, directory: Path, kind: str, options: str = "") -> None:
        assert os.path.exists("/dev/fuse"), "system tests need /dev/fuse: run them where FUSE is to be had"
        self.home = home
        self.directory = directory
        self.kind = kind
        self.options = options
        self.log = directory.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make the volume if there is none, and serve its mount. Raises MountFailed with the child's last words."""
        if self.kind == "memory":
            command = [sys.executable, __file__, str(self.directory)]
        else:
            if not self.home.exists():
                shards = SHARDS if self.kind == "shards" else 1
                init = [*SILTSTONE, "init", str(self.home), "--shards", str(shards)]
                subprocess.run(init, check=True, capture_output=True)
            command = [*SILTSTONE, "serve", str(self.home), "--mount", str(self.directory), "-o", self.options]
        with self.log.open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": str(TESTS)}
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
        assert self._process.stdout is not None
        if not self._process.stdout.readline().startswith(b"ready"):
            self._process.wait(END_SECONDS)
            self._forget()
            raise MountFailed(self.log.read_text(errors="replace"))

    def stop(self) -> None:
        """Unmount and end the child in order. Fails if it does not end well, or has logged an error."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(END_SECONDS)
        self._forget()
        said = self.log.read_text(errors="replace")
        assert status == 0, f"exit status {status}: {said}"
        assert "ERROR" not in said and "Traceback" not in said, said
        assert not is_mounted(self.directory)

    def wait(self) -> None:
        """Wait until the child ends by itself, as it does when somebody else has unmounted."""
        assert self._process is not None
        status = self._process.wait(END_SECONDS)
        self._forget()
        assert status == 0, self.log.read_text(errors="replace")

    def kill(self) -> None:
        """End the child at once, as a crash would; the dead mount stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(END_SECONDS)
            self._forget()

    def clear(self) -> None:
        """Leave nothing behind, whatever state the test left."""
        self.kill()
        while is_mounted(self.directory):
            subprocess.run(["fusermount3", "-u", "-z", self.directory], check=True, capture_output=True)

    def _forget(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        self._process.stdout.close()
        self._process = None


def is_mounted(directory: Path) -> bool:
    """Whether anything, dead or alive, is mounted on a directory. Does not touch it."""
    return f" {directory} " in Path("/proc/self/mountinfo").read_text()


@contextlib.contextmanager
def mounted(path: Path, *, kind: str = KIND, options: str = "") -> Iterator[MountedVolume]:
    """A started mount under ``path``, stopped in order at the end if all went well, and gone in any case."""
    directory = path / "mnt"
    directory.mkdir(exist_ok=True)
    volume = MountedVolume(path / "home", directory, kind, options)
    try:
        volume.start()
        yield volume
        volume.stop()
    finally:
        volume.clear()


async def _serve_memory(directory: str) -> None:
    from siltstone.core.volume import Volume
    from siltstone.fuse.mount import serve_mount
    from sim.memory_volume import MemoryVolume

    volume = cast("Volume", MemoryVolume())
    with trio.open_signal_receiver(signal.SIGTERM) as arriving:
        async with trio.open_nursery() as nursery:
            await nursery.start(functools.partial(serve_mount, volume, directory))
            print("ready", flush=True)
            await anext(arriving)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    trio.run(_serve_memory, sys.argv[1])
