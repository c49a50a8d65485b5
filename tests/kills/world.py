"""A volume on small disks that is killed again and again, and looked at each time it is served again.

A round: serve, compare everything with the promises, let clients write while the volume settles, fills holes,
relocates, scrubs, drains, rebuilds, and kill -9 the daemon at some instant of that (or already while it opens). Between
rounds, and within them, directories of disks are moved away and brought back, as many as may be lost at once; now and
then HOME is deleted, and the volume is imported from the disks that are there.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from kills.clients import BallastClient, Client, FileClient, ObjectClient, Stop
from kills.promises import BrokenPromise, Promises
from siltstone.control import request
from siltstone.errors import SiltstoneError
from siltstone.home import Home

SILTSTONE = [sys.executable, "-P", "-m", "siltstone"]
PATIENCE_SECONDS = 120.0
DISK_SIZE = "128M"
DISKS = 6
LOST_MAX = 2
FILE_CLIENTS = 3
LOGIN = ("AKKILL", "secret-of-kills")
BUCKETS = ("objects-a", "objects-b")

LOG_BYTES_HIGH = 24 << 20
LOG_BYTES_LOW = 6 << 20
"""So low that settling, and writers that wait for it, are under way all the time."""

SNAPSHOT_BYTES_MIN = 20_000
"""So that full snapshots are taken all the time, too."""

FULL_FREE_SHARE = 0.02
ROOMY_FREE_SHARE = 0.35
"""Of the pool, free for users: hardly anything (holes are filled, stripes relocated, writers refused), and much."""


class KilledVolume:
    """A volume, its clients' promises, and what was seen. ``counts``: what happened, how often."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place = place
        self.home, self.mount = place / "home", place / "mount"
        self.random = random.Random(seed)
        self.promises = Promises()
        self.counts: Counter[str] = Counter()
        self.seconds_to_serve: list[float] = []
        self.away: list[Path] = []
        self.free_share = ROOMY_FREE_SHARE
        self._daemon: subprocess.Popen[str] | None = None
        self._url = ""
        self._serial = 0
        self._chores: list[subprocess.Popen[bytes]] = []
        self._log = place / "daemon.log"

    def create(self) -> None:
        """Make the volume, its key, and the clients' directories and buckets."""
        self.mount.mkdir(parents=True)
        disks = [argument for _ in range(DISKS) for argument in ("--disk", self._new_disk())]
        self._succeed("init", self.home, *disks, "--disk-size", DISK_SIZE)
        settings = json.loads((self.home / "volume.json").read_text())
        settings |= {
            "log_bytes_high": LOG_BYTES_HIGH,
            "log_bytes_low": LOG_BYTES_LOW,
            "rebuild_grace": 3.0,
            "scrub_interval": 20.0,
            "snapshot_bytes_min": SNAPSHOT_BYTES_MIN,
        }
        (self.home / "volume.json").write_text(json.dumps(settings))
        self._succeed("key", "add", self.home, "--access", LOGIN[0], "--secret", LOGIN[1], "--owner", "kills")
        self.serve()
        for name in (*[f"files-{index}" for index in range(FILE_CLIENTS)], "ballast"):
            (self.mount / name).mkdir()
        with self._s3() as s3:
            for bucket in BUCKETS:
                s3.create_bucket(Bucket=bucket)
        self._sync(self.mount)
        self.kill()

    # --- a round ---------------------------------------------------------------------------------------------------

    def round(self) -> None:
        """One kill, and the look before it. Raises BrokenPromise, or what a client or a command should not meet."""
        self._move_disks()
        if self.random.random() < 0.08:
            self._kill_while_opening()
        if self.random.random() < 0.15:
            self._lose_home()
        self.serve()
        self.compare()
        self._fill()
        if self.random.random() < 0.2 and not self.away:
            self.check()
        self._live()

    def _live(self) -> None:
        stop = Stop()
        clients = self._clients(stop)
        for client in clients:
            client.start()
        self._begin_chores()
        seconds = self.random.choice((self.random.uniform(0.02, 0.6), self.random.uniform(0.3, 3.0)))
        until = time.monotonic() + seconds
        seen: dict[str, int] = {}
        while time.monotonic() < until and not any(client.failure for client in clients):
            time.sleep(min(0.1, max(0.0, until - time.monotonic())))
            if self.random.random() < 0.01:
                self._move_disks()
            if self._chores and self.random.random() < 0.02:
                self._chores[-1].kill()  # the daemon must cope with a command that hangs up
            seen = self._work_done() or seen
        self.counts.update(seen)
        stop.set()
        self.kill()
        for client in clients:
            assert client.join(PATIENCE_SECONDS), f"the client of {client.directory} hangs though the volume is gone"
            self.counts["client operations"] += client.operations
            self.counts["refused: the pool is full"] += client.full
            if client.failure is not None:
                raise BrokenPromise(f"the client of {client.directory} met {client.failure!r}") from client.failure
        self._end_chores()

    def _fill(self) -> None:
        """Bring the pool to where it should be: the clients of a round alone would take too many rounds."""
        ballast = BallastClient(self.mount, self.promises, "ballast", self.random.getrandbits(32), Stop())
        ballast.free_share = self.free_share
        ballast.fill()

    def _clients(self, stop: Stop) -> list[Client]:
        seeds = iter(lambda: self.random.getrandbits(32), None)
        clients: list[Client] = [
            FileClient(self.mount, self.promises, f"files-{index}", next(seeds), stop, files_max=60)
            for index in range(FILE_CLIENTS)
        ]
        clients += [
            ObjectClient(self._new_s3(), self.promises, bucket, next(seeds), stop, keys_max=40) for bucket in BUCKETS
        ]
        ballast = BallastClient(self.mount, self.promises, "ballast", next(seeds), stop)
        ballast.free_share = self.free_share
        return [*clients, ballast]

    # --- the daemon ------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Start the daemon, and wait until both doors are open."""
        begun = time.monotonic()
        self._start()
        assert self._daemon is not None and self._daemon.stdout is not None
        ready = [self._daemon.stdout.readline(), self._daemon.stdout.readline()]
        urls = [line.split()[2] for line in ready if line.startswith("ready s3")]
        if not urls or not any(line.startswith("ready mount") for line in ready):
            raise BrokenPromise(f"the volume does not open: {ready} {self._log.read_text()[-2000:]}")
        self._url = urls[0]
        os.listdir(self.mount)
        self.seconds_to_serve.append(time.monotonic() - begun)

    def _start(self) -> None:
        command = [*SILTSTONE, "serve", str(self.home), "--mount", str(self.mount), "--s3", "127.0.0.1:0"]
        with self._log.open("w") as log:
            self._daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)

    def kill(self) -> None:
        """kill -9, and take the dead mount away."""
        assert self._daemon is not None and self._daemon.stdout is not None
        if self._daemon.poll() is not None:
            raise BrokenPromise(f"the daemon ended by itself: {self._log.read_text()[-3000:]}")
        self._daemon.send_signal(signal.SIGKILL)
        self._daemon.wait(PATIENCE_SECONDS)
        self._daemon.stdout.close()
        self._daemon = None
        self._unmount()
        said = self._log.read_text()
        if "Traceback" in said or "ERROR" in said:
            raise BrokenPromise(f"the daemon said {said[-3000:]}")
        self.counts["kills"] += 1

    def _kill_while_opening(self) -> None:
        self._start()
        time.sleep(self.random.uniform(0.2, 1.0))
        self.kill()
        self.counts["kills while opening"] += 1

    def _unmount(self) -> None:
        subprocess.run(["fusermount3", "-u", "-z", "-q", self.mount], check=False)

    def clear(self) -> None:
        """Leave nothing running and nothing mounted."""
        for process in (*self._chores, self._daemon):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(PATIENCE_SECONDS)
        if self._daemon is not None and self._daemon.stdout is not None:
            self._daemon.stdout.close()
        self._unmount()

    # --- looking ---------------------------------------------------------------------------------------------------

    def compare(self) -> None:
        """Everything that is there against everything that was promised."""
        found = [
            str(Path(directory, name).relative_to(self.mount))
            for directory, _, names in os.walk(self.mount, onerror=_raise)
            for name in names
        ]
        self.promises.check_names(found)
        present = set(found)
        for path in self.promises.paths():
            self.promises.check_file(path, (self.mount / path).read_bytes() if path in present else None)
        self.promises.all_checked()
        self.counts["files compared"] += len(found)
        self._compare_objects()

    def _compare_objects(self) -> None:
        """S3 says the same of some objects."""
        with self._s3() as s3:
            for bucket in BUCKETS:
                paths = self.promises.files(bucket)
                for path in self.random.sample(paths, k=min(3, len(paths))):
                    body = s3.get_object(Bucket=bucket, Key=path.partition("/")[2])["Body"].read()
                    if body != self.promises.file(path).data:
                        raise BrokenPromise(f"S3 does not return {path} as it was put")

    def check(self) -> None:
        """fsck --deep finds nothing, in use; with all disks there."""
        done = self._run("fsck", self.home, "--deep")
        if done.returncode:
            raise BrokenPromise(f"fsck --deep: {done.stdout}{done.stderr}")
        self.counts["fsck --deep"] += 1

    def finish(self) -> None:
        """All disks back: everything is there, a scrub finds nothing lost, and fsck --deep nothing at all."""
        for disk in list(self.away):
            self._return(disk)
        self.serve()
        self.compare()
        self._succeed("scrub", self.home)
        self._succeed("settle", self.home)
        self.check()
        self.compare()

    def _lose_home(self) -> None:
        """HOME is gone, and the volume is imported from the disks that are there: those that it says are not its own
        any more are left out."""
        shutil.rmtree(self.home)
        disks = sorted(path.parent for path in self.place.glob("disk*/superblock") if path.parent.suffix != ".away")
        while True:
            done = self._run("import", self.home, *(argument for disk in disks for argument in ("--disk", disk)))
            if done.returncode == 0:
                break
            refused = re.match(r"siltstone: (\S+) .*leave it out", done.stderr)
            if refused is None or Path(refused[1]) not in disks:
                raise BrokenPromise(f"the volume cannot be imported: {done.stderr}")
            disks.remove(Path(refused[1]))
            self.counts["disks left out of an import"] += 1
        self.counts["homes lost"] += 1
        self.counts["disks away while HOME was lost"] += len(self.away)

    # --- disks -----------------------------------------------------------------------------------------------------

    def _new_disk(self) -> Path:
        self._serial += 1
        return self.place / f"disk{self._serial}"

    def _move_disks(self) -> None:
        """Now and then a disk goes, for some rounds, or comes back."""
        for disk in list(self.away):
            if self.random.random() < 0.35:
                self._return(disk)
        if self.random.random() < 0.2:
            roles = {Path(disk["path"]): disk["role"] for disk in self._settings()["disks"]}
            staying = [path for path, role in roles.items() if role in ("member", "new") and path not in self.away]
            leaving = sum(role in ("draining", "lost") for role in roles.values())
            count = min(self.random.choice((1, 1, 2)), LOST_MAX - len(self.away) - leaving)
            for disk in self.random.sample(staying, k=max(0, count)):
                disk.rename(disk.with_suffix(".away"))
                self.away.append(disk)
                self.counts["disks moved away"] += 1

    def _return(self, disk: Path) -> None:
        disk.with_suffix(".away").rename(disk)
        self.away.remove(disk)
        self.counts["disks brought back"] += 1

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = json.loads((self.home / "volume.json").read_text())
        return settings

    # --- chores ----------------------------------------------------------------------------------------------------

    def _begin_chores(self) -> None:
        """Commands that are under way when the daemon is killed."""
        if self.random.random() < 0.6:
            self._begin("settle", self.home)
        if self.random.random() < 0.2:
            self._begin("scrub", self.home)
        if self.random.random() < 0.05:
            self._begin("fsck", self.home, "--deep")
        if self.away:
            return
        disks = self._settings()["disks"]
        leaving = [disk for disk in disks if disk["role"] in ("draining", "lost")]
        if leaving:
            self._begin("disk", "drain", self.home, leaving[0]["disk_id"])
            if self.random.random() < 0.5:
                self._begin("disk", "remove", self.home, leaving[0]["disk_id"])
        elif self.random.random() < 0.25:
            chosen = self.random.choice(disks)["disk_id"]
            if len(disks) > DISKS:
                self._begin("disk", "drain", self.home, chosen)
            elif self.random.random() < 0.5:
                self._begin("disk", "add", self.home, self._new_disk(), "--size", DISK_SIZE)
            else:
                self._begin("disk", "replace", self.home, chosen, self._new_disk())

    def _begin(self, *arguments: object) -> None:
        command = [*SILTSTONE, *map(str, arguments)]
        self._chores.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        self.counts["began " + " ".join(str(word) for word in arguments if str(word).isalpha())] += 1

    def _end_chores(self) -> None:
        """A command that found no daemon any more has opened the volume itself by now, and dies alike."""
        for chore in self._chores:
            chore.kill()
            chore.wait(PATIENCE_SECONDS)
        self._chores.clear()

    # --- the rest --------------------------------------------------------------------------------------------------

    def _work_done(self) -> dict[str, int]:
        """What the volume has done in the background since it was opened; nothing where it does not answer."""
        try:
            volume = request(Home(self.home), "status")["volume"]
        except SiltstoneError:
            return {}
        return {
            "bytes settled": volume["settled_bytes"],
            "holes filled": volume["filled_stripes"],
            "bytes relocated": volume["relocation"]["relocated_bytes"],
            "bytes written to other widths": volume["relocation"]["rewidened_bytes"],
            "bytes of units moved": volume["write_amplification"]["stripe_bytes"]["move"],
            "blocks repaired": volume["repaired_blocks"],
            "writers waited": volume["writer_waits"],
            "looks while disks were away": any(disk["state"] == "missing" for disk in volume["disks"]),
        }

    def _run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*SILTSTONE, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)

    def _succeed(self, *arguments: object) -> str:
        done = self._run(*arguments)
        if done.returncode:
            raise BrokenPromise(f"siltstone {arguments[0]}: {done.stdout}{done.stderr}")
        return done.stdout

    def _new_s3(self) -> Any:
        config = Config(
            retries={"max_attempts": 0}, s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=60
        )
        return boto3.client(
            "s3",
            endpoint_url=self._url,
            aws_access_key_id=LOGIN[0],
            aws_secret_access_key=LOGIN[1],
            region_name="us-east-1",
            config=config,
        )

    @contextlib.contextmanager
    def _s3(self) -> Iterator[Any]:
        with contextlib.closing(self._new_s3()) as s3:
            yield s3

    def _sync(self, directory: Path) -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _raise(error: OSError) -> None:
    raise error
