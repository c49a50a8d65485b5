"""PostgreSQL on the mount (`make programs`): initdb, pgbench, checks of their own, and a daemon killed under them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.mounted import KINDS, MountedVolume, mounted

SECONDS = int(os.environ.get("SILTSTONE_PROGRAM_SECONDS", "20"))
PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)

pytestmark = pytest.mark.skipif(PROGRAMS is None or os.geteuid() != 0, reason="needs PostgreSQL (apt) and root")


class Database:
    """A cluster in a directory of the mount; its socket is beside the mount, as a server's usually is."""

    def __init__(self, volume: MountedVolume) -> None:
        self.data = volume.directory / "data"
        self.place = volume.directory.parent
        self._pid = 0

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run one of PostgreSQL's programs as the user that it wants."""
        assert PROGRAMS is not None
        command = ["runuser", "-u", "postgres", "--", str(PROGRAMS / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=250)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def make(self) -> None:
        self.data.mkdir()
        shutil.chown(self.data, "postgres", "postgres")
        shutil.chown(self.place, "postgres", "postgres")
        self.run("initdb", "-D", self.data, "--data-checksums")

    def start(self) -> None:
        # Its output would keep our pipe open.
        settings = f"-c listen_addresses= -c unix_socket_directories={self.place}"
        self.run("pg_ctl", "start", "-w", "-D", self.data, "-l", self.place / "postgres.log", "-o", settings)

        self._pid = int((self.data / "postmaster.pid").read_text().split()[0])

    def stop(self) -> None:
        self.run("pg_ctl", "stop", "-D", self.data, "-m", "fast")
        self._pid = 0

    def kill(self) -> None:
        """End it at once, if it is there; SIGQUIT has it end its children, too."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGQUIT)
                while True:
                    os.kill(self._pid, 0)
                    time.sleep(0.05)
            self._pid = 0

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """Clients at work, which must not come to their end in order."""
        assert PROGRAMS is not None
        command = ["runuser", "-u", "postgres", "--", str(PROGRAMS / "pgbench"), "-h", str(self.place)]
        clients = subprocess.Popen([*command, "-n", "-T", "600", "-c", "4", "postgres"], stderr=subprocess.DEVNULL)
        try:
            yield
            assert clients.wait(60) != 0
        finally:
            clients.kill()
            clients.wait()

    def bench(self, *arguments: str) -> str:
        return self.run("pgbench", "-h", self.place, *arguments, "postgres")

    def ask(self, question: str) -> str:
        return self.run("psql", "-h", self.place, "-At", "-c", question, "postgres").strip()

    def check(self) -> int:
        """What pgbench keeps true, and every page and index; returns the number of transactions that are there."""
        sums = [
            self.ask(f"select coalesce(sum({column}), 0) from pgbench_{table}")
            for table, column in (("accounts", "abalance"), ("tellers", "tbalance"), ("branches", "bbalance"))
        ]
        assert sums == [self.ask("select coalesce(sum(delta), 0) from pgbench_history")] * 3
        self.run("pg_amcheck", "-h", self.place, "--install-missing", "--heapallindexed", "-d", "postgres")
        return int(self.ask("select count(*) from pgbench_history"))


@pytest.fixture(params=KINDS)
def volume(request: pytest.FixtureRequest) -> Iterator[MountedVolume]:
    place = Path(tempfile.mkdtemp(prefix="siltstone-postgres-"))
    place.chmod(0o755)  # PostgreSQL's user has to get in
    try:
        with mounted(place, kind=request.param) as volume:
            yield volume
    finally:
        shutil.rmtree(place)


def test_a_database_is_sound_after_a_load_a_restart_and_a_killed_daemon(volume: MountedVolume) -> None:
    database = Database(volume)
    database.make()
    database.start()
    try:
        database.bench("-i", "-q", "-s", "3")
        said = database.bench("-T", str(SECONDS), "-c", "4", "-j", "2")
        done = int(re.findall(r"transactions actually processed: (\d+)", said)[0])
        assert database.check() == done > 0
        database.stop()
        database.start()
        assert database.check() == done
        with database.load():
            time.sleep(SECONDS / 4)
            before = int(database.ask("select count(*) from pgbench_history"))
            volume.kill()
    finally:
        database.kill()
    volume.start()
    database.start()
    try:
        assert database.check() >= before > done
        database.stop()
    finally:
        database.kill()
