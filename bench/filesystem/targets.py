"""The filesystems that are compared: each is made in a folder, mounted, made cold, and taken away again.

Peers are programs of their own that nothing of Siltstone needs. They are set up as their manuals do it for one
machine: JuiceFS keeps its objects in a directory, GlusterFS its six bricks in six.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

MEMFS = Path(__file__).resolve().parent.parent / "ceiling" / "memfs.py"
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
SILTSTONE = [sys.executable, "-P", "-m", "siltstone"]
START_SECONDS = 60.0
WORDS_MAX = 4000
BRICKS, REDUNDANCY = 6, 2


class Target(ABC):
    """One filesystem, all of it under ``folder``; files are in ``directory``."""

    name: str
    keeps = True
    """Whether its files outlive an unmount."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name.replace(" ", "-")
        self.folder.mkdir()
        self.directory = self.folder / "mnt"
        self.directory.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        self._ends: list[str] = []
        """How its processes ended that were not asked to."""

    @abstractmethod
    def make(self) -> None:
        """Create what is mounted later."""

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """What serves the mount in the foreground; nothing where nothing has to be served."""

    def start(self) -> None:
        """Mount."""
        if not (command := self.command()):
            return
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + START_SECONDS
        while not os.path.ismount(self.directory):
            if self._process.poll() is not None or time.monotonic() > until:
                self.look_for_end()
                self._process.kill()
                raise RuntimeError(f"{self.name} did not mount")
            time.sleep(0.05)

    def look_for_end(self) -> None:
        """Note it if the process has ended by itself: then workloads fail, and nothing else would say why."""
        if self._process is not None and (status := self._process.poll()) is not None:
            self._ends.append(f"process {self._process.pid} ended with {status} at {time.strftime('%H:%M:%S')}")

    def stop(self) -> None:
        """Unmount, and wait until everything is where it belongs."""
        if self._process is None:
            return
        command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
        subprocess.run([*command, self.directory], check=True, timeout=300)
        self._process.wait(300)
        self._process = None

    def cool(self) -> None:
        """Nothing of its files is in memory: a new process, where it keeps them, and dropped caches of the kernel."""
        os.sync()
        if self.keeps:
            self.stop()
            self.start()
        DROP_CACHES.write_text("3")

    def serving(self) -> list[int]:
        """The processes that serve it: their command lines name our folder. To be asked while no workload runs."""
        ours = os.fsencode(self.folder)
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if ours in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
        return found

    def said(self) -> str:
        """The last words of its process, and how it ended if nobody had asked it to."""
        log = self.folder / "log"
        words = log.read_text(errors="replace")[-WORDS_MAX:] if log.exists() else ""
        return "\n".join([words, *self._ends])

    def keep_log(self, directory: Path) -> Path:
        """A copy of the whole log that ``clear`` leaves; where it is."""
        kept = directory / f"siltstone-bench-{self.name.replace(' ', '-')}-{os.getpid()}.log"
        log = self.folder / "log"
        kept.write_bytes((log.read_bytes() if log.exists() else b"") + "\n".join(self._ends).encode())
        return kept

    def clear(self) -> None:
        """Take everything away, whatever state it is in."""
        if self._process is not None:
            with contextlib.suppress(subprocess.SubprocessError):
                subprocess.run(["umount", "-l", self.directory], check=True, timeout=60)
            self._process.kill()
            self._process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _said(self, command: Sequence[str | Path]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {command[0]} failed: {done.stdout}{done.stderr}")


class Bare(Target):
    """A directory on the same disk."""

    name = "bare"
    keeps = False

    def make(self) -> None:
        """Nothing is to be made."""

    def command(self) -> Sequence[str | Path]:
        """Nothing."""
        return ()


class MemFS(Target):
    """The least that pyfuse3 needs, in memory: the ceiling of what is served from Python."""

    name = "memfs"
    keeps = False

    def make(self) -> None:
        """Nothing is to be made."""

    def command(self) -> Sequence[str | Path]:
        """Our own."""
        return [sys.executable, MEMFS, self.directory]


class Siltstone(Target):
    """Six directories, 4+2."""

    name = "siltstone"

    def make(self) -> None:
        """As anybody would."""
        self._said([*SILTSTONE, "init", self.folder / "home"])

    def command(self) -> Sequence[str | Path]:
        """In the foreground."""
        return [*SILTSTONE, "serve", self.folder / "home", "--mount", self.directory]


class JuiceFSSQLite(Target):
    """Metadata in SQLite, data in a directory, no trash."""

    name = "juicefs sqlite"

    def __init__(self, folder: Path, program: Path) -> None:
        super().__init__(folder)
        self._program = program

    def metadata(self) -> str:
        """Where it is."""
        return f"sqlite3://{self.folder}/meta.db"

    def make(self) -> None:
        """Format."""
        bucket = f"{self.folder}/objects/"
        name = self.name.replace(" ", "-")
        self._said([self._program, "format", self.metadata(), name, "--bucket", bucket, "--trash-days", "0"])

    def command(self) -> Sequence[str | Path]:
        """With the defaults, but nothing outside our folder."""
        ours = ["--no-usage-report", "--backup-meta", "0", "--cache-dir", f"{self.folder}/cache"]
        return [self._program, "mount", *ours, self.metadata(), self.directory]


class JuiceFSRedis(JuiceFSSQLite):
    """Metadata in a Redis of its own, which appends to its file each second."""

    name = "juicefs redis"

    def __init__(self, folder: Path, program: Path, redis: str) -> None:
        super().__init__(folder, program)
        self._redis_program = redis
        self._redis: subprocess.Popen[bytes] | None = None

    def metadata(self) -> str:
        """Through a socket in our folder."""
        return f"unix://{self.folder}/redis.sock?db=1"

    def make(self) -> None:
        """Start Redis."""
        where = ["--port", "0", "--unixsocket", f"{self.folder}/redis.sock", "--dir", str(self.folder)]
        with (self.folder / "redis.log").open("wb") as log:
            command = [self._redis_program, *where, "--appendonly", "yes", "--save", ""]
            self._redis = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + START_SECONDS
        while not (self.folder / "redis.sock").exists() and time.monotonic() < until:
            time.sleep(0.05)
        super().make()

    def clear(self) -> None:
        """Redis, too."""
        if self._redis is not None:
            self._redis.terminate()
            self._redis.wait(60)
        super().clear()


class GlusterFS(Target):
    """A dispersed volume of six bricks, two of which may be lost; with a glusterd of its own."""

    name = "glusterfs"

    def __init__(self, folder: Path, programs: Sequence[str]) -> None:
        super().__init__(folder)
        self._glusterd, self._gluster, self._client = programs
        self._daemon: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Start glusterd, make and start the volume."""
        state = self.folder / "glusterd"
        state.mkdir()
        settings = self.folder / "glusterd.vol"
        settings.write_text(
            "volume management\n    type mgmt/glusterd\n"
            f"    option working-directory {state}\n    option run-directory {state}\n"
            "    option transport-type socket\nend-volume\n"
        )
        log = self.folder / "glusterd.log"
        command: list[str | Path] = [self._glusterd, "-N", "-f", settings, "-p", state / "pid", "-l", log]
        self._daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        bricks = [f"{socket.gethostname()}:{self.folder}/brick{number}" for number in range(BRICKS)]
        disperse = ["disperse", str(BRICKS), "redundancy", str(REDUNDANCY)]
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                self._said([self._gluster, "--mode=script", "volume", "create", "bench", *disperse, *bricks, "force"])
                break
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)
        self._said([self._gluster, "--mode=script", "volume", "start", "bench"])

    def command(self) -> Sequence[str | Path]:
        """The client, which talks to the bricks."""
        where = [f"--volfile-server={socket.gethostname()}", "--volfile-id=bench"]
        return [self._client, "-N", *where, "-l", self.folder / "client.log", self.directory]

    def clear(self) -> None:
        """The bricks' processes, too."""
        if self._daemon is not None:
            with contextlib.suppress(subprocess.SubprocessError):
                self.stop()
            with contextlib.suppress(RuntimeError, subprocess.SubprocessError):
                self._said([self._gluster, "--mode=script", "volume", "stop", "bench", "force"])
            self._daemon.terminate()
            self._daemon.wait(60)
        super().clear()


def processor_seconds(processes: Sequence[int]) -> float:
    """Processor time that the threads of processes have taken so far."""
    total_ns = 0
    for process in processes:
        for file in Path(f"/proc/{process}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # a thread that has just ended
                total_ns += int(file.read_text().split()[0])
    return total_ns / 1e9
